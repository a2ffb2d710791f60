// What g leaves in parts, (splits, *tile, groups, taps * channels, filters); preceded by convolution.cu.

// Adds up the parts, in order, to dK in a kernel's memory.
extern "C" __global__ void add(const float* parts, float* dK, int splits, float scale) {
    const int elements = count(q.kernel) * CHANNELS;
    const long long size = (long long)count(q.tile) * q.filters * elements;
    add_parts(parts, splits, size, [&](long long at, float sum) {
        const int o = at % FILTERS, l = at / FILTERS % CHANNELS;
        const int tap = at / FILTERS / CHANNELS % count(q.kernel);
        const long long rest = at / FILTERS / elements;
        const int group = rest % q.groups, turn = rest / q.groups;
        dK[(group * FILTERS + o) * q.filter_step + turn * q.turn_step + l * q.channel_step +
           tap * q.tap_step] = scale * sum;
    });
}
