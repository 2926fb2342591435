// Which links of attention dropout drops: link (b, h, i, j) is element
// (((first_sample + b) heads + h) tq + i) tk + j of the op dropout (kernels/dropout.h), so that
// its bit depends on nothing but its place, and dropout of a whole array of probabilities has the
// same bits. Shared by the attention kernels, not for callers.
#pragma once

#include <cstdint>

#include "fovea/base/philox.h"
#include "fovea/kernels/attention.h"
#include "fovea/kernels/dropout.h"

namespace fovea::attention_detail {

// Of one head of one sample.
struct LinkDropout {
  LinkDropout(const AttentionProblem& p, const AttentionLinks& links, int64_t batch, int64_t head)
      : tk(p.tk), stream(p.stream) {
    if (p.dropout == 0) return;
    any = true;
    threshold = dropout_threshold(p.dropout);
    key0 = static_cast<uint32_t>(links.rng[0]);
    key1 = static_cast<uint32_t>(links.rng[1]);
    element = static_cast<uint64_t>(((links.rng[2] + batch) * p.heads + head) * p.tq * p.tk);
  }

  uint64_t element_of(int64_t query, int64_t key) const {
    return element + static_cast<uint64_t>(query * tk + key);
  }
  bool keeps(int64_t query, int64_t key) const {
    if (!any) return true;
    const uint64_t e = element_of(query, key);
    const Philox4 block =
        philox4x32({static_cast<uint32_t>(e / 4), static_cast<uint32_t>(e / 4 >> 32),
                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                   key0, key1);
    return static_cast<int32_t>(block[e % 4] >> 8) >= threshold;
  }

  bool any = false;
  int64_t tk;
  uint64_t stream;
  uint64_t element = 0;  // of link (0, 0)
  uint32_t key0 = 0, key1 = 0;
  int32_t threshold = 0;
};

// What the probabilities that are kept are multiplied by.
inline double kept_factor(const AttentionProblem& p) { return 1 / (1 - p.dropout); }

// Rows of 32-bit words, one a query, that hold a bit for each of so many keys, and one more.
constexpr int64_t word_rows(int64_t keys) { return (keys + 31) / 32 + 1; }

}  // namespace fovea::attention_detail
