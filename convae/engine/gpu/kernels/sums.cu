// What all kernels have in common: the size of a block, and sums over its threads and over blocks,
// always in the same order. Precedes every other file.

constexpr int THREADS = 256;

__device__ float number(T x) { return (float)x; }

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
