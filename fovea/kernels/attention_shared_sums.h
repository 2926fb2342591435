// Gradients that several heads or samples of attention add to: who waits for whom, what is set to 0
// first, and how what each left is summed up. The same order of sums for any number of threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

// Those that add to the same part of a gradient of biases or relative keys work one after another:
// `samples` samples by `groups` key/value heads are one chain.
class GradientChains {
 public:
  GradientChains(const AttentionProblem& p, const AttentionBackwardArgs& args)
      : samples(p.relative_keys || shared_bias(p, args) ? p.batch : 1),
        groups(args.dbias && p.bias_plane.head == 0 ? p.kv_heads : 1),
        count(p.batch / samples * (p.kv_heads / groups)),
        p_(p),
        args_(args) {}

  int64_t first_sample(int64_t chain) const { return chain / (p_.kv_heads / groups) * samples; }
  int64_t first_kv_head(int64_t chain) const { return chain % (p_.kv_heads / groups) * groups; }

  // Zeros in the part of the bias's gradient that the chain adds to.
  void zero_bias(int64_t chain) const {
    if (!args_.dbias) return;
    const AttentionPlane& s = p_.bias_plane;
    const int64_t group = p_.heads / p_.kv_heads, head = first_kv_head(chain) * group;
    for (int64_t b = 0; b < (shared_bias(p_, args_) ? 1 : samples); ++b)
      for (int64_t h = 0; h < (s.head == 0 ? 1 : group); ++h)
        for (int64_t i = 0; i < (s.query == 0 ? 1 : p_.tq); ++i)
          std::fill_n(
              links_row(static_cast<float*>(args_.dbias), s, first_sample(chain) + b, head + h, i),
              p_.tk, 0.0f);
  }

  const int64_t samples, groups, count;

 private:
  static bool shared_bias(const AttentionProblem& p, const AttentionBackwardArgs& args) {
    return args.dbias && p.bias_plane.batch == 0;
  }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
};

// to [tq + tk - 1]: the sums over samples of a head's gradients by distance, which lie reversed, in
// distance_row() numbers for each head of each sample; from: those of the first sample.
inline void add_distances(const AttentionProblem& p, const float* from, float* to) {
  const int64_t count = p.tq + p.tk - 1, sample = p.heads * distance_row(p);
  for (int64_t n = 0; n < count; ++n) {
    double sum = 0;
    for (int64_t b = 0; b < p.batch; ++b) sum += from[b * sample + count - 1 - n];
    to[n] = static_cast<float>(sum);
  }
}

// to[head]: the sum over samples of sums [batch, heads].
inline void add_samples(const AttentionProblem& p, const double* sums, int64_t head, void* to) {
  double sum = 0;
  for (int64_t b = 0; b < p.batch; ++b) sum += sums[b * p.heads + head];
  static_cast<float*>(to)[head] = static_cast<float>(sum);
}

// What a kernel gets for one key/value head of one sample.
struct HeadBackwardTask {
  const AttentionProblem& problem;
  const AttentionBackwardArgs& args;  // named()
  const float* distances;             // biases of all heads, reversed
  float* distance_sums;               // their gradients, of each head of each sample
  double* sink_sums;                  // gradients of sinks, likewise
  double* temperature_sums;           // of temperatures
  const RotaryTable<float>& rotary;
  int64_t batch, kv_head;
};

// Writes what is added to the scores of a head by distance, as head_distances() does.
using DistancesFunction = void (*)(const AttentionProblem&, const AttentionLinks&, int64_t head,
                                   float* to);

// The sweep over all heads of all samples, and the sums of what each leaves in a plan's scratch.
class SharedSums {
 public:
  SharedSums(const AttentionProblem& p, std::byte* scratch)
      : p_(p),
        row_(has_distances(p) ? distance_row(p) : 0),
        distances_(reinterpret_cast<float*>(scratch)),
        distance_sums_(distances_ + p.heads * row_),
        sink_sums_(reinterpret_cast<double*>(distance_sums_ + p.batch * p.heads * row_)),
        temperature_sums_(sink_sums_ + (p.sink ? p.batch * p.heads : 0)) {}

  // Of the scratch, in whole vectors.
  static size_t bytes(const AttentionProblem& p) {
    const int64_t floats = has_distances(p) ? p.heads * (1 + p.batch) * distance_row(p) : 0;
    const int64_t doubles = (p.sink + p.temperature) * p.batch * p.heads;
    return static_cast<size_t>(padded(floats + 2 * doubles)) * sizeof(float);
  }

  // run_head(task, worker) for every key/value head of every sample.
  template <class RunHead>
  void sweep(const AttentionBackwardArgs& args, const RotaryTable<float>& rotary,
             DistancesFunction distances, const KernelContext& context,
             const RunHead& run_head) const {
    if (row_ > 0) {
      context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
        distances(p_, args.links, head, distances_ + head * row_);
      });
    }
    const GradientChains chains(p_, args);
    context.pool->parallel_for(chains.count, [&](int64_t chain, int worker) {
      chains.zero_bias(chain);
      for (int64_t n = 0; n < chains.samples * chains.groups; ++n) {
        const HeadBackwardTask task{.problem = p_,
                                    .args = args,
                                    .distances = distances_,
                                    .distance_sums = distance_sums_,
                                    .sink_sums = sink_sums_,
                                    .temperature_sums = temperature_sums_,
                                    .rotary = rotary,
                                    .batch = chains.first_sample(chain) + n / chains.groups,
                                    .kv_head = chains.first_kv_head(chain) + n % chains.groups};
        run_head(task, context.worker<float>(worker));
      }
    });
  }

  // Gradients of distance biases, sinks and temperatures, after the sweep.
  void write(const AttentionBackwardArgs& args, const KernelContext& context) const {
    if (!args.ddistance_bias && !args.dsinks && !args.dtemperatures) return;
    context.pool->parallel_for(p_.heads, [&](int64_t head, int) {
      if (args.ddistance_bias)
        add_distances(p_, of_head(head),
                      static_cast<float*>(args.ddistance_bias) + head * (p_.tq + p_.tk - 1));
      if (args.dsinks) add_samples(p_, sink_sums_, head, args.dsinks);
      if (args.dtemperatures) add_samples(p_, temperature_sums_, head, args.dtemperatures);
    });
  }

  // The gradients by distance of a head in the first sample, as add_distances() takes them.
  const float* of_head(int64_t head) const { return distance_sums_ + head * row_; }

 private:
  const AttentionProblem& p_;
  const int64_t row_;  // of distances
  float* const distances_;
  float* const distance_sums_;
  double* const sink_sums_;
  double* const temperature_sums_;
};

}  // namespace fovea::attention_detail
