// What stands between a layer's products, in bfloat16 with float32 inside, a row at a time. Numbers are rounded where
// torch's own operations round them.

#include "vector.h"

namespace rung {
namespace {

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-larger(x, Vector{} - 87.0f))); }

// what goes into the sigmoid: of SiLU the number itself, of GELU in its tanh approximation a polynomial; and its slope
inline Vector inside(Vector x, int gelu) { return gelu ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x; }
inline Vector slope(Vector x, int gelu) {
    return gelu ? 1.5957691216057308f * (1.0f + 0.134145f * x * x) : Vector{} + 1.0f;
}

// angles in bfloat16 round what is kept of a number, as torch's two operations do; wide ones round the sum alone
inline Vector kept(Vector x, const bfloat16 *) { return rounded(x, (const bfloat16 *)nullptr); }
inline Vector kept(Vector x, const float *) { return x; }

template <class Angle>
void rotate(const bfloat16 *x, const Angle *cosine, const Angle *sine, int64_t num_rows, int64_t num_heads, int64_t width,
            bfloat16 *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < num_rows; row++)
        for (int64_t head = 0; head < num_heads; head++) {
            const bfloat16 *line = x + (row * num_heads + head) * width;
            for (int64_t i = 0; i < width; i += LANES) {
                const Vector partner = load(line + (i + width / 2) % width);
                const Vector own = kept(load(line + i) * load(cosine + row * width + i), cosine);
                store(out + (row * num_heads + head) * width + i, own + partner * load(sine + row * width + i));
            }
        }
}

}  // namespace
}  // namespace rung

using namespace rung;

extern "C" {

// Root-mean-square normalisation of rows, width a multiple of 16. `centred`: the gain is stored less one and multiplied
// before rounding, else after.
void rung_rms_norm(const bfloat16 *x, const bfloat16 *gain, int64_t num_rows, int64_t width, float epsilon, int centred,
                   bfloat16 *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < num_rows; row++) {
        const bfloat16 *line = x + row * width;
        Vector squares = {};
        for (int64_t i = 0; i < width; i += LANES) squares += load(line + i) * load(line + i);
        const float scale = 1.0f / std::sqrt(sum_of(squares) / float(width) + epsilon);
        for (int64_t i = 0; i < width; i += LANES) {
            const Vector y = load(line + i) * scale, g = load(gain + i);
            store(out + row * width + i, centred ? y * (g + 1.0f) : rounded(y, out) * g);
        }
    }
}

// activation(gate) * up, all [count], a multiple of 16: SiLU, or GELU in its tanh approximation where `gelu`
void rung_gated(const bfloat16 *gate, const bfloat16 *up, int64_t count, int gelu, bfloat16 *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        const Vector x = load(gate + i);
        store(out + i, rounded(x * sigmoid(inside(x, gelu)), out) * load(up + i));
    }
}

// gradients of gate and up from that of what `rung_gated` makes of them
void rung_gated_back(const bfloat16 *gate, const bfloat16 *up, const bfloat16 *outer, int64_t count, int gelu,
                     bfloat16 *of_gate, bfloat16 *of_up, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i += LANES) {
        const Vector x = load(gate + i), g = load(outer + i), share = sigmoid(inside(x, gelu));
        store(of_up + i, g * rounded(x * share, of_up));
        store(of_gate + i, g * load(up + i) * share * (1.0f + x * (1.0f - share) * slope(x, gelu)));
    }
}

// Pairs (i, i + width / 2) of every head turned by their angles; x [num_rows, num_heads, width], cosine and signed sine
// [num_rows, width], width a multiple of 32.
void rung_rotate(const bfloat16 *x, const bfloat16 *cosine, const bfloat16 *sine, int64_t num_rows, int64_t num_heads,
                 int64_t width, bfloat16 *out, int threads) {
    rotate(x, cosine, sine, num_rows, num_heads, width, out, threads);
}

// the same by angles in float32
void rung_rotate_wide(const bfloat16 *x, const float *cosine, const float *sine, int64_t num_rows, int64_t num_heads,
                      int64_t width, bfloat16 *out, int threads) {
    rotate(x, cosine, sine, num_rows, num_heads, width, out, threads);
}
}
