// The measuring loops in C: used where executable memory is refused, and as the compiled reference that the
// machine-code loops are checked against (benchmarks/microbench_accuracy.py). Same names and arguments as kernels/loops.py.

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
