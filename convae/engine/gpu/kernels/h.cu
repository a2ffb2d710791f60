// h of the whole family; preceded by products.cu.

struct LeftOfH : Gathered<FILTERS_AT_ONCE> {
    const Inputs& inputs;
    const T* G;
    unsigned first_row;
    int group;

    __device__ LeftOfH(const Inputs& inputs, const T* G, unsigned first_row, int group)
        : inputs(inputs), G(G), first_row(first_row), group(group) {}
    __device__ void row(int i, int row) {
        int y[3];
        example[i] = nullptr;
        if (first_row + row >= inputs.rows) return;
        const int n = inputs.place(first_row + row, y);
        example[i] = G + (long long)n * count(q.output) * q.filters + group * FILTERS;
        for (int axis = 0; axis < 3; ++axis)
            place[i][axis] = (y[axis] - inputs.phase[axis]) / q.stride[axis];
    }
    __device__ void term(unsigned term, bool is_one) {
        exists = is_one;
        if (!is_one) return;
        int m[3];
        channel = term % FILTERS;
        inputs.reach(term / FILTERS, m, distance);
    }
    __device__ auto fetch(int i) const { return gather(i, q.output, q.filters); }
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
        LeftOfH left(inputs, G, first_row, group);
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
