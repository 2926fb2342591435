// Self-attention of a model: its projections, and what a recipe says about it.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "fovea/base/normaliser.h"
#include "fovea/base/rotary.h"
#include "fovea/graph/graph.h"

namespace fovea {

// How a query is compared with a key; each is an op of its own (docs/attention.md).
enum class AttentionScore { dot, additive, subtraction, linear };
inline std::span<const std::string_view> enum_names(AttentionScore) {
  static constexpr std::array<std::string_view, 4> kNames = {"dot", "additive", "subtraction",
                                                             "linear"};
  return kNames;
}

// What is added to a score for the distance between query and key.
enum class DistanceBias {
  none,
  alibi,    // -slope |j - i|, one slope a head, nothing learned (Press et al. 2022)
  buckets,  // learned for each head and bucket of distances (Raffel et al. 2020, T5)
  learned,  // learned for each head and distance (Shaw et al. 2018 put it into the scores first)
};
inline std::span<const std::string_view> enum_names(DistanceBias) {
  static constexpr std::array<std::string_view, 4> kNames = {"none", "alibi", "buckets", "learned"};
  return kNames;
}

// [model.attention] of a recipe: what every attention node of a model gets, under the names of its
// attributes (AttentionAttrs).
struct AttentionOptions {
  int64_t kv_heads = 0;  // 0: as many as heads
  AttentionScore score = AttentionScore::dot;
  bool causal = false;
  int64_t window_left = -1;  // keys further away are not seen; -1: no limit
  int64_t window_right = -1;
  int64_t dilation = 1;       // of the window
  int64_t global_tokens = 0;  // the first ones, which see and are seen beside the window
  int64_t prefix = 0;         // the first keys, which all queries see
  // Of each row of blocks of links those that carry this share of its attention, as estimated from
  // q and k when they are known; 0: all.
  double block_mass = 0;
  int64_t block = 64;   // tokens of a side, a multiple of 16
  double soft_cap = 0;  // c tanh(score / c); 0: none
  bool sink = false;    // a learned score of each head whose value is 0
  bool cosine = false;  // rows of q and k by their norms (Henry et al. 2020)
  bool temperature =
      false;           // a learned factor of each head's scores; begins at 1, with cosine at 10
  int64_t rotary = 0;  // coordinates of a head that its position turns (Su et al. 2021)
  double rotary_base = 10000;
  RotaryLayout rotary_layout = RotaryLayout::pairs;
  // A key for each distance, a learned map of sinusoids, and two learned biases of the queries (Dai
  // et al. 2019, Transformer-XL, section 3.3).
  bool relative_keys = false;
  // Noise is drawn in training alone: without it gumbel is the softmax of score / temperature, and
  // gumbel_hard the largest score.
  Normaliser normaliser = Normaliser::softmax;
  int64_t top_k = 0;               // of the normaliser top_k: keys of each query
  double softmax_temperature = 1;  // of the normalisers hard, gumbel and gumbel_hard
  // Each head learns how far it sees, z = span_most sigmoid(4 w) tokens to each side, beyond which
  // links fade away over span_ramp tokens (Sukhbaatar et al. 2019, equations 2 and 5).
  bool span = false;
  double span_most = 0;  // tokens; 0: as many as a sequence has
  double span_ramp = 32;
  double span_start = 0.5;     // of span_most, before training
  double span_penalty = 1e-4;  // lambda of equation 3: lambda / heads sum z joins the loss
  double dropout = 0;          // of the probabilities, in training
  DistanceBias distance_bias = DistanceBias::none;
  int64_t buckets = 32;           // of distance_bias = "buckets"
  int64_t bucket_distance = 128;  // from here on all distances share the last bucket

  template <class V>
  void visit(V& v) {
    v("kv_heads", kv_heads);
    v("score", score);
    v("causal", causal);
    v("window_left", window_left);
    v("window_right", window_right);
    v("dilation", dilation);
    v("global_tokens", global_tokens);
    v("prefix", prefix);
    v("block_mass", block_mass);
    v("block", block);
    v("soft_cap", soft_cap);
    v("sink", sink);
    v("cosine", cosine);
    v("temperature", temperature);
    v("rotary", rotary);
    v("rotary_base", rotary_base);
    v("rotary_layout", rotary_layout);
    v("relative_keys", relative_keys);
    v("normaliser", normaliser);
    v("top_k", top_k);
    v("softmax_temperature", softmax_temperature);
    v("span", span);
    v("span_most", span_most);
    v("span_ramp", span_ramp);
    v("span_start", span_start);
    v("span_penalty", span_penalty);
    v("dropout", dropout);
    v("distance_bias", distance_bias);
    v("buckets", buckets);
    v("bucket_distance", bucket_distance);
  }
};

// Attention of x [B,T,C] to itself, with the projections q, k, v and out: -> [B,T,C]. The node is
// named attn. The key has no bias where its true gradient is zero (AdamW would turn its
// rounding noise into full steps) or that of the query does as well; score = "linear" needs one.
// Throws Error naming the keys that do not go together.
struct SelfAttentionInputs {
  Value rng =
      {};  // i32 [3], read by dropout and noise; empty: nothing is trained, and there is none
  Value lengths = {};  // i32 [B], or none: tokens that are there; score = "dot" alone knows them
  std::vector<Value>* penalties = nullptr;  // where what the loss is to have added is put, f32 []
};
Value self_attention(Graph& g, Value x, int64_t heads, const AttentionOptions& options,
                     const SelfAttentionInputs& inputs = {});

// A table for AttentionLink::distance_bias, f32 [H,2T-1], element j - i + T - 1.
// The slopes are 2^(-8 h / H) for h = 1 .. H; where H is no power of two, those of the next smaller
// one and every other of the next larger one (Press et al. 2022, and their code).
Value alibi_bias(Graph& g, int64_t heads, const Size& tokens);
// The bucket of each distance j - i, i32 [2T-1]: half of a side's buckets hold one distance each,
// the others grow with its logarithm up to `most`, beyond which all share the last one. Keys to the
// right have buckets of their own, or with causal all are of the left (Raffel et al. 2020, section
// 2.1, and their code).
Value distance_buckets(Graph& g, const Size& tokens, int64_t buckets, int64_t most, bool causal);
// Reads the weight `distance_bias` [buckets,H] at them.
Value bucket_bias(Graph& g, int64_t heads, const Size& tokens, int64_t buckets, int64_t most,
                  bool causal);

// Sinusoids of the distances p - j, f32 [2T-1,width], row j - i + T - 1: sin and then cos of
// distance * 10000^(-2 n / width) (Vaswani et al. 2017, section 3.5; Dai et al. 2019). Width even.
Value distance_sinusoids(Graph& g, const Size& tokens, int64_t width);

}  // namespace fovea
