// What edge_c.cu, edge_h.cu and edge_g.cu have in common, which follow: c, h and g on tensor cores where
// the visible side has few channels, as images have. Preceded by tensor.cu.
//
// All elements (m, l) of a filter, ELEMENTS of them, are one side of a small matrix product, so no
// example is unfolded: c and g read pixels from a patch of the images in shared memory, and h adds up
// there what each code contributes to its pixels. Blocks go from box to box: EXAMPLES examples by BOX
// output positions (of h, repeats of the stride).
//
// Codes and kernels are read and written VECTOR filters at a time, straight from where they lie to the
// lane that multiplies them: which filter or position is which row, column or term of an instruction
// is free, as long as both factors agree.

enum { TAPS = count(q.kernel), ELEMENTS = TAPS * CHANNELS };
enum { EACH = 4 / sizeof(Factor), VECTOR = 16 / sizeof(T), WARPS = THREADS / 32 };
// blocks for which a multiprocessor has registers; compilers for other cards need more
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
enum { RESIDENT = 1 };
#else
enum { RESIDENT = 2 };
#endif
enum { ELEMENT_ROWS = (ELEMENTS + 15) / 16 };  // of instructions: 16 elements each
enum { RUNS = (FILTERS + 4 * VECTOR - 1) / (4 * VECTOR) };  // four lanes' vectors of filters

// A word of an instruction: two factors of two bytes side by side, or the first of four.
__device__ unsigned word(const Factor& first, const Factor& second) {
    if (EACH == 1) return *(const unsigned*)&first;
    return *(const unsigned short*)&first | (unsigned)*(const unsigned short*)&second << 16;
}

// Offset of element (m, l) for a filter in a kernel's memory.
__device__ long long element_at(int element, int filter) {
    return filter * q.filter_step + element % CHANNELS * q.channel_step +
           element / CHANNELS * q.tap_step;
}
__device__ Factor kernel_factor(const T* K, int element, int filter) {
    if (element >= ELEMENTS || filter >= FILTERS) return (Factor)0.0f;
    return as_factor(K[element_at(element, filter)]);
}

// The boxes of a batch.
struct Boxes {
    int number[3], total;

    __device__ Boxes(int N, const int* size) {
        for (int axis = 0; axis < 3; ++axis) number[axis] = ceil_div(size[axis], box[axis]);
        total = ceil_div(N, EXAMPLES) * count(number);
    }
    // The first example of a box, and its first position.
    __device__ int first(int index, int* position) const {
        split(index % count(number), number, position);
        for (int axis = 0; axis < 3; ++axis) position[axis] *= box[axis];
        return index / count(number) * EXAMPLES;
    }
};
