// What stands between the scores of one query and their powers, over a block of keys in their
// order: the cap, biases, and what masks hide. For the kernels of decoding (attention_decode.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

// Scores are powers of two.
constexpr float kDecodeLog2E = 1.4426950408889634f;

// Whether scores are changed by more than a range of keys that is seen.
inline bool has_decode_links(const AttentionProblem& p) {
  return has_gaps(p) || p.mask || p.block > 0 || p.bias || p.distance_bias || p.soft_cap > 0;
}

// Scores of keys that are not in `seen` become -infinity: of `keys` keys from `first` on, and of
// what stands behind them up to whole vectors. Gives whether there were any.
inline bool mask_decode_row(const KeyRange& seen, int64_t first, int64_t keys, float* scores) {
  if (keys == padded(keys) && seen.begin <= first && seen.end >= first + keys) return false;
  const int64_t begin = std::clamp<int64_t>(seen.begin - first, 0, keys);
  const int64_t end = std::clamp<int64_t>(seen.end - first, begin, keys);
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  std::fill(scores, scores + begin, kNothing);
  std::fill(scores + end, scores + padded(keys), kNothing);
  return true;
}

// Of one query of one head.
class DecodeLinks {
 public:
  DecodeLinks(const AttentionProblem& p, const AttentionLinks& links, int64_t batch, int64_t head,
              int64_t query)
      : p_(p), seen_(Seen(p, links, batch, head).of(query)) {
    if (p.mask) mask_ = links_row(links.mask, p.mask_plane, batch, head, query);
    if (p.block > 0) blocks_ = block_row(p, links, batch, head, query);
    if (p.bias)
      bias_ = links_row(static_cast<const float*>(links.bias), p.bias_plane, batch, head, query);
    if (p.distance_bias)
      distances_ = static_cast<const float*>(links.distance_bias) + head * (p.tq + p.tk - 1) +
                   p.tq - 1 - query;
  }

  // Of `keys` keys from `first` on. cap(scores, keys, by) is scores = by tanh(scores / by).
  template <class Cap>
  void apply(int64_t first, int64_t keys, float* scores, const Cap& cap) const {
    if (p_.soft_cap > 0) cap(scores, keys, static_cast<float>(p_.soft_cap) * kDecodeLog2E);
    if (distances_) add(distances_ + first, keys, scores);
    if (bias_) add(bias_ + first, keys, scores);
    constexpr float kNothing = -std::numeric_limits<float>::infinity();
    if (mask_)
      for (int64_t j = 0; j < keys; ++j) scores[j] = mask_[first + j] != 0 ? scores[j] : kNothing;
    if (has_gaps(p_))
      for (int64_t j = 0; j < keys; ++j)
        scores[j] = seen_.sees(p_, first + j) ? scores[j] : kNothing;
    if (!blocks_) return;
    for (int64_t j = 0; j < keys;) {
      const int64_t block = (first + j) / p_.block;
      const int64_t end = std::min(keys, (block + 1) * p_.block - first);
      if (blocks_[block] == 0) std::fill(scores + j, scores + end, kNothing);
      j = end;
    }
  }

  // Whether some of these keys may be seen; masks of single links are not looked at.
  bool touches(KeyRange keys) const {
    const KeyRange inside = both(seen_.hard, keys);
    if (both(inside, seen_.near).empty() && both(inside, {0, seen_.low_end}).empty()) return false;
    if (!blocks_) return true;
    for (int64_t block = inside.begin / p_.block; block * p_.block < inside.end; ++block)
      if (blocks_[block] != 0) return true;
    return false;
  }

 private:
  static void add(const float* from, int64_t keys, float* scores) {
    for (int64_t j = 0; j < keys; ++j) scores[j] += from[j] * kDecodeLog2E;
  }

  const AttentionProblem& p_;
  const SeenKeys seen_;
  const uint8_t* mask_ = nullptr;
  const uint8_t* blocks_ = nullptr;
  const float* bias_ = nullptr;
  const float* distances_ = nullptr;
};

}  // namespace fovea::attention_detail
