// What attention makes of rows of q and k before their products, and of the gradients of such rows:
// division by their norms (cosine), then rotation by their positions. Shared by the attention
// kernels, not for callers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "fovea/kernels/attention.h"

namespace fovea::attention_detail {

// Whether rows of q and k go into the products otherwise than they stand in memory.
inline bool changes_rows(const AttentionProblem& p) { return p.cosine || p.rotary > 0; }

// Relative keys of a key/value head, in whole vectors of any target.
inline int64_t relative_width(const AttentionProblem& p) { return padded(p.tq + p.tk - 1); }
// Room for the products of a block's queries with the relative keys that its links meet.
inline int64_t relative_block_room(int64_t queries, int64_t keys) {
  return queries * (queries + keys + 32);
}
// What is added to the queries of a head before they meet keys, or relative keys; null: nothing.
inline const float* content_bias(const AttentionProblem& p, const AttentionLinks& links,
                                 int64_t head) {
  if (!p.content_bias) return nullptr;
  return static_cast<const float*>(links.content_biases) + head * p.head_dim;
}
inline const float* position_bias(const AttentionProblem& p, const AttentionLinks& links,
                                  int64_t head) {
  if (!p.position_bias) return nullptr;
  return static_cast<const float*>(links.position_biases) + head * p.head_dim;
}

// What the scores of a head are multiplied by beside the scale.
inline float temperature(const AttentionProblem& p, const AttentionLinks& links, int64_t head) {
  return p.temperature ? static_cast<const float*>(links.temperatures)[head] : 1.0f;
}

// The position of the first query and key; counted so that none is negative, since
// only distances count.
inline int64_t first_query_position(const AttentionProblem& p) {
  return p.align == AttentionAlign::lower_right ? std::max<int64_t>(0, p.tk - p.tq) : 0;
}
inline int64_t first_key_position(const AttentionProblem& p) {
  return p.align == AttentionAlign::lower_right ? std::max<int64_t>(0, p.tq - p.tk) : 0;
}

// cos(position w_i) and sin(position w_i) with w_i = base^(-2 i / rotary), of every position that a
// query or key has.
template <class N>
class RotaryTable {
 public:
  explicit RotaryTable(const AttentionProblem& p) : half_(p.rotary / 2) {
    if (half_ == 0) return;
    const int64_t positions = std::max(p.tq, p.tk);
    table_.resize(static_cast<size_t>(2 * half_ * positions));
    // By the addition theorem from the angles of a run's first position and those within a run.
    constexpr int64_t kRun = 256;
    const int64_t run = std::min(kRun, positions);
    std::vector<double> cosines(static_cast<size_t>(run)), sines(static_cast<size_t>(run));
    for (int64_t i = 0; i < half_; ++i) {
      const double w =
          std::pow(p.rotary_base, -2.0 * static_cast<double>(i) / static_cast<double>(p.rotary));
      for (int64_t n = 0; n < run; ++n) {
        cosines[static_cast<size_t>(n)] = std::cos(w * static_cast<double>(n));
        sines[static_cast<size_t>(n)] = std::sin(w * static_cast<double>(n));
      }
      for (int64_t first = 0; first < positions; first += run) {
        const double c = std::cos(w * static_cast<double>(first));
        const double s = std::sin(w * static_cast<double>(first));
        N* to = table_.data() + 2 * half_ * first + i;
        for (int64_t n = 0; n < std::min(run, positions - first); ++n, to += 2 * half_) {
          const double cn = cosines[static_cast<size_t>(n)], sn = sines[static_cast<size_t>(n)];
          to[0] = static_cast<N>(c * cn - s * sn);
          to[half_] = static_cast<N>(s * cn + c * sn);
        }
      }
    }
  }

  int64_t half() const { return half_; }
  // rotary / 2 cosines of the position, and as many sines behind them.
  const N* row(int64_t position) const { return table_.data() + 2 * half_ * position; }

 private:
  int64_t half_;
  std::vector<N> table_;
};

// One row after the other, for the reference.
class RowChange {
 public:
  RowChange(const AttentionProblem& p, const RotaryTable<double>& table) : p_(p), table_(table) {}

  void apply(double* x, int64_t position) const {
    if (p_.cosine) {
      const double r = inverse_norm(x);
      for (int64_t d = 0; d < p_.head_dim; ++d) x[d] *= r;
    }
    rotate(x, position, 1);
  }
  // g: the gradient of what apply() made of x, becomes that of x.
  void undo(double* g, const double* x, int64_t position) const {
    rotate(g, position, -1);
    if (!p_.cosine) return;
    const double r = inverse_norm(x);
    double along = 0;
    for (int64_t d = 0; d < p_.head_dim; ++d) along += x[d] * g[d];
    for (int64_t d = 0; d < p_.head_dim; ++d) g[d] = r * (g[d] - r * r * along * x[d]);
  }

 private:
  double inverse_norm(const double* x) const {
    double sum = p_.cosine_eps;
    for (int64_t d = 0; d < p_.head_dim; ++d) sum += x[d] * x[d];
    return 1 / std::sqrt(sum);
  }
  void rotate(double* x, int64_t position, double sign) const {
    if (p_.rotary == 0) return;
    const double* cosines = table_.row(position);
    const double* sines = cosines + table_.half();
    for (int64_t i = 0; i < table_.half(); ++i) {
      const RotaryPair pair =
          rotary_pair(p_.rotary_layout, static_cast<size_t>(i), static_cast<size_t>(p_.rotary));
      const double a = x[pair.first], b = x[pair.second], s = sign * sines[i];
      x[pair.first] = a * cosines[i] - b * s;
      x[pair.second] = b * cosines[i] + a * s;
    }
  }

  const AttentionProblem& p_;
  const RotaryTable<double>& table_;
};

}  // namespace fovea::attention_detail
