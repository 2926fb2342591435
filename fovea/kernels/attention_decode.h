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
#include "fovea/kernels/attention_decode_links.h"
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
  int64_t kv_heads;     // of a task, at most: those whose rows lie side by side
  int64_t head_tasks;   // in a sequence
  int64_t piece;        // keys of a task, whole blocks
  int64_t pieces;       // in a sequence
  int64_t rows;         // queries of all heads of a group, in one task, at most
  int64_t max_at;       // value_dim, padded for vectors of pairs
  int64_t partial;      // floats that a task leaves for a row: values; maximum; sum
};

// Some queries of the kept heads of some groups, and some keys, a range that is not empty. kv
// counts the key/value heads of the task, r the rows of one of them.
struct DecodeTask {
  const AttentionProblem& problem;
  const AttentionArgs& args;
  int64_t batch, first_kv_head, kv_heads;
  int64_t first_query, queries;
  KeyRange keys;
  int64_t end;                        // of the keys that are read, by this task or those after it
  KeyRange of_query[kDecodeQueries];  // what each query sees
  // [kv_heads][room][stride]: sums of exp2(score - base) v, then at max_at the base, as a power of
  // two, and behind it the sum of exp2(score - base).
  float* partial;
  int64_t room, stride, max_at;

  int64_t group() const { return problem.heads / problem.kv_heads; }
  // 0 where no head of the group is kept.
  int64_t rows(int64_t kv) const { return kept_in_group(problem, first_kv_head + kv) * queries; }
  int64_t head(int64_t kv, int64_t r) const { return (first_kv_head + kv) * group() + r / queries; }
  int64_t query(int64_t r) const { return first_query + r % queries; }
  const KeyRange& seen(int64_t r) const { return of_query[r % queries]; }
  float* result(int64_t kv, int64_t r) const { return partial + (kv * room + r) * stride; }
};

using DecodeFunction = void (*)(const DecodeTask&, float* scratch);

// Plans a problem for which decodes() holds. worker_floats: of scratch that the function takes.
std::unique_ptr<KernelPlan<AttentionArgs>> plan_decode(const AttentionProblem& problem,
                                                       DecodeFunction function,
                                                       int64_t worker_floats);

// A range that holds the keys that a query sees; without gaps it sees them all.
inline KeyRange decode_range(const AttentionProblem& p, const AttentionArgs& args, int64_t batch,
                             int64_t query) {
  const SeenKeys seen = Seen(p, args.links, batch).of(query);
  const KeyRange near = both(seen.hard, seen.near), low = both(seen.hard, {0, seen.low_end});
  if (low.empty()) return near;
  if (near.empty()) return low;
  return {std::min(near.begin, low.begin), std::max(near.end, low.end)};
}

// What scores of a row are multiplied by to be powers of two.
float score_factor(const DecodeTask& task, int64_t kv, int64_t r);

// Whether a query of the task may see some of these keys.
bool touches(const DecodeTask& task, KeyRange keys);

// Calls use(first, keys, next) for the blocks of the task's keys that some query may see; next:
// where the block after it begins, in this task or a later one, or the end of all.
template <class Use>
void each_decode_block(const DecodeTask& task, const Use& use) {
  const auto from = [&](int64_t first) {
    while (first < task.end && !touches(task, {first, first + kDecodeBlock})) first += kDecodeBlock;
    return std::min(first, task.end);
  };
  for (int64_t j = from(task.keys.begin); j < task.keys.end;) {
    const int64_t keys = std::min(kDecodeBlock, task.keys.end - j), next = from(j + keys);
    use(j, keys, next);
    j = next;
  }
}

// Where the rows of `keys` keys from `first` on stand, of the task's first head. The last one
// stands for those that make a block.
template <class T>
void find_rows(const DecodeTask& task, const CacheRows& from, int64_t first, int64_t keys,
               const T** at) {
  for (int64_t i = 0; i < keys;) {
    const auto place = from.place(task.batch, first + i);
    const int64_t run = from.pages ? std::min(keys - i, from.page_tokens - place.token) : keys - i;
    const std::byte* start =
        row(from.first, from.strides, place.batch, place.token, task.first_kv_head);
    for (const int64_t end = i + run; i < end; ++i, start += from.strides.token)
      at[i] = reinterpret_cast<const T*>(start);
  }
  for (int64_t i = keys; i < kDecodeBlock; ++i) at[i] = at[keys - 1];
}

// Rows of a head: elements from at[i] + offset on. ahead: those of the next block, or any.
template <class T>
struct DecodeKeys {
  const T* const* at;
  const T* const* ahead;
  int64_t offset;
};

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
  // Rows of fewer than `width` elements are copied to `room`, filled up with zeros. at: room for
  // two blocks of pointers.
  DecodeRows(const DecodeTask& task, const CacheRows& from, int64_t dim, int64_t width, T* room,
             float* at)
      : task_(task),
        from_(from),
        dim_(dim),
        width_(width),
        room_(room),
        now_(reinterpret_cast<const T**>(at)),
        next_(now_ + kDecodeBlock) {}

  // Goes on to the keys from `first` on; `next` is where the block after them begins.
  void go_on(int64_t first, int64_t keys, int64_t next) {
    keys_ = keys;
    if (known_)
      std::swap(now_, next_);
    else
      find_rows(task_, from_, first, keys, now_);
    const int64_t count = std::min(kDecodeBlock, task_.end - next);
    known_ = dim_ == width_ && count > 0;
    if (known_) find_rows(task_, from_, next, count, next_);
  }

  DecodeKeys<T> of(int64_t kv) {
    const int64_t offset = kv * from_.strides.head / static_cast<int64_t>(sizeof(T));
    if (dim_ == width_) return {now_, known_ ? next_ : now_, offset};
    for (int64_t i = 0; i < kDecodeBlock; ++i) {
      next_[i] = room_ + std::min(i, keys_ - 1) * width_;
      if (i >= keys_) continue;
      T* const to = room_ + i * width_;
      std::memcpy(static_cast<void*>(to), now_[i] + offset, static_cast<size_t>(dim_) * sizeof(T));
      std::memset(static_cast<void*>(to + dim_), 0, static_cast<size_t>(width_ - dim_) * sizeof(T));
    }
    return {next_, next_, 0};
  }

 private:
  const DecodeTask& task_;
  const CacheRows from_;
  const int64_t dim_, width_;
  T* const room_;
  const T** now_;
  const T** next_;
  int64_t keys_ = 0;
  bool known_ = false;  // the next block
};

// Their scales, of a head.
inline void find_scales(const DecodeTask& task, const CacheRows& from, int64_t first, int64_t keys,
                        int64_t kv, float* to) {
  for (int64_t i = 0; i < keys;) {
    const auto place = from.place(task.batch, first + i);
    const int64_t run = from.pages ? std::min(keys - i, from.page_tokens - place.token) : keys - i;
    const float* start =
        row(from.scales, from.scale_strides, place.batch, place.token, task.first_kv_head + kv);
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
