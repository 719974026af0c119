// What stands between a layer's products, in bfloat16 with float32 inside, a row at a time. Numbers are rounded where
// torch's own operations round them.

#include "vector.h"

namespace rung {
namespace {

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-larger(x, Vector{} - 87.0f))); }

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
        const Vector inside = gelu ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x;
        store(out + i, rounded(x * sigmoid(inside), out) * load(up + i));
    }
}

// Pairs (i, i + width / 2) of every head turned by their angles; x [num_rows, num_heads, width], cosine and signed sine
// [num_rows, width], width a multiple of 32.
void rung_rotate(const bfloat16 *x, const bfloat16 *cosine, const bfloat16 *sine, int64_t num_rows, int64_t num_heads,
                 int64_t width, bfloat16 *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < num_rows; row++)
        for (int64_t head = 0; head < num_heads; head++) {
            const bfloat16 *line = x + (row * num_heads + head) * width;
            for (int64_t i = 0; i < width; i += LANES) {
                const Vector partner = load(line + (i + width / 2) % width);
                const Vector kept = rounded(load(line + i) * load(cosine + row * width + i), out);
                store(out + (row * num_heads + head) * width + i, kept + partner * load(sine + row * width + i));
            }
        }
}
}
