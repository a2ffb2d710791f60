// What c, h and g have in common: sizes, positions, and what stands behind a sum.
//
// Batches are examples first, channels last, (N, *size, C); there are three axes, of which the first
// may have length 1. Compile-time constants: T, GEOMETRY, and the macros of what stands behind a
// sum, BIAS, ACTIVATION, EXTRA, SLOPE, LOSS.

struct Geometry {
    int size[3], output[3], kernel[3], stride[3], before[3], dilation[3], tile[3];
    int channels, filters, groups;
    // steps in the memory of a kernel: from filter to filter, and so on
    long long filter_step, turn_step, channel_step, tap_step;
    int bias_tile[3];  // 1 for a bias by channel, the size for one by position
};
__device__ constexpr Geometry q = GEOMETRY;
enum { CHANNELS = q.channels / q.groups, FILTERS = q.filters / q.groups };  // of a group
#ifdef BOX
constexpr int box[3] = BOX;  // output positions, or repeats of h, of a block
#endif

__device__ constexpr int count(const int* n) { return n[0] * n[1] * n[2]; }

__device__ void split(unsigned index, const int* n, int* place) {
    place[2] = index % (unsigned)n[2];
    place[1] = index / n[2] % (unsigned)n[1];
    place[0] = n[0] == 1 ? 0 : index / n[2] / n[1];
}

__device__ int join(const int* place, const int* n) {
    return (place[0] * n[1] + place[1]) * n[2] + place[2];
}

__device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ bool inside(const int* y, const int* n) {
    return y[0] >= 0 && y[0] < n[0] && y[1] >= 0 && y[1] < n[1] && y[2] >= 0 && y[2] < n[2];
}

// --- what stands behind a product ----------------------------------------------------------------

// NaN stays NaN, so that a loss that diverges shows (fmaxf would drop it).
__device__ float activation(float z, int f) {
    switch (f) {
        case 1: return z < 0 ? 0.0f : z;
        case 2: return z < 0 ? LEAK * z : z;
        case 3: return 1.0f / (1.0f + expf(-z));
        case 4: return tanhf(z);
        case 5: return (z < 0 ? 0.0f : z) + log1pf(expf(-fabsf(z)));
        default: return z;
    }
}

// f'(Z) from H = f(Z)
__device__ float slope(float h, int f) {
    switch (f) {
        case 1: return h > 0 ? 1.0f : 0.0f;
        case 2: return h > 0 ? 1.0f : LEAK;
        case 3: return h * (1 - h);
        case 4: return 1 - h * h;
        case 5: return -expm1f(-h);
        default: return 1.0f;
    }
}

struct Behind {
    const float* bias;   // (C,) or (C, *bias_tile)
    const T* extra;      // added before the slope is multiplied
    const T* outputs;    // H, of which the slope is computed
    const LOSS_T* target;
    float factor;        // of the error
    double loss;         // sum of this thread's terms
};

// Returns what becomes of a sum at channel c of a position; `index` is its place in the output, where
// `extra` and `output` are those of `behind`.
__device__ float finish(float sum, int c, const int* position, long long index, float extra,
                        float output, Behind& behind) {
#if BIAS
    int place[3];
    for (int axis = 0; axis < 3; ++axis) place[axis] = position[axis] % q.bias_tile[axis];
    sum += behind.bias[c * count(q.bias_tile) + join(place, q.bias_tile)];
#endif
#if EXTRA
    sum += extra;
#endif
#if SLOPE
    sum *= slope(output, SLOPE - 1);
#endif
#if LOSS == 1  // mean squared error
    const float r = activation(sum, ACTIVATION), e = r - (float)behind.target[index];
    behind.loss += (double)(e * e);
    return behind.factor * 2 * e * slope(r, ACTIVATION);
#elif LOSS == 2  // binary cross-entropy of what goes into a sigmoid
    const float x = (float)behind.target[index];
    behind.loss += (double)(fmaxf(sum, 0.0f) - x * sum + log1pf(expf(-fabsf(sum))));
    return behind.factor * (activation(sum, 3) - x);
#else
    return activation(sum, ACTIVATION);
#endif
}

__device__ float finish(float sum, int c, const int* position, long long index, Behind& behind) {
    float extra = 0, output = 0;
#if EXTRA
    extra = number(behind.extra[index]);
#endif
#if SLOPE
    output = number(behind.outputs[index]);
#endif
    return finish(sum, c, position, index, extra, output, behind);
}

