// What is found out about rows of logits: log-sum-exp, entropy, the largest, what masks leave, and draws. A row's bits
// are a function of that row alone.

#include <utility>
#include <vector>

#include "vector.h"

namespace rung {
namespace {

// A row's log-sum-exp so far: its largest number, the sum of exponentials less that, and that sum weighted with the
// numbers.
struct Running {
    float highest, sum, weighted;
};

void add(Running &so_far, const float *line, int64_t count, float times, bool weighted, float highest) {
    const float here = highest * times;
    if (here == LOWEST) return;
    if (here > so_far.highest) {
        const float shrink = so_far.highest == LOWEST ? 0.0f : std::exp(so_far.highest - here);
        so_far.sum *= shrink;
        so_far.weighted *= shrink;
        so_far.highest = here;
    }
    Vector sum = {}, product = {};
    for (int64_t i = 0; i < count; i += LANES) {
        // what fills up a vector weighs nothing; finite, for zero times infinity is no number
        const Vector x = i + LANES <= count ? load(line + i) * times
                                            : tail(line + i, count - i, (so_far.highest - 200.0f) / times) * times;
        const Vector e = exponential(x - so_far.highest);
        sum += e;
        if (weighted) product += e * x;
    }
    so_far.sum += sum_of(sum);
    if (weighted) so_far.weighted += sum_of(product);
}

int64_t place_of(const float *line, int64_t count, float value) {
    int64_t place = 0;
    while (place + 1 < count && line[place] != value) place++;
    return place;
}

// ---- draws

struct Candidate {
    float logit;
    int32_t id;
    float mass;
    // the likeliest first, of equal ones the smallest id
    bool operator<(const Candidate &other) const {
        return logit != other.logit ? logit > other.logit : id < other.id;
    }
};

constexpr int NUM_BINS = 1024;
constexpr float BINS_PER_NAT = 32.0f;

// Candidates in bins of similar logits, the likeliest bin first; a bin is sorted when somebody looks into it.
class Pool {
  public:
    // every token whose share is at least `least`
    void gather(const float *logits, int64_t size, float times, float total, float highest, float least) {
        all.clear();
        const float lowest = least > 0.0f ? (total + std::log(least)) / times : LOWEST;
        for (int64_t begin = 0; begin < size; begin += LANES) {
            const int64_t count = std::min<int64_t>(LANES, size - begin);
            const Vector x = count == LANES ? load(logits + begin) : tail(logits + begin, count, LOWEST);
            const Whole enough = (x >= lowest) & (x > LOWEST);
            uint32_t there = lanes_of(enough);
            if (!there) continue;
            const Vector mass = exponential(x * times - total);
            for (; there; there &= there - 1) {
                const int i = __builtin_ctz(there);
                all.push_back({x[i], int32_t(begin + i), mass[i]});
            }
        }
        into_bins(highest, times);
    }

    double mass() const {
        double out = 0.0;
        for (const double bin : masses) out += bin;
        return out;
    }

    int64_t size() const { return (int64_t)ordered.size(); }

    const Candidate &operator[](int64_t place) const { return ordered[place]; }

    // The place of the first candidate with which the mass is `wanted` (more than that, where `strictly`), the last
    // one where none is, and the mass before it. What comes before a place is in front of it, if not in order.
    std::pair<int64_t, double> reach(double wanted, bool strictly) {
        double before = 0.0;
        for (int bin = 0; bin < NUM_BINS; bin++) {
            const int64_t begin = starts[bin], end = starts[bin + 1];
            const bool is_last = end == size();
            // a sum depends on its order by a rounding: what is that close is looked at one by one
            if (begin == end || (before + masses[bin] < wanted * (1.0 - 1e-12) && !is_last)) {
                before += masses[bin];
                continue;
            }
            std::sort(ordered.begin() + begin, ordered.begin() + end);
            double inside = before;
            for (int64_t i = begin; i < end; i++) {
                const double after = inside + ordered[i].mass;
                if ((strictly ? after > wanted : after >= wanted) || i + 1 == size()) return {i, inside};
                inside = after;
            }
            before = inside;
        }
        return {size() - 1, before};
    }

  private:
    std::vector<Candidate> all, ordered;
    std::vector<int32_t> starts, next;
    std::vector<double> masses;

