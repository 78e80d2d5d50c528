// What does the place of its operands cost an instruction? A timed loop of 512 FFMA over a pool of live registers.
//
// The FFMA of the loop are a placeholder: recompose.py writes every one of them anew. The pool is large, so that each
// residue of a register's number modulo 8 has enough registers that the loop may use. Nothing is loaded from memory,
// so no instruction of the loop waits for anything but its operands.

#define CHAINS 8 // instructions between two that depend on one another
#define ROUNDS 64
#ifndef POOL
#define POOL 98
#endif

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

// Each block writes {start cycles, end cycles, start ns, end ns} to `stamps`. At most 512 threads: with up to 128
// registers each, that is all an SM has.
extern "C" __global__ void __launch_bounds__(512)
    register_banks(unsigned long long *stamps, float *sink, unsigned iterations, float seed)
{
    float own = seed * threadIdx.x; // differs by thread, or the compiler keeps values in uniform registers
    float pool[POOL], chain[CHAINS];
#pragma unroll
    for (int i = 0; i < POOL; i++)
        pool[i] = own + i;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        chain[i] = own - i;

    __syncthreads();
    unsigned long long start_ns = nanoseconds();
    unsigned long long start = cycles();
#pragma unroll 1
    for (unsigned n = 0; n < iterations; n++) {
#pragma unroll
        for (int i = 0; i < POOL; i++) // keeps the whole pool in registers throughout the loop
            asm volatile("" : "+f"(pool[i]));
#pragma unroll
        for (int round = 0; round < ROUNDS; round++)
#pragma unroll
            for (int i = 0; i < CHAINS; i++) {
                int first = (3 * round + 2 * i) % POOL; // every one of the pool is read
                asm volatile("fma.rn.f32 %0, %1, %2, %0;"
                             : "+f"(chain[i])
                             : "f"(pool[first]), "f"(pool[(first + 1) % POOL]));
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
    for (int i = 0; i < POOL; i++)
        sum += pool[i];
    sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (threadIdx.x == 0) {
        unsigned long long *mine = stamps + 4 * blockIdx.x;
        mine[0] = start;
        mine[1] = end;
        mine[2] = start_ns;
        mine[3] = end_ns;
    }
}
