// Which kernels do nothing but load, or store, words of one width?
//
// Tiles of THREADS * DEPTH words go to blocks in turn, as in streams.cu: a block starts at the tile of its own number
// and goes on by `step` tiles, round the end of the footprint, `iterations` times. All DEPTH loads of a thread are
// under way before the first is used. No index is checked: a footprint holds whole tiles.
//
// THREADS  a block's threads
// DEPTH    loads or stores in one iteration of a thread
// WIDTH    bytes of each: 4, 8, 16, and 32 from sm_100 on
// PAST_L1  1: loads are ld.global.cg, which the L1 cache does not keep; 0: ordinary ones (.ca), which it does. Written
//          out, .ca would make a load of the scope of a block (LDG….STRONG.SM), which no program has.
#ifndef THREADS
#define THREADS 256
#endif
#ifndef DEPTH
#define DEPTH 4
#endif
#ifndef WIDTH
#define WIDTH 16
#endif
#ifndef PAST_L1
#define PAST_L1 1
#endif

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#if PAST_L1
#define LOAD "ld.global.cg"
#else
#define LOAD "ld.global"
#endif
#define WORDS (WIDTH / 4)
#define TILE_BYTES ((size_t)THREADS * DEPTH * WIDTH)

struct Words {
    unsigned word[WORDS];
};

__device__ __forceinline__ Words loaded(const char *at)
{
    Words w;
#if WIDTH == 4
    asm volatile(LOAD ".b32 %0, [%1];" : "=r"(w.word[0]) : "l"(at));
#elif WIDTH == 8
    asm volatile(LOAD ".v2.b32 {%0, %1}, [%2];" : "=r"(w.word[0]), "=r"(w.word[1]) : "l"(at));
#elif WIDTH == 16
    asm volatile(LOAD ".v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "l"(at));
#else
    asm volatile(LOAD ".v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3]), "=r"(w.word[4]),
                   "=r"(w.word[5]), "=r"(w.word[6]), "=r"(w.word[7])
                 : "l"(at));
#endif
    return w;
}

__device__ __forceinline__ void stored(char *at, const Words &w)
{
#if WIDTH == 4
    asm volatile("st.global.b32 [%0], %1;" ::"l"(at), "r"(w.word[0]) : "memory");
#elif WIDTH == 8
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(at), "r"(w.word[0]), "r"(w.word[1]) : "memory");
#elif WIDTH == 16
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(w.word[0]), "r"(w.word[1]),
                 "r"(w.word[2]), "r"(w.word[3])
                 : "memory");
#else
    asm volatile("st.global.v8.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};" ::"l"(at), "r"(w.word[0]),
                 "r"(w.word[1]), "r"(w.word[2]), "r"(w.word[3]), "r"(w.word[4]), "r"(w.word[5]), "r"(w.word[6]),
                 "r"(w.word[7])
                 : "memory");
#endif
}

__device__ __forceinline__ unsigned following(unsigned tile, unsigned step, unsigned tiles)
{
    tile += step;
    return tile >= tiles ? tile - tiles : tile;
}

// The sum of all words read, modulo 2^32, one word a thread.
KERNEL load(unsigned *sums, const char *x, unsigned tiles, unsigned step, unsigned iterations)
{
    unsigned total = 0, tile = blockIdx.x % tiles;
#pragma unroll 1
    for (unsigned i = 0; i < iterations; ++i, tile = following(tile, step, tiles)) {
        const char *at = x + tile * TILE_BYTES + threadIdx.x * WIDTH;
        Words v[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) v[d] = loaded(at + d * THREADS * WIDTH);
#pragma unroll
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int k = 0; k < WORDS; ++k) total += v[d].word[k];
    }
    sums[(size_t)blockIdx.x * THREADS + threadIdx.x] = total;
}

// The words of every vector become value, value + 1, …: of equal ones the compiler makes copies before each store.
KERNEL store(char *a, unsigned value, unsigned tiles, unsigned step, unsigned iterations)
{
    Words w;
#pragma unroll
    for (int k = 0; k < WORDS; ++k) w.word[k] = value + k;
    unsigned tile = blockIdx.x % tiles;
#pragma unroll 1
    for (unsigned i = 0; i < iterations; ++i, tile = following(tile, step, tiles)) {
        char *at = a + tile * TILE_BYTES + threadIdx.x * WIDTH;
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) stored(at + d * THREADS * WIDTH, w);
    }
}

// The same from shared memory, 128 bits a load: a block reads its own THREADS * DEPTH * 16 bytes again and again, each
// warp one row after another, so that no load has the address of the one before. Copied from x first.
#if WIDTH == 16
KERNEL load_shared(unsigned *sums, const uint4 *x, unsigned iterations)
{
    __shared__ uint4 words[THREADS * DEPTH];
    for (int d = 0; d < DEPTH; ++d) words[d * THREADS + threadIdx.x] = x[d * THREADS + threadIdx.x];
    __syncthreads();
    unsigned total = 0, row = threadIdx.x;
#pragma unroll 1
    for (unsigned i = 0; i < iterations; ++i, row = (row + 32) % THREADS) {
        uint4 v[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) v[d] = words[d * THREADS + row];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) total += v[d].x + v[d].y + v[d].z + v[d].w;
    }
    sums[(size_t)blockIdx.x * THREADS + threadIdx.x] = total;
}
#endif
