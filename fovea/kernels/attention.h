// Scaled dot-product attention (Vaswani et al. 2017, equation 1) and its gradient on raw memory,
// for grouped heads, masks of many kinds, biases and batches of varying length. No kernel stores
// the tq x tk matrix: forward uses the online softmax (Milakov and Gimelshein 2018), backward
// recomputes probabilities from the log-sum-exp (Dao et al. 2022, FlashAttention, algorithm 4).
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/base/rotary.h"
#include "fovea/kernels/kernel.h"
#include "fovea/kernels/normalise.h"

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

// Where query i stands among the keys: at i + tk - tq (so that the last query stands at the last
// key), or at i.
enum class AttentionAlign { lower_right, upper_left };

// Where element (b, h, i, j) of an array over links lies: b * batch + h * head + i * query + j, in
// elements. A stride of 0 repeats it.
struct AttentionPlane {
  int64_t batch = 0;
  int64_t head = 0;
  int64_t query = 0;
};

// Query head h reads key/value head h / (heads / kv_heads). Query i at position p sees the keys j
// that meet all of these:
//   j < key_lengths[b]; i and j stand in one document, if there are documents; mask, if given, is
//   not 0; nor is the entry of their blocks, if there are blocks; and
//   j < prefix, or
//     j <= p if causal, and
//     (j < global_tokens, or p < global_tokens, or
//       p - window_left <= j <= p + window_right, each if not -1, and dilation divides p - j).
// The score of a link is scale temperature q . k, held by soft_cap, then with bias and
// distance_bias added. With cosine, rows of q and k are divided by sqrt(|row|^2 + cosine_eps)
// first; with rotary, coordinates of theirs are then turned by angles that are the position (p of
// queries, j of keys) times rotary_base^(-2 i / rotary), i = 0 .. rotary / 2 - 1. A sink is one
// more score of each query, whose key has the value 0. A query that sees no key gives output 0,
// log-sum-exp -infinity (that of its sink) and gradient 0.
// A span z of a head (Sukhbaatar et al. 2019, equation 2) multiplies exp(score) by
// clamp((R + z - |p - j|) / R, 0, 1) for the ramp R; keys where that is 0 are not seen.
// Dropout (Vaswani et al. 2017, section 5.4) sets a share of the probabilities to 0 and divides the
// others by 1 - that share; link (b, h, i, j) is element
// (((first_sample + b) heads + h) tq + i) tk + j of kernels/dropout.h, in forward and backward. It
// leaves the log-sum-exp as it is, and a sink.
// Another normaliser than softmax may make weights of the scores (base/normaliser.h); the noise of
// the random ones counts links as dropout does. With top_k a sink is kept beside the k keys; with
// the others but softmax there is none. Their log-sum-exp is written as 0 and not read: backward
// makes the scores again.
struct AttentionProblem {
  // Of q, k, v, out and their gradients: f32, f64 or bf16. With bf16 the log-sum-exp, biases and
  // sinks are f32, and sums are formed in f32.
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
  AttentionAlign align = AttentionAlign::lower_right;
  int64_t dilation = 1;       // of the window (Beltagy et al. 2020, Longformer)
  int64_t global_tokens = 0;  // beside the window (the same)
  int64_t prefix = 0;         // keys that all queries see (Raffel et al. 2020, prefix LM)
  int64_t documents = 0;      // packed in each row, one behind the other (tq == tk); 0: no borders
  bool mask = false;          // AttentionLinks::mask is given
  AttentionPlane mask_plane = {};
  int64_t block = 0;  // side of the blocks of AttentionLinks::blocks, a multiple of 16; 0: none
  AttentionPlane block_plane = {};
  bool bias = false;  // AttentionLinks::bias is given
  AttentionPlane bias_plane = {};
  bool distance_bias = false;  // AttentionLinks::distance_bias is given
  bool sink = false;           // AttentionLinks::sinks is given
  double soft_cap = 0;         // c tanh(score / c) (Bello et al. 2016); 0: none
  bool cosine = false;         // rows of q and k by their norms (Henry et al. 2020)
  double cosine_eps = 1e-6;    // at least 1e-30
  int64_t rotary = 0;          // coordinates turned (Su et al. 2021, equation 34); 0: none
  double rotary_base = 10000;
  RotaryLayout rotary_layout = RotaryLayout::pairs;
  bool temperature = false;  // AttentionLinks::temperatures is given
  // AttentionLinks::relative_keys are given (Dai et al. 2019, Transformer-XL, section 3.3): the
  // score is scale temperature ((q_i + u) . k_j + (q_i + v) . r_(j-i)).
  bool relative_keys = false;
  bool content_bias = false;   // u is given, AttentionLinks::content_biases
  bool position_bias = false;  // v, AttentionLinks::position_biases
  bool span = false;           // AttentionLinks::spans is given, with span_ramp above 0
  double span_ramp = 0;
  double dropout = 0;   // of probabilities, in [0, 1); above 0: AttentionLinks::rng is given
  uint64_t stream = 0;  // of its random numbers: stream_id() of a name
  NormaliserOptions normaliser = {};  // of the scores; random: AttentionLinks::rng is given
  bool want_lse = false;              // write the log-sum-exp (backward needs it)
  // What forward reads off beside (AttentionArgs); the last two take a second sweep over the
  // scores.
  bool want_entropy = false;
  bool want_mass = false;
  int64_t top_links = 0;  // strongest links of each query, at most 1024
  AttentionStrides q = {}, k = {}, v = {}, out = {};
  AttentionStrides dq = {}, dk = {}, dv = {}, dout = {};  // for backward only
  // Where k and v are a key/value cache (forward only):
  // their type, where it is not dtype: bf16 for queries in f32, f32 for queries in bf16, or i8, for
  // either, with an f32 scale for each row of each key/value head;
  std::optional<DType> kv_dtype = {};
  AttentionStrides k_scale = {}, v_scale = {};  // of the scales of i8
  // With i8: products may be formed in 8 bits, queries and probabilities being rounded to that too.
  // Twice as fast as bf16 for many queries, errors of about 1e-2 in norm.
  bool int8_products = false;
  // and pages of so many tokens in place of a row of tk tokens (0: no pages). AttentionArgs::pages
  // says which page of the pool holds which keys; `batch` of the strides of k, v and their scales
  // leads from one page of the pool to the next, `token` from one token of a page to the next.
  int64_t page_tokens = 0;
  int64_t page_columns = 0;  // of the table; 0: as many as tk tokens need
};

