// c, h and g of the whole family as matrix products whose factors are read from the batches where they
// lie (implicit im2col), with what stands behind them; preceded by convolution.cu and blocks.cu.
//
//     c:  Z[(n, j), o]  = sum over (m, l)  of V[(n, j*s + m*d - before), l]  * K[(m, l), o]
//     h:  V'[(n, y), l] = sum over (m, o)  of G[(n, j), o]  * K[(m, o), l],  j*s + m*d - before = y
//     g:  dK[(m, l), o] = sum over (n, j)  of V[(n, j*s + m*d - before), l]  * G[(n, j), o]
//
// A block computes ROWS x COLUMNS of one product. Output positions of one tile index, and input
// positions of one phase of stride * tile, share a kernel: each has products of its own, and so has
// every group. Batches are read several channels at a time where their number allows it; kernels,
// which lie anywhere among a model's parameters, one by one.

constexpr int CHANNELS_AT_ONCE = width_of(CHANNELS), FILTERS_AT_ONCE = width_of(FILTERS);

// Finishes a run of sums at neighbouring channels, and writes those of the first `length` channels
// of a group; `at` is the place of the first in the output.
template <int LENGTH>
__device__ void finish_run(const float* sums, int c, int left, const int* position, long long at,
                           T* out, Behind& behind) {
    constexpr int RUN = Part::RUN;
    if constexpr (LENGTH % RUN == 0) {
        Vector<T, RUN> extra = {}, outputs = {}, results;
#if EXTRA
        extra = load<RUN>(behind.extra + at);
#endif
#if SLOPE
        outputs = load<RUN>(behind.outputs + at);
#endif
#pragma unroll
        for (int i = 0; i < RUN; ++i)
            results.at[i] = (T)finish(sums[i], c + i, position, at + i, number(extra.at[i]),
                                      number(outputs.at[i]), behind);
        *(Vector<T, RUN>*)(out + at) = results;
    } else {
        for (int i = 0; i < RUN && i < left; ++i)
            out[at + i] = (T)finish(sums[i], c + i, position, at + i, behind);
    }
}

// --- c -------------------------------------------------------------------------------------------

struct LeftOfC {
    typedef Share<ROWS, CHANNELS_AT_ONCE, true> Mine;
    const Outputs& outputs;
    const T* V;
    unsigned first_row;
    int group, y[Mine::COUNT][3], step[3], l = 0;
    const T* image[Mine::COUNT];
    bool exists = false;

    __device__ void row(int i, int row) {
        int j[3];
        image[i] = nullptr;
        if (first_row + row >= outputs.rows) return;
        const int n = outputs.place(first_row + row, j);
        image[i] = V + (long long)n * count(q.size) * q.channels + group * CHANNELS;
        for (int axis = 0; axis < 3; ++axis) y[i][axis] = j[axis] * q.stride[axis] - q.before[axis];
    }
    __device__ void term(unsigned term, bool is_one) {
        exists = is_one;
        l = term % CHANNELS;
        split(term / CHANNELS, q.kernel, step);
        for (int axis = 0; axis < 3; ++axis) step[axis] *= q.dilation[axis];
    }
    __device__ Vector<T, Mine::WIDTH> fetch(int i) const {
        int x[3];
        for (int axis = 0; axis < 3; ++axis) x[axis] = y[i][axis] + step[axis];
        if (!exists || !image[i] || !inside(x, q.size)) return {};
        return load<Mine::WIDTH>(image[i] + (long long)join(x, q.size) * q.channels + l);
    }
};

struct RightOfC {
    typedef Share<COLUMNS, 1, false> Mine;
    const T* K;
    int first_column;
    const T* filter = nullptr;
    long long place = -1;

