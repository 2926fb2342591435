// The plain reference: loops as the formulas stand, sums in double, O(tk) memory for each worker.
#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_cache.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/attention_normalise_ref.h"
#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/convert.h"

namespace fovea::attention_detail {
namespace {

template <class T>
double number(T x) {
  return convert<double, false>(x);
}
template <class T>
T rounded(double x) {
  return convert<T, false>(x);
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += number(a[i]) * number(b[i]);
  return sum;
}

// Row (b, j, g) of a cache, or of keys and values of the problem's type, in double.
void read_row(const CacheRows& rows, DType type, int64_t b, int64_t j, int64_t g, int64_t n,
              double* to) {
  const void* from = rows.at(b, j, g);
  const double scale = rows.scales ? static_cast<double>(rows.scale(b, j, g)) : 1.0;
  visit_dtype(type, [&]<DType D>() {
    for (int64_t i = 0; i < n; ++i) to[i] = number(static_cast<const Storage<D>*>(from)[i]) * scale;
  });
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Of the log-sum-exp.
template <class T>
using LseType = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

// The links of one query.
template <class T>
class Links {
 public:
  using Number = LseType<T>;  // of biases

  Links(const AttentionProblem& p, const AttentionLinks& links, int64_t b, int64_t h, int64_t i)
      : p_(p), h_(h), i_(i), seen_(Seen(p, links, b, h).of(i)), dropout_(p, links, b, h) {
    if (p.span) span_ = HeadSpan(p, links, h);
    if (p.mask) mask_ = links_row(links.mask, p.mask_plane, b, h, i);
    if (p.block > 0) blocks_ = block_row(p, links, b, h, i);
    if (p.bias) bias_ = links_row(static_cast<const Number*>(links.bias), p.bias_plane, b, h, i);
    if (p.distance_bias)
      distances_ = static_cast<const Number*>(links.distance_bias) + distance_at(0);
  }

  bool sees(int64_t j) const {
    return seen_.sees(p_, j) && (!mask_ || mask_[j] != 0) &&
           (!blocks_ || blocks_[j / p_.block] != 0);
  }
  // From scale q . k: what is held by the cap, and its derivative.
  double capped(double score, double& slope) const {
    slope = 1;
    if (p_.soft_cap == 0) return score;
    const double t = std::tanh(score / p_.soft_cap);
    slope = 1 - t * t;
    return p_.soft_cap * t;
  }
  double added(int64_t j) const {
    return (bias_ ? number(bias_[j]) : 0.0) + (distances_ ? number(distances_[j]) : 0.0) +
           (span_ ? span_->logarithm(distance(j)) : 0.0);
  }
  // The derivative of the score by the span.
  double span_slope(int64_t j) const { return span_ ? span_->slope(distance(j)) : 0.0; }
  // What dropout multiplies the probability by.
  double kept(int64_t j) const { return dropout_.keeps(i_, j) ? kept_factor(p_) : 0; }
  // Where in distance_bias the link to key j stands.
  int64_t distance_at(int64_t j) const { return h_ * (p_.tq + p_.tk - 1) + j - i_ + p_.tq - 1; }

 private:
  int64_t distance(int64_t j) const { return std::abs(seen_.position - j); }

  const AttentionProblem& p_;
  const int64_t h_, i_;
  const SeenKeys seen_;
  std::optional<HeadSpan> span_;
  const LinkDropout dropout_;
  const uint8_t* blocks_ = nullptr;
  const uint8_t* mask_ = nullptr;
  const Number* bias_ = nullptr;
  const Number* distances_ = nullptr;
};

template <class T>
double sink_of(const AttentionProblem& p, const AttentionLinks& links, int64_t head) {
  return p.sink ? number(static_cast<const LseType<T>*>(links.sinks)[head]) : -INFINITY;
}

// A factor of the scores of a head.
template <class T>
double temperature_of(const AttentionProblem& p, const AttentionLinks& links, int64_t head) {
  return p.temperature ? number(static_cast<const LseType<T>*>(links.temperatures)[head]) : 1.0;
}

// What Transformer-XL's relative term adds to the queries of one head and to their scores.
template <class T>
class Relative {
 public:
  using Number = LseType<T>;

  Relative(const AttentionProblem& p, const AttentionLinks& links, int64_t h)
      : p_(p), first_(h / (p.heads / p.kv_heads) * (p.tq + p.tk - 1) * p.head_dim) {
    const auto of_head = [&](const void* base) {
      return static_cast<const Number*>(base) + h * p.head_dim;
    };
    if (p.relative_keys) keys_ = static_cast<const Number*>(links.relative_keys);
    if (p.content_bias) content_ = of_head(links.content_biases);
    if (p.position_bias) position_ = of_head(links.position_biases);
  }

  explicit operator bool() const { return keys_ != nullptr; }
  double content(int64_t d) const { return content_ ? number(content_[d]) : 0.0; }
  double position(int64_t d) const { return position_ ? number(position_[d]) : 0.0; }
  // Where coordinate 0 of the relative key of link (i, j) stands.
  int64_t at(int64_t i, int64_t j) const { return first_ + (j - i + p_.tq - 1) * p_.head_dim; }
  // (q + u) . k + (q + v) . r; q, k: rows in double.
  double product(const double* q, const double* k, int64_t i, int64_t j) const {
    if (!keys_) return dot(q, k, p_.head_dim);
    const Number* r = keys_ + at(i, j);
    double sum = 0;
    for (int64_t d = 0; d < p_.head_dim; ++d)
      sum += (q[d] + content(d)) * k[d] + (q[d] + position(d)) * number(r[d]);
    return sum;
  }
  double key(int64_t i, int64_t j, int64_t d) const { return number(keys_[at(i, j) + d]); }

 private:
  const AttentionProblem& p_;
  const int64_t first_;
  const Number* keys_ = nullptr;
  const Number* content_ = nullptr;
  const Number* position_ = nullptr;
};

// Row (b, t, h) in double.
template <class T>
void widen_row(const T* from, int64_t n, double* to) {
  for (int64_t d = 0; d < n; ++d) to[d] = number(from[d]);
}

template <class T>
class RefForward final : public KernelPlan<AttentionArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefForward(const AttentionProblem& problem)
      : p_(problem), rotary_(problem), change_(p_, rotary_) {
    const int64_t rows = by_softmax(p_) ? (p_.want_mass ? 2 : 1) : RefNormaliser::kRows;
    worker_scratch_bytes =
        static_cast<size_t>(rows * p_.tk + 2 * (p_.head_dim + p_.value_dim)) * sizeof(double);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    context.pool->parallel_for(p_.batch * p_.heads, [&](int64_t block, int worker) {
      const int64_t b = block / p_.heads, h = block % p_.heads;
      double* mass = context.worker<double>(worker) + p_.tk + 2 * (p_.head_dim + p_.value_dim);
      if (p_.want_mass) std::fill_n(mass, p_.tk, 0.0);
      for (int64_t i = 0; i < p_.tq; ++i) query(args, b, h, i, context.worker<double>(worker));
      for (int64_t j = 0; p_.want_mass && j < p_.tk; ++j)
        static_cast<Lse*>(args.mass)[(b * p_.heads + h) * p_.tk + j] = static_cast<Lse>(mass[j]);
    });
  }

 private:
  void query(const AttentionArgs& args, int64_t b, int64_t h, int64_t i, double* scratch) const {
    const int64_t g = h / (p_.heads / p_.kv_heads);
    const T* q = row(static_cast<const T*>(args.q), p_.q, b, i, h);
    const DType type = p_.kv_dtype.value_or(p_.dtype);
    const CacheRows k = cached_keys(p_, args), v = cached_values(p_, args);
    T* out = row(static_cast<T*>(args.out), p_.out, b, i, h);
    Lse* lse = p_.want_lse && args.lse
                   ? static_cast<Lse*>(args.lse) + (b * p_.heads + h) * p_.tq + i
                   : nullptr;
    std::fill_n(out, p_.value_dim, rounded<T>(0));
    if (lse) *lse = 0;
    Lse* entropy = p_.want_entropy
                       ? static_cast<Lse*>(args.entropy) + (b * p_.heads + h) * p_.tq + i
                       : nullptr;
    if (entropy) *entropy = 0;
    clear_top(args, b, h, i);
    if (h >= p_.heads_kept) return;
    const Links<T> links(p_, args.links, b, h, i);
    const double sink = sink_of<T>(p_, args.links, h);
    double* sum_v = scratch;
    double* q_row = sum_v + p_.value_dim;
    double* kv = q_row + p_.head_dim;  // a row of k or v
    double* score = kv + p_.head_dim + p_.value_dim;
    std::optional<RefNormaliser> other;
    if (!by_softmax(p_)) other.emplace(p_, score);
    widen_row(q, p_.head_dim, q_row);
    change_.apply(q_row, first_query_position(p_) + i);
    const double scale = p_.scale * temperature_of<T>(p_, args.links, h);
    const Relative<T> relative(p_, args.links, h);
    double max = sink;
    bool nan = false;
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (!links.sees(j)) continue;
      read_row(k, type, b, j, g, p_.head_dim, kv);
      change_.apply(kv, first_key_position(p_) + j);
      double slope;
      score[j] = links.capped(scale * relative.product(q_row, kv, i, j), slope) + links.added(j);
      max = std::max(max, score[j]);
      nan = nan || std::isnan(score[j]);
    }
    if (max == -INFINITY && !nan) {
      if (lse && !other) *lse = -INFINITY;
      return;
    }
    std::fill_n(sum_v, p_.value_dim, 0.0);
    double sum = other ? 1 : std::exp(sink - max);
    double surprise = sum > 0 && !other ? sum * (sink - max) : 0;  // sum of e log e
    if (other) other->forward(args.links.rng, b, h, i, sink);
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (!links.sees(j)) continue;
      const double e = other ? other->weight[j] : std::exp(score[j] - max);
      if (other && e == 0) continue;
      read_row(v, type, b, j, g, p_.value_dim, kv);
      if (!other) sum += e;
      if (!other && (e > 0 || std::isnan(e))) surprise += e * (score[j] - max);
      const double weight = e * links.kept(j);
      for (int64_t d = 0; d < p_.value_dim; ++d) sum_v[d] += weight * kv[d];
    }
    for (int64_t d = 0; d < p_.value_dim; ++d) out[d] = rounded<T>(sum_v[d] / sum);
    if (other) return;
    if (lse) *lse = static_cast<Lse>(max + std::log(sum));
    if (entropy) *entropy = static_cast<Lse>(std::log(sum) - surprise / sum);
    if (!p_.want_mass && p_.top_links == 0) return;
    double* mass = score + p_.tk;
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (!links.sees(j)) continue;
      const double probability = std::exp(score[j] - max) / sum;
      if (p_.want_mass) mass[j] += probability;
      insert_top(args, b, h, i, j, static_cast<Lse>(probability));
    }
  }

  void clear_top(const AttentionArgs& args, int64_t b, int64_t h, int64_t i) const {
    const int64_t at = ((b * p_.heads + h) * p_.tq + i) * p_.top_links;
    if (p_.top_links == 0) return;
    std::fill_n(args.top_keys + at, p_.top_links, -1);
    std::fill_n(static_cast<Lse*>(args.top_probabilities) + at, p_.top_links, Lse(0));
  }
  void insert_top(const AttentionArgs& args, int64_t b, int64_t h, int64_t i, int64_t key,
                  Lse probability) const {
    const int64_t first = ((b * p_.heads + h) * p_.tq + i) * p_.top_links;
    Lse* probabilities = static_cast<Lse*>(args.top_probabilities) + first;
    int32_t* keys = args.top_keys + first;
    int64_t at = p_.top_links;
    for (; at > 0 && probabilities[at - 1] < probability; --at) {
      if (at == p_.top_links) continue;
      probabilities[at] = probabilities[at - 1];
      keys[at] = keys[at - 1];
    }
    if (at == p_.top_links) return;
    probabilities[at] = probability;
    keys[at] = static_cast<int32_t>(key);
  }

  AttentionProblem p_;
  RotaryTable<double> rotary_;
  RowChange change_;
};

