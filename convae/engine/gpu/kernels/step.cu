// The parts of a training step other than c, h and g: gathering images, and Adam.

// Gathers a batch from images in device memory: x (N, pixels) = images (M, pixels)[chosen] / 255.
extern "C" __global__ void gather(
    const unsigned char* images, const long long* chosen, T* x, long long pixels, long long total
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < total) x[i] = images[chosen[i / pixels] * pixels + i % pixels] * (1.0f / 255.0f);
}

// Adam (Kingma and Ba 2015, algorithm 1) on all parameters at once, after `count`. gradient_decay
// is an L2 penalty, parameter_decay the decoupled decay of AdamW (Loshchilov and Hutter 2019).
// corrections holds 1 - beta1^t and 1 - beta2^t; rest1 and rest2 are 1 - beta1 and 1 - beta2.
extern "C" __global__ void adam(
    float* parameters, const float* gradients, float* first, float* second,
    const float* corrections, const float* learning_rate, float beta1, float beta2, float rest1,
    float rest2, float epsilon, float gradient_decay, float parameter_decay, long long size
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    const float rate = *learning_rate;
    float w = parameters[i] * (1 - rate * parameter_decay);
    const float g = gradients[i] + gradient_decay * w;
    const float m = first[i] = beta1 * first[i] + rest1 * g;
    const float v = second[i] = beta2 * second[i] + rest2 * g * g;
    const float root = sqrtf(v / corrections[1]) + epsilon;
    parameters[i] = w - rate / corrections[0] * m / root;
}

// Advances the number of updates t, in device memory so that a captured graph can do it, and
// computes 1 - beta^t in double: in float it would cancel while beta^t is near 1.
extern "C" __global__ void count(long long* steps, float* corrections, double beta1, double beta2) {
    const double t = ++*steps;
    corrections[0] = 1 - pow(beta1, t);
    corrections[1] = 1 - pow(beta2, t);
}
