// What is multiplied: factors, and how tensor cores multiply them. TENSOR is 0, or the type that they
// multiply: 1 half, 2 bfloat16, 3 TF32. Preceded by convolution.cu.

#if TENSOR == 1 || TENSOR == 2
typedef T Factor;
#else
typedef float Factor;
#endif

// Turns an element into what is multiplied.
__device__ Factor as_factor(T x) {
#if TENSOR == 1 || TENSOR == 2
    return x;
#elif TENSOR == 3 && defined(__CUDACC_RTC__)
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
#else
    return number(x);
#endif
}

#if TENSOR
enum { TERMS = 32 / sizeof(Factor) };  // of one instruction

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
#endif
