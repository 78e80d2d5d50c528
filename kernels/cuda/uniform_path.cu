// Does address arithmetic leave the vector pipelines alone where it is done once for a warp? 256 FFMA with 64
// additions to indices and 64 shifts of them in between, where the compiler schedules them. DATAPATH 0: no indices;
// 1: indices that are the same in all threads of a warp, which the compiler keeps in uniform registers; 2: indices that
// differ by thread.

#define CHAINS 8
#define ROUNDS 32
#define INDICES 16 // independent of one another
#define PER_ROUND 4

__device__ __forceinline__ unsigned long long cycles()
{
    unsigned long long now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(now)::"memory");
    return now;
}

__device__ __forceinline__ unsigned long long nanoseconds()
{
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
}

// Each block writes {start cycles, end cycles, start ns, end ns} to `stamps`.
extern "C" __global__ void __launch_bounds__(512) uniform_path(unsigned long long *stamps, float *sink, unsigned iterations,
                                                               float seed, unsigned stride, unsigned offset)
{
    float a = seed * threadIdx.x, b = a + seed, chain[CHAINS];
    unsigned index[INDICES];
#if DATAPATH == 2
    stride += threadIdx.x;
    offset += threadIdx.x;
#endif
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        chain[i] = a + i;
#pragma unroll
    for (int i = 0; i < INDICES; i++)
        index[i] = stride + i;

    __syncthreads();
    unsigned long long start_ns = nanoseconds();
    unsigned long long start = cycles();
#pragma unroll 1
    for (unsigned n = 0; n < iterations; n++) {
#pragma unroll
        for (int round = 0; round < ROUNDS; round++) {
#pragma unroll
            for (int i = 0; i < CHAINS; i++)
                asm volatile("fma.rn.f32 %0, %1, %2, %0;" : "+f"(chain[i]) : "f"(a), "f"(b));
#if DATAPATH != 0
#pragma unroll
            for (int i = 0; i < PER_ROUND; i++) { // each index in turn; all are added to, then all are shifted, …
                int turn = PER_ROUND * round + i;
                unsigned *one = &index[turn % INDICES];
                if (turn / INDICES % 2)
                    asm volatile("{ .reg .u32 t; shl.b32 t, %0, 2; add.u32 %0, t, %1; }" : "+r"(*one) : "r"(stride));
                else
                    asm volatile("add.u32 %0, %0, %1;" : "+r"(*one) : "r"(offset));
            }
#endif
        }
    }
    __syncthreads();
    unsigned long long end = cycles();
    unsigned long long end_ns = nanoseconds();

    float sum = 0;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        sum += chain[i];
#pragma unroll
    for (int i = 0; i < INDICES; i++)
        sum += index[i];
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (threadIdx.x == 0) {
        unsigned long long *mine = stamps + 4 * blockIdx.x;
        mine[0] = start;
        mine[1] = end;
        mine[2] = start_ns;
        mine[3] = end_ns;
    }
}
