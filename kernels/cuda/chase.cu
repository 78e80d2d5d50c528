/* How long does a load take whose address is the previous load's result?
 *
 * A node is eight bytes, the address of the next node of a single cycle, so that a hop is one load and nothing else: no
 * index to scale, no base to add. UNROLL hops stand between two passes of the loop's counter, which runs beside them.
 *
 * First all threads of the block walk their own part of the cycle, which fills the caches: a kernel starts with an empty
 * L1, so that cannot be left to a kernel before it. Then thread 0 walks alone, one iteration to fetch the code and the
 * others between two readings of the clock.
 */
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef UNROLL
#define UNROLL 32
#endif
#ifndef WARM_UNROLL
#define WARM_UNROLL 8
#endif

__device__ __forceinline__ u64 cycles_now() {
    u64 value;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(value) : : "memory");
    return value;
}

__device__ __forceinline__ u64 ns_now() {
    u64 value;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value) : : "memory");
    return value;
}

/* Instructions are issued in order: one that needs the last node holds back the clock's reading behind it. */
__device__ __forceinline__ void arrived(u64 node) {
    asm volatile("{\n.reg .pred never;\nsetp.eq.u64 never, %0, 1;\n@never trap;\n}" : : "l"(node) : "memory");
}

/* starts: a node for each thread, evenly apart in the cycle; at: the node that the timed walk goes on from. */
#define CHASE(name, load)                                                                                    \
    extern "C" __global__ void name(const u64 *starts, u64 *at, u64 *stamp, u32 warm, u32 iterations) {      \
        u64 node = starts[threadIdx.x], cycles = 0, ns = 0;                                                  \
        _Pragma("unroll 1") for (u32 i = 0; i < warm; ++i) {                                                 \
            _Pragma("unroll") for (u32 hop = 0; hop < WARM_UNROLL; ++hop)                                    \
                asm volatile(load " %0, [%0];" : "+l"(node) : : "memory");                                   \
        }                                                                                                    \
        arrived(node);                                                                                       \
        __syncthreads();                                                                                     \
        if (threadIdx.x) return;                                                                             \
        node = *at;                                                                                          \
        _Pragma("unroll 1") for (u32 timed = 0; timed < 2; ++timed) {                                        \
            const u32 count = timed ? iterations : 1;                                                        \
            arrived(node);                                                                                   \
            cycles = cycles_now();                                                                           \
            ns = ns_now();                                                                                   \
            _Pragma("unroll 1") for (u32 i = 0; i < count; ++i) {                                            \
                _Pragma("unroll") for (u32 hop = 0; hop < UNROLL; ++hop)                                     \
                    asm volatile(load " %0, [%0];" : "+l"(node) : : "memory");                               \
            }                                                                                                \
            arrived(node);                                                                                   \
        }                                                                                                    \
        stamp[1] = cycles_now();                                                                             \
        stamp[3] = ns_now();                                                                                 \
        stamp[0] = cycles;                                                                                   \
        stamp[2] = ns;                                                                                       \
        *at = node;                                                                                          \
    }

/* The loads of any program, which look into L1 first (with .ca they become ordered loads, .STRONG.SM); and past L1. */
CHASE(chase_l1, "ld.global.u64")
CHASE(chase_l2, "ld.global.cg.u64")

/* Shared memory: `offsets` are those of the nodes of one cycle, in its order, in bytes. */
extern "C" __global__ void chase_shared(const u32 *offsets, u32 nodes, u64 *stamp, u32 iterations) {
    extern __shared__ u32 words[];
    const u32 base = (u32)__cvta_generic_to_shared(words);
    for (u32 i = threadIdx.x; i < nodes; i += blockDim.x)
        words[offsets[i] / 4] = base + offsets[i + 1 < nodes ? i + 1 : 0];
    __syncthreads();
    if (threadIdx.x) return;
    u32 node = base + offsets[0];
    u64 cycles = 0, ns = 0;
    #pragma unroll 1
    for (u32 timed = 0; timed < 2; ++timed) {
        const u32 count = timed ? iterations : 1;
        cycles = cycles_now();
        ns = ns_now();
        #pragma unroll 1
        for (u32 i = 0; i < count; ++i) {
            #pragma unroll
            for (u32 hop = 0; hop < UNROLL; ++hop)
                asm volatile("ld.shared.u32 %0, [%0];" : "+r"(node) : : "memory");
        }
        arrived(node);
    }
    stamp[1] = cycles_now();
    stamp[3] = ns_now();
    stamp[0] = cycles;
    stamp[2] = ns;
}

/* On one SM, line after line: each holds its own address and is loaded from L2 again and again.
 * Of the blocks only the first that finds itself on SM `wanted` stays; `claimed` is 0 before. */
extern "C" __global__ void line_by_sm(
    const u64 *lines, u32 n, u32 wanted, u32 *claimed, u64 *cycles_of, u64 *stamp, u32 iterations) {
    u32 sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    if (sm != wanted || threadIdx.x || atomicExch(claimed, 1u)) return;
    stamp[0] = cycles_now();
    stamp[2] = ns_now();
    #pragma unroll 1
    for (u32 line = 0; line < n; ++line) {
        u64 node = lines[line], cycles = 0;
        #pragma unroll 1
        for (u32 timed = 0; timed < 2; ++timed) {
            const u32 count = timed ? iterations : 1;
            arrived(node);
            cycles = cycles_now();
            #pragma unroll 1
            for (u32 i = 0; i < count; ++i) {
                #pragma unroll
                for (u32 hop = 0; hop < UNROLL; ++hop)
                    asm volatile("ld.global.cg.u64 %0, [%0];" : "+l"(node) : : "memory");
            }
            arrived(node);
        }
        cycles_of[line] = cycles_now() - cycles;
    }
    stamp[1] = cycles_now();
    stamp[3] = ns_now();
}

/* Makes each node hold the address of the one that follows it; `offsets` from `base`, in the cycle's order. */
extern "C" __global__ void link_nodes(u64 base, const u64 *offsets, u32 n) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        *(u64 *)(base + offsets[i]) = base + offsets[i + 1 < n ? i + 1 : 0];
}
