// Which keys a query sees by its position, length and document, and the blocks of keys that a run
// of queries touches; shared by the attention kernels, not for callers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "fovea/kernels/attention.h"

namespace fovea::attention_detail {

// [begin, end), empty if end <= begin.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool empty() const { return end <= begin; }
};
inline KeyRange both(KeyRange a, KeyRange b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

inline int64_t key_length(const AttentionProblem& p, const int32_t* lengths, int64_t batch) {
  return lengths ? std::clamp<int64_t>(lengths[batch], 0, p.tk) : p.tk;
}

// The keys that one query sees: those in `hard` that are in `near` or below `low_end`. In `near`
// only every dilation-th counts from the query's own position. The ends of both ranges grow with
// the query; low_end does from one global query to the next, and among the others.
struct SeenKeys {
  KeyRange hard;        // by length, document and span
  KeyRange near;        // by causal mask and window
  int64_t low_end = 0;  // by prefix and global tokens
  int64_t position = 0;

  bool sees(const AttentionProblem& p, int64_t key) const {
    if (key < hard.begin || key >= hard.end) return false;
    if (key < low_end) return true;
    return key >= near.begin && key < near.end && (position - key) % p.dilation == 0;
  }
};

// The span of a head with its ramp: what it makes of exp(score) by the distance of query and key.
struct HeadSpan {
  HeadSpan(const AttentionProblem& p, const AttentionLinks& links, int64_t head)
      : ramp(p.span_ramp),
        span(p.dtype == DType::f64
                 ? static_cast<const double*>(links.spans)[head]
                 : static_cast<double>(static_cast<const float*>(links.spans)[head])) {}

  double logarithm(int64_t distance) const {
    const double left = span + ramp - static_cast<double>(distance);
    return left >= ramp ? 0.0 : left <= 0 ? -HUGE_VAL : std::log(left / ramp);
  }
  // Its derivative by the span.
  double slope(int64_t distance) const {
    const double left = span + ramp - static_cast<double>(distance);
    return left > 0 && left < ramp ? 1 / left : 0.0;
  }
  // The largest distance that is seen; -1: none. Not a number: what it makes of scores shows it.
  int64_t reach(int64_t most) const {
    const double end = span + ramp;
    if (!(end <= static_cast<double>(most))) return most;
    return end > 0 ? static_cast<int64_t>(std::ceil(end)) - 1 : -1;
  }

  double ramp, span;
};

// Of one row of the batch, and with spans of one head.
class Seen {
 public:
  Seen(const AttentionProblem& p, const AttentionLinks& links, int64_t batch, int64_t head = 0)
      : p_(p),
        reach_(p.span ? HeadSpan(p, links, head).reach(p.tq + p.tk) : p.tq + p.tk),
        length_(key_length(p, links.key_lengths, batch)),
        starts_(p.documents > 0 ? links.document_starts + batch * (p.documents + 1) : nullptr) {}

  int64_t length() const { return length_; }

  SeenKeys of(int64_t query) const {
    SeenKeys s;
    s.position = query + (p_.align == AttentionAlign::lower_right ? p_.tk - p_.tq : 0);
    s.hard = {0, length_};
    if (starts_) s.hard = both(s.hard, document(query));
    if (p_.span) s.hard = both(s.hard, {s.position - reach_, s.position + reach_ + 1});
    const int64_t causal_end = p_.causal ? std::max<int64_t>(0, s.position + 1) : p_.tk;
    const bool global = p_.global_tokens > 0 && s.position < p_.global_tokens;
    s.low_end = global ? causal_end : std::min(p_.global_tokens, causal_end);
    s.low_end = std::max(s.low_end, p_.prefix);
    s.near = {0, causal_end};
    if (p_.window_left >= 0)
      s.near.begin = std::clamp<int64_t>(s.position - p_.window_left, 0, p_.tk);
    if (p_.window_right >= 0 && p_.window_right < p_.tk - s.position)
      s.near.end = std::min(s.near.end, std::max<int64_t>(0, s.position + p_.window_right + 1));
    return s;
  }

 private:
  KeyRange document(int64_t token) const {
    // The last document that begins at the token or before it.
    const int32_t* end = starts_ + p_.documents + 1;
    const int32_t* next = std::upper_bound(starts_, end, token);
    return {next == starts_ ? 0 : next[-1], next == end ? p_.tk : *next};
  }

  const AttentionProblem& p_;
  const int64_t reach_;  // of the head's span
  const int64_t length_;
  const int32_t* const starts_;
};

// Numbers that say which keys one query sees, where there are gaps.
constexpr int64_t kLaneRows = 6;

// Whether a query's keys are more than one range without gaps.
inline bool has_gaps(const AttentionProblem& p) {
  return p.dilation > 1 || p.global_tokens > 0 || p.prefix > 0;
}
// Whether every query sees every key up to the length.
inline bool sees_all(const AttentionProblem& p) {
  return !p.causal && p.window_left < 0 && p.window_right < 0 && p.documents == 0 && !p.span;
}

// The keys that some of the queries from the first to the last see, and those that all of them do.
struct TouchedKeys {
  KeyRange low, high;  // together; low lies below high, and either may be empty
  KeyRange full_low, full_high;

  TouchedKeys() = default;
  TouchedKeys(const AttentionProblem& p, const SeenKeys& first, const SeenKeys& last) {
    const KeyRange some{first.hard.begin, last.hard.end}, all{last.hard.begin, first.hard.end};
    low = both({0, std::max(first.low_end, last.low_end)}, some);
    high = both({first.near.begin, last.near.end}, some);
    if (!low.empty() && !high.empty() && high.begin < low.end) {
      high = {std::min(low.begin, high.begin), std::max(low.end, high.end)};
      low = {};
    }
    full_low = both({0, std::min(first.low_end, last.low_end)}, all);
    if (p.dilation == 1) full_high = both({last.near.begin, first.near.end}, all);
  }

  bool full(int64_t key, int64_t count) const {
    const auto inside = [&](KeyRange r) { return key >= r.begin && key + count <= r.end; };
    return inside(full_high) || inside(full_low);
  }
};

// Element (b, h, i, 0) of an array over links.
template <class T>
T* links_row(T* base, const AttentionPlane& s, int64_t batch, int64_t head, int64_t query) {
  return base + batch * s.batch + head * s.head + query * s.query;
}
// What the block of the query sees of the blocks of keys, one byte each.
inline const uint8_t* block_row(const AttentionProblem& p, const AttentionLinks& links,
                                int64_t batch, int64_t head, int64_t query) {
  return links_row(links.blocks, p.block_plane, batch, head, query / p.block);
}

// Calls use(keys) for the runs of neighbouring blocks that a row of them leaves of the keys.
template <class Use>
void each_run(const AttentionProblem& p, const uint8_t* blocks, KeyRange keys, const Use& use) {
  const int64_t count = (keys.end + p.block - 1) / p.block;
  for (int64_t c = keys.begin / p.block; c < count; ++c) {
    if (blocks[c] == 0) continue;
    const int64_t first = c;
    while (c + 1 < count && blocks[c + 1] != 0) ++c;
    use(both(keys, {first * p.block, (c + 1) * p.block}));
  }
}

// Whether something is added to scores by distance.
inline bool has_distances(const AttentionProblem& p) { return p.distance_bias || p.span; }
// |p - j| of element n of the distance biases as the kernels keep them, by i - j + tk - 1.
inline int64_t distance_of(const AttentionProblem& p, int64_t n) {
  const int64_t behind =
      n - (p.tk - 1) + (p.align == AttentionAlign::lower_right ? p.tk - p.tq : 0);
  return behind < 0 ? -behind : behind;
}
// From the distance biases of one head to those of the next where they lie in scratch: whole
// vectors may be read beyond the last one.
inline int64_t distance_row(const AttentionProblem& p) { return padded(p.tq + p.tk - 1 + 128); }

// Whether links depend on nothing but causal mask, window and length, all of them count, scores
// depend on nothing but rows of q and k as they are, and the result is all that is wanted.
inline bool is_plain(const AttentionProblem& p) {
  return !has_gaps(p) && p.documents == 0 && !p.mask && p.block == 0 && !p.bias &&
         !p.distance_bias && !p.sink && p.soft_cap == 0 && !p.cosine && p.rotary == 0 &&
         !p.temperature && !p.relative_keys && !p.span && p.dropout == 0 && by_softmax(p) &&
         !wants_statistics(p);
}

// Without gradients of what the problem does not have.
inline AttentionBackwardArgs named(const AttentionProblem& p, AttentionBackwardArgs args) {
  if (!p.bias) args.dbias = nullptr;
  if (!p.distance_bias) args.ddistance_bias = nullptr;
  if (!p.sink) args.dsinks = nullptr;
  if (!p.temperature) args.dtemperatures = nullptr;
  if (!p.relative_keys) args.drelative_keys = nullptr;
  if (!p.content_bias) args.dcontent_biases = nullptr;
  if (!p.position_bias) args.dposition_biases = nullptr;
  if (!p.span) args.dspans = nullptr;
  return args;
}

}  // namespace fovea::attention_detail
