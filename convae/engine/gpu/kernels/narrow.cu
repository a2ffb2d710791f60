// h to few channels, where a block's columns would be nearly empty; preceded by convolution.cu.
//
// A block has a box of BOX repeats of stride * tile of an example, and a thread all inputs of one
// repeat: kernel elements that lead to the same code share what is read of it. CHUNK filters at a
// time, the codes around the box and the kernels are copied to shared memory.

constexpr int box[3] = BOX;
enum { STEP = CHUNK + 4 };  // keeps the codes that neighbouring threads read in different banks
enum {
    PAIRS = count(q.kernel) * count(q.tile),  // of a kernel element and a tile index
    PHASES = count(q.stride) * count(q.tile)
};

__device__ constexpr int period(int axis) { return q.stride[axis] * q.tile[axis]; }

// The first phase that kernel element m of an axis contributes to, and the code's place from there.
__device__ constexpr int phase_of(int axis, int m) {
    const int stride = q.stride[axis], place = m * q.dilation[axis] - q.before[axis];
    return (place % stride + stride) % stride;
}
__device__ constexpr int reach_of(int axis, int m) {
    return (phase_of(axis, m) + q.before[axis] - m * q.dilation[axis]) / q.stride[axis];
}

// The least reach of an axis, and how many codes of it a box meets.
__device__ constexpr int least(int axis) { return reach_of(axis, q.kernel[axis] - 1); }
__device__ constexpr int width(int axis) {
    return q.tile[axis] * box[axis] + reach_of(axis, 0) - least(axis);
}
constexpr int widths[3] = {width(0), width(1), width(2)};
enum { PLACES = widths[0] * widths[1] * widths[2] };

// Calls f(phase, code's offset, kernel element, tile index) for every kernel element and phase that
// meet, as constants.
template <class F> __device__ void each_pair(F f) {
#pragma unroll
    for (int m0 = 0; m0 < q.kernel[0]; ++m0)
#pragma unroll
    for (int m1 = 0; m1 < q.kernel[1]; ++m1)
#pragma unroll
    for (int m2 = 0; m2 < q.kernel[2]; ++m2)
#pragma unroll
    for (int u = 0; u < count(q.tile); ++u) {
        const int m[3] = {m0, m1, m2};
        int phase = 0, offset = 0, turn = 0, rest = u;
#pragma unroll
        for (int axis = 2, phases = 1, codes = 1, turns = 1; axis >= 0; --axis) {
            const int own = rest % q.tile[axis];  // of the tile's codes
            rest /= q.tile[axis];
            phase += (phase_of(axis, m[axis]) + q.stride[axis] * own) * phases;
            phases *= period(axis);
            const int reach = reach_of(axis, m[axis]) + own;
            offset += (reach - least(axis)) * codes;
            codes *= widths[axis];
            turn += ((reach % q.tile[axis]) + q.tile[axis]) % q.tile[axis] * turns;
            turns *= q.tile[axis];
        }
        f(phase, offset, join(m, q.kernel), turn);
    }
}

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
