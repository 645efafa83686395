/* Vectors of floats, as wide as the machine has them, in the vector extension of GCC and Clang.
 *
 * Nothing here depends on -ffast-math: infinities and NaNs go where IEEE 754 sends them.
 */
#ifndef WEFT_VECTOR_H
#define WEFT_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 6 /* TILE_ROWS * TILE_VECTORS sums stay in registers, of which there are 32 */
#elif defined(__AVX__)
#define LANES 8
#define TILE_ROWS 3 /* of 16 registers */
#elif defined(__aarch64__)
#define LANES 4
#define TILE_ROWS 6 /* of 32 */
#else
#define LANES 4
#define TILE_ROWS 3
#endif

#define TILE_VECTORS 4
#define PANEL (TILE_VECTORS * LANES) /* columns of a tile */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE vec load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

ALWAYS_INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

ALWAYS_INLINE vec broadcast(float x) { return x - (vec){0}; } /* x - 0 keeps -0, x + 0 would not */

/* `yes` where `mask` is all ones, `no` where it is zero. */
ALWAYS_INLINE vec choose(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* Every lane takes the value of the lane whose number differs in the bit `bit`. */
ALWAYS_INLINE vec exchange(vec v, int bit) {
#if defined(__clang__)
    vec other;
    for (int i = 0; i < LANES; i++) other[i] = v[i ^ bit];
    return other;
#else
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return __builtin_shuffle(v, lane ^ bit);
#endif
}

/* The sum of the lanes, always in the same order. */
ALWAYS_INLINE float sum_lanes(vec v) {
#pragma GCC unroll 4
    for (int bit = LANES / 2; bit > 0; bit /= 2) v += exchange(v, bit);
    return v[0];
}

ALWAYS_INLINE float max_lanes(vec v) {
#pragma GCC unroll 4
    for (int bit = LANES / 2; bit > 0; bit /= 2) {
        vec other = exchange(v, bit);
        v = choose(other > v, other, v);
    }
    return v[0];
}

/* e^x within 2 units in the last place; 0 below -87, e^88 above 88, NaN stays NaN.
 *
 * e^x = 2^n e^r with n the integer next to x / ln 2 and |r| <= ln 2 / 2, where the Taylor series to r^7 is
 * off by less than 6e-9. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
 */
ALWAYS_INLINE vec exponential(vec x) {
    const float magic = 12582912.0f;
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f; /* n * ln2_high is exact */
    ivec tiny = x < broadcast(-87.0f);
    x = choose(x > broadcast(88.0f), broadcast(88.0f), x);
    vec shifted = x * 1.44269504f + magic;
    vec n = shifted - magic;
    vec r = x - n * ln2_high - n * ln2_low;
    vec p = broadcast(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vec power = (vec)(((ivec)shifted + 127) << 23); /* 2^n, made of its exponent */
    return choose(tiny, (vec){0}, p * power);
}

#endif
