// A patch of the images in shared memory: what the outputs of a box see of them. Preceded by edges.cu.

__device__ constexpr int patch_width(int axis) {
    return (box[axis] - 1) * q.stride[axis] + (q.kernel[axis] - 1) * q.dilation[axis] + 1;
}
constexpr int patch_size[3] = {patch_width(0), patch_width(1), patch_width(2)};
enum { PATCH = count(patch_size) * CHANNELS };  // of an example
enum { POSITIONS = EXAMPLES * count(box) };

// Copies what the outputs of a box see of the images, and zeros around them.
__device__ void copy_patch(const T* V, int N, int example, const int* first, Factor* patch) {
#pragma unroll 4
    for (int at = threadIdx.x; at < EXAMPLES * PATCH; at += THREADS) {
        const int l = at % CHANNELS, n = example + at / PATCH;
        int y[3];
        split(at / CHANNELS % count(patch_size), patch_size, y);
        for (int axis = 0; axis < 3; ++axis)
            y[axis] += first[axis] * q.stride[axis] - q.before[axis];
        const bool exists = n < N && inside(y, q.size);
        const long long place = ((long long)n * count(q.size) + join(y, q.size)) * CHANNELS + l;
        patch[at] = exists ? as_factor(V[place]) : (Factor)0.0f;
    }
}

// Where an element of the filter lies in the patch, from the first that an output sees.
__device__ int offset_of(int element) {
    if (element >= ELEMENTS) return 0;
    int m[3];
    split(element / CHANNELS, q.kernel, m);
    for (int axis = 0; axis < 3; ++axis) m[axis] *= q.dilation[axis];
    return join(m, patch_size) * CHANNELS + element % CHANNELS;
}

// Where two elements lie: a patch has fewer than 2^16.
struct Offsets {
    unsigned both;

    Offsets() = default;
    __device__ Offsets(int first, int second)
        : both(offset_of(first) | (unsigned)offset_of(second) << 16) {}
    __device__ int of(int which) const { return which ? both >> 16 : both & 0xffff; }
};

// Where the output positions of a box lie: its first element in the patch, and its number among those of
// the batch, or -1 if there is none.
struct alignas(8) Place {
    int base, code;
};

__device__ void list_places(int N, int example, const int* first, Place* places) {
    for (int at = threadIdx.x; at < POSITIONS; at += THREADS) {
        const int own = at / count(box), n = example + own;
        int j[3], y[3];
        split(at % count(box), box, j);
        for (int axis = 0; axis < 3; ++axis) {
            y[axis] = j[axis] * q.stride[axis];
            j[axis] += first[axis];
        }
        const bool exists = n < N && inside(j, q.output);
        const int base = own * PATCH + join(y, patch_size) * CHANNELS;
        places[at] = exists ? Place{base, n * count(q.output) + join(j, q.output)} : Place{0, -1};
    }
}

// Has a block see the images around a box, when it is done with the last.
__device__ void see(const Boxes& boxes, int index, const T* V, int N, Factor* patch, Place* places) {
    int first[3];
    const int example = boxes.first(index, first);
    __syncthreads();
    copy_patch(V, N, example, first, patch);
    list_places(N, example, first, places);
    __syncthreads();
}

__device__ Place place_of(const Place* places, int position) {
    return position < POSITIONS ? places[position] : Place{0, -1};
}
