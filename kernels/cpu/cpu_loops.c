// The measuring loops in C: used where executable memory is refused, and as the compiled reference that the
// machine-code loops are checked against (benchmarks/microbench_accuracy.py). Same names and arguments as loops.py.

#include <stdint.h>

#define REPEAT_8(statement) statement statement statement statement statement statement statement statement
#define REPEAT_32(statement) REPEAT_8(statement) REPEAT_8(statement) REPEAT_8(statement) REPEAT_8(statement)

// Follow pointers n * 32 times and return the last one.
void *probe_chase(void *pointer, uint64_t n) {
    for (; n; n--) {
        REPEAT_32(pointer = *(void *volatile *)pointer;)
    }
    return pointer;
}

// n * 32 additions, each depending on the one before; the empty asm keeps the compiler from folding them.
uint64_t probe_adds(uint64_t x, uint64_t n) {
    for (; n; n--) {
        REPEAT_32(x += 1; __asm__ volatile("" : "+r"(x));)
    }
    return x;
}

// Threads that share a gate (arrived, expected) begin together.
static void wait_at(uint64_t *gate) {
    if (!gate) return;
    __atomic_fetch_add(&gate[0], 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&gate[0], __ATOMIC_ACQUIRE) < gate[1]) {
    }
}

// The empty asm after each pass tells the compiler that memory was read, so that no pass is dropped.
#define STREAM(name, type, expression)                                                                      \
    void name(type *restrict destination, const type *x, const type *y, uint64_t n, uint64_t repeats,       \
              uint64_t *gate, type s) {                                                                     \
        wait_at(gate);                                                                                      \
        for (; repeats; repeats--) {                                                                        \
            for (uint64_t i = 0; i < n; i++) destination[i] = expression;                                   \
            __asm__ volatile("" : : "r"(destination), "r"(x), "r"(y) : "memory");                           \
        }                                                                                                   \
    }

STREAM(probe_write_f64, double, s)
STREAM(probe_copy_f64, double, x[i])
STREAM(probe_scale_f64, double, s * x[i])
STREAM(probe_add_f64, double, x[i] + y[i])
STREAM(probe_triad_f64, double, x[i] + s * y[i])

// saxpy runs in place (destination == x), which restrict forbids; the two never overlap otherwise.
void probe_triad_f32(float *destination, const float *x, const float *y, uint64_t n, uint64_t repeats,
                     uint64_t *gate, float s) {
    wait_at(gate);
    for (; repeats; repeats--) {
#pragma GCC ivdep
        for (uint64_t i = 0; i < n; i++) destination[i] = x[i] + s * y[i];
        __asm__ volatile("" : : "r"(destination), "r"(x), "r"(y) : "memory");
    }
}

// The same one element at a time: the empty asm keeps the compiler from making vectors.
void probe_triad_scalar_f32(float *destination, const float *x, const float *y, uint64_t n, uint64_t repeats,
                            uint64_t *gate, float s) {
    wait_at(gate);
    for (; repeats; repeats--) {
        for (uint64_t i = 0; i < n; i++) {
            destination[i] = x[i] + s * y[i];
            __asm__ volatile("" : : : "memory");
        }
    }
}

// Vectors of one width, at any address.
typedef uint64_t vector8 __attribute__((aligned(8), may_alias));
typedef uint64_t vector16 __attribute__((vector_size(16), aligned(8), may_alias));
#if defined(__AVX__)
typedef uint64_t vector32 __attribute__((vector_size(32), aligned(8), may_alias));
#endif
#if defined(__AVX512F__)
typedef uint64_t vector64 __attribute__((vector_size(64), aligned(8), may_alias));
typedef vector64 widest;
#elif defined(__AVX__)
typedef vector32 widest;
#else
typedef vector16 widest;
#endif
enum { LANES = sizeof(widest) / 8 };

