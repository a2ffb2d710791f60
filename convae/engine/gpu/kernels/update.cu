// One step of an optimizer on all parameters at once; see convae/engine/updates.py, whose numbers
// these are, and `convae.engine.program.arithmetic.update`. Gradients that are not finite count as
// zeros. METHOD is 1 for Momentum (first is the velocity), 2 for Moments.
extern "C" __global__ void update(
    float* parameters, float* gradients, float* first, float* second, const double* energy,
    const double* J, const double* numbers, int last, float* average, long long size
) {
    const long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= size) return;
    float factor = isfinite(*energy + *J) ? 1.0f : 0.0f;
    if (CLIP > 0) factor *= (float)(CLIP / fmax(sqrt(*energy), CLIP));
    float g = factor > 0 ? gradients[i] * factor : 0.0f;
    float w = parameters[i];
#if METHOD == 1
    g += (float)PENALTY * w;
    const float v = first[i] = (float)MOMENTUM * first[i] + g;
    w -= (float)numbers[0] * (NESTEROV ? g + (float)MOMENTUM * v : v);
#else
    if (DECAYS) w *= (float)numbers[2];
    g += (float)PENALTY * w;
    const float m = first[i] = (float)BETA1 * first[i] + (float)(1 - BETA1) * g;
    const float v = second[i] = (float)BETA2 * second[i] + (float)(1 - BETA2) * (g * g);
    w -= (float)numbers[0] * (m / (sqrtf(v) * (float)numbers[1] + (float)EPSILON));
#endif
    parameters[i] = w;
    if (average) average[i] += (float)numbers[last] * (w - average[i]);
}
