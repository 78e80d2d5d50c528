// What is launched to see what a launch costs: nothing, next to nothing, and a wait during which others queue up.

extern "C" __global__ void empty() {}

// destination[i] = 3 source[i], a float each thread: the work of gpu-small-kernels' scale.
extern "C" __global__ void small(const float* __restrict__ source, float* __restrict__ destination) {
    const unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
    destination[i] = 3.0f * source[i];
}

// Keeps the stream busy for so many cycles of the SM, so that what is enqueued meanwhile starts without a gap.
extern "C" __global__ void hold(unsigned long long cycles) {
    const long long start = clock64();
    while (static_cast<unsigned long long>(clock64() - start) < cycles) {
    }
}
