// The parts of a training step other than c, h and g: gathering images, and Adam.

// Gathers a batch from images in device memory: x (N, pixels) = images (M, pixels)[chosen] / 255.
extern "C" __global__ void gather(
    const unsigned char* images, const long long* chosen, T* x, long long pixels, long long total
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < total) x[i] = images[chosen[i / pixels] * pixels + i % pixels] * (1.0f / 255.0f);
}

// Adam (Kingma and Ba 2015, algorithm 1) on all parameters at once. `steps`, the number of previous
// updates, is in device memory so that a captured graph can advance it, by `count`. gradient_decay
// is an L2 penalty, parameter_decay the decoupled decay of AdamW (Loshchilov and Hutter 2019).
extern "C" __global__ void adam(
    float* parameters, const float* gradients, float* first, float* second, const long long* steps,
    const float* learning_rate, float beta1, float beta2, float epsilon, float gradient_decay,
    float parameter_decay, long long size
) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    const float rate = *learning_rate, done = *steps + 1;
    float w = parameters[i] * (1 - rate * parameter_decay);
    const float g = gradients[i] + gradient_decay * w;
    const float m = first[i] = beta1 * first[i] + (1 - beta1) * g;
    const float v = second[i] = beta2 * second[i] + (1 - beta2) * g * g;
    const float root = sqrtf(v / (1 - powf(beta2, done))) + epsilon;
    parameters[i] = w - rate / (1 - powf(beta1, done)) * m / root;
}

extern "C" __global__ void count(long long* steps) { *steps += 1; }
