// c, h and g of the whole family as matrix products whose left factor is read from the batch where
// it lies (implicit im2col), with what stands behind them; preceded by convolution.cu.
//
//     c:  Z[(n, j), o]  = sum over (m, l)  of V[(n, j*s + m*d - before), l]  * K[(m, l), o]
//     h:  V'[(n, y), l] = sum over (m, o)  of G[(n, j), o]  * K[(m, o), l],  j*s + m*d - before = y
//     g:  dK[(m, l), o] = sum over (n, j)  of V[(n, j*s + m*d - before), l]  * G[(n, j), o]
//
// A block computes ROWS x COLUMNS of one product, DEPTH terms at a time. Output positions of one
// tile index, and input positions of one phase of stride * tile, share a kernel: each has products
// of its own, and so has every group. All sums are in float, in the same order on every run.
// TENSOR is 0, or the products' element type on tensor cores: 1 half, 2 bfloat16, 3 TF32.

constexpr int ROWS = 64, COLUMNS = 64, DEPTH = 16;
constexpr int PASSES = ROWS * DEPTH / THREADS;  // elements of a factor that each thread fetches
enum { PART = 4 };                              // a thread sums PART x PART elements

// --- the product of a block ----------------------------------------------------------------------

#if TENSOR == 1 || TENSOR == 2
typedef T Factor;
constexpr int TERMS = 16;  // of one instruction
#else
typedef float Factor;
#if TENSOR
constexpr int TERMS = 8;
#endif
#endif

#if TENSOR
// Rounds a factor to what is multiplied.
__device__ Factor rounded(float x) {
#if TENSOR == 3 && defined(__CUDACC_RTC__)
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
#else
    return (Factor)x;
#endif
}

