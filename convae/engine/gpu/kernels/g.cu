// g of the whole family; preceded by products.cu and parts.cu.

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
