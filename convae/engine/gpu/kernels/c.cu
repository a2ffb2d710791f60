// c of the whole family; preceded by products.cu.

struct LeftOfC : Gathered<CHANNELS_AT_ONCE> {
    const Outputs& outputs;
    const T* V;
    unsigned first_row;
    int group;

    __device__ LeftOfC(const Outputs& outputs, const T* V, unsigned first_row, int group)
        : outputs(outputs), V(V), first_row(first_row), group(group) {}
    __device__ void row(int i, int row) {
        int j[3];
        example[i] = nullptr;
        if (first_row + row >= outputs.rows) return;
        const int n = outputs.place(first_row + row, j);
        example[i] = V + (long long)n * count(q.size) * q.channels + group * CHANNELS;
        for (int axis = 0; axis < 3; ++axis)
            place[i][axis] = j[axis] * q.stride[axis] - q.before[axis];
    }
    __device__ void term(unsigned term, bool is_one) {
        exists = is_one;
        channel = term % CHANNELS;
        split(term / CHANNELS, q.kernel, distance);
        for (int axis = 0; axis < 3; ++axis) distance[axis] *= q.dilation[axis];
    }
    __device__ auto fetch(int i) const { return gather(i, q.size, q.channels); }
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
    LeftOfC left(outputs, V, first_row, group);
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