// What is read behind RUN sums at neighbouring channels, whose place in the output is a multiple of RUN.
template <int RUN> struct Read {
    Vector<T, RUN> extra, outputs;

    __device__ void read(const Behind& behind, long long at) {
#if EXTRA
        extra = load<RUN>(behind.extra + at);
#endif
#if SLOPE
        outputs = load<RUN>(behind.outputs + at);
#endif
    }
    // Finishes and writes the sums.
    __device__ void finish_sums(const float* sums, int c, const int* position, long long at, T* out,
                                Behind& behind) const {
        Vector<T, RUN> results;
#pragma unroll
        for (int i = 0; i < RUN; ++i)
            results.at[i] = (T)finish(sums[i], c + i, position, at + i, number(extra.at[i]),
                                      number(outputs.at[i]), behind);
        *(Vector<T, RUN>*)(out + at) = results;
    }
};

// Adds up the terms of the loss in a block.
__device__ void add_loss(double term, double* losses) {
#if LOSS
    term = add_up(term);
    if (threadIdx.x == 0) losses[blockIdx.x] = term;
#endif
}

// --- positions -----------------------------------------------------------------------------------

// Rows of c, fewer than 2^31: output positions (n, j) with one tile index.
struct Outputs {
    int N, turn[3], repeats[3];
    unsigned rows;

    __device__ Outputs(int N, int index) : N(N) {
        split(index, q.tile, turn);
        for (int axis = 0; axis < 3; ++axis) {
            const int left = q.output[axis] - turn[axis];
            repeats[axis] = left > 0 ? ceil_div(left, q.tile[axis]) : 0;
        }
        rows = (unsigned)N * count(repeats);
    }
    __device__ int place(unsigned row, int* j) const {
        if constexpr (count(q.tile) == 1) {  // divisions by constants are multiplications
            split(row % (unsigned)count(q.output), q.output, j);
            return row / (unsigned)count(q.output);
        }
        split(row % (unsigned)count(repeats), repeats, j);
        for (int axis = 0; axis < 3; ++axis) j[axis] = turn[axis] + j[axis] * q.tile[axis];
        return row / (unsigned)count(repeats);
    }
};

// Rows of h, fewer than 2^31: input positions (n, y) with y = phase + period * repeat, which meet the
// same elements of the same kernels.
struct Inputs {
    int N, phase[3], period[3], repeats[3], first[3], step[3], taps[3];
    unsigned rows;

    __device__ Inputs(int N, int index) : N(N) {
        for (int axis = 0; axis < 3; ++axis) period[axis] = q.stride[axis] * q.tile[axis];
        split(index, period, phase);
        for (int axis = 0; axis < 3; ++axis) {
            const int left = q.size[axis] - phase[axis];
            repeats[axis] = left > 0 ? ceil_div(left, period[axis]) : 0;
            first[axis] = step[axis] = taps[axis] = 0;
            for (int m = 0; m < q.kernel[axis]; ++m) {
                const int reach = phase[axis] + q.before[axis] - m * q.dilation[axis];
                if (reach % q.stride[axis]) continue;
                if (taps[axis] == 0) first[axis] = m;
                if (taps[axis] == 1) step[axis] = m - first[axis];
                ++taps[axis];
            }
        }
        rows = (unsigned)N * count(repeats);
    }
    __device__ int place(unsigned row, int* y) const {
        split(row % (unsigned)count(repeats), repeats, y);
        for (int axis = 0; axis < 3; ++axis) y[axis] = phase[axis] + y[axis] * period[axis];
        return row / (unsigned)count(repeats);
    }
    // The output position that kernel element number `tap` leads to, from the phase's first input.
    __device__ void reach(int tap, int* m, int* j) const {
        split(tap, taps, m);
        for (int axis = 0; axis < 3; ++axis) {
            m[axis] = first[axis] + m[axis] * step[axis];
            j[axis] = (phase[axis] + q.before[axis] - m[axis] * q.dilation[axis]) / q.stride[axis];
        }
    }
};

// Offset of kernel element number `tap` for filter o, without the channel.
__device__ long long element_of(const Inputs& inputs, int tap, int o) {
    int m[3], turn[3];
    inputs.reach(tap, m, turn);
    for (int axis = 0; axis < 3; ++axis)
        turn[axis] = (turn[axis] % q.tile[axis] + q.tile[axis]) % q.tile[axis];
    return o * q.filter_step + join(turn, q.tile) * q.turn_step + join(m, q.kernel) * q.tap_step;
}