    void into_bins(float highest, float times) {
        const auto bin_of = [&](const Candidate &c) {
            return (int)std::min<float>(NUM_BINS - 1, (highest - c.logit) * times * BINS_PER_NAT);
        };
        starts.assign(NUM_BINS + 1, 0);
        masses.assign(NUM_BINS, 0.0);
        for (const Candidate &c : all) {
            const int bin = bin_of(c);
            starts[bin + 1]++;
            masses[bin] += c.mass;
        }
        for (int bin = 0; bin < NUM_BINS; bin++) starts[bin + 1] += starts[bin];
        next.assign(starts.begin(), starts.end() - 1);
        ordered.resize(all.size());
        for (const Candidate &c : all) ordered[next[bin_of(c)]++] = c;
    }
};

struct Rule {
    float times, top_p, total;
    double uniform;
};

struct Draw {
    int64_t token;
    float logprob;
    int64_t num_kept;
};

Draw draw_one(Pool &pool, const float *logits, int64_t size, const Rule &rule, int32_t *kept) {
    const bool whole = rule.top_p >= 1.0f;
    const float highest = largest(logits, size);
    // tokens rarer than that weigh together less than what top-p leaves out, or than a millionth
    const float least = (whole ? 1e-6f : 1.0f - rule.top_p) / float(size);
    pool.gather(logits, size, rule.times, rule.total, highest, least);
    if (pool.mass() < (whole ? rule.uniform + 1e-5 : double(rule.top_p)) * (1.0 + 1e-6))
        pool.gather(logits, size, rule.times, rule.total, highest, 0.0f);
    double kept_mass = 1.0;
    int64_t last = pool.size() - 1;
    if (!whole) {
        const auto [place, before] = pool.reach(rule.top_p, false);
        last = place;
        kept_mass = before + pool[place].mass;
        if (kept)
            for (int64_t i = 0; i <= last; i++) kept[i] = pool[i].id;
    }
    const Candidate &drawn = pool[std::min(pool.reach(rule.uniform * kept_mass, true).first, last)];
    const double logprob = double(drawn.logit * rule.times) - rule.total - std::log(kept_mass);
    return {drawn.id, float(logprob), whole ? -1 : last + 1};
}

}  // namespace
}  // namespace rung

extern "C" {

// Takes a chunk of logits [num_rows, count] times `times` (none: 1) into running statistics [num_rows, 3]. Where there is
// `best`, it and its value become the first largest of all chunks; `start` is the chunk's first id.
void rung_add_chunk(const float *logits, int64_t stride, int64_t count, int64_t num_rows, const float *times,
                    float *running, int weighted, int64_t start, float *value, int64_t *best, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < num_rows; row++) {
        const float *line = logits + row * stride;
        const float highest = rung::largest(line, count);
        rung::Running so_far;
        std::memcpy(&so_far, running + 3 * row, sizeof so_far);
        rung::add(so_far, line, count, times ? times[row] : 1.0f, weighted, highest);
        std::memcpy(running + 3 * row, &so_far, sizeof so_far);
        if (best && highest > value[row]) {
            value[row] = highest;
            best[row] = start + rung::place_of(line, count, highest);
        }
    }
}

// The log-sum-exp of running statistics, and the entropy in nats where the sum was weighted.
void rung_finish(const float *running, int64_t num_rows, float *total, float *entropy) {
    for (int64_t row = 0; row < num_rows; row++) {
        const float *at = running + 3 * row;
        total[row] = at[0] + std::log(at[1]);
        entropy[row] = std::max(0.0f, total[row] - at[2] / at[1]);
    }
}

// Minus infinity where a mask has a zero, in the rows named; of what is left the first largest, and the log-sum-exp of
// it times `times`.
void rung_mask_rows(float *logits, int64_t stride, int64_t size, int64_t num_rows, const int64_t *rows,
                    const uint8_t *const *masks, const float *times, int64_t *best, float *total, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t n = 0; n < num_rows; n++) {
        float *line = logits + rows[n] * stride;
        const uint8_t *mask = masks[n];
        for (int64_t i = 0; i < size; i++) line[i] = mask[i] ? line[i] : rung::LOWEST;
        const float highest = rung::largest(line, size);
        best[n] = rung::place_of(line, size, highest);
        rung::Running so_far = {rung::LOWEST, 0.0f, 0.0f};
        rung::add(so_far, line, size, times[n], false, highest);
        total[n] = so_far.highest + std::log(so_far.sum);
    }
}

// Draws from the rows named. `kept`, where there is one, gets the ids that top-p left to each [num_rows, size], and
// `num_kept` how many they are (-1: all).
void rung_draw_rows(const float *logits, int64_t stride, int64_t size, int64_t num_rows, const int64_t *rows,
                    const float *times, const float *top_p, const float *total, const double *uniform, int64_t *token,
                    float *logprob, int32_t *kept, int64_t *num_kept, int threads) {
#pragma omp parallel num_threads(threads)
    {
        rung::Pool pool;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < num_rows; n++) {
            const rung::Rule rule = {times[n], top_p[n], total[n], uniform[n]};
            const rung::Draw drawn =
                rung::draw_one(pool, logits + rows[n] * stride, size, rule, kept ? kept + n * size : nullptr);
            token[n] = drawn.token;
            logprob[n] = drawn.logprob;
            num_kept[n] = drawn.num_kept;
        }
    }
}
}
