// What the kernels for decoding share: few queries against many keys, which may lie in a cache of a
// type of its own and in pages. The work is bound by reading K and V, so all query heads of a
// key/value head are computed in one sweep over its rows, and the keys are cut into pieces that
// several threads take (Dao et al. 2023, Flash-Decoding). Not for callers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "fovea/kernels/attention_cache.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

// A problem without a cache is left to the tiled kernels where it has more queries, or fewer keys.
constexpr int64_t kDecodeQueries = 8;
constexpr int64_t kDecodeKeys = 128;

constexpr int64_t kDecodeBlock = 256;  // keys whose scores are kept at once

// Whether the kernels for decoding are the right ones; they support every cache.
bool decodes(const AttentionProblem& problem);

// How a problem is cut; it depends on the problem alone.
struct DecodeCut {
  explicit DecodeCut(const AttentionProblem& p);

  int64_t queries;      // of a task, at most
  int64_t query_tasks;  // in a sequence
  int64_t piece;        // keys of a task, whole blocks
  int64_t pieces;       // in a sequence
  int64_t rows;         // queries of all heads of a group, in one task, at most
  int64_t max_at;       // value_dim, padded for vectors of pairs
  int64_t partial;      // floats that a task leaves for a row: values; maximum; sum
};

// Some queries of the kept heads of a group, and some keys, a range that is not empty.
struct DecodeTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  int64_t batch, kv_head;
  int64_t first_query, queries;
  int64_t heads;  // query heads, from kv_head's first one on
  KeyRange keys;
  KeyRange of_query[kDecodeQueries];  // what each query sees
  // [heads * queries][stride]: sums of exp2(score - maximum) v, then at max_at the maximum, as a
  // power of two, and behind it the sum of exp2(score - maximum).
  float* partial;
  int64_t stride, max_at;

  int64_t rows() const { return heads * queries; }
  int64_t head(int64_t r) const {
    return kv_head * (problem.heads / problem.kv_heads) + r / queries;
  }
  int64_t query(int64_t r) const { return first_query + r % queries; }
  const KeyRange& seen(int64_t r) const { return of_query[r % queries]; }
};

using DecodeFunction = void (*)(const DecodeTask&, float* scratch);

// Plans a problem for which decodes() holds. worker_floats: of scratch that the function takes.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_decode(const AttentionProblem& problem,
                                                       DecodeFunction function,
                                                       int64_t worker_floats);

// The keys that a query sees: one range, whose ends grow with the query.
inline KeyRange decode_range(const AttentionProblem& p, const AttentionArgs& args, int64_t batch,
                             int64_t query) {
  const SeenKeys seen = Seen(p, args.links, batch).of(query);
  return both(seen.hard, seen.near);
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

// Where the rows of `keys` keys from `first` on stand; those of fewer than `width` elements are
// copied to `room` and filled up with zeros. The last one stands for those that make a block.
template <class T>
void find_rows(const DecodeTask& task, const CacheRows& from, int64_t first, int64_t keys,
               int64_t dim, int64_t width, T* room, const T** at) {
  for (int64_t i = 0; i < keys;) {
    const auto place = from.place(task.batch, first + i);
    const int64_t run = from.pages ? std::min(keys - i, from.page_tokens - place.token) : keys - i;
    const std::byte* start = row(from.first, from.strides, place.batch, place.token, task.kv_head);
    for (const int64_t end = i + run; i < end; ++i, start += from.strides.token)
      at[i] = reinterpret_cast<const T*>(start);
  }
  if (dim < width) {
    for (int64_t i = 0; i < keys; ++i, room += width) {
      std::memcpy(static_cast<void*>(room), at[i], static_cast<size_t>(dim) * sizeof(T));
      std::memset(static_cast<void*>(room + dim), 0, static_cast<size_t>(width - dim) * sizeof(T));
      at[i] = room;
    }
  }
  for (int64_t i = keys; i < kDecodeBlock; ++i) at[i] = at[keys - 1];
}

// Lines of memory of a row; ahead of their use, to the second cache, since what comes from far away
// takes longer than the rows in between.
template <class T>
inline void fetch_ahead(const T* row, int64_t elements) {
  constexpr auto kLine = static_cast<int64_t>(64 / sizeof(T));
  for (int64_t i = 0; i < elements; i += kLine) __builtin_prefetch(row + i, 0, 2);
}

// The rows of K or of V, block by block.
template <class T>
class DecodeRows {
 public:
  // at: room for two blocks of pointers.
  DecodeRows(const DecodeTask& task, const CacheRows& from, int64_t dim, int64_t width, T* room,
             float* at)
      : task_(task),
        from_(from),
        dim_(dim),
        width_(width),
        room_(room),
        now_(reinterpret_cast<const T**>(at)),
        next_(now_ + kDecodeBlock) {}

  // Goes on to the keys from `first` on, where the block before ended.
  void go_on(int64_t first, int64_t keys) {
    if (dim_ < width_ || first == task_.keys.begin)
      find_rows(task_, from_, first, keys, dim_, width_, room_, now_);
    else
      std::swap(now_, next_);
    const int64_t begin = first + keys;
    const int64_t count = std::min(kDecodeBlock, task_.keys.end - begin);
    ahead_ = now_;
    if (dim_ < width_ || count <= 0) return;
    find_rows(task_, from_, begin, count, dim_, width_, room_, next_);
    ahead_ = next_;
  }
  const T* const* rows() const { return now_; }
  // Those of the next block; the same ones where they are not known.
  const T* const* ahead() const { return ahead_; }

 private:
  const DecodeTask& task_;
  const CacheRows from_;
  const int64_t dim_, width_;
  T* const room_;
  const T** now_;
  const T** next_;
  const T* const* ahead_ = nullptr;
};

// Their scales.
inline void find_scales(const DecodeTask& task, const CacheRows& from, int64_t first, int64_t keys,
                        float* to) {
  for (int64_t i = 0; i < keys;) {
    const auto place = from.place(task.batch, first + i);
    const int64_t run = from.pages ? std::min(keys - i, from.page_tokens - place.token) : keys - i;
    const float* start =
        row(from.scales, from.scale_strides, place.batch, place.token, task.kv_head);
    for (const int64_t end = i + run; i < end; ++i, start += from.scale_strides.token)
      to[i] = *start;
  }
  std::fill(to + keys, to + padded(keys), to[keys - 1]);
}

// "decode_avx3" for "hwy_avx3".
constexpr std::string_view decode_name(std::string_view target_name) {
  return target_name == "hwy_avx3"   ? "decode_avx3"
         : target_name == "hwy_avx2" ? "decode_avx2"
                                     : "decode_sse4";
}

void append_decode(std::vector<AttentionKernel>& list);
// bf16 queries and a cache of bf16 with vdpbf16ps; nullptr for others.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_decode_avx512bf16(const AttentionProblem& problem);

}  // namespace fovea::attention_detail
