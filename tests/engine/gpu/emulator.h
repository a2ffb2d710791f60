// Runs a CUDA kernel on the CPU, block after block, so that its numbers can be checked without a
// GPU: the threads of a block are threads, and __syncthreads is a barrier for them.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <thread>
#include <vector>

struct Index { int x, y, z; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::barrier<>* all_threads;

#define __global__
#define __device__ static
#define __shared__ static
#define __syncthreads() all_threads->arrive_and_wait()
using std::min;

template <typename Kernel, typename... Arguments>
void launch(Index grid, Index block, Kernel kernel, Arguments... arguments) {
    gridDim = grid;
    blockDim = block;
    const int count = block.x * block.y;
    std::barrier<> barrier(count);
    all_threads = &barrier;
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i)
        threads.emplace_back([=] {
            threadIdx = {i % block.x, i / block.x, 0};
            for (int b = 0; b < grid.x; ++b) {
                blockIdx = {b, 0, 0};
                kernel(arguments...);
                all_threads->arrive_and_wait();
            }
        });
    for (auto& thread : threads) thread.join();
}