// With P = exp(S - lse), dP = M * (dO V^T) for what dropout multiplies P by, and
// delta = rowsum(dO * O):
//   dS = P * (dP - delta), dQ = scale dS K, dK = scale dS^T Q, dV = (M * P)^T dO.
// Another normaliser makes P from S again, and dS from dP.
template <class T>
class RefBackward final : public KernelPlan<AttentionBackwardArgs> {
 public:
  using Lse = LseType<T>;

  explicit RefBackward(const AttentionProblem& problem)
      : p_(problem), rotary_(problem), change_(p_, rotary_) {
    worker_scratch_bytes =
        static_cast<size_t>((2 * p_.tk + 3) * p_.head_dim + p_.tk * p_.value_dim +
                            (by_softmax(p_) ? 0 : RefNormaliser::kRows * p_.tk)) *
        sizeof(double);
  }

  void run(const AttentionBackwardArgs& wanted,
           const KernelContext& context) const noexcept override {
    FOVEA_ASSERT(wanted.lse != nullptr || !by_softmax(p_));
    const AttentionBackwardArgs args = named(p_, wanted);
    zero_shared(args);
    // What several heads add to is summed up by one task.
    const bool shared = args.dbias || args.ddistance_bias || args.dsinks || args.dtemperatures ||
                        args.dspans || p_.relative_keys;
    const int64_t heads = p_.batch * p_.kv_heads, each = shared ? heads : 1;
    context.pool->parallel_for(heads / each, [&](int64_t task, int worker) {
      for (int64_t n = task * each; n < (task + 1) * each; ++n)
        head(args, n / p_.kv_heads, n % p_.kv_heads, context.worker<double>(worker));
    });
  }

