// Numbers sixteen at a time, in the compilers' own vector extension: any processor, its widest registers.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __AVX512DQ__
#include <immintrin.h>
#endif

namespace rung {

using bfloat16 = uint16_t;
constexpr int LANES = 16;
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

constexpr float LOWEST = -std::numeric_limits<float>::infinity();

inline float wide(float value) { return value; }

inline float wide(bfloat16 value) {
    const uint32_t bits = uint32_t(value) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline Vector load(const float *at) {
    Vector out;
    std::memcpy(&out, at, sizeof out);
    return out;
}

inline Vector load(const bfloat16 *at) {
    Halves halves;
    std::memcpy(&halves, at, sizeof halves);
    return (Vector)(__builtin_convertvector(halves, Bits) << 16);
}

inline void store(float *at, Vector value) { std::memcpy(at, &value, sizeof value); }

// to the nearest, halves to even; finite numbers only
inline void store(bfloat16 *at, Vector value) {
    const Bits bits = (Bits)value;
    const Halves halves = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
    std::memcpy(at, &halves, sizeof halves);
}

inline Vector rounded(Vector value, const float *) { return value; }

inline Vector rounded(Vector value, const bfloat16 *) {
    const Bits bits = (Bits)value;
    return (Vector)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// the last numbers of a line that is no whole number of vectors, filled up with `rest`
inline Vector tail(const float *at, int64_t count, float rest) {
    Vector out = Vector{} + rest;
    std::memcpy(&out, at, 4 * count);
    return out;
}

inline float sum_of(Vector v) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return v[0] + v[1];
}

// the sums of four vectors, in one order for all of them
inline void sums_of(const Vector v[4], float *out) {
    const auto halved = [](Vector a, Vector b) {
        return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
               __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    };
    const Vector a = halved(v[0], v[1]), b = halved(v[2], v[3]);
    Vector sums = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                  __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    sums += __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    sums += __builtin_shufflevector(sums, sums, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    std::memcpy(out, &sums, 16);
}

// which lanes are set, the first as the lowest bit
inline uint32_t lanes_of(Whole set) {
#ifdef __AVX512DQ__
    return _mm512_movepi32_mask((__m512i)set);
#else
    uint32_t out = 0;
    for (int i = 0; i < LANES; i++) out |= uint32_t(set[i] & 1) << i;
    return out;
#endif
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

inline float largest(const float *at, int64_t count) {
    Vector found = Vector{} + LOWEST;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) found = larger(found, load(at + i));
    if (i < count) found = larger(found, tail(at + i, count - i, LOWEST));
    float out = found[0];
    for (int lane = 1; lane < LANES; lane++) out = std::max(out, found[lane]);
    return out;
}

// exp(x) for x <= 88, relative error under 3e-7; exactly zero below -87. Halving and a polynomial on what is left, as in
// Cephes' expf (Moshier).
inline Vector exponential(Vector x) {
    const Vector n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    Vector r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
    const Whole kept = x > -87.0f;
    return (Vector)((Whole)(p * (Vector)power) & kept);
}

}  // namespace rung
