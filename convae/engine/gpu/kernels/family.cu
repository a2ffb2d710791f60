// c, h and g for every geometry: shared, tiled and local kernels, groups, dilation, up to three
// axes. Arrays are channels first, examples last, (C, *size, N), so that adjacent threads, which
// process adjacent examples, access adjacent memory and share kernel elements.
//
// The order of all sums is the same on every run. GEOMETRY, an initialiser of the struct below, is
// a compile-time constant; N is the number of examples.

struct Geometry {
    int size[3], output[3], kernel[3], stride[3], before[3], dilation[3], tile[3];
    int channels, filters, groups;
};

// A thread computes up to FILTERS filters (channels in h), so that each element it reads is reused.

__device__ long long count(const int* n) { return (long long)n[0] * n[1] * n[2]; }

__device__ void split(long long index, const int* n, int* place) {
    place[2] = index % n[2];
    place[1] = index / n[2] % n[1];
    place[0] = index / n[2] / n[1];
}

__device__ long long join(const int* place, const int* n) {
    return ((long long)place[0] * n[1] + place[1]) * n[2] + place[2];
}

// Sets y to the input position that kernel element m reads for output j; false if it is padding.
__device__ bool meet(const Geometry& q, const int* j, const int* m, int* y) {
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
        y[axis] = j[axis] * q.stride[axis] + m[axis] * q.dilation[axis] - q.before[axis];
        inside = inside && y[axis] >= 0 && y[axis] < q.size[axis];
    }
    return inside;
}

// Sets j to the output position for which kernel element m reads input y; false if none.
__device__ bool met(const Geometry& q, const int* y, const int* m, int* j) {
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
        int reach = y[axis] + q.before[axis] - m[axis] * q.dilation[axis];
        j[axis] = reach / q.stride[axis];
        inside = inside && reach >= 0 && reach % q.stride[axis] == 0 && j[axis] < q.output[axis];
    }
    return inside;
}

// Offset in K (O, *tile, C/groups, *kernel) of filter o at output j, channel l of its group and
// element m.
__device__ long long element(const Geometry& q, int o, const int* j, int l, long long m) {
    int turn[3];
    for (int axis = 0; axis < 3; ++axis) turn[axis] = j[axis] % q.tile[axis];
    long long place = o * count(q.tile) + join(turn, q.tile);
    return (place * (q.channels / q.groups) + l) * count(q.kernel) + m;
}

// Z[i, j] = sum over l, m of V[l, j*stride + m] * K[i, l, m]; one thread per FILTERS filters of a
// group, position and example.
extern "C" __global__ void c(const T* K, const T* V, T* Z, int N) {
    constexpr Geometry q = GEOMETRY;
    const int each = q.filters / q.groups, depth = q.channels / q.groups;
    const int parts = (each + FILTERS - 1) / FILTERS;
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)q.groups * parts * count(q.output) * N) return;
    const int n = index % N;
    const long long position = index / N % count(q.output);
    const int part = index / N / count(q.output);
    const int group = part / parts, first = part % parts * FILTERS;
    const int filters = min(FILTERS, each - first), o = group * each + first;
    int j[3], m[3], y[3];
    split(position, q.output, j);
    float sums[FILTERS] = {0};
    for (long long place = 0; place < count(q.kernel); ++place) {
        split(place, q.kernel, m);
        if (!meet(q, j, m, y)) continue;
        for (int l = 0; l < depth; ++l) {
            long long row = (group * depth + l) * count(q.size) + join(y, q.size);
            float v = V[row * N + n];
            for (int f = 0; f < filters; ++f)
                sums[f] += v * (float)K[element(q, o + f, j, l, place)];
        }
    }
    for (int f = 0; f < filters; ++f)
        Z[((o + f) * count(q.output) + position) * N + n] = sums[f];
}

// V'[l, y] = sum over i, (j, m): j*stride + m = y of K[i, l, m] * G[i, j]; one thread per FILTERS
// channels of a group, position and example.
extern "C" __global__ void h(const T* K, const T* G, T* V, int N) {
    constexpr Geometry q = GEOMETRY;
    const int each = q.channels / q.groups, depth = q.filters / q.groups;
    const int parts = (each + FILTERS - 1) / FILTERS;
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)q.groups * parts * count(q.size) * N) return;
    const int n = index % N;
    const long long position = index / N % count(q.size);
    const int part = index / N / count(q.size);
    const int group = part / parts, first = part % parts * FILTERS;
    const int channels = min(FILTERS, each - first);
    int j[3], m[3], y[3];
    split(position, q.size, y);
    float sums[FILTERS] = {0};
    for (long long place = 0; place < count(q.kernel); ++place) {
        split(place, q.kernel, m);
        if (!met(q, y, m, j)) continue;
        for (int i = 0; i < depth; ++i) {
            int o = group * depth + i;
            float g = G[(o * count(q.output) + join(j, q.output)) * N + n];
            for (int f = 0; f < channels; ++f)
                sums[f] += g * (float)K[element(q, o, j, first + f, place)];
        }
    }
    for (int f = 0; f < channels; ++f) {
        long long row = (group * each + first + f) * count(q.size) + position;
        V[row * N + n] = sums[f];
    }
}

// dK[i, l, m] = sum over j of G[i, j] * V[l, j*stride + m]; one block of THREADS threads per
// element of K. The threads share the examples; their sums are combined by a tree reduction.
extern "C" __global__ void g(const T* G, const T* V, float* dK, int N) {
    constexpr Geometry q = GEOMETRY;
    __shared__ float sums[THREADS];
    const int depth = q.channels / q.groups, each = q.filters / q.groups;
    long long index = blockIdx.x;
    const long long place = index % count(q.kernel);
    const int l = index / count(q.kernel) % depth;
    index = index / count(q.kernel) / depth;
    const long long turn = index % count(q.tile);
    const int o = index / count(q.tile);
    const int channel = o / each * depth + l;
    int m[3], start[3], j[3], y[3];
    split(place, q.kernel, m);
    split(turn, q.tile, start);
    float sum = 0;
    for (j[0] = start[0]; j[0] < q.output[0]; j[0] += q.tile[0])
        for (j[1] = start[1]; j[1] < q.output[1]; j[1] += q.tile[1])
            for (j[2] = start[2]; j[2] < q.output[2]; j[2] += q.tile[2]) {
                if (!meet(q, j, m, y)) continue;
                const T* row_G = G + (o * count(q.output) + join(j, q.output)) * N;
                const T* row_V = V + (channel * count(q.size) + join(y, q.size)) * N;
                for (int n = threadIdx.x; n < N; n += THREADS)
                    sum += (float)row_G[n] * (float)row_V[n];
            }
    sums[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) dK[blockIdx.x] = sums[0];
}