 private:
  void zero_shared(const AttentionBackwardArgs& args) const {
    if (args.dsinks) std::fill_n(static_cast<Lse*>(args.dsinks), p_.heads, Lse(0));
    if (args.dtemperatures) std::fill_n(static_cast<Lse*>(args.dtemperatures), p_.heads, Lse(0));
    const int64_t keys = p_.kv_heads * (p_.tq + p_.tk - 1);
    const std::pair<void*, int64_t> rows_of[] = {{args.drelative_keys, keys},
                                                 {args.dcontent_biases, p_.heads},
                                                 {args.dposition_biases, p_.heads}};
    for (const auto& [to, rows] : rows_of)
      if (to) std::fill_n(static_cast<Lse*>(to), rows * p_.head_dim, Lse(0));
    if (args.dspans) std::fill_n(static_cast<Lse*>(args.dspans), p_.heads, Lse(0));
    if (args.ddistance_bias)
      std::fill_n(static_cast<Lse*>(args.ddistance_bias), p_.heads * (p_.tq + p_.tk - 1), Lse(0));
    if (!args.dbias) return;
    for (int64_t n = 0; n < p_.batch * p_.heads * p_.tq; ++n)
      std::fill_n(links_row(static_cast<Lse*>(args.dbias), p_.bias_plane, n / p_.tq / p_.heads,
                            n / p_.tq % p_.heads, n % p_.tq),
                  p_.tk, Lse(0));
  }

