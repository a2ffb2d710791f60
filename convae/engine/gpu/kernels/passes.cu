// The parts of a step other than c, h, g and the update: sums over the examples, and of squares.

// Sums G (rows, C) over its rows, to parts (gridDim.x, C): block x takes every gridDim.x-th stretch
// of rows, block y THREADS vectors of channels. Threads of a block that share channels are added at
// the end.
template <int WIDTH> __device__ void sums_of(const T* G, float* parts, long long rows, int C) {
    __shared__ float sums[THREADS * WIDTH];
    const int first = blockIdx.y * THREADS, width = min(C / WIDTH - first, THREADS);
    const int lines = THREADS / width, line = threadIdx.x / width;
    const int c = (first + threadIdx.x % width) * WIDTH;
    float sum[WIDTH] = {};
    if (line < lines)
#pragma unroll 4
        for (long long row = (long long)blockIdx.x * lines + line; row < rows;
             row += (long long)gridDim.x * lines) {
            const Vector<T, WIDTH> values = load<WIDTH>(G + row * C + c);
            for (int i = 0; i < WIDTH; ++i) sum[i] += number(values.at[i]);
        }
    for (int i = 0; i < WIDTH; ++i) sums[i * THREADS + threadIdx.x] = sum[i];
    __syncthreads();
    if (line > 0) return;
    for (int i = 0; i < WIDTH; ++i) {
        for (int other = 1; other < lines; ++other)
            sum[i] += sums[i * THREADS + other * width + threadIdx.x];
        parts[(long long)blockIdx.x * C + c + i] = sum[i];
    }
}

extern "C" __global__ void channel_sums(const T* G, float* parts, long long rows, int C) {
    sums_of<1>(G, parts, rows, C);
}

// The same where C is a multiple of 16 bytes.
extern "C" __global__ void wide_channel_sums(const T* G, float* parts, long long rows, int C) {
    sums_of<16 / sizeof(T)>(G, parts, rows, C);
}

// Adds up the parts, in order.
extern "C" __global__ void add(const float* parts, float* db, int blocks, int C, float scale) {
    add_parts(parts, blocks, C, [&](long long c, float sum) { db[c] = scale * sum; });
}

// Sums G (N, A, B, D, C) over the examples and over positions that share an element of db
// (C, a, b, d); one thread for each.
extern "C" __global__ void tile_sums(
    const T* G, float* db, int N, int A, int B, int D, int C, int a, int b, int d, float scale
) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (long long)a * b * d * C) return;
    // neighbours read neighbours: channels last
    const int c = at % C, z = at / C % d, y = at / C / d % b, x = at / C / d / b;
    float sum = 0;
    for (long long n = 0; n < N; ++n)
        for (int i = x; i < A; i += a)
            for (int j = y; j < B; j += b)
                for (int k = z; k < D; k += d)
                    sum += number(G[(((n * A + i) * B + j) * D + k) * C + c]);
    db[(((long long)c * a + x) * b + y) * d + z] = scale * sum;
}

// Sums the squares of the gradients: a part for each block, which `total` adds up.
extern "C" __global__ void squares(const float* gradients, double* parts, long long size) {
    double sum = 0;
    for (long long i = (long long)blockIdx.x * THREADS + threadIdx.x; i < size;
         i += (long long)gridDim.x * THREADS)
        sum += (double)gradients[i] * gradients[i];
    sum = add_up(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
