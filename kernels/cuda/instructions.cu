// How long does an instruction take, and how many can run? Chains of one instruction, alone or side by side.
//
// A chain is a register that OPERATIONS instructions in the loop read and write; a kernel has 1, 2, 4 or 8 chains a
// thread, which share the loop's instructions evenly. The loop holds nothing else but its counter. With one chain and
// one warp, an instruction waits for the one before: its latency. With many, the SM's rate.
// NAME is the kernels' name but for the number of chains. One of FFMA, DFMA, HFMA2, HFMA2_BF16, IMAD, IADD3, MUFU_EX2,
// MUFU_RSQ, SHFL is defined, or MATRIX where the text of mma.cu follows, whose chains are fragments of matrices. There is
// no MUFU_RCP: the compiler folds a reciprocal of a reciprocal.

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

// Of the block: start and end in cycles, then in nanoseconds.
struct Started {
    unsigned long long ns, at;
    __device__ __forceinline__ Started() {
        __syncthreads();
        ns = nanoseconds();
        at = cycles();
    }
    __device__ __forceinline__ void end(unsigned long long* times) const {
        __syncthreads();
        const unsigned long long to = cycles(), to_ns = nanoseconds();
        if (threadIdx.x != 0) return;
        unsigned long long* mine = times + 4 * (unsigned long long)blockIdx.x;
        mine[0] = at;
        mine[1] = to;
        mine[2] = ns;
        mine[3] = to_ns;
    }
};

// Operands are made from the thread's number, so that no compiler knows them; results are stored, so that none is dead.
template <class Chain, int CHAINS>
__device__ __forceinline__ void timed(unsigned long long* times, unsigned* out, int loops) {
    typename Chain::Operands operands;
    Chain chains[CHAINS];
#pragma unroll
    for (int c = 0; c < CHAINS; c++) chains[c].start(c);
    const Started started;
#pragma unroll 1
    for (int i = 0; i < loops; i++) {
#pragma unroll
        for (int o = 0; o < OPERATIONS; o++) chains[o % CHAINS].step(operands);
    }
    started.end(times);
    unsigned all = 0;
#pragma unroll
    for (int c = 0; c < CHAINS; c++) all ^= chains[c].result();
    out[threadIdx.x] = all;
}

#define JOINED(NAME, NUMBER) NAME##_##NUMBER
#define CALLED(NAME, NUMBER) JOINED(NAME, NUMBER)  // ffma_4: NAME is a macro and must be replaced first
#define KERNEL(CHAIN, CHAINS)                                                         \
    extern "C" __global__ void __launch_bounds__(MOST_THREADS)                        \
        CALLED(NAME, CHAINS)(unsigned long long* times, unsigned* out, int loops) {   \
        timed<CHAIN, CHAINS>(times, out, loops);                                      \
    }
#define KERNELS(CHAIN) KERNEL(CHAIN, 1) KERNEL(CHAIN, 2) KERNEL(CHAIN, 4) KERNEL(CHAIN, 8)

struct None {};

struct Floats {  // made from bits, so that no instruction of the kind that is counted stands outside the loop
    float x = __uint_as_float(0x3f800000u + threadIdx.x), y = __uint_as_float(0x3f000000u ^ threadIdx.x);
};

struct Words {  // any bits: pairs of 16-bit numbers near 1, or integers
    unsigned x = 0x3c003c00u + threadIdx.x, y = 0x3c013c01u ^ threadIdx.x;
};

struct FloatChain {
    float v;
    __device__ __forceinline__ void start(int chain) { v = __uint_as_float(0x3f800000u + chain + threadIdx.x); }
    __device__ __forceinline__ unsigned result() const { return __float_as_uint(v); }
};

struct WordChain {
    unsigned v;
    __device__ __forceinline__ void start(int chain) { v = 0x3c003c00u + chain + threadIdx.x; }
    __device__ __forceinline__ unsigned result() const { return v; }
};

#define STEP(BASE, OPERANDS) \
    struct Chain : BASE {    \
        typedef OPERANDS Operands; \
        __device__ __forceinline__ void step(const Operands& o)

#if defined(FFMA)
STEP(FloatChain, Floats) { asm volatile("fma.rn.f32 %0, %1, %2, %0;" : "+f"(v) : "f"(o.x), "f"(o.y)); } };
#elif defined(DFMA)
struct Doubles {
    double x = __hiloint2double(0x3ff00000, threadIdx.x), y = __hiloint2double(0x3fe00000, threadIdx.x);
};
struct Chain {
    typedef Doubles Operands;
    double v;
    __device__ __forceinline__ void start(int chain) { v = __hiloint2double(0x3ff00000 + chain, threadIdx.x); }
    __device__ __forceinline__ void step(const Operands& o) {
        asm volatile("fma.rn.f64 %0, %1, %2, %0;" : "+d"(v) : "d"(o.x), "d"(o.y));
    }
    __device__ __forceinline__ unsigned result() const { return __double2hiint(v) ^ __double2loint(v); }
};
#elif defined(HFMA2)
STEP(WordChain, Words) { asm volatile("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(v) : "r"(o.x), "r"(o.y)); } };
#elif defined(HFMA2_BF16)
STEP(WordChain, Words) { asm volatile("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(v) : "r"(o.x), "r"(o.y)); } };
#elif defined(IMAD)
STEP(WordChain, Words) { asm volatile("mad.lo.u32 %0, %1, %2, %0;" : "+r"(v) : "r"(o.x), "r"(o.y)); } };
#elif defined(IADD3)
STEP(WordChain, Words) {  // two additions of PTX are one IADD3, which adds three numbers
    asm volatile("add.u32 %0, %0, %1; add.u32 %0, %0, %2;" : "+r"(v) : "r"(o.x), "r"(o.y)); } };
#elif defined(MUFU_EX2)
STEP(FloatChain, None) { asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(v)); } };
#elif defined(MUFU_RSQ)
STEP(FloatChain, None) { asm volatile("rsqrt.approx.ftz.f32 %0, %0;" : "+f"(v)); } };
#elif defined(SHFL)
STEP(WordChain, None) { asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, 0xffffffff;" : "+r"(v)); } };
#endif

#ifndef MATRIX
KERNELS(Chain)
#endif
