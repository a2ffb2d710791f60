// h to few channels, where a block's columns would be nearly empty; preceded by pairs.cu.
//
// A block has a box of BOX repeats of stride * tile of an example, and a thread all inputs of one
// repeat: kernel elements that lead to the same code share what is read of it. CHUNK filters at a
// time, the codes around the box and the kernels are copied to shared memory.

enum { STEP = CHUNK + 4 };  // keeps the codes that neighbouring threads read in different banks

extern "C" __global__ void __launch_bounds__(THREADS)
narrow_h(const T* K, const T* G, T* V, const float* bias, const T* extra, const T* outputs_H,
         const LOSS_T* target, float factor, double* losses) {
    __shared__ __align__(16) float codes[PLACES * STEP];
    __shared__ __align__(16) float kernels[PAIRS * CHANNELS * CHUNK];
    constexpr int WIDTH = width_of(FILTERS) < CHUNK ? width_of(FILTERS) : CHUNK;
    int first[3], boxes[3], repeat[3];  // repeats of the box
    for (int axis = 0; axis < 3; ++axis)
        boxes[axis] = ceil_div(ceil_div(q.size[axis], period(axis)), box[axis]);
    int index = blockIdx.x;
    split(index % count(boxes), boxes, first);
    index /= count(boxes);
    const int group = index % q.groups, n = index / q.groups;
    for (int axis = 0; axis < 3; ++axis) first[axis] *= box[axis];
    split(threadIdx.x, box, repeat);
    const bool is_inside = threadIdx.x < count(box);
    int base = 0;
    for (int axis = 0; axis < 3; ++axis)
        base = base * widths[axis] + (is_inside ? repeat[axis] * q.tile[axis] : 0);
    const T* example = G + (long long)n * count(q.output) * q.filters + group * FILTERS;
    float sums[PHASES][CHANNELS] = {};
    for (int begin = 0; begin < FILTERS; begin += CHUNK) {
        __syncthreads();
        for (int unit = threadIdx.x; unit < PLACES * (CHUNK / WIDTH); unit += THREADS) {
            const int place = unit / (CHUNK / WIDTH), o = unit % (CHUNK / WIDTH) * WIDTH;
            int j[3];
            split(place, widths, j);
            for (int axis = 0; axis < 3; ++axis)
                j[axis] += first[axis] * q.tile[axis] + least(axis);
            Vector<T, WIDTH> values = {};
            if (inside(j, q.output) && begin + o < FILTERS)
                values = load<WIDTH>(example + (long long)join(j, q.output) * q.filters + begin + o);
            for (int i = 0; i < WIDTH; ++i) codes[place * STEP + o + i] = number(values.at[i]);
        }
        for (int unit = threadIdx.x; unit < PAIRS * CHANNELS * CHUNK; unit += THREADS) {
            const int o = unit % CHUNK, l = unit / CHUNK % CHANNELS, pair = unit / CHUNK / CHANNELS;
            const int turn = pair % count(q.tile), tap = pair / count(q.tile);
            const long long at = (group * FILTERS + begin + o) * q.filter_step +
                                 turn * q.turn_step + l * q.channel_step + tap * q.tap_step;
            kernels[unit] = begin + o < FILTERS ? number(K[at]) : 0.0f;
        }
        __syncthreads();
        for (int o = 0; o < CHUNK; o += 4)
            each_pair([&](int phase, int offset, int tap, int turn) {
                const Vector<float, 4> code = load<4>(codes + (base + offset) * STEP + o);
                const float* kernel = kernels + (tap * count(q.tile) + turn) * CHANNELS * CHUNK + o;
#pragma unroll
                for (int l = 0; l < CHANNELS; ++l) {
                    const Vector<float, 4> weights = load<4>(kernel + l * CHUNK);
#pragma unroll
                    for (int i = 0; i < 4; ++i) sums[phase][l] += code.at[i] * weights.at[i];
                }
            });
    }
    Behind behind{bias, extra, outputs_H, target, factor, 0};
#pragma unroll
    for (int phase = 0; phase < PHASES; ++phase) {
        const int periods[3] = {period(0), period(1), period(2)};
        int y[3];
        split(phase, periods, y);
        for (int axis = 0; axis < 3; ++axis) y[axis] += (first[axis] + repeat[axis]) * periods[axis];
        if (!is_inside || !inside(y, q.size)) continue;
        const long long at = ((long long)n * count(q.size) + join(y, q.size)) * q.channels;
#pragma unroll
        for (int l = 0; l < CHANNELS; ++l) {
            const int c = group * CHANNELS + l;
            V[at + c] = (T)finish(sums[phase][l], c, y, at + c, behind);
        }
    }
    add_loss(behind.loss, losses);
}