// sums += a b, of 16 rows, 8 columns and TERMS terms, spread over a warp as PTX says.
__device__ void multiply(float* sums, const unsigned* a, const unsigned* b) {
#ifndef __CUDACC_RTC__
    pretend_mma<T>(sums, a, b);
#else
    asm volatile(
#if TENSOR == 1
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#elif TENSOR == 2
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
#endif
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#else
__device__ Factor rounded(float x) { return x; }
#endif

// A factor in shared memory: for tensor cores the terms of a row are neighbours, which are read in
// words of one or two terms; otherwise the rows of a term, which are read four at a time. The padding
// keeps what a warp reads together in different banks.
constexpr int PAD = TENSOR == 1 || TENSOR == 2 ? 8 : 4;
template <int WIDTH> struct Shared {
    Factor values[TENSOR ? WIDTH * (DEPTH + PAD) : DEPTH * (WIDTH + PAD)];

    __device__ Factor* at(int term, int row) {
        return values + (TENSOR ? row * (DEPTH + PAD) + term : term * (WIDTH + PAD) + row);
    }
    __device__ unsigned word(int term, int row) { return *(const unsigned*)at(term, row); }
};

// Sums `depth` terms. `left` and `right` fetch factors: with ALONG they are asked for PASSES rows
// (or columns) of one term, else for PASSES terms of one row. `take(row, column, sum)` gets the
// result, every element from one thread.
template <bool LEFT_ALONG, bool RIGHT_ALONG, class Left, class Right, class Take>
__device__ void product(unsigned begin, unsigned end, Left& left, Right& right, Take take) {
    __shared__ __align__(16) Shared<ROWS> a;
    __shared__ __align__(16) Shared<COLUMNS> b;
    const int t = threadIdx.x;
    // where this thread's elements of the factors go: element i is that of pass i
    const int left_row = LEFT_ALONG ? t / DEPTH : t % ROWS;
    const int left_term = LEFT_ALONG ? t % DEPTH : t / ROWS;
    const int right_column = RIGHT_ALONG ? t / DEPTH : t % COLUMNS;
    const int right_term = RIGHT_ALONG ? t % DEPTH : t / COLUMNS;
    for (int i = 0; i < (LEFT_ALONG ? PASSES : 1); ++i)
        left.row(i, left_row + i * (THREADS / DEPTH));
    for (int i = 0; i < (RIGHT_ALONG ? PASSES : 1); ++i)
        right.column(i, right_column + i * (THREADS / DEPTH));
    float next_a[PASSES], next_b[PASSES];
    auto fetch = [&](unsigned first) {
        for (int i = 0; i < PASSES; ++i) {
            if (!LEFT_ALONG || i == 0) {
                const unsigned term = first + left_term + i * (THREADS / ROWS);
                left.term(term, term < end);
            }
            next_a[i] = left.element(LEFT_ALONG ? i : 0);
        }
        for (int i = 0; i < PASSES; ++i) {
            if (!RIGHT_ALONG || i == 0) {
                const unsigned term = first + right_term + i * (THREADS / COLUMNS);
                right.term(term, term < end);
            }
            next_b[i] = right.element(RIGHT_ALONG ? i : 0);
        }
    };
#if TENSOR
    // eight warps, each of 16 rows and 32 columns, 8 at a time
    const int lane = t % 32, warp_row = t / 32 % 4 * 16, warp_column = t / 128 * 32;
    const int group = lane / 4, place = lane % 4;
    float sums[4][4] = {};
#else
    const int row = t / (COLUMNS / PART) * PART, column = t % (COLUMNS / PART) * PART;
    float sums[PART][PART] = {};
#endif
    if (begin < end) fetch(begin);
    for (unsigned first = begin; first < end; first += DEPTH) {
        for (int i = 0; i < PASSES; ++i) {
            const int rows = LEFT_ALONG ? i * (THREADS / DEPTH) : 0;
            const int terms = LEFT_ALONG ? 0 : i * (THREADS / ROWS);
            *a.at(left_term + terms, left_row + rows) = rounded(next_a[i]);
        }
        for (int i = 0; i < PASSES; ++i) {
            const int columns = RIGHT_ALONG ? i * (THREADS / DEPTH) : 0;
            const int terms = RIGHT_ALONG ? 0 : i * (THREADS / COLUMNS);
            *b.at(right_term + terms, right_column + columns) = rounded(next_b[i]);
        }
        __syncthreads();
        if (first + DEPTH < end) fetch(first + DEPTH);  // overlaps with the sums
#if TENSOR
#pragma unroll
        for (int term = 0; term < DEPTH; term += TERMS) {
            // a lane has rows group and group + 8, column group, and terms from `near` and `far`
            const int near = term + place * (TERMS / 8), far = near + TERMS / 2;
            unsigned x[4];
            for (int i = 0; i < 4; ++i)
                x[i] = a.word(i < 2 ? near : far, warp_row + group + i % 2 * 8);
            for (int part = 0; part < 4; ++part) {
                const int column = warp_column + part * 8 + group;
                const unsigned y[2] = {b.word(near, column), b.word(far, column)};
                multiply(sums[part], x, y);
            }
        }
#else
#pragma unroll
        for (int term = 0; term < DEPTH; ++term) {
            float x[PART], y[PART];
            for (int i = 0; i < PART; ++i) x[i] = *a.at(term, row + i);
            for (int i = 0; i < PART; ++i) y[i] = *b.at(term, column + i);
            for (int i = 0; i < PART; ++i)
                for (int j = 0; j < PART; ++j) sums[i][j] += x[i] * y[j];
        }
#endif
        __syncthreads();
    }
#if TENSOR
    for (int part = 0; part < 4; ++part)
        for (int i = 0; i < 4; ++i)
            take(warp_row + group + i / 2 * 8, warp_column + part * 8 + place * 2 + i % 2,
                 sums[part][i]);
#else
    for (int i = 0; i < PART; ++i)
        for (int j = 0; j < PART; ++j) take(row + i, column + j, sums[i][j]);
#endif
}

// --- c -------------------------------------------------------------------------------------------

struct LeftOfC {
    const Outputs& outputs;
    const T* V;
    unsigned first_row;
    int group, y[PASSES][3], l = 0, m[3] = {0, 0, 0};
    const T* image[PASSES];
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
        split(term / CHANNELS, q.kernel, m);
    }
    __device__ float element(int i) const {
        if (!exists || !image[i]) return 0;
        int x[3];
        for (int axis = 0; axis < 3; ++axis) x[axis] = y[i][axis] + m[axis] * q.dilation[axis];
        return inside(x, q.size) ? number(image[i][(long long)join(x, q.size) * q.channels + l]) : 0;
    }
};

struct RightOfC {
    const T* K;
    int first_column;
    const T* filter = nullptr;
    long long place = -1;

    __device__ void column(int i, int column) {
        column += first_column;
        filter = column < FILTERS ? K + column * q.filter_step : nullptr;
    }
    __device__ void term(unsigned term, bool is_one) {
        place = is_one ? term % CHANNELS * q.channel_step + term / CHANNELS * q.tap_step : -1ll;
    }
    __device__ float element(int) const { return filter && place >= 0 ? number(filter[place]) : 0; }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
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
    product<true, false>(0, count(q.kernel) * CHANNELS, left, right,
                         [&](int row, int column, float sum) {
        if (first_row + row >= outputs.rows || first_column + column >= FILTERS) return;
        int j[3];
        const int n = outputs.place(first_row + row, j), o = group * FILTERS + first_column + column;
        const long long at = ((long long)n * count(q.output) + join(j, q.output)) * q.filters + o;
        Z[at] = (T)finish(sum, o, j, at, behind);
    });
}

// --- h -------------------------------------------------------------------------------------------

struct LeftOfH {
    const Inputs& inputs;
    const T* G;
    unsigned first_row;
    int group, j[PASSES][3], o = 0, reach[3] = {0, 0, 0};
    const T* code[PASSES];
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
    __device__ float element(int i) const {
        if (!exists || !code[i]) return 0;
        int x[3];
        for (int axis = 0; axis < 3; ++axis) x[axis] = j[i][axis] + reach[axis];
        if (!inside(x, q.output)) return 0;
        return number(code[i][(long long)join(x, q.output) * q.filters + o]);
    }
};

struct RightOfH {
    const Inputs& inputs;
    const T* K;
    int first_column;
    long long place = -1;
    int channel[PASSES];

    __device__ void column(int i, int column) { channel[i] = first_column + column; }
    __device__ void term(unsigned term, bool is_one) {
        place = is_one ? element_of(inputs, term / FILTERS, term % FILTERS) : -1;
    }
    __device__ float element(int i) const {
        if (place < 0 || channel[i] >= CHANNELS) return 0;
        return number(K[place + channel[i] * q.channel_step]);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
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
        product<true, true>(0, count(inputs.taps) * FILTERS, left, right,
                            [&](int row, int column, float sum) {
            if (first_row + row >= inputs.rows || first_column + column >= CHANNELS) return;
            int y[3];
            const int n = inputs.place(first_row + row, y);
            const int l = group * CHANNELS + first_column + column;
            const long long at = ((long long)n * count(q.size) + join(y, q.size)) * q.channels + l;
            V[at] = (T)finish(sum, l, y, at, behind);
        });
    }
    add_loss(behind.loss, losses);
}

// --- g -------------------------------------------------------------------------------------------

struct LeftOfG {
    const Outputs& outputs;
    const T* V;
    int first_row, group, m[3] = {0, 0, 0}, l = -1;
    const T* pixel = nullptr;

    __device__ void row(int i, int row) {
        row += first_row;
        if (row >= count(q.kernel) * CHANNELS) return;
        l = row % CHANNELS;
        split(row / CHANNELS, q.kernel, m);
    }
    __device__ void term(unsigned term, bool is_one) {
        pixel = nullptr;
        if (!is_one || l < 0) return;
        int y[3];
        const int n = outputs.place(term, y);
        for (int axis = 0; axis < 3; ++axis)
            y[axis] = y[axis] * q.stride[axis] - q.before[axis] + m[axis] * q.dilation[axis];
        if (!inside(y, q.size)) return;
        const long long position = (long long)n * count(q.size) + join(y, q.size);
        pixel = V + position * q.channels + group * CHANNELS + l;
    }
    __device__ float element(int) const { return pixel ? number(*pixel) : 0; }
};

struct RightOfG {
    const Outputs& outputs;
    const T* G;
    int first_column, group, o = -1;
    const T* code = nullptr;

    __device__ void column(int i, int column) {
        o = first_column + column < FILTERS ? group * FILTERS + first_column + column : -1;
    }
    __device__ void term(unsigned term, bool is_one) {
        code = nullptr;
        if (!is_one || o < 0) return;
        int j[3];
        const int n = outputs.place(term, j);
        code = G + ((long long)n * count(q.output) + join(j, q.output)) * q.filters + o;
    }
    __device__ float element(int) const { return code ? number(*code) : 0; }
};

// The sums over a part of the terms, to parts (splits, *tile, groups, taps * channels, filters).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
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
    const unsigned each = ceil_div(ceil_div(outputs.rows, splits), DEPTH) * DEPTH;
    const unsigned begin = part * each, end = min(outputs.rows, begin + each);
    LeftOfG left{outputs, V, first_row, group};
    RightOfG right{outputs, G, first_column, group};
    const long long product_index = ((long long)part * count(q.tile) + turn) * q.groups + group;
    float* sums = parts + product_index * elements * FILTERS;
    product<false, false>(begin, end, left, right, [&](int row, int column, float sum) {
        if (first_row + row < elements && first_column + column < FILTERS)
            sums[(long long)(first_row + row) * FILTERS + first_column + column] = sum;
    });
}

// Adds up the parts, in order, to dK in a kernel's memory; one thread for each element.
extern "C" __global__ void add(const float* parts, float* dK, int splits, float scale) {
    const int elements = count(q.kernel) * CHANNELS;
    const long long size = (long long)count(q.tile) * q.filters * elements;
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= size) return;
    float sum = 0;
    for (int part = 0; part < splits; ++part) sum += parts[part * size + at];
    const int o = at % FILTERS, l = at / FILTERS % CHANNELS;
    const int tap = at / FILTERS / CHANNELS % count(q.kernel);
    const long long rest = at / FILTERS / elements;
    const int group = rest % q.groups, turn = rest / q.groups;
    dK[(group * FILTERS + o) * q.filter_step + turn * q.turn_step + l * q.channel_step +
       tap * q.tap_step] = scale * sum;
}
