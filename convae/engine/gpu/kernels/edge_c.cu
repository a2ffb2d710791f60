// c of few channels; preceded by patches.cu. Rows are positions, terms are elements, columns are filters.

enum { STEPS = (ELEMENTS + TERMS - 1) / TERMS };
enum { BY = VECTOR / 2, COLUMNS = RUNS * BY };              // of 8 filters
// runs of which a warp has the sums at a time: 64 filters at most
__device__ constexpr int runs_at_once() {
    int runs = RUNS;
    while (runs * BY > 8 || RUNS % runs) --runs;
    return runs;
}
enum { AT_ONCE = runs_at_once() };

// Calls f(half, part, place in the batch, filter) for a lane's vectors of two rows.
template <class F> __device__ void each_run(const Place* rows, int run, int place, F f) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int part = 0; part < AT_ONCE; ++part) {
            const int filter = ((run + part) * 4 + place) * VECTOR;
            if (rows[half].code >= 0 && filter < FILTERS)
                f(half, part, (long long)rows[half].code * FILTERS + filter, filter);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
edge_c(const T* K, const T* V, T* Z, const float* bias, const T* extra, const T* outputs_H, int N) {
    extern __shared__ __align__(16) unsigned char memory[];
    unsigned* const kernel = (unsigned*)memory;  // (step, column, lane, 2), as lanes multiply them
    Place* const places = (Place*)(kernel + STEPS * COLUMNS * 64);
    Offsets* const offsets = (Offsets*)(places + POSITIONS);  // of the terms: (step, place, EACH)
    Factor* const patch = (Factor*)(offsets + STEPS * 4 * EACH);
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    for (int at = threadIdx.x; at < STEPS * COLUMNS * 64; at += THREADS) {
        const int lane = at / 2 % 32, column = at / 64 % COLUMNS, step = at / 64 / COLUMNS;
        const int row = lane / 4;  // the column that is this lane's
        const int filter = column / BY * 4 * VECTOR + row / 2 * VECTOR + column % BY * 2 + row % 2;
        const int element = step * TERMS + (at % 2 * 4 + lane % 4) * EACH;
        kernel[at] = word(kernel_factor(K, element, filter), kernel_factor(K, element + 1, filter));
    }
    for (int at = threadIdx.x; at < STEPS * 4 * EACH; at += THREADS) {
        const int element = at / (4 * EACH) * TERMS + at % (4 * EACH);
        offsets[at] = Offsets(element, element + 4 * EACH);
    }
    const Boxes boxes(N, q.output);
    Behind behind{bias, extra, outputs_H, nullptr, 0, 0};
    for (int index = blockIdx.x; index < boxes.total; index += gridDim.x) {
        see(boxes, index, V, N, patch, places);
        for (int unit = warp * 32; unit < POSITIONS; unit += WARPS * 32) {
            Place own[4];  // rows
#pragma unroll
            for (int i = 0; i < 4; ++i) own[i] = place_of(places, unit + i * 8 + group);
            for (int run = 0; run < RUNS; run += AT_ONCE) {
                float sums[2][AT_ONCE * BY][4] = {};
#pragma unroll 1
                for (int step = 0; step < STEPS; ++step) {
                    unsigned x[2][4];
                    const Vector<Offsets, EACH> term =
                        load<EACH>(offsets + (step * 4 + place) * EACH);
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        const Factor* from = patch + own[i / 4 * 2 + i % 2].base;
                        const Factor& one = from[term.at[0].of(i % 4 / 2)];
                        const Factor& other = from[term.at[EACH - 1].of(i % 4 / 2)];
                        x[i / 4][i % 4] = word(one, other);
                    }
#pragma unroll
                    for (int column = 0; column < AT_ONCE * BY; ++column) {
                        const int at = (step * COLUMNS + run * BY + column) * 32 + threadIdx.x % 32;
                        const Vector<unsigned, 2> y = load<2>(kernel + 2 * at);
                        multiply(sums[0][column], x[0], y.at);
                        multiply(sums[1][column], x[1], y.at);
                    }
                }
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    Read<VECTOR> read[2][AT_ONCE] = {};  // all of it before anything is written
                    each_run(own + i, run, place, [&](int half, int part, long long at, int) {
                        read[half][part].read(behind, at);
                    });
                    each_run(own + i, run, place, [&](int half, int part, long long at, int filter) {
                        const int nowhere[3] = {0, 0, 0};
                        float results[VECTOR];
#pragma unroll
                        for (int v = 0; v < VECTOR; ++v)
                            results[v] = sums[i / 2][part * BY + v / 2][half * 2 + v % 2];
                        read[half][part].finish_sums(results, filter, nowhere, at, Z, behind);
                    });
                }
            }
        }
    }
}