// Exclusive or of all 64-bit words of x, as one vector at the destination; four accumulators, so that none waits.
void probe_read_f64(uint64_t *destination, const uint64_t *x, const uint64_t *y, uint64_t n, uint64_t repeats,
                    uint64_t *gate, double s) {
    widest a = {0}, b = {0}, c = {0}, d = {0};
    uint64_t rest = 0;
    wait_at(gate);
    for (; repeats; repeats--) {
        uint64_t i = 0;
        for (; i + 4 * LANES <= n; i += 4 * LANES) {
            const widest *at = (const widest *)(x + i);
            a ^= at[0];
            b ^= at[1];
            c ^= at[2];
            d ^= at[3];
        }
        for (; i < n; i++) rest ^= x[i];
        __asm__ volatile("" : : "r"(x) : "memory");
    }
    a ^= b ^ c ^ d;
    a[0] ^= rest;
    *(widest *)destination = a;
}

// Loads whose results nobody uses; the empty asm wants each in a register of that width.
#define LOAD(name, type, register)                                                                          \
    void name(double *destination, const char *x, const double *y, uint64_t n, uint64_t repeats,            \
              uint64_t *gate, double s) {                                                                   \
        wait_at(gate);                                                                                      \
        for (; repeats; repeats--) {                                                                        \
            const char *at = x, *end = x + 8 * n;                                                           \
            for (; at + 8 * sizeof(type) <= end; at += 8 * sizeof(type)) {                                  \
                const type *next = (const type *)at;                                                        \
                REPEAT_8(__asm__ volatile("" : : register(*next)); next++;)                                 \
            }                                                                                               \
            for (; at < end; at += 8) __asm__ volatile("" : : "r"(*(const vector8 *)at));                   \
        }                                                                                                   \
    }

LOAD(probe_load_8, vector8, "r")
#if defined(__x86_64__)
LOAD(probe_load_16, vector16, "x")
#if defined(__AVX__)
LOAD(probe_load_32, vector32, "x")
#endif
#if defined(__AVX512F__)
LOAD(probe_load_64, vector64, "v")
#endif
#elif defined(__aarch64__)
LOAD(probe_load_16, vector16, "w")
#endif

// Stores that go past the caches; single elements until the destination is aligned for them.
#if defined(__x86_64__)
#include <immintrin.h>
#define DRAIN() _mm_sfence()
#if defined(__AVX512F__)
typedef __m512d doubles;
#define PAST_CACHES(at, value) _mm512_stream_pd(at, value)
#elif defined(__AVX__)
typedef __m256d doubles;
#define PAST_CACHES(at, value) _mm256_stream_pd(at, value)
#else
typedef __m128d doubles;
#define PAST_CACHES(at, value) _mm_stream_pd(at, value)
#endif
#elif defined(__aarch64__)
typedef double doubles __attribute__((vector_size(16)));
#define DRAIN() __asm__ volatile("dmb ishst" : : : "memory")
#define PAST_CACHES(at, value) __asm__ volatile("stnp %d0, %d1, [%2]" : : "w"((value)[0]), "w"((value)[1]), "r"(at) : "memory")
#endif

#if defined(PAST_CACHES)
typedef doubles loose_doubles __attribute__((aligned(8), may_alias));
#define AT(array, i) (*(const loose_doubles *)((array) + (i)))
#define STREAM_PAST_CACHES(name, expression, element)                                                       \
    void name(double *destination, const double *x, const double *y, uint64_t n, uint64_t repeats,          \
              uint64_t *gate, double s) {                                                                   \
        const uint64_t step = sizeof(doubles) / 8;                                                          \
        const doubles spread = (doubles){0} + s;                                                            \
        (void)spread;                                                                                       \
        wait_at(gate);                                                                                      \
        for (; repeats; repeats--) {                                                                        \
            uint64_t i = 0;                                                                                 \
            for (; i < n && (uintptr_t)(destination + i) % sizeof(doubles); i++) destination[i] = element;  \
            for (; i + step <= n; i += step) PAST_CACHES(destination + i, expression);                      \
            for (; i < n; i++) destination[i] = element;                                                    \
        }                                                                                                   \
        DRAIN();                                                                                            \
    }

STREAM_PAST_CACHES(probe_write_nt_f64, spread, s)
STREAM_PAST_CACHES(probe_copy_nt_f64, AT(x, i), x[i])
STREAM_PAST_CACHES(probe_triad_nt_f64, AT(x, i) + spread * AT(y, i), x[i] + s * y[i])
#endif
