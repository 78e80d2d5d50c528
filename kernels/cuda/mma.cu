// How long does a product of small matrices take on the tensor cores, and how many can run? Appended to instructions.cu.
//
// mma.sync: a warp multiplies fragments in its registers; a chain is an accumulator (D = A B + D). WGMMA: four warps
// multiply matrices in shared memory. Defined is MATRIX and one of F16_M8N8K4 (Volta), F16_M16N8K8 (Turing),
// F16_M16N8K16, BF16_M16N8K16, TF32_M16N8K8, F64_M8N8K4, F64_M16N8K16, S8_M8N8K16 (Turing), S8_M16N8K32, E4M3_M16N8K32,
// WGMMA_BF16.

#if defined(F64_M8N8K4) || defined(F64_M16N8K16)
typedef double Element;
#define ELEMENT(i) __hiloint2double(0x3ff00000 + (i), threadIdx.x)
#else
typedef unsigned Element;  // two, four or one number: near 1 in float16, small in the others; never NaN
#define ELEMENT(i) (0x3c003c00u + (i) + threadIdx.x)
#endif
#if defined(F64_M8N8K4) || defined(F64_M16N8K16)
typedef double Sum;
#elif defined(S8_M8N8K16) || defined(S8_M16N8K32)
typedef int Sum;
#else
typedef float Sum;
#endif

template <int A, int B>
struct Fragments {
    Element a[A], b[B];
    __device__ __forceinline__ Fragments() {
#pragma unroll
        for (int i = 0; i < A; i++) a[i] = ELEMENT(i);
#pragma unroll
        for (int i = 0; i < B; i++) b[i] = ELEMENT(i + A);
    }
};

template <int A, int B, int C>
struct Accumulator {
    typedef Fragments<A, B> Operands;
    Sum d[C];
    __device__ __forceinline__ void start(int chain) {
#pragma unroll
        for (int i = 0; i < C; i++) d[i] = (Sum)0;
    }
    __device__ __forceinline__ unsigned result() const {  // integer arithmetic only
        const unsigned* words = reinterpret_cast<const unsigned*>(d);
        unsigned all = 0;
#pragma unroll
        for (int i = 0; i < C * (int)sizeof(Sum) / 4; i++) all ^= words[i];
        return all;
    }
};

#define STEP_OF(A, B, C)                 \
    struct Chain : Accumulator<A, B, C> { \
        __device__ __forceinline__ void step(const Operands& o)
#define MMA_4_2_4(NAME, SUM)                                                                            \
    STEP_OF(4, 2, 4) {                                                                                  \
        asm volatile("mma.sync.aligned." NAME " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"  \
                     : SUM(d[0]), SUM(d[1]), SUM(d[2]), SUM(d[3])                                       \
                     : "r"(o.a[0]), "r"(o.a[1]), "r"(o.a[2]), "r"(o.a[3]), "r"(o.b[0]), "r"(o.b[1]));   \
    } };
#define MMA_1_1_2(NAME, SUM, ELEMENT_OF)                                               \
    STEP_OF(1, 1, 2) {                                                                 \
        asm volatile("mma.sync.aligned." NAME " {%0,%1}, {%2}, {%3}, {%0,%1};"         \
                     : SUM(d[0]), SUM(d[1])                                            \
                     : ELEMENT_OF(o.a[0]), ELEMENT_OF(o.b[0]));                        \
    } };

#if defined(F16_M8N8K4)
STEP_OF(2, 2, 8) {
    asm volatile(
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, {%0,%1,%2,%3,%4,%5,%6,%7};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.b[0]), "r"(o.b[1]));
} };
#elif defined(F16_M16N8K8)
STEP_OF(2, 1, 4) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(o.a[0]), "r"(o.a[1]), "r"(o.b[0]));
} };
#elif defined(F16_M16N8K16)
MMA_4_2_4("m16n8k16.row.col.f32.f16.f16.f32", "+f")
#elif defined(BF16_M16N8K16)
MMA_4_2_4("m16n8k16.row.col.f32.bf16.bf16.f32", "+f")
#elif defined(TF32_M16N8K8)
MMA_4_2_4("m16n8k8.row.col.f32.tf32.tf32.f32", "+f")
#elif defined(S8_M16N8K32)
MMA_4_2_4("m16n8k32.row.col.s32.s8.s8.s32", "+r")
#elif defined(E4M3_M16N8K32)
MMA_4_2_4("m16n8k32.row.col.f32.e4m3.e4m3.f32", "+f")
#elif defined(S8_M8N8K16)
MMA_1_1_2("m8n8k16.row.col.s32.s8.s8.s32", "+r", "r")
#elif defined(F64_M8N8K4)
MMA_1_1_2("m8n8k4.row.col.f64.f64.f64.f64", "+d", "d")
#elif defined(F64_M16N8K16)
STEP_OF(8, 4, 4) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};"
        : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
        : "d"(o.a[0]), "d"(o.a[1]), "d"(o.a[2]), "d"(o.a[3]), "d"(o.a[4]), "d"(o.a[5]), "d"(o.a[6]), "d"(o.a[7]),
          "d"(o.b[0]), "d"(o.b[1]), "d"(o.b[2]), "d"(o.b[3]));
} };
#endif

#ifndef WGMMA_BF16
KERNELS(Chain)
#else
#define A_BYTES (64 * 16 * 2)   // m64 k16 of bfloat16
#define B_BYTES (256 * 16 * 2)  // n256 k16
#define ACC4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ACC16(i) ACC4(i), ACC4(i + 4), ACC4(i + 8), ACC4(i + 12)

// A matrix in shared memory, not swizzled: blocks of 8 rows of 16 bytes, two of them side by side along k, 128 bytes
// apart, and 256 bytes to the next 8 rows. Fields of the descriptor in units of 16 bytes: address, leading, stride.
__device__ __forceinline__ unsigned long long descriptor(const void* matrix) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(matrix);
    return (unsigned long long)((address & 0x3ffffu) >> 4) | (128ull >> 4) << 16 | (256ull >> 4) << 32;
}

__device__ __forceinline__ void multiply(float (&d)[128], unsigned long long a, unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        " %0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127 "
        "}, %128, %129, 1, 1, 1, 0, 0;"
        : ACC16(0), ACC16(16), ACC16(32), ACC16(48),
          ACC16(64), ACC16(80), ACC16(96), ACC16(112)
        : "l"(a), "l"(b));
}

// Four warps; GROUP products are under way before they are waited for.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) CALLED(NAME, GROUP)(
    unsigned long long* times, unsigned* out, int loops) {
    __shared__ __align__(128) unsigned matrices[(A_BYTES + B_BYTES) / 4];
#pragma unroll 1
    for (int i = threadIdx.x; i < (A_BYTES + B_BYTES) / 4; i += MOST_THREADS) matrices[i] = 0x3f803f80u + (i & 0xfu);
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const unsigned long long a = descriptor(matrices), b = descriptor(matrices + A_BYTES / 4);
    float d[128];
#pragma unroll
    for (int i = 0; i < 128; i++) d[i] = 0.0f;
    const Started started;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll 1
    for (int i = 0; i < loops; i++) {
#pragma unroll
        for (int o = 0; o < OPERATIONS; o++) {
            multiply(d, a, b);
            if (o % GROUP == GROUP - 1) {
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            }
        }
    }
    started.end(times);
    unsigned all = 0;
#pragma unroll
    for (int i = 0; i < 128; i++) all ^= __float_as_uint(d[i]);
    out[threadIdx.x] = all;
}
#endif
