// h to few channels; preceded by pairs.cu and edges.cu. Rows are elements, terms are filters, columns are
// codes: what every code contributes to every pixel that it meets goes to shared memory, where the
// pixels of a box, PHASES of each repeat, add it up.

enum { STEPS = VECTOR / EACH / 2 };  // instructions for the terms of a run
// columns, of 8 codes, of which a warp has the sums
enum { AT_ONCE = ELEMENT_ROWS > 5 ? 2 : ELEMENT_ROWS > 4 ? 3 : 4 };
enum { CODES = EXAMPLES * PLACES };
enum { LINE = (CODES + 23) / 32 * 32 + 8 };  // keeps the rows that lanes write in different banks

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
edge_h(const T* K, const T* G, T* V, const float* bias, const T* extra, const T* outputs_H,
       const LOSS_T* target, float factor, double* losses, int N) {
    extern __shared__ __align__(16) unsigned char memory[];
    unsigned* const kernel = (unsigned*)memory;  // (run, step, row, lane, 4), as lanes multiply them
    float* const parts = (float*)(kernel + RUNS * STEPS * ELEMENT_ROWS * 128);  // (element, code)
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    for (int at = threadIdx.x; at < RUNS * STEPS * ELEMENT_ROWS * 128; at += THREADS) {
        const int i = at % 4, lane = at / 4 % 32, row = at / 128 % ELEMENT_ROWS;
        const int step = at / 128 / ELEMENT_ROWS % STEPS, run = at / 128 / ELEMENT_ROWS / STEPS;
        const int element = row * 16 + i % 2 * 8 + lane / 4;
        const int filter = (run * 4 + lane % 4) * VECTOR + (step * 2 + i / 2) * EACH;
        kernel[at] = word(kernel_factor(K, element, filter), kernel_factor(K, element, filter + 1));
    }
    int repeats[3];
    for (int axis = 0; axis < 3; ++axis) repeats[axis] = ceil_div(q.size[axis], period(axis));
    const Boxes boxes(N, repeats);
    Behind behind{bias, extra, outputs_H, target, factor, 0};
    for (int index = blockIdx.x; index < boxes.total; index += gridDim.x) {
        int first[3];
        const int example = boxes.first(index, first);
        __syncthreads();
        for (int unit = threadIdx.x / 32 * 8 * AT_ONCE; unit < CODES; unit += WARPS * 8 * AT_ONCE) {
            int code[AT_ONCE];
            float sums[AT_ONCE][ELEMENT_ROWS][4] = {};
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const int own = unit + i * 8 + group, n = example + own / PLACES;
                int j[3];
                split(own % PLACES, widths, j);
                for (int axis = 0; axis < 3; ++axis) j[axis] += first[axis] + least(axis);
                const bool exists = own < CODES && n < N && inside(j, q.output);
                code[i] = exists ? n * count(q.output) + join(j, q.output) : -1;
            }
#pragma unroll 1
            for (int run = 0; run < RUNS; ++run) {
                Vector<T, VECTOR> found[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) {
                    const int filter = (run * 4 + place) * VECTOR;
                    found[i] = {};
                    if (code[i] >= 0 && filter < FILTERS)
                        found[i] = load<VECTOR>(G + (long long)code[i] * FILTERS + filter);
                }
#pragma unroll
                for (int step = 0; step < STEPS; ++step) {
                    unsigned y[AT_ONCE][2];
#pragma unroll
                    for (int i = 0; i < AT_ONCE; ++i)
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            const T* own = found[i].at + (step * 2 + half) * EACH;
                            y[i][half] = word(as_factor(own[0]), as_factor(own[EACH - 1]));
                        }
#pragma unroll
                    for (int row = 0; row < ELEMENT_ROWS; ++row) {
                        const int at = (run * STEPS + step) * ELEMENT_ROWS + row;
                        const Vector<unsigned, 4> x =
                            load<4>(kernel + (at * 32 + threadIdx.x % 32) * 4);
#pragma unroll
                        for (int i = 0; i < AT_ONCE; ++i) multiply(sums[i][row], x.at, y[i]);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i)
#pragma unroll
                for (int row = 0; row < ELEMENT_ROWS; ++row)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const int element = row * 16 + half * 8 + group;
                        const int own = unit + i * 8 + place * 2;
                        if (element >= ELEMENTS || own >= CODES) continue;
                        *(Vector<float, 2>*)(parts + element * LINE + own) =
                            {sums[i][row][half * 2], sums[i][row][half * 2 + 1]};
                    }
        }
        __syncthreads();
        float pixels[PHASES][CHANNELS] = {};
        int repeat[3];
        const int own = threadIdx.x / count(box);
        split(threadIdx.x % count(box), box, repeat);
        const bool is_one = threadIdx.x < EXAMPLES * count(box);
        const int base = is_one ? own * PLACES + join(repeat, widths) : 0;
        each_pair([&](int phase, int offset, int tap, int) {
#pragma unroll
            for (int l = 0; l < CHANNELS; ++l)
                pixels[phase][l] += parts[(tap * CHANNELS + l) * LINE + base + offset];
        });
        __syncthreads();
        // in the order of the batch, so that neighbours write neighbours
        boxes.first(index, first);
        constexpr int sides[3] = {box[0] * period(0), box[1] * period(1), box[2] * period(2)};
        const int periods[3] = {period(0), period(1), period(2)};
#pragma unroll
        for (int phase = 0; phase < PHASES; ++phase) {
            int y[3];
            split(phase, periods, y);
            for (int axis = 0; axis < 3; ++axis) y[axis] += repeat[axis] * periods[axis];
            if (is_one)
#pragma unroll
                for (int l = 0; l < CHANNELS; ++l)
                    parts[(own * count(sides) + join(y, sides)) * CHANNELS + l] = pixels[phase][l];
        }
        __syncthreads();
        for (int at = threadIdx.x; at < EXAMPLES * count(sides) * CHANNELS; at += THREADS) {
            const int l = at % CHANNELS, n = example + at / CHANNELS / count(sides);
            int y[3];
            split(at / CHANNELS % count(sides), sides, y);
            for (int axis = 0; axis < 3; ++axis) y[axis] += first[axis] * period(axis);
            if (n >= N || !inside(y, q.size)) continue;
            const long long out = ((long long)n * count(q.size) + join(y, q.size)) * CHANNELS + l;
            V[out] = (T)finish(parts[at], l, y, out, behind);
        }
    }
    add_loss(behind.loss, losses);
}
