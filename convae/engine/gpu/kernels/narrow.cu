// h for few channels, where a block's columns would be nearly empty: one thread for each input
// position, all channels of a group; preceded by convolution.cu.
extern "C" __global__ void __launch_bounds__(THREADS)
narrow_h(const T* K, const T* G, T* V, const float* bias, const T* extra, const T* outputs_H,
         const LOSS_T* target, float factor, double* losses, int N, int row_blocks) {
    int index = blockIdx.x;
    const unsigned row = index % row_blocks * THREADS + threadIdx.x;
    index /= row_blocks;
    const int group = index % q.groups;
    const Inputs inputs(N, index / q.groups);
    Behind behind{bias, extra, outputs_H, target, factor, 0};
    if (row < inputs.rows) {
        int y[3], start[3];
        const int n = inputs.place(row, y);
        for (int axis = 0; axis < 3; ++axis)
            start[axis] = (y[axis] - inputs.phase[axis]) / q.stride[axis];
        const T* codes = G + (long long)n * count(q.output) * q.filters + group * FILTERS;
        float sums[CHANNELS] = {};
        for (int tap = 0; tap < count(inputs.taps); ++tap) {
            int m[3], j[3];
            inputs.reach(tap, m, j);
            for (int axis = 0; axis < 3; ++axis) j[axis] += start[axis];
            if (!inside(j, q.output)) continue;
            const T* code = codes + (long long)join(j, q.output) * q.filters;
            const T* kernel = K + element_of(inputs, tap, group * FILTERS);
            for (int o = 0; o < FILTERS; ++o) {
                const float value = number(code[o]);
#pragma unroll
                for (int l = 0; l < CHANNELS; ++l)
                    sums[l] += value * number(kernel[o * q.filter_step + l * q.channel_step]);
            }
        }
#pragma unroll
        for (int l = 0; l < CHANNELS; ++l) {
            const int channel = group * CHANNELS + l;
            const long long at =
                ((long long)n * count(q.size) + join(y, q.size)) * q.channels + channel;
            V[at] = (T)finish(sums[l], channel, y, at, behind);
        }
    }
    add_loss(behind.loss, losses);
}
