// How long does a warp's access to shared memory take, by how its lanes' addresses lie to one another?
//
// Lane i of each warp accesses ACCESS_BYTES (4, 8 or 16) at `i * stride_bytes`; stride 0 is the broadcast. ACCESSES of
// them stand in the loop, which holds nothing else but its counter. Every warp uses the same addresses: shared memory
// has no cache in front of it, so an address met again costs what it cost the first time.

#if ACCESS_BYTES == 4
#define LOAD(v, from) asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"((v)[0]) : "r"(from) : "memory")
#define STORE(to, v) asm volatile("st.volatile.shared.u32 [%0], %1;" ::"r"(to), "r"((v)[0]) : "memory")
#elif ACCESS_BYTES == 8
#define LOAD(v, from) \
    asm volatile("ld.volatile.shared.v2.u32 {%0, %1}, [%2];" : "=r"((v)[0]), "=r"((v)[1]) : "r"(from) : "memory")
#define STORE(to, v) \
    asm volatile("st.volatile.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"((v)[0]), "r"((v)[1]) : "memory")
#else
#define LOAD(v, from)                                                    \
    asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"     \
                 : "=r"((v)[0]), "=r"((v)[1]), "=r"((v)[2]), "=r"((v)[3]) \
                 : "r"(from)                                             \
                 : "memory")
#define STORE(to, v)                                                          \
    asm volatile("st.volatile.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), \
                 "r"((v)[0]), "r"((v)[1]), "r"((v)[2]), "r"((v)[3])            \
                 : "memory")
#endif
#define WORDS (ACCESS_BYTES / 4)
#define INDEPENDENT 8  // loads whose registers differ: that many can be under way from one warp

extern __shared__ __align__(16) unsigned words[];

__device__ __forceinline__ unsigned long long cycles() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(now)::"memory");
    return now;
}

__device__ __forceinline__ unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
}

// Start and end of the block in cycles, then in nanoseconds.
__device__ __forceinline__ void stamp(unsigned long long* times, unsigned long long from, unsigned long long from_ns) {
    const unsigned long long to = cycles(), to_ns = nanoseconds();
    if (threadIdx.x == 0) {
        unsigned long long* mine = times + 4 * (unsigned long long)blockIdx.x;
        mine[0] = from;
        mine[1] = to;
        mine[2] = from_ns;
        mine[3] = to_ns;
    }
}

__device__ __forceinline__ unsigned address_of_lane(int stride_bytes) {
    return (unsigned)__cvta_generic_to_shared(words) + (threadIdx.x % 32) * stride_bytes;
}

// Each lane's element holds its own address: a chain of loads, each of which must wait for the one before.
extern "C" __global__ void shared_load_chain(unsigned long long* times, unsigned* out, int stride_bytes, int loops) {
    unsigned at[WORDS];
    at[0] = address_of_lane(stride_bytes);
    asm volatile("st.shared.u32 [%0], %0;" ::"r"(at[0]) : "memory");
    __syncthreads();
    const unsigned long long from_ns = nanoseconds(), from = cycles();
#pragma unroll 1
    for (int i = 0; i < loops; i++) {
#pragma unroll
        for (int j = 0; j < ACCESSES; j++) LOAD(at, at[0]);
    }
    if (at[0] == 0xffffffffu) out[threadIdx.x] = at[0];  // never: an address in shared memory is small
    stamp(times, from, from_ns);
}

// Loads that do not depend on one another, by all warps of the block.
extern "C" __global__ void shared_loads(unsigned long long* times, unsigned* out, int stride_bytes, int loops) {
    unsigned read[INDEPENDENT][WORDS];
    const unsigned from_lane = address_of_lane(stride_bytes);
    asm volatile("st.shared.u32 [%0], %0;" ::"r"(from_lane) : "memory");
    __syncthreads();
    const unsigned long long from_ns = nanoseconds(), from = cycles();
#pragma unroll 1
    for (int i = 0; i < loops; i++) {
#pragma unroll
        for (int j = 0; j < ACCESSES; j++) LOAD(read[j % INDEPENDENT], from_lane);
    }
    __syncthreads();
    stamp(times, from, from_ns);
}

// Stores by all warps of the block; warps and, in a broadcast, lanes write one address: any of them may win.
extern "C" __global__ void shared_stores(unsigned long long* times, unsigned* out, int stride_bytes, int loops) {
    const unsigned to_lane = address_of_lane(stride_bytes);
    const unsigned written[4] = {threadIdx.x, threadIdx.x + 1, threadIdx.x + 2, threadIdx.x + 3};
    __syncthreads();
    const unsigned long long from_ns = nanoseconds(), from = cycles();
#pragma unroll 1
    for (int i = 0; i < loops; i++) {
#pragma unroll
        for (int j = 0; j < ACCESSES; j++) STORE(to_lane, written);
    }
    __syncthreads();
    stamp(times, from, from_ns);
}
