// Attention of decode steps: a row's queries over the keys and values of its own slot. A row's bits are a function of
// that row alone: it is computed as if it were the only one. Scores, weights and sums are float32.

#include <vector>

#include "vector.h"

namespace rung {
namespace {

// asks for a line ahead of time: the places of a slot are too few for the processor to foresee
template <class T>
inline void foresee(const T *line, int64_t width) {
    for (int64_t i = 0; i < width; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(line + i, 0, 3);
}

// `NUM` queries that look at the same places of one key head: each key and value is read once for all of them. `next`:
// the keys that will be asked for after these.
template <class T, int NUM>
void attend(const T *query, const T *keys, const T *values, const T *next, int64_t width, int64_t length, float scale,
            std::vector<float> &held, T *out, float *total) {
    if (length <= 0) {  // nothing is seen, and weighs nothing
        std::memset(out, 0, NUM * width * sizeof(T));
        for (int g = 0; g < NUM; g++) total[g] = LOWEST;
        return;
    }
    const int64_t line = (length + LANES - 1) / LANES * LANES;
    if ((int64_t)held.size() < NUM * (line + width)) held.resize(NUM * (line + width));
    float *const scores = held.data(), *const asked = scores + NUM * line;
    for (int64_t i = 0; i < NUM * width; i += LANES) store(asked + i, load(query + i) * scale);
    float sum[NUM];
    // four places at a time: their sums cost little more than one's. What is left over goes with itself, to the same bits.
    for (int64_t p = 0; p < length; p += 4) {
        const T *key[4];
        for (int z = 0; z < 4; z++) {
            key[z] = keys + std::min(p + z, length - 1) * width;
            foresee(values + std::min(p + z, length - 1) * width, width);
        }
        Vector dot[NUM][4] = {};
        for (int64_t i = 0; i < width; i += LANES)
            for (int z = 0; z < 4; z++) {
                const Vector k = load(key[z] + i);
                for (int g = 0; g < NUM; g++) dot[g][z] += load(asked + g * width + i) * k;
            }
        for (int g = 0; g < NUM; g++) sums_of(dot[g], scores + g * line + p);
    }
    for (int g = 0; g < NUM; g++) {
        float *own = scores + g * line;
        const float highest = largest(own, length);
        for (int64_t p = length; p < line; p++) own[p] = LOWEST;
        Vector whole = {};
        for (int64_t p = 0; p < line; p += LANES) {
            const Vector e = exponential(load(own + p) - highest);
            store(own + p, e);
            whole += e;
        }
        sum[g] = sum_of(whole);
        total[g] = highest + std::log(sum[g]);
    }
    constexpr int AT_ONCE = 4;
    for (int64_t begin = 0; begin < width; begin += AT_ONCE * LANES) {
        Vector seen[NUM][AT_ONCE] = {};
        const auto over = [&](auto parts) {
            for (int64_t p = 0; p < length; p++) {
                const T *value = values + p * width + begin;
                if (begin == 0) foresee(next + p * width, width);
                for (int c = 0; c < parts; c++) {
                    const Vector v = load(value + c * LANES);
                    for (int g = 0; g < NUM; g++) seen[g][c] += v * scores[g * line + p];
                }
            }
            for (int g = 0; g < NUM; g++)
                for (int c = 0; c < parts; c++) store(out + g * width + begin + c * LANES, seen[g][c] / sum[g]);
        };
        const int64_t left = (width - begin) / LANES;
        if (left >= AT_ONCE)
            over(std::integral_constant<int, AT_ONCE>());
        else
            over(int(left));
    }
}

struct Part {
    int64_t capacity, width, num_kv_heads, num_each, num_rows;
    const int64_t *slots, *firsts, *lasts;  // of each row
    float scale;
};

template <class T>
void attend_rows(const T *query, const T *keys, const T *values, const Part &part, T *out, float *total, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> held;
#pragma omp for schedule(dynamic, 8)
        for (int64_t item = 0; item < part.num_rows * part.num_kv_heads; item++) {
            const int64_t row = item / part.num_kv_heads, head = item % part.num_kv_heads, width = part.width;
            const auto start_of = [&](int64_t r, int64_t h) {
                return ((part.slots[r] * part.num_kv_heads + h) * part.capacity + part.firsts[r]) * width;
            };
            const int64_t start = start_of(row, head), after = std::min(item + 1, part.num_rows * part.num_kv_heads - 1);
            const T *next = keys + start_of(after / part.num_kv_heads, after % part.num_kv_heads);
            const int64_t length = part.lasts[row] - part.firsts[row] + 1;
            for (int64_t g = 0; g < part.num_each;) {
                const int64_t at = item * part.num_each + g, left = part.num_each - g;
                const auto some = [&](auto num) {
                    attend<T, num>(query + at * width, keys + start, values + start, next, width, length, part.scale, held,
                                   out + at * width, total + at);
                    g += num;
                };
                if (left >= 4)
                    some(std::integral_constant<int, 4>());
                else if (left == 3)
                    some(std::integral_constant<int, 3>());
                else if (left == 2)
                    some(std::integral_constant<int, 2>());
                else
                    some(std::integral_constant<int, 1>());
            }
        }
    }
}

}  // namespace
}  // namespace rung

extern "C" {

// query and out [num_rows, num_kv_heads * num_each, width], keys and values [slots, num_kv_heads, capacity, width], total
// [num_rows, num_kv_heads * num_each] is the log-sum-exp of the scores; width is a multiple of 16
void rung_attend_float32(const float *query, const float *keys, const float *values, int64_t capacity, int64_t width,
                         int64_t num_kv_heads, int64_t num_each, int64_t num_rows, const int64_t *slots,
                         const int64_t *firsts, const int64_t *lasts, float scale, float *out, float *total,
                         int threads) {
    rung::attend_rows(query, keys, values,
                      {capacity, width, num_kv_heads, num_each, num_rows, slots, firsts, lasts, scale}, out, total,
                      threads);
}

void rung_attend_bfloat16(const rung::bfloat16 *query, const rung::bfloat16 *keys, const rung::bfloat16 *values,
                          int64_t capacity, int64_t width, int64_t num_kv_heads, int64_t num_each, int64_t num_rows,
                          const int64_t *slots, const int64_t *firsts, const int64_t *lasts, float scale,
                          rung::bfloat16 *out, float *total, int threads) {
    rung::attend_rows(query, keys, values,
                      {capacity, width, num_kv_heads, num_each, num_rows, slots, firsts, lasts, scale}, out, total,
                      threads);
}

// Puts keys and values, lines of `bytes` each [num_rows, num_kv_heads], at `positions` of `slots`; both held as
// [slots, num_kv_heads, capacity].
void rung_put(const char *keys, const char *values, int64_t bytes, int64_t capacity, int64_t num_kv_heads,
              int64_t num_rows, const int64_t *slots, const int64_t *positions, char *held_keys, char *held_values) {
    for (int64_t row = 0; row < num_rows; row++)
        for (int64_t head = 0; head < num_kv_heads; head++) {
            const int64_t from = (row * num_kv_heads + head) * bytes;
            const int64_t to = ((slots[row] * num_kv_heads + head) * capacity + positions[row]) * bytes;
            std::memcpy(held_keys + to, keys + from, bytes);
            std::memcpy(held_values + to, values + from, bytes);
        }
}
}
