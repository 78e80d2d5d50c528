// Which kernels stream through arrays? STREAM's four, read, write and saxpy, each at one width a build.
//
// Tiles of THREADS * DEPTH vectors go to blocks in turn: a block starts at the tile of its own number and goes on by
// `step` tiles, round the end of the array, `iterations` times. Every block does the same number, whatever the number
// of tiles; what a whole number of rounds does not cover exactly is gone through twice, and counted as often.
// All DEPTH loads of a thread are under way before the first is used. No index is checked: arrays hold whole tiles.
//
// THREADS  a block's threads
// DEPTH    vectors under way in a thread
// PAST_L1  1: loads are ld.global.cg, which the L1 cache does not keep; 0: ordinary ones
// LANES    float32 words in a vector of saxpy: 1, 2, 4
#ifndef THREADS
#define THREADS 256
#endif
#ifndef DEPTH
#define DEPTH 4
#endif
#ifndef PAST_L1
#define PAST_L1 0
#endif
#ifndef LANES
#define LANES 4
#endif

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define EACH for (int d = 0; d < DEPTH; ++d)
#define TILES                                                            \
    unsigned tile = blockIdx.x % tiles;                                  \
    _Pragma("unroll 1") for (unsigned i = 0; i < iterations; ++i, tile = following(tile, step, tiles))

__device__ __forceinline__ unsigned following(unsigned tile, unsigned step, unsigned tiles)
{
    tile += step;
    return tile >= tiles ? tile - tiles : tile;
}

__device__ __forceinline__ size_t first_of(unsigned tile)
{
    return (size_t)tile * (THREADS * DEPTH) + threadIdx.x;
}

__device__ __forceinline__ float4 load(const float4 *at)
{
#if PAST_L1
    return __ldcg(at);
#else
    return *at;
#endif
}

__device__ __forceinline__ float4 scaled(float s, float4 x)
{
    return make_float4(s * x.x, s * x.y, s * x.z, s * x.w);
}

__device__ __forceinline__ float4 sum(float4 x, float4 y)
{
    return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

__device__ __forceinline__ float4 scaled_sum(float s, float4 x, float4 y)
{
    return make_float4(s * x.x + y.x, s * x.y + y.y, s * x.z + y.z, s * x.w + y.w);
}

// Fills words with floats in [1, 2) that differ: the mantissa is a hash of the index (the finaliser of MurmurHash3).
KERNEL noise(unsigned *words, unsigned long long count, unsigned seed)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (size_t)gridDim.x * THREADS) {
        unsigned h = (unsigned)i ^ (unsigned)(i >> 32) * 0x9e3779b9u ^ seed;
        h = (h ^ h >> 16) * 0x85ebca6bu;
        h = (h ^ h >> 13) * 0xc2b2ae35u;
        words[i] = 0x3f800000u | (h ^ h >> 16) >> 9;
    }
}

// The sum of all words read, modulo 2^32, one word a thread.
KERNEL read(unsigned *sums, const float4 *x, unsigned tiles, unsigned step, unsigned iterations)
{
    unsigned total = 0;
    TILES {
        const float4 *at = x + first_of(tile);
        float4 v[DEPTH];
#pragma unroll
        EACH v[d] = load(at + d * THREADS);
#pragma unroll
        EACH total += __float_as_uint(v[d].x) + __float_as_uint(v[d].y) + __float_as_uint(v[d].z) +
                      __float_as_uint(v[d].w);
    }
    sums[(size_t)blockIdx.x * THREADS + threadIdx.x] = total;
}

// Four words that differ, s to s + 3: of four equal ones the compiler makes copies before each store.
KERNEL write(float4 *a, float s, unsigned tiles, unsigned step, unsigned iterations)
{
    float4 v = make_float4(s, s + 1, s + 2, s + 3);
    TILES {
        float4 *to = a + first_of(tile);
#pragma unroll
        EACH to[d * THREADS] = v;
    }
}

KERNEL copy(float4 *a, const float4 *x, unsigned tiles, unsigned step, unsigned iterations)
{
    TILES {
        size_t first = first_of(tile);
        float4 v[DEPTH];
#pragma unroll
        EACH v[d] = load(x + first + d * THREADS);
#pragma unroll
        EACH a[first + d * THREADS] = v[d];
    }
}

KERNEL scale(float4 *a, const float4 *x, float s, unsigned tiles, unsigned step, unsigned iterations)
{
    TILES {
        size_t first = first_of(tile);
        float4 v[DEPTH];
#pragma unroll
        EACH v[d] = load(x + first + d * THREADS);
#pragma unroll
        EACH a[first + d * THREADS] = scaled(s, v[d]);
    }
}

KERNEL add(float4 *a, const float4 *x, const float4 *y, unsigned tiles, unsigned step, unsigned iterations)
{
    TILES {
        size_t first = first_of(tile);
        float4 v[DEPTH], w[DEPTH];
#pragma unroll
        EACH v[d] = load(x + first + d * THREADS), w[d] = load(y + first + d * THREADS);
#pragma unroll
        EACH a[first + d * THREADS] = sum(v[d], w[d]);
    }
}

KERNEL triad(float4 *a, const float4 *x, const float4 *y, float s, unsigned tiles, unsigned step, unsigned iterations)
{
    TILES {
        size_t first = first_of(tile);
        float4 v[DEPTH], w[DEPTH];
#pragma unroll
        EACH v[d] = load(x + first + d * THREADS), w[d] = load(y + first + d * THREADS);
#pragma unroll
        EACH a[first + d * THREADS] = scaled_sum(s, w[d], v[d]);
    }
}

// y = a x + y on `count` vectors, one vector a thread at a time: nothing but the width differs between the builds.
struct __align__(4 * LANES) Lanes {
    float word[LANES];
};

KERNEL saxpy(Lanes *y, const Lanes *x, float a, unsigned long long count)
{
#pragma unroll 1
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (size_t)gridDim.x * THREADS) {
        Lanes v = x[i], w = y[i];
#pragma unroll
        for (int k = 0; k < LANES; ++k) w.word[k] = a * v.word[k] + w.word[k];
        y[i] = w;
    }
}