    __device__ void row(int i, int column) {
        column += first_column;
        filter = column < FILTERS ? K + column * q.filter_step : nullptr;
    }
    __device__ void term(unsigned term, bool is_one) {
        place = is_one ? term % CHANNELS * q.channel_step + term / CHANNELS * q.tap_step : -1ll;
    }
    __device__ Vector<T, 1> fetch(int) const {
        return {filter && place >= 0 ? filter[place] : (T)0.0f};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
c(const T* K, const T* V, T* Z, const float* bias, const T* extra, const T* outputs_H, int N,
  int row_blocks) {
    const int columns = ceil_div(FILTERS, COLUMNS);
    int index = blockIdx.x;
    const int first_column = index % columns * COLUMNS;
    index /= columns;
    const unsigned first_row = index % row_blocks * ROWS;
    index /= row_blocks;
    const int group = index % q.groups, turn = index / q.groups;
    const Outputs outputs(N, turn);
    if (first_row >= outputs.rows) return;
    LeftOfC left{outputs, V, first_row, group};
    const T* kernel = K + (long long)group * FILTERS * q.filter_step + turn * q.turn_step;
    RightOfC right{kernel, first_column};
    Behind behind{bias, extra, outputs_H, nullptr, 0, 0};
    product(0, count(q.kernel) * CHANNELS, left, right,
            [&](int row, int column, const float* sums) {
        const int left_over = FILTERS - first_column - column;
        if (first_row + row >= outputs.rows || left_over <= 0) return;
        int j[3];
        const int n = outputs.place(first_row + row, j), o = group * FILTERS + first_column + column;
        const long long at = ((long long)n * count(q.output) + join(j, q.output)) * q.filters + o;
        finish_run<FILTERS>(sums, o, left_over, j, at, Z, behind);
    });
}

// --- h -------------------------------------------------------------------------------------------

struct LeftOfH {
    typedef Share<ROWS, FILTERS_AT_ONCE, true> Mine;
    const Inputs& inputs;
    const T* G;
    unsigned first_row;
    int group, j[Mine::COUNT][3], o = 0, reach[3] = {0, 0, 0};
    const T* code[Mine::COUNT];
    bool exists = false;

    __device__ void row(int i, int row) {
        int y[3];
        code[i] = nullptr;
        if (first_row + row >= inputs.rows) return;
        const int n = inputs.place(first_row + row, y);
        code[i] = G + (long long)n * count(q.output) * q.filters + group * FILTERS;
        for (int axis = 0; axis < 3; ++axis)
            j[i][axis] = (y[axis] - inputs.phase[axis]) / q.stride[axis];
    }
    __device__ void term(unsigned term, bool is_one) {
        exists = is_one;
        if (!is_one) return;
        int m[3];
        o = term % FILTERS;
        inputs.reach(term / FILTERS, m, reach);
    }
    __device__ Vector<T, Mine::WIDTH> fetch(int i) const {
        int x[3];
        for (int axis = 0; axis < 3; ++axis) x[axis] = j[i][axis] + reach[axis];
        if (!exists || !code[i] || !inside(x, q.output)) return {};
        return load<Mine::WIDTH>(code[i] + (long long)join(x, q.output) * q.filters + o);
    }
};

struct RightOfH {
    typedef Share<COLUMNS, 1, true> Mine;
    const Inputs& inputs;
    const T* K;
    int first_column;
    long long place = -1;
    int channel[Mine::COUNT];

    __device__ void row(int i, int column) { channel[i] = first_column + column; }
    __device__ void term(unsigned term, bool is_one) {
        place = is_one ? element_of(inputs, term / FILTERS, term % FILTERS) : -1;
    }
    __device__ Vector<T, 1> fetch(int i) const {
        if (place < 0 || channel[i] >= CHANNELS) return {(T)0.0f};
        return {K[place + channel[i] * q.channel_step]};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
h(const T* K, const T* G, T* V, const float* bias, const T* extra, const T* outputs_H,
  const LOSS_T* target, float factor, double* losses, int N, int row_blocks) {
    const int columns = ceil_div(CHANNELS, COLUMNS);
    int index = blockIdx.x;
    const int first_column = index % columns * COLUMNS;
    index /= columns;
    const unsigned first_row = index % row_blocks * ROWS;
    index /= row_blocks;
    const int group = index % q.groups;
    const Inputs inputs(N, index / q.groups);
    Behind behind{bias, extra, outputs_H, target, factor, 0};
    if (first_row < inputs.rows) {
        LeftOfH left{inputs, G, first_row, group};
        RightOfH right{inputs, K + (long long)group * FILTERS * q.filter_step, first_column};
        product(0, count(inputs.taps) * FILTERS, left, right,
                [&](int row, int column, const float* sums) {
            const int left_over = CHANNELS - first_column - column;
            if (first_row + row >= inputs.rows || left_over <= 0) return;
            int y[3];
            const int n = inputs.place(first_row + row, y);
            const int l = group * CHANNELS + first_column + column;
            const long long at = ((long long)n * count(q.size) + join(y, q.size)) * q.channels + l;
            finish_run<CHANNELS>(sums, l, left_over, y, at, V, behind);
        });
    }
    add_loss(behind.loss, losses);
}

// --- g -------------------------------------------------------------------------------------------

struct LeftOfG {
    typedef Share<ROWS, CHANNELS_AT_ONCE, false> Mine;
    const Outputs& outputs;
    const T* V;
    int first_row, group, step[3] = {0, 0, 0}, l = -1;
    const T* pixel = nullptr;

    __device__ void row(int i, int row) {
        row += first_row;
        if (row >= count(q.kernel) * CHANNELS) return;
        l = row % CHANNELS;
        split(row / CHANNELS, q.kernel, step);
        for (int axis = 0; axis < 3; ++axis)
            step[axis] = step[axis] * q.dilation[axis] - q.before[axis];
    }
    __device__ void term(unsigned term, bool is_one) {
        pixel = nullptr;
        if (!is_one || l < 0) return;
        int y[3];
        const int n = outputs.place(term, y);
        for (int axis = 0; axis < 3; ++axis) y[axis] = y[axis] * q.stride[axis] + step[axis];
        if (!inside(y, q.size)) return;
        const long long position = (long long)n * count(q.size) + join(y, q.size);
        pixel = V + position * q.channels + group * CHANNELS + l;
    }
    __device__ Vector<T, Mine::WIDTH> fetch(int) const {
        if (!pixel) return {};
        return load<Mine::WIDTH>(pixel);
    }
};

struct RightOfG {
    typedef Share<COLUMNS, FILTERS_AT_ONCE, false> Mine;
    const Outputs& outputs;
    const T* G;
    int first_column, group, o = -1;
    const T* code = nullptr;

    __device__ void row(int i, int column) {
        o = first_column + column < FILTERS ? group * FILTERS + first_column + column : -1;
    }
    __device__ void term(unsigned term, bool is_one) {
        code = nullptr;
        if (!is_one || o < 0) return;
        long long position = term;  // in order, where there is one kernel
        if constexpr (count(q.tile) > 1) {
            int j[3];
            const int n = outputs.place(term, j);
            position = (long long)n * count(q.output) + join(j, q.output);
        }
        code = G + position * q.filters + o;
    }
    __device__ Vector<T, Mine::WIDTH> fetch(int) const {
        if (!code) return {};
        return load<Mine::WIDTH>(code);
    }
};

// The sums over a part of the terms, to parts (splits, *tile, groups, taps * channels, filters).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
g(const T* G, const T* V, float* parts, int N, int splits) {
    const int elements = count(q.kernel) * CHANNELS;
    const int columns = ceil_div(FILTERS, COLUMNS), rows = ceil_div(elements, ROWS);
    int index = blockIdx.x;
    const int first_column = index % columns * COLUMNS;
    index /= columns;
    const int first_row = index % rows * ROWS;
    index /= rows;
    const int part = index % splits;
    index /= splits;
    const int group = index % q.groups, turn = index / q.groups;
    const Outputs outputs(N, turn);
    const unsigned each = ceil_div(ceil_div(outputs.rows, splits), STAGE) * STAGE;
    const unsigned begin = part * each, end = min(outputs.rows, begin + each);
    LeftOfG left{outputs, V, first_row, group};
    RightOfG right{outputs, G, first_column, group};
    const long long product_index = ((long long)part * count(q.tile) + turn) * q.groups + group;
    float* out = parts + product_index * elements * FILTERS;
    product(begin, end, left, right, [&](int row, int column, const float* sums) {
        for (int i = 0; i < Part::RUN; ++i)
            if (first_row + row < elements && first_column + column + i < FILTERS)
                out[(long long)(first_row + row) * FILTERS + first_column + column + i] = sums[i];
    });
}

// Adds up the parts, in order, to dK in a kernel's memory.
extern "C" __global__ void add(const float* parts, float* dK, int splits, float scale) {
    const int elements = count(q.kernel) * CHANNELS;
    const long long size = (long long)count(q.tile) * q.filters * elements;
    add_parts(parts, splits, size, [&](long long at, float sum) {
        const int o = at % FILTERS, l = at / FILTERS % CHANNELS;
        const int tap = at / FILTERS / CHANNELS % count(q.kernel);
        const long long rest = at / FILTERS / elements;
        const int group = rest % q.groups, turn = rest / q.groups;
        dK[(group * FILTERS + o) * q.filter_step + turn * q.turn_step + l * q.channel_step +
           tap * q.tap_step] = scale * sum;
    });
}
