// c, h and g for an input of one to four channels: the image side of nearly every autoencoder, for
// which libraries pad the channels or unfold the input. Arrays are examples first, channels last,
// (N, H, W, C). All sizes are compile-time constants: C channels, O filters, kernel K1 x K2,
// strides S1, S2, padding before the input B1, B2, input H x W and output OH x OW.

#define TAPS (K1 * K2 * C)

// Copies K (TAPS, O) to shared memory; all threads of the block take part.
__device__ void share(float* shared, const T* K) {
    for (int i = threadIdx.x; i < TAPS * O; i += blockDim.x) shared[i] = K[i];
    __syncthreads();
}

// Z[i, j] = sum over l, m of V[l, j*s + m] * K[i, l, m]; one thread per position and
// FILTERS filters.
extern "C" __global__ void c(const T* K, const T* V, T* Z, int N) {
    __shared__ float shared[TAPS * O];
    share(shared, K);
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)N * OH * OW * (O / FILTERS)) return;
    const int o = index % (O / FILTERS) * FILTERS;
    const long long position = index / (O / FILTERS);
    const int y2 = position % OW * S2 - B2, y1 = position / OW % OH * S1 - B1;
    const T* image = V + position / OW / OH * (H * W * C);
    float sums[FILTERS] = {0};
    for (int m1 = 0; m1 < K1; ++m1) {
        if (y1 + m1 < 0 || y1 + m1 >= H) continue;
#pragma unroll
        for (int m2 = 0; m2 < K2; ++m2) {
            if (y2 + m2 < 0 || y2 + m2 >= W) continue;
#pragma unroll
            for (int l = 0; l < C; ++l) {
                float v = image[((y1 + m1) * W + y2 + m2) * C + l];
                const float* row = shared + ((m1 * K2 + m2) * C + l) * O + o;
#pragma unroll
                for (int f = 0; f < FILTERS; ++f) sums[f] += v * row[f];
            }
        }
    }
#pragma unroll
    for (int f = 0; f < FILTERS; ++f) Z[position * O + o + f] = sums[f];
}

// V'[l, y] = sum over i, (j, m): j*s + m = y of K[i, l, m] * G[i, j]; one thread per position.
extern "C" __global__ void h(const T* K, const T* G, T* V, int N) {
    __shared__ float shared[TAPS * O];
    share(shared, K);
    const long long position = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (position >= (long long)N * H * W) return;
    const int x = position % W + B2, y = position / W % H + B1;
    const T* codes = G + position / W / H * (OH * OW * O);
    float sums[C] = {0};
    for (int m1 = y % S1; m1 < K1; m1 += S1) {
        const int j1 = (y - m1) / S1;
        if (y < m1 || j1 >= OH) continue;
        for (int m2 = x % S2; m2 < K2; m2 += S2) {
            const int j2 = (x - m2) / S2;
            if (x < m2 || j2 >= OW) continue;
            const T* code = codes + (j1 * OW + j2) * O;
            const float* row = shared + (m1 * K2 + m2) * C * O;
            for (int o = 0; o < O; ++o) {
                float g = code[o];
#pragma unroll
                for (int l = 0; l < C; ++l) sums[l] += g * row[l * O + o];
            }
        }
    }
#pragma unroll
    for (int l = 0; l < C; ++l) V[position * C + l] = sums[l];
}

// dK[i, l, m] = sum over j of G[i, j] * V[l, j*s + m]: each block loops over every gridDim.x-th row
// of output positions and writes its sums to partial (gridDim.x, TAPS, O), which `add` accumulates
// in block order. A block has (O / FILTERS, K1) threads.
extern "C" __global__ void g(const T* G, const T* V, float* partial, int N) {
    const int o = threadIdx.x * FILTERS, m1 = threadIdx.y;
    float sums[K2 * C][FILTERS] = {{0}};
    for (long long row = blockIdx.x; row < (long long)N * OH; row += gridDim.x) {
        const int y = row % OH * S1 - B1 + m1;
        if (y < 0 || y >= H) continue;
        const T* line = V + (row / OH * H + y) * W * C;
        for (int j2 = 0; j2 < OW; ++j2) {
            float g[FILTERS];
#pragma unroll
            for (int f = 0; f < FILTERS; ++f) g[f] = G[(row * OW + j2) * O + o + f];
#pragma unroll
            for (int m2 = 0; m2 < K2; ++m2) {
                const int x = j2 * S2 - B2 + m2;
                if (x < 0 || x >= W) continue;
#pragma unroll
                for (int l = 0; l < C; ++l) {
                    float v = line[x * C + l];
#pragma unroll
                    for (int f = 0; f < FILTERS; ++f) sums[m2 * C + l][f] += g[f] * v;
                }
            }
        }
    }
#pragma unroll
    for (int tap = 0; tap < K2 * C; ++tap)
#pragma unroll
        for (int f = 0; f < FILTERS; ++f)
            partial[((long long)blockIdx.x * TAPS + m1 * K2 * C + tap) * O + o + f] = sums[tap][f];
}

// Accumulates the partial sums of g in dK (TAPS, O); one thread per element.
extern "C" __global__ void add(const float* partial, float* dK, int parts) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= TAPS * O) return;
    float sum = 0;
    for (int part = 0; part < parts; ++part) sum += partial[(long long)part * TAPS * O + i];
    dK[i] = sum;
}
