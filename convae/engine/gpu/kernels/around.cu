// What a product of cuDNN's needs around it; preceded by convolution.cu. SUM_T is the type of its
// results.

// K (taps, C, O) -> (O, taps, C)
extern "C" __global__ void reorder(const T* K, T* copy, int taps, int C, int O) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= taps * C * O) return;
    const int o = at % O, rest = at / O;
    copy[(long long)o * taps * C + rest] = K[at];
}

// (O, taps, C) -> dK (taps, C, O), scaled
extern "C" __global__ void reorder_sums(
    const SUM_T* sums, float* dK, int taps, int C, int O, float scale
) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= taps * C * O) return;
    const int o = at % O, rest = at / O;
    dK[at] = scale * (float)sums[(long long)o * taps * C + rest];
}

// Computes all that stands behind a product; `sums` and `out` may be the same.
extern "C" __global__ void finish_all(
    const SUM_T* sums, T* out, const float* bias, const T* extra, const T* outputs_H,
    const LOSS_T* target, float factor, double* losses, long long size
) {
#if VISIBLE
    const int C = q.channels;
    const int* n = q.size;
#else
    const int C = q.filters;
    const int* n = q.output;
#endif
    Behind behind{bias, extra, outputs_H, target, factor, 0};
    for (long long at = (long long)blockIdx.x * THREADS + threadIdx.x; at < size;
         at += (long long)gridDim.x * THREADS) {
        int position[3];
        split(at / C % count(n), n, position);
        out[at] = (T)finish((float)sums[at], at % C, position, at, behind);
    }
    add_loss(behind.loss, losses);
}
