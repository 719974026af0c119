// x W' in bfloat16 for few rows, with the weights where they are: on processors whose vectors multiply bfloat16 in pairs,
// a decode step's products reach nine tenths of the machine's rate, where general kernels reach six.
//
// The rows are the lanes of a vector, so a row's sums run over k in one order whoever is beside it: bits of its own.

#include <vector>

#include "vector.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace rung {
namespace {

constexpr int BROAD = 64;  // rows of x that a pass over the weights serves: four vectors
constexpr int TALL = 48;   // weight rows whose results are turned together

// sixteen lines of sixteen numbers, columns to rows
inline void turned(const float *in, int64_t stride, __m512 *out) {
    __m512 r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(in + i * stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = (__m512)_mm512_unpacklo_pd((__m512d)t[i + j], (__m512d)t[i + j + 2]);
            r[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[i + j], (__m512d)t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + 4 + j], 0x88);
            t[i + 4 + j] = _mm512_shuffle_f32x4(r[i + j], r[i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        out[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
        out[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xdd);
    }
}

// pairs of neighbours of 16 rows of x, [width / 2, stride] of them; absent rows are zero
void pair_up(const bfloat16 *x, int64_t width, int64_t num_rows, uint32_t *out, int64_t stride) {
    for (int64_t k = 0; k < width / 2; k += 16) {
        const int num = (int)std::min<int64_t>(16, width / 2 - k);
        float in[16][16] = {};
        for (int64_t row = 0; row < num_rows; row++) std::memcpy(in[row], x + row * width + 2 * k, 4 * num);
        __m512 pairs[16];
        turned(&in[0][0], 16, pairs);
        for (int i = 0; i < num; i++) _mm512_storeu_ps((float *)(out + (k + i) * stride), pairs[i]);
    }
}

// `NUM` weight rows times 16 * `VECTORS` rows of x
template <int VECTORS, int NUM>
inline void tile(const bfloat16 *weight, int64_t width, const uint32_t *pairs, float *out) {
    __m512 sums[NUM][VECTORS];
    for (int v = 0; v < NUM; v++)
        for (int z = 0; z < VECTORS; z++) sums[v][z] = _mm512_setzero_ps();
    for (int64_t k = 0; k < width / 2; k++) {
        __m512bh x[VECTORS];
        for (int z = 0; z < VECTORS; z++) x[z] = (__m512bh)_mm512_loadu_si512(pairs + (k * VECTORS + z) * 16);
        // the rows of the next tile, a line of the cache at a time: each is too short for the processor to foresee
        if (k % 16 == 0)
            for (int v = 0; v < NUM; v++) __builtin_prefetch(weight + (v + NUM) * width + 2 * k, 0, 2);
        for (int v = 0; v < NUM; v++) {
            int32_t pair;
            std::memcpy(&pair, weight + v * width + 2 * k, 4);
            const __m512bh w = (__m512bh)_mm512_set1_epi32(pair);
            for (int z = 0; z < VECTORS; z++) sums[v][z] = _mm512_dpbf16_ps(sums[v][z], w, x[z]);
        }
    }
    for (int v = 0; v < NUM; v++)
        for (int z = 0; z < VECTORS; z++) _mm512_storeu_ps(out + (v * VECTORS + z) * 16, sums[v][z]);
}

template <int VECTORS, int NUM>
void tiles(const bfloat16 *weight, int64_t width, int num, const uint32_t *pairs, float *out) {
    int v = 0;
    for (; v + NUM <= num; v += NUM) tile<VECTORS, NUM>(weight + v * width, width, pairs, out + v * VECTORS * 16);
    for (; v < num; v++) tile<VECTORS, 1>(weight + v * width, width, pairs, out + v * VECTORS * 16);
}

// six weight rows at a time: of more, the processor does not foresee the next
void block(int vectors, const bfloat16 *weight, int64_t width, int num, const uint32_t *pairs, float *out) {
    if (vectors == 4)
        tiles<4, 6>(weight, width, num, pairs, out);
    else if (vectors == 3)
        tiles<3, 6>(weight, width, num, pairs, out);
    else if (vectors == 2)
        tiles<2, 6>(weight, width, num, pairs, out);
    else
        tiles<1, 6>(weight, width, num, pairs, out);
}

// One of the matrices that the same rows are multiplied with: `weight` [num_out, width] to `out`, lines of `stride`.
// Callers pass it as four 64-bit words in this order.
template <class T>
struct Matrix {
    const bfloat16 *weight;
    int64_t num_out;
    T *out;
    int64_t stride;
};

inline void put(bfloat16 *out, __mmask16 there, __m512 line) {
    _mm256_mask_storeu_epi16(out, there, (__m256i)_mm512_cvtneps_pbh(line));
}

// rounded all the same: what trains rounds here
inline void put(float *out, __mmask16 there, __m512 line) {
    const __m512i halves = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(line));
    _mm512_mask_storeu_ps(out, there, (__m512)_mm512_slli_epi32(halves, 16));
}

template <class T>
void product(const bfloat16 *x, int64_t num_rows, int64_t width, const Matrix<T> *matrices, int num_matrices,
             int threads) {
    static thread_local std::vector<uint32_t> room;
    room.resize((num_rows + 15) / 16 * 16 * (width / 2));
    uint32_t *const pairs = room.data();
    const auto vectors_at = [&](int64_t row) { return (int)std::min<int64_t>(BROAD, num_rows - row + 15) / 16; };
    int64_t num_bands = 0;
    for (int m = 0; m < num_matrices; m++) num_bands += (matrices[m].num_out + TALL - 1) / TALL;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < num_rows; row += 16) {
            const int64_t first = row / BROAD * BROAD, place = (row - first) / 16;
            pair_up(x + row * width, width, std::min<int64_t>(16, num_rows - row),
                    pairs + first * (width / 2) + place * 16, 16 * vectors_at(first));
        }
#pragma omp for schedule(dynamic)
        for (int64_t band = 0; band < num_bands; band++) {
            const Matrix<T> *matrix = matrices;
            int64_t at = band * TALL;
            for (; at >= matrix->num_out; matrix++) at -= (matrix->num_out + TALL - 1) / TALL * TALL;
            alignas(64) float held[TALL * BROAD] = {};
            const int num = (int)std::min<int64_t>(TALL, matrix->num_out - at);
            for (int64_t first = 0; first < num_rows; first += BROAD) {
                const int vectors = vectors_at(first);
                block(vectors, matrix->weight + at * width, width, num, pairs + first * (width / 2), held);
                for (int z = 0; z < vectors; z++)
                    for (int v = 0; v < num; v += 16) {
                        __m512 lines[16];
                        turned(held + (v * vectors + z) * 16, vectors * 16, lines);
                        const __mmask16 there = (1u << std::min(16, num - v)) - 1;
                        const int64_t row = first + z * 16;
                        for (int64_t r = 0; r < std::min<int64_t>(16, num_rows - row); r++)
                            put(matrix->out + (row + r) * matrix->stride + at + v, there, lines[r]);
                    }
            }
        }
    }
}

}  // namespace
}  // namespace rung
#endif

extern "C" {

#ifdef __AVX512BF16__
int rung_has_product() { return 1; }

// x [num_rows, width] without gaps, width even, times each of `matrices`, whose weights have no gaps.
void rung_products(const rung::bfloat16 *x, int64_t num_rows, int64_t width, const rung::Matrix<rung::bfloat16> *matrices,
                   int num_matrices, int threads) {
    rung::product(x, num_rows, width, matrices, num_matrices, threads);
}

// the same for one matrix, the result rounded to bfloat16 and written as float32 in lines of `stride`
void rung_product_wide(const rung::bfloat16 *x, const rung::bfloat16 *weight, int64_t num_rows, int64_t width,
                       int64_t num_out, float *out, int64_t stride, int threads) {
    const rung::Matrix<float> matrix = {weight, num_out, out, stride};
    rung::product(x, num_rows, width, &matrix, 1, threads);
}
#else
int rung_has_product() { return 0; }
#endif
}
