// Scaled dot-product attention (Vaswani et al. 2017, equation 1) and its gradient on raw memory,
// for grouped heads, causal and windowed masks and batches of varying length. No kernel stores the
// tq x tk matrix: forward uses the online softmax (Milakov and Gimelshein 2018), backward
// recomputes probabilities from the log-sum-exp (Dao et al. 2022, FlashAttention, algorithm 4).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

// Where element (b, t, h, i) lies: b * batch + t * token + h * head + i, in elements.
struct AttentionStrides {
  int64_t batch = 0;
  int64_t token = 0;
  int64_t head = 0;

  // [batch, tokens, heads * dim]
  static AttentionStrides packed(int64_t tokens, int64_t heads, int64_t dim) {
    return {.batch = tokens * heads * dim, .token = heads * dim, .head = dim};
  }
  // [batch, heads, tokens, dim]
  static AttentionStrides head_major(int64_t tokens, int64_t heads, int64_t dim) {
    return {.batch = tokens * heads * dim, .token = dim, .head = tokens * dim};
  }
};

// Query head h reads key/value head h / (heads / kv_heads). Query i stands at key position
// i + tk - tq (aligned at the lower right corner) and sees the keys j with
//   j <  key_lengths[b],
//   j <= position                  if causal,
//   j >= position - window_left    if window_left >= 0,
//   j <= position + window_right   if window_right >= 0.
// A query that sees no key gives output 0, log-sum-exp -infinity and gradient 0.
struct AttentionProblem {
  // Of every array but key_lengths: f32, f64 or bf16. With bf16 the log-sum-exp is f32, and sums
  // are formed in f32.
  DType dtype = DType::f32;
  int64_t batch = 1;
  int64_t tq = 1;          // queries in a sequence
  int64_t tk = 1;          // keys in a sequence
  int64_t heads = 1;       // query heads
  int64_t kv_heads = 1;    // divides heads
  int64_t heads_kept = 1;  // query heads from here on give output, log-sum-exp and gradient 0
  int64_t head_dim = 1;    // of q and k
  int64_t value_dim = 1;   // of v and out
  double scale = 1;        // of q . k
  bool causal = false;
  int64_t window_left = -1;   // -1: no limit
  int64_t window_right = -1;  // -1: no limit
  bool want_lse = false;      // write the log-sum-exp (backward needs it)
  AttentionStrides q = {}, k = {}, v = {}, out = {};
  AttentionStrides dq = {}, dk = {}, dv = {}, dout = {};  // for backward only
};

// All strides dense: [B, T, H * D] if packed, else [B, H, T, D]; those of gradients as their
// values'.
void set_dense_strides(AttentionProblem& problem, bool packed);

struct AttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  void* lse = nullptr;  // dense [batch, heads], rows of tq; may be null: not written
  const int32_t* key_lengths = nullptr;  // [batch], values beyond [0, tk] are clamped; null: all tk
};

struct AttentionBackwardArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* out = nullptr;
  const void* lse = nullptr;  // natural logarithm, as forward wrote it
  const void* dout = nullptr;
  void* dq = nullptr;  // all three are overwritten
  void* dk = nullptr;
  void* dv = nullptr;
  const int32_t* key_lengths = nullptr;  // as in forward
};

using AttentionKernel = Kernel<AttentionProblem, AttentionArgs>;
using AttentionBackwardKernel = Kernel<AttentionProblem, AttentionBackwardArgs>;

// Best first, "ref" last. "hwy_<target>" stands there for each target that the processor supports.
// Planning throws Error (invalid_argument) for sizes, strides or windows that make no sense.
std::span<const AttentionKernel> attention_kernels();
std::span<const AttentionBackwardKernel> attention_backward_kernels();

// What the kernels of this family share; not for callers.
namespace attention_detail {

// Throws Error{invalid_argument} naming what is wrong. backward: the strides of gradients count
// too.
void check(const AttentionProblem& problem, bool backward);

// Row (b, t, h) of an array.
template <class T>
T* row(T* base, const AttentionStrides& s, int64_t b, int64_t t, int64_t h) {
  return base + b * s.batch + t * s.token + h * s.head;
}

// Query heads that read the key/value head and are kept: the first ones of its group.
inline int64_t kept_in_group(const AttentionProblem& p, int64_t kv_head) {
  const int64_t group = p.heads / p.kv_heads;
  return std::clamp<int64_t>(p.heads_kept - kv_head * group, 0, group);
}

// Rounded up to vectors of any target.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Hands out pieces of a worker's scratch, in floats, aligned to 64 bytes.
class ScratchPieces {
 public:
  int64_t take(int64_t floats) {
    const int64_t at = used_;
    used_ += padded(floats);
    return at;
  }
  int64_t used() const { return used_; }

 private:
  int64_t used_ = 0;
};

// The keys that one query sees: [begin, end), empty if end <= begin. Both ends grow with the query,
// so the keys that a run of queries touches lie between the first one's begin and the last one's
// end.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};

inline KeyRange visible_keys(const AttentionProblem& p, int64_t query, int64_t length) {
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  const int64_t position = query + p.tk - p.tq;
  const int64_t right = p.causal ? 0 : p.window_right >= 0 ? p.window_right : kNoLimit;
  KeyRange r{0, length};
  if (right < length - position) r.end = std::max<int64_t>(0, position + right + 1);
  r.end = std::min(r.end, length);
  if (p.window_left >= 0 && position > p.window_left) r.begin = position - p.window_left;
  return r;
}

inline int64_t key_length(const AttentionProblem& p, const int32_t* lengths, int64_t batch) {
  return lengths ? std::clamp<int64_t>(lengths[batch], 0, p.tk) : p.tk;
}

// Rows a kilobyte or more apart fall into few sets of the first cache: blocks of K and V are then
// copied together, once for all the queries that read them. [Forward, packed, 8 heads of 64 or 128,
// medians of three interleaved runs on a busy machine: 0.53 to 0.59 of the peak as they lie, 0.65
// to 0.68 copied. With 4 heads of 16 and 49 tokens, rows of 256 bytes, copying lost in each run.]
inline bool scattered(const AttentionStrides& s, int64_t dim) {
  return s.token >= 256 && s.token > 2 * dim;
}

std::unique_ptr<KernelPlan<AttentionArgs>> plan_ref(const AttentionProblem& problem);
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_ref(
    const AttentionProblem& problem);
void append_hwy(std::vector<AttentionKernel>& list);
void append_backward_hwy(std::vector<AttentionBackwardKernel>& list);

}  // namespace attention_detail
}  // namespace fovea
