// What c.cu, h.cu and g.cu have in common, which follow: c, h and g of the whole family as matrix
// products whose factors are read from the batches where they lie (implicit im2col), with what stands
// behind them. Preceded by convolution.cu and blocks.cu.
//
//     c:  Z[(n, j), o]  = sum over (m, l)  of V[(n, j*s + m*d - before), l]  * K[(m, l), o]
//     h:  V'[(n, y), l] = sum over (m, o)  of G[(n, j), o]  * K[(m, o), l],  j*s + m*d - before = y
//     g:  dK[(m, l), o] = sum over (n, j)  of V[(n, j*s + m*d - before), l]  * G[(n, j), o]
//
// A block computes ROWS x COLUMNS of one product. Output positions of one tile index, and input
// positions of one phase of stride * tile, share a kernel: each has products of its own, and so has
// every group. Batches are read several channels at a time where their number allows it; kernels,
// which lie anywhere among a model's parameters, one by one.

enum { CHANNELS_AT_ONCE = width_of(CHANNELS), FILTERS_AT_ONCE = width_of(FILTERS) };

// The left factor of c and h: rows are positions, whose terms are read from their example WIDTH at a
// time, at a distance that depends on the term.
template <int WIDTH> struct Gathered {
    typedef Share<ROWS, WIDTH, true> Mine;
    int place[Mine::COUNT][3], distance[3] = {0, 0, 0}, channel = 0;
    const T* example[Mine::COUNT];  // null for rows that there are not
    bool exists = false;            // the term

    __device__ Vector<T, WIDTH> gather(int i, const int* size, int channels) const {
        int x[3];
        for (int axis = 0; axis < 3; ++axis) x[axis] = place[i][axis] + distance[axis];
        if (!exists || !example[i] || !inside(x, size)) return {};
        return load<WIDTH>(example[i] + (long long)join(x, size) * channels + channel);
    }
};

// Finishes a run of sums at neighbouring channels, and writes those of the first `length` channels
// of a group; `at` is the place of the first in the output.
template <int LENGTH>
__device__ void finish_run(const float* sums, int c, int left, const int* position, long long at,
                           T* out, Behind& behind) {
    constexpr int RUN = Part::RUN;
    if constexpr (LENGTH % RUN == 0) {
        Read<RUN> read = {};
        read.read(behind, at);
        read.finish_sums(sums, c, position, at, out, behind);
    } else {
        for (int i = 0; i < RUN && i < left; ++i)
            out[at + i] = (T)finish(sums[i], c + i, position, at + i, behind);
    }
}
