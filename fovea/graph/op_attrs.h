// The attributes of the ops: plain structs with defaults; `visit` names each field.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "fovea/base/normaliser.h"
#include "fovea/base/rotary.h"
#include "fovea/graph/size.h"

namespace fovea {

struct InputAttrs {
  ValueType type;
  template <class V>
  void visit(V& v) {
    v("type", type);
  }
};

enum class VariableKind {
  weight,  // learned; shared by sessions
  state,   // one trainer's: moments, moving averages, counters
  cache,   // one session's: keys and values seen so far
};
inline std::span<const std::string_view> enum_names(VariableKind) {
  static constexpr std::array<std::string_view, 3> kNames = {"weight", "state", "cache"};
  return kNames;
}
enum class Init {
  constant,  // every element is `scale`
  normal,    // mean 0, standard deviation `scale`
  uniform,   // in [-scale, scale)
  copy,      // starts as the variable `source`
};
inline std::span<const std::string_view> enum_names(Init) {
  static constexpr std::array<std::string_view, 4> kNames = {"constant", "normal", "uniform",
                                                             "copy"};
  return kNames;
}
struct VariableAttrs {
  ValueType type;
  VariableKind kind = VariableKind::weight;
  Init init = Init::constant;
  double scale = 0;
  std::string source;
  template <class V>
  void visit(V& v) {
    v("type", type);
    v("kind", kind);
    v("init", init);
    v("scale", scale);
    v("source", source);
  }
};

struct ConstantAttrs {
  ValueType type;
  std::vector<double> values;  // all of them (at most 64), or one for every element
  std::string hash;            // of more than 64 different values: the key in the constant store
  template <class V>
  void visit(V& v) {
    v("type", type);
    v("values", values);
    v("hash", hash);
  }
};

struct CastAttrs {
  DType dtype = DType::f32;
  template <class V>
  void visit(V& v) {
    v("dtype", dtype);
  }
};

struct ShapeAttrs {  // broadcast, reshape
  Shape shape;
  template <class V>
  void visit(V& v) {
    v("shape", shape);
  }
};

struct IotaAttrs {
  ValueType type{DType::i32, {}};
  int64_t axis = 0;
  template <class V>
  void visit(V& v) {
    v("type", type);
    v("axis", axis);
  }
};

struct TransposeAttrs {
  std::vector<int64_t> order;  // output axis i is input axis order[i]
  template <class V>
  void visit(V& v) {
    v("order", order);
  }
};

struct ConcatAttrs {
  int64_t axis = 0;
  template <class V>
  void visit(V& v) {
    v("axis", axis);
  }
};

struct SliceAttrs {
  int64_t axis = 0;
  Size start = 0;
  Size length = 1;
  template <class V>
  void visit(V& v) {
    v("axis", axis);
    v("start", start);
    v("length", length);
  }
};

struct PadAttrs {  // zeros before and after, along one axis
  int64_t axis = 0;
  Size before = 0;
  Size after = 0;
  template <class V>
  void visit(V& v) {
    v("axis", axis);
    v("before", before);
    v("after", after);
  }
};

struct ReduceAttrs {
  std::vector<int64_t> axes;
  bool keep = false;  // reduced axes stay, with size 1
  template <class V>
  void visit(V& v) {
    v("axes", axes);
    v("keep", keep);
  }
};

struct MatmulAttrs {
  bool transpose_a = false;
  bool transpose_b = false;
  template <class V>
  void visit(V& v) {
    v("transpose_a", transpose_a);
    v("transpose_b", transpose_b);
  }
};

// A floating type that a node may be asked to compute in or to give.
enum class TypeChoice { same, f32, bf16 };
inline std::span<const std::string_view> enum_names(TypeChoice) {
  static constexpr std::array<std::string_view, 3> kNames = {"same", "f32", "bf16"};
  return kNames;
}
inline DType chosen_type(TypeChoice choice, DType same) {
  return choice == TypeChoice::same ? same : choice == TypeChoice::f32 ? DType::f32 : DType::bf16;
}

enum class Activation { none, relu, silu, gelu };
inline std::span<const std::string_view> enum_names(Activation) {
  static constexpr std::array<std::string_view, 4> kNames = {"none", "relu", "silu", "gelu"};
  return kNames;
}

struct LinearAttrs {
  Activation activation = Activation::none;
  bool residual = false;                  // the last input is added behind the activation
  bool pre = false;                       // give what goes into the activation as well
  TypeChoice compute = TypeChoice::same;  // what mixed_precision makes of the product
  TypeChoice out = TypeChoice::same;      // the type of the result; same: that of x
  template <class V>
  void visit(V& v) {
    v("activation", activation);
    v("residual", residual);
    v("pre", pre);
    v("compute", compute);
    v("out", out);
  }
};
struct LinearGradInputAttrs {
  Activation activation = Activation::none;  // times its slope at the third input
  bool residual = false;                     // the last input is added
  TypeChoice compute = TypeChoice::same;
  TypeChoice out = TypeChoice::same;
  template <class V>
  void visit(V& v) {
    v("activation", activation);
    v("residual", residual);
    v("compute", compute);
    v("out", out);
  }
};
struct LinearGradWeightAttrs {
  bool bias = false;  // give the gradient of the bias as well
  TypeChoice compute = TypeChoice::same;
  template <class V>
  void visit(V& v) {
    v("bias", bias);
    v("compute", compute);
  }
};

struct NormAttrs {
  double eps = 1e-5;
  bool stats = false;  // give mean (layer_norm only) and reciprocal deviation of each row as well
  bool residual = false;  // the second input is added to x first; the sum is given as well
  TypeChoice out = TypeChoice::same;  // the type of the result
  template <class V>
  void visit(V& v) {
    v("eps", eps);
    v("stats", stats);
    v("residual", residual);
    v("out", out);
  }
};
struct NormGradAttrs {
  bool add = false;  // the last input is added to the gradient of x
  template <class V>
  void visit(V& v) {
    v("add", add);
  }
};

// Inputs of attention behind q, k and v, in this order, each only where the attribute of its name
// says so. Sizes of 1 are repeated.
enum class AttentionLink {
  lengths,        // i32 [B]: keys of each sample
  documents,      // i32 [B,N+1]: where the documents packed in a row begin, and where the last ends
  mask,           // bool [B|1,H|1,Tq|1,Tk]: links there are
  blocks,         // bool [B|1,H|1,ceil(Tq/block)|1,ceil(Tk/block)]: blocks of links there are
  bias,           // f32 [B|1,H|1,Tq|1,Tk], added to the scores
  distance_bias,  // f32 [H,Tq+Tk-1]: added to the score of link (i, j): element j - i + Tq - 1
  sink,           // f32 [H]: a score in each query's softmax whose value is 0
  temperature,    // f32 [H]: a factor of the scores
  relative_keys,  // f32 [Hkv,Tq+Tk-1,D]: queries meet element j - i + Tq - 1 beside key j
  content_bias,   // f32 [H,D]: added to the queries that meet keys,
  position_bias,  // f32 [H,D]: and to those that meet relative keys
  rng,            // i32 [3], as dropout's; with dropout or a random normaliser
  span,           // f32 [H]: how far each head sees, before its ramp
};

// Which links there are: kernels/attention.h has the whole rule.
struct AttentionAttrs {
  int64_t heads = 1;
  int64_t kv_heads = 0;      // 0: as many as heads
  int64_t heads_kept = -1;   // the first heads_kept heads are computed, the others give 0; -1: all
  double scale = 0;          // 0: 1 / sqrt(head size), or 1 with cosine
  bool causal = false;       // query i sees keys up to its own position
  int64_t window_left = -1;  // keys further to the left than this are not seen; -1: no limit
  int64_t window_right = -1;
  bool upper_left = false;    // query i stands at position i, else at i + Tk - Tq
  int64_t dilation = 1;       // of the window: distances that it divides
  int64_t global_tokens = 0;  // the first ones, which see and are seen beside the window
  int64_t prefix = 0;         // the first keys, which all queries see
  double soft_cap = 0;        // c tanh(score / c); 0: none
  Normaliser normaliser = Normaliser::softmax;
  int64_t top_k = 0;               // of the normaliser top_k: keys of each query
  double softmax_temperature = 1;  // of the normalisers hard, gumbel and gumbel_hard
  bool lengths = false;            // inputs: see AttentionLink
  bool documents = false;
  bool mask = false;
  int64_t block = 0;  // tokens in a block of the input `blocks`, a multiple of 16; 0: no blocks
  bool bias = false;
  bool distance_bias = false;
  bool sink = false;
  bool cosine = false;  // rows of q and k are divided by their norms, sqrt(|row|^2 + cosine_eps)
  double cosine_eps = 1e-6;
  int64_t rotary = 0;  // coordinates of a head that its position turns; 0: none
  double rotary_base = 10000;
  RotaryLayout rotary_layout = RotaryLayout::pairs;
  bool temperature = false;
  bool relative_keys = false;
  bool content_bias = false;  // both only with relative_keys
  bool position_bias = false;
  bool span = false;
  double span_ramp = 0;  // of the input span: tokens over which a link fades away
  double dropout = 0;    // share of the probabilities that become 0
  // Names the random stream of dropout or of a random normaliser; ops::attention takes the name of
  // the node.
  std::string stream = {};
  bool link_gradients = false;  // attention_grad: also those of the inputs that have gradients
  bool lse = false;             // give the log-sum-exp of each query as well, [B,H,Tq]
  // Further results behind it, in this order: the entropy of each query [B,H,Tq], in nats; what
  // each key receives, the sum over queries of its probabilities [B,H,Tk]; and the strongest links
  // of each query, keys i32 [B,H,Tq,top_links] and their probabilities. Of the probabilities before
  // dropout; kernels/attention.h has the rest.
  bool entropy = false;
  bool mass = false;
  int64_t top_links = 0;
  bool packed = false;  // one input [B,T,(H+2Hkv)*D]: the heads of q, then of k, then of v
  TypeChoice compute = TypeChoice::same;  // what mixed_precision makes of the products
  template <class V>
  void visit(V& v) {
    v("heads", heads);
    v("kv_heads", kv_heads);
    v("heads_kept", heads_kept);
    v("scale", scale);
    v("causal", causal);
    v("window_left", window_left);
    v("window_right", window_right);
    v("upper_left", upper_left);
    v("dilation", dilation);
    v("global_tokens", global_tokens);
    v("prefix", prefix);
    v("soft_cap", soft_cap);
    v("normaliser", normaliser);
    v("top_k", top_k);
    v("softmax_temperature", softmax_temperature);
    v("lengths", lengths);
    v("documents", documents);
    v("mask", mask);
    v("block", block);
    v("bias", bias);
    v("distance_bias", distance_bias);
    v("sink", sink);
    v("cosine", cosine);
    v("cosine_eps", cosine_eps);
    v("rotary", rotary);
    v("rotary_base", rotary_base);
    v("rotary_layout", rotary_layout);
    v("temperature", temperature);
    v("relative_keys", relative_keys);
    v("content_bias", content_bias);
    v("position_bias", position_bias);
    v("span", span);
    v("span_ramp", span_ramp);
    v("dropout", dropout);
    v("stream", stream);
    v("link_gradients", link_gradients);
    v("lse", lse);
    v("entropy", entropy);
    v("mass", mass);
    v("top_links", top_links);
    v("packed", packed);
    v("compute", compute);
  }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
  int64_t kept() const { return heads_kept < 0 ? heads : heads_kept; }
  double scale_of(int64_t head_size) const {
    if (scale != 0) return scale;
    return cosine ? 1 : 1 / std::sqrt(static_cast<double>(head_size));
  }
  // Whether numbers are drawn: by dropout or by a random normaliser.
  bool is_random() const { return dropout > 0 || fovea::is_random(normaliser); }
  // Of a random normaliser: its own numbers, whatever else draws from the stream.
  std::string noise_stream() const { return stream.empty() ? "" : stream + ".noise"; }
  // Which results these are, where there are any.
  int32_t lse_output() const { return 1; }
  int32_t entropy_output() const { return 1 + lse; }
  int32_t mass_output() const { return entropy_output() + entropy; }
  int32_t top_keys_output() const { return mass_output() + mass; }
  int32_t top_probabilities_output() const { return top_keys_output() + 1; }
  // Inputs that hold q, k and v, and those behind them.
  size_t operands() const { return packed ? 1 : 3; }
  size_t links() const {
    return size_t{lengths} + documents + mask + (block > 0) + bias + distance_bias + sink +
           temperature + relative_keys + content_bias + position_bias + is_random() + span;
  }
  // Which input this is, or -1.
  int input(AttentionLink link) const {
    const bool has[] = {lengths,       documents,   mask,        block > 0,     bias,
                        distance_bias, sink,        temperature, relative_keys, content_bias,
                        position_bias, is_random(), span};
    const auto which = static_cast<size_t>(link);
    if (!has[which]) return -1;
    size_t at = operands();
    for (size_t i = 0; i < which; ++i) at += has[i];
    return static_cast<int>(at);
  }
};

// Linear attention has no softmax and no scale.
struct LinearAttentionAttrs {
  int64_t heads = 1;
  int64_t kv_heads = 0;  // 0: as many as heads
  bool causal = false;   // query i sees keys up to i + Tk - Tq
  template <class V>
  void visit(V& v) {
    v("heads", heads);
    v("kv_heads", kv_heads);
    v("causal", causal);
  }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
};

// Of the list of blocks that attention reads as AttentionLink::blocks, made from its q and k; the
// masks are those of the attention.
struct AttentionBlocksAttrs {
  int64_t heads = 1;
  int64_t kv_heads = 0;  // 0: as many as heads
  double scale = 0;      // 0: 1 / sqrt(head size)
  bool causal = false;
  int64_t window_left = -1;
  int64_t window_right = -1;
  bool upper_left = false;
  int64_t global_tokens = 0;
  int64_t prefix = 0;
  int64_t block = 64;    // tokens of a side, a multiple of 16
  double mass = 0.9;     // of each row of blocks, as it is estimated
  bool lengths = false;  // an input i32 [B]: keys of each sample
  template <class V>
  void visit(V& v) {
    v("heads", heads);
    v("kv_heads", kv_heads);
    v("scale", scale);
    v("causal", causal);
    v("window_left", window_left);
    v("window_right", window_right);
    v("upper_left", upper_left);
    v("global_tokens", global_tokens);
    v("prefix", prefix);
    v("block", block);
    v("mass", mass);
    v("lengths", lengths);
  }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
};

// Of additive and of subtraction attention.
struct PairAttentionAttrs {
  int64_t heads = 1;
  int64_t kv_heads = 0;      // 0: as many as heads
  double scale = 1;          // of the scores
  bool causal = false;       // query i sees keys up to i + Tk - Tq
  int64_t window_left = -1;  // keys further to the left than this are not seen; -1: no limit
  int64_t window_right = -1;
  bool lse = false;  // give the log-sum-exp of each query as well, [B,H,Tq]
  template <class V>
  void visit(V& v) {
    v("heads", heads);
    v("kv_heads", kv_heads);
    v("scale", scale);
    v("causal", causal);
    v("window_left", window_left);
    v("window_right", window_right);
    v("lse", lse);
  }
  int64_t kv() const { return kv_heads ? kv_heads : heads; }
};

struct Conv2dAttrs {
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;  // zeros on both sides
  template <class V>
  void visit(V& v) {
    v("stride_h", stride_h);
    v("stride_w", stride_w);
    v("pad_h", pad_h);
    v("pad_w", pad_w);
  }
};
// The gradients need the size that division by the stride has lost.
struct Conv2dGradAttrs : Conv2dAttrs {
  Shape shape;  // of the input's, or of the weight's gradient
  template <class V>
  void visit(V& v) {
    Conv2dAttrs::visit(v);
    v("shape", shape);
  }
};

struct PoolAttrs {
  int64_t size_h = 2, size_w = 2;
  int64_t stride_h = 2, stride_w = 2;
  int64_t pad_h = 0, pad_w = 0;
  bool indices = false;  // max_pool: give the place of each maximum as well, i32, in the plane H*W
  template <class V>
  void visit(V& v) {
    v("size_h", size_h);
    v("size_w", size_w);
    v("stride_h", stride_h);
    v("stride_w", stride_w);
    v("pad_h", pad_h);
    v("pad_w", pad_w);
    v("indices", indices);
  }
};
struct PoolGradAttrs : PoolAttrs {
  Shape shape;  // of the input's gradient
  template <class V>
  void visit(V& v) {
    PoolAttrs::visit(v);
    v("shape", shape);
  }
};

struct PatchesAttrs {
  int64_t size = 4;  // of the square patches, in pixels
  template <class V>
  void visit(V& v) {
    v("size", size);
  }
};

struct ScatterAddAttrs {
  Size rows = 1;
  template <class V>
  void visit(V& v) {
    v("rows", rows);
  }
};

struct DropoutAttrs {
  double rate = 0.1;   // share of elements that become 0
  std::string stream;  // names the random stream; empty: the node's name
  template <class V>
  void visit(V& v) {
    v("rate", rate);
    v("stream", stream);
  }
};

struct NormaliseAttrs {  // normalise, normalise_grad
  Normaliser normaliser = Normaliser::softmax;
  int64_t top_k = 0;               // of top_k: how many are kept
  double softmax_temperature = 1;  // of hard, gumbel and gumbel_hard
  std::string stream = {};         // names the random stream; empty: the node's name
  template <class V>
  void visit(V& v) {
    v("normaliser", normaliser);
    v("top_k", top_k);
    v("softmax_temperature", softmax_temperature);
    v("stream", stream);
  }
};

struct CrossEntropyAttrs {
  double smoothing = 0;  // share of the target that is spread over all classes
  template <class V>
  void visit(V& v) {
    v("smoothing", smoothing);
  }
};

// A chain of elementwise ops in one node. Each step is the name of an op and the registers that it
// reads, "mul 0 1": registers 0.. are the inputs, each step writes the next one; the last is the
// result.
struct ElementwiseAttrs {
  std::vector<std::string> steps;
  TypeChoice out = TypeChoice::f32;
  template <class V>
  void visit(V& v) {
    v("steps", steps);
    v("out", out);
  }
};

struct AdamwAttrs {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  template <class V>
  void visit(V& v) {
    v("beta1", beta1);
    v("beta2", beta2);
    v("eps", eps);
    v("weight_decay", weight_decay);
  }
};

struct SgdAttrs {
  double momentum = 0;
  double weight_decay = 0;
  template <class V>
  void visit(V& v) {
    v("momentum", momentum);
    v("weight_decay", weight_decay);
  }
};

}  // namespace fovea