  void head(const AttentionBackwardArgs& args, int64_t b, int64_t g, double* scratch) const {
    const Rows x{.dq = scratch,
                 .q = scratch + p_.head_dim,
                 .given = scratch + 2 * p_.head_dim,
                 .k = scratch + 3 * p_.head_dim,
                 .dk = scratch + (3 + p_.tk) * p_.head_dim,
                 .dv = scratch + (3 + 2 * p_.tk) * p_.head_dim};
    std::fill_n(x.dk, p_.tk * (p_.head_dim + p_.value_dim), 0.0);
    for (int64_t j = 0; j < p_.tk; ++j) {
      widen_row(row(static_cast<const T*>(args.k), p_.k, b, j, g), p_.head_dim,
                x.k + j * p_.head_dim);
      change_.apply(x.k + j * p_.head_dim, first_key_position(p_) + j);
    }
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      for (int64_t i = 0; i < p_.tq; ++i) {
        std::fill_n(x.dq, p_.head_dim, 0.0);
        if (h < p_.heads_kept) query(args, b, h, g, i, x);
        T* to = row(static_cast<T*>(args.dq), p_.dq, b, i, h);
        for (int64_t d = 0; d < p_.head_dim; ++d) to[d] = rounded<T>(x.dq[d]);
      }
    }
    const int64_t length = key_length(p_, args.links.key_lengths, b);
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (j < length) {  // rows beyond it may hold anything
        widen_row(row(static_cast<const T*>(args.k), p_.k, b, j, g), p_.head_dim, x.given);
        change_.undo(x.dk + j * p_.head_dim, x.given, first_key_position(p_) + j);
      }
      T* to_k = row(static_cast<T*>(args.dk), p_.dk, b, j, g);
      T* to_v = row(static_cast<T*>(args.dv), p_.dv, b, j, g);
      for (int64_t d = 0; d < p_.head_dim; ++d) to_k[d] = rounded<T>(x.dk[j * p_.head_dim + d]);
      for (int64_t d = 0; d < p_.value_dim; ++d) to_v[d] = rounded<T>(x.dv[j * p_.value_dim + d]);
    }
  }

  // Of one head, in double; q and k as they go into the products.
  struct Rows {
    double *dq, *q, *given;  // of one query
    double *k, *dk, *dv;     // of all keys
  };

  void query(const AttentionBackwardArgs& args, int64_t b, int64_t h, int64_t g, int64_t i,
             const Rows& x) const {
    const T* out = row(static_cast<const T*>(args.out), p_.out, b, i, h);
    const T* dout = row(static_cast<const T*>(args.dout), p_.dout, b, i, h);
    const bool softmax = by_softmax(p_);
    const double lse =
        softmax ? number(static_cast<const Lse*>(args.lse)[(b * p_.heads + h) * p_.tq + i]) : 0;
    if (lse == -INFINITY) return;  // nothing is seen
    const double delta = dot(dout, out, p_.value_dim);
    widen_row(row(static_cast<const T*>(args.q), p_.q, b, i, h), p_.head_dim, x.given);
    std::copy_n(x.given, p_.head_dim, x.q);
    change_.apply(x.q, first_query_position(p_) + i);
    const double temperature = temperature_of<T>(p_, args.links, h);
    double dtemperature = 0;
    const Relative<T> relative(p_, args.links, h);
    const Links<T> links(p_, args.links, b, h, i);
    const auto score_of = [&](int64_t j, double& product, double& slope) {
      product = p_.scale * relative.product(x.q, x.k + j * p_.head_dim, i, j);
      return links.capped(temperature * product, slope) + links.added(j);
    };
    const auto dprob_of = [&](int64_t j) {
      return dot(dout, row(static_cast<const T*>(args.v), p_.v, b, j, g), p_.value_dim);
    };
    std::optional<RefNormaliser> other;
    if (!softmax) {
      other.emplace(p_, x.dv + p_.tk * p_.value_dim);
      for (int64_t j = 0; j < p_.tk; ++j) {
        double product, slope;
        other->dweight[j] = 0;
        if (!links.sees(j)) continue;
        other->score[j] = score_of(j, product, slope);
        other->dweight[j] = dprob_of(j);
      }
      const double sink = sink_of<T>(p_, args.links, h);
      other->forward(args.links.rng, b, h, i, sink);
      const double dsink = other->backward(sink);
      if (args.dsinks) static_cast<Lse*>(args.dsinks)[h] += static_cast<Lse>(dsink);
    }
    Lse* dbias =
        args.dbias ? links_row(static_cast<Lse*>(args.dbias), p_.bias_plane, b, h, i) : nullptr;
    for (int64_t j = 0; j < p_.tk; ++j) {
      if (!links.sees(j)) continue;
      const double* k = x.k + j * p_.head_dim;
      double slope, product;
      const double score = score_of(j, product, slope);
      const double kept = links.kept(j);
      const double prob = other ? other->weight[j] : std::exp(score - lse);
      const double dscore = other ? other->dweight[j] : prob * (kept * dprob_of(j) - delta);
      if (prob == 0 && dscore == 0) continue;
      if (dbias) dbias[j] += static_cast<Lse>(dscore);
      if (args.ddistance_bias)
        static_cast<Lse*>(args.ddistance_bias)[links.distance_at(j)] += static_cast<Lse>(dscore);
      if (args.dspans)
        static_cast<Lse*>(args.dspans)[h] += static_cast<Lse>(dscore * links.span_slope(j));
      dtemperature += product * slope * dscore;
      const double ds = temperature * p_.scale * slope * dscore;
      double* dkj = x.dk + j * p_.head_dim;
      double* dvj = x.dv + j * p_.value_dim;
      for (int64_t d = 0; d < p_.head_dim; ++d) {
        x.dq[d] += ds * k[d];
        dkj[d] += ds * (x.q[d] + relative.content(d));
      }
      if (relative) add_relative(args, relative, x, h, i, j, ds);
      for (int64_t d = 0; d < p_.value_dim; ++d) dvj[d] += kept * prob * number(dout[d]);
    }
    change_.undo(x.dq, x.given, first_query_position(p_) + i);
    if (args.dtemperatures)
      static_cast<Lse*>(args.dtemperatures)[h] += static_cast<Lse>(dtemperature);
    // The sink's value is 0, so that dP is.
    if (args.dsinks && !other)
      static_cast<Lse*>(args.dsinks)[h] -=
          static_cast<Lse>(std::exp(sink_of<T>(p_, args.links, h) - lse) * delta);
  }

  // ds: the gradient of the product of the link.
  void add_relative(const AttentionBackwardArgs& args, const Relative<T>& relative, const Rows& x,
                    int64_t h, int64_t i, int64_t j, double ds) const {
    const auto add = [](void* to, int64_t at, double value) {
      if (to) static_cast<Lse*>(to)[at] += static_cast<Lse>(value);
    };
    for (int64_t d = 0; d < p_.head_dim; ++d) {
      const double r = relative.key(i, j, d);
      x.dq[d] += ds * r;
      add(args.drelative_keys, relative.at(i, j) + d, ds * (x.q[d] + relative.position(d)));
      add(args.dcontent_biases, h * p_.head_dim + d, ds * x.k[j * p_.head_dim + d]);
      add(args.dposition_biases, h * p_.head_dim + d, ds * r);
    }
  }

  AttentionProblem p_;
  RotaryTable<double> rotary_;
  RowChange change_;
};

}  // namespace

std::unique_ptr<KernelPlan<AttentionArgs>> plan_ref(const AttentionProblem& problem) {
  check(problem, false);
  if (problem.dtype == DType::f32) return std::make_unique<RefForward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefForward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefForward<bf16>>(problem);
  return nullptr;
}

std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_ref(
    const AttentionProblem& problem) {
  check(problem, true);
  if (problem.dtype == DType::f32) return std::make_unique<RefBackward<float>>(problem);
  if (problem.dtype == DType::f64) return std::make_unique<RefBackward<double>>(problem);
  if (problem.dtype == DType::bf16) return std::make_unique<RefBackward<bf16>>(problem);
  return nullptr;
}

}  // namespace fovea::attention_detail