// All strides dense: [B, T, H * D] if packed, else [B, H, T, D]; those of gradients as their
// values', those of scales with D = 1. Pages are [page, token, H * D] or [page, H, token, D].
void set_dense_strides(AttentionProblem& problem, bool packed);

// What says which links there are and what is added to their scores; what the problem does not name
// is not read.
struct AttentionLinks {
  const int32_t* key_lengths = nullptr;  // [batch], values beyond [0, tk] are clamped; null: all tk
  // [batch, documents + 1], rising from 0 to tk (what lies beyond is clamped): document n holds the
  // tokens from the n-th number to the next (cu_seqlens).
  const int32_t* document_starts = nullptr;
  const uint8_t* mask = nullptr;  // in mask_plane; 0 hides the link
  // In block_plane, which counts blocks of `block` tokens in place of tokens: 0 hides the block.
  const uint8_t* blocks = nullptr;
  const void* bias = nullptr;           // in bias_plane
  const void* distance_bias = nullptr;  // [heads, tq + tk - 1], for link (i, j) at j - i + tq - 1
  const void* sinks = nullptr;          // [heads]
  const void* temperatures = nullptr;   // [heads]: factors of the scores; typed like biases
  // Typed like biases: [kv_heads, tq + tk - 1, head_dim], for link (i, j) at j - i + tq - 1; and
  // what is added to queries, [heads, head_dim].
  const void* relative_keys = nullptr;
  const void* content_biases = nullptr;
  const void* position_biases = nullptr;
  const void* spans = nullptr;   // [heads], typed like biases
  const int32_t* rng = nullptr;  // {seed, step, first_sample}, for dropout and random normalisers
};

struct AttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  void* lse = nullptr;  // dense [batch, heads], rows of tq; may be null: not written
  // Statistics that the problem asks for, in the type of the log-sum-exp, of the probabilities
  // before dropout (a sink has one too, but is no link):
  void* entropy = nullptr;  // [batch, heads, tq], in nats; 0 where no key is seen
  void* mass = nullptr;     // [batch, heads, tk]: sum over queries of what key j receives
  // [batch, heads, tq, top_links]: strongest first, those of equal probability in the order of
  // their keys; key -1 and probability 0 where there are no more of a probability above 0.
  int32_t* top_keys = nullptr;
  void* top_probabilities = nullptr;
  AttentionLinks links = {};
  const float* k_scale = nullptr;  // row j of k is k_scale[j] times the numbers that stand there
  const float* v_scale = nullptr;
  // [batch, page_columns]: key j lies in page pages[b][j / page_tokens] of the pool. Entries beyond
  // a key length are never read.
  const int32_t* pages = nullptr;
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
  AttentionLinks links = {};  // as in forward
  // Gradients of the biases, sinks and temperatures that the problem names, like them (sums over
  // what is repeated); null: not wanted.
  void* dbias = nullptr;
  void* ddistance_bias = nullptr;
  void* dsinks = nullptr;
  void* dtemperatures = nullptr;
  void* drelative_keys = nullptr;
  void* dcontent_biases = nullptr;
  void* dposition_biases = nullptr;
  void* dspans = nullptr;
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
// The same for memory that a run needs and that is not given (log-sum-exps of forward aside).
void check_memory(const AttentionProblem& problem, const AttentionArgs& args);
void check_memory(const AttentionProblem& problem, const AttentionBackwardArgs& args);

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

// Whether softmax makes the weights: the other normalisers have kernels of their own.
inline bool by_softmax(const AttentionProblem& p) {
  return p.normaliser.kind == Normaliser::softmax;
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

// Whether forward gives more than the result and its log-sum-exp.
inline bool wants_statistics(const AttentionProblem& p) {
  return p.want_entropy || p.want_mass || p.top_links > 0;
}

// Whether k and v are a cache that only the decoding kernels and the reference read.
inline bool reads_cache(const AttentionProblem& p) {
  return (p.kv_dtype && *p.kv_dtype != p.dtype) || p.page_tokens > 0;
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
