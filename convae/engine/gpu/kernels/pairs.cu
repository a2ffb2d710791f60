// Which codes contribute to which pixels: h for a box of BOX repeats of stride * tile, with all codes
// around it, PLACES of them. Preceded by convolution.cu.

enum {
    PAIRS = count(q.kernel) * count(q.tile),  // of a kernel element and a tile index
    PHASES = count(q.stride) * count(q.tile)
};

__device__ constexpr int period(int axis) { return q.stride[axis] * q.tile[axis]; }

// The first phase that kernel element m of an axis contributes to, and the code's place from there.
__device__ constexpr int phase_of(int axis, int m) {
    const int stride = q.stride[axis], place = m * q.dilation[axis] - q.before[axis];
    return (place % stride + stride) % stride;
}
__device__ constexpr int reach_of(int axis, int m) {
    return (phase_of(axis, m) + q.before[axis] - m * q.dilation[axis]) / q.stride[axis];
}

// The least reach of an axis, and how many codes of it a box meets.
__device__ constexpr int least(int axis) { return reach_of(axis, q.kernel[axis] - 1); }
__device__ constexpr int width(int axis) {
    return q.tile[axis] * box[axis] + reach_of(axis, 0) - least(axis);
}
constexpr int widths[3] = {width(0), width(1), width(2)};
enum { PLACES = widths[0] * widths[1] * widths[2] };

// Calls f(phase, code's offset, kernel element, tile index) for every kernel element and phase that
// meet, as constants.
template <class F> __device__ void each_pair(F f) {
#pragma unroll
    for (int m0 = 0; m0 < q.kernel[0]; ++m0)
#pragma unroll
    for (int m1 = 0; m1 < q.kernel[1]; ++m1)
#pragma unroll
    for (int m2 = 0; m2 < q.kernel[2]; ++m2)
#pragma unroll
    for (int u = 0; u < count(q.tile); ++u) {
        const int m[3] = {m0, m1, m2};
        int phase = 0, offset = 0, turn = 0, rest = u;
#pragma unroll
        for (int axis = 2, phases = 1, codes = 1, turns = 1; axis >= 0; --axis) {
            const int own = rest % q.tile[axis];  // of the tile's codes
            rest /= q.tile[axis];
            phase += (phase_of(axis, m[axis]) + q.stride[axis] * own) * phases;
            phases *= period(axis);
            const int reach = reach_of(axis, m[axis]) + own;
            offset += (reach - least(axis)) * codes;
            codes *= widths[axis];
            turn += ((reach % q.tile[axis]) + q.tile[axis]) % q.tile[axis] * turns;
            turns *= q.tile[axis];
        }
        f(phase, offset, join(m, q.kernel), turn);
    }
}
