// What all kernels have in common: the size of a block, vectors of elements, and sums over threads and
// over blocks, always in the same order. Precedes every other file.

constexpr int THREADS = 256;

__device__ float number(T x) { return (float)x; }

// Elements that are read or written at once; they lie at multiples of their size.
template <class Element, int N> struct alignas(N * sizeof(Element)) Vector { Element at[N]; };

template <int N, class Element> __device__ Vector<Element, N> load(const Element* from) {
    return *(const Vector<Element, N>*)from;
}

// The most elements that can be read at once where a run of `length` of them lies in memory.
__device__ constexpr int width_of(int length) {
    int width = 16 / sizeof(T);
    while (length % width) width /= 2;
    return width;
}

// Adds up a block's terms; the first thread has the sum.
template <class Sum> __device__ Sum add_up(Sum term) {
    __shared__ Sum terms[THREADS];
    terms[threadIdx.x] = term;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) terms[threadIdx.x] += terms[threadIdx.x + half];
    }
    return terms[0];
}

// Adds up what blocks have left in `parts`, times a factor; one block.
extern "C" __global__ void total(const double* parts, double* sum, int blocks, double factor) {
    double own = 0;
    for (int i = threadIdx.x; i < blocks; i += THREADS) own += parts[i];
    own = add_up(own);
    if (threadIdx.x == 0) *sum = factor * own;
}

// Adds up `parts` (count, size), and calls take(place, sum) for each place. Several threads add up the
// parts of a place, if there are many; `summed_places` of __init__.py is the same.
__device__ int summed_places(int count) {
    int threads = 1;
    while (threads < 32 && threads * 8 < count) threads *= 2;
    return THREADS / threads;
}

template <class Take>
__device__ void add_parts(const float* parts, int count, long long size, Take take) {
    __shared__ float sums[THREADS];
    const int places = summed_places(count), own = threadIdx.x / places;
    const long long at = (long long)blockIdx.x * places + threadIdx.x % places;
    float sum = 0;
    if (at < size)
#pragma unroll 8
        for (int part = own; part < count; part += THREADS / places) sum += parts[part * size + at];
    sums[threadIdx.x] = sum;
    for (int half = THREADS / 2; half >= places; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (own == 0 && at < size) take(at, sums[threadIdx.x]);
}
