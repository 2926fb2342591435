#include "fovea/base/philox.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/attention.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

// The strides of an input [B|1,H|1,Tq|1,Tk].
AttentionPlane plane_of(std::span<const int64_t> dims) {
  const int64_t row = dims[3], plane = dims[2] * row;
  return {.batch = dims[0] > 1 ? dims[1] * plane : 0,
          .head = dims[1] > 1 ? plane : 0,
          .query = dims[2] > 1 ? row : 0};
}

// Of one row or head that stands for all a stride of 0 is right, and where there is but one too.
void add_links(const NodeProblem& n, const AttentionAttrs& a, AttentionProblem& p) {
  p.align = a.upper_left ? AttentionAlign::upper_left : AttentionAlign::lower_right;
  p.dilation = a.dilation;
  p.global_tokens = a.global_tokens;
  p.prefix = a.prefix;
  p.soft_cap = a.soft_cap;
  p.block = a.block;
  p.mask = a.mask;
  p.bias = a.bias;
  p.distance_bias = a.distance_bias;
  p.sink = a.sink;
  p.cosine = a.cosine;
  p.cosine_eps = a.cosine_eps;
  p.rotary = a.rotary;
  p.rotary_base = a.rotary_base;
  p.rotary_layout = a.rotary_layout;
  p.temperature = a.temperature;
  p.relative_keys = a.relative_keys;
  p.content_bias = a.content_bias;
  p.position_bias = a.position_bias;
  p.normaliser = {.kind = a.normaliser,
                  .top_k = a.top_k,
                  .softmax_temperature = a.softmax_temperature,
                  .stream = stream_id(a.noise_stream())};
  p.span = a.span;
  p.span_ramp = a.span_ramp;
  p.dropout = a.dropout;
  p.stream = stream_id(a.stream);
  const auto dims = [&](AttentionLink link) {
    return n.input_dims(static_cast<size_t>(a.input(link)));
  };
  if (a.documents) p.documents = dims(AttentionLink::documents)[1] - 1;
  if (a.mask) p.mask_plane = plane_of(dims(AttentionLink::mask));
  if (a.block > 0) p.block_plane = plane_of(dims(AttentionLink::blocks));
  if (a.bias) p.bias_plane = plane_of(dims(AttentionLink::bias));
}

// Reads the inputs of links.
class LinkInputs {
 public:
  explicit LinkInputs(const AttentionAttrs& a) : attrs_(a) {}
  AttentionLinks operator()(const void* const* in) const {
    const auto at = [&]<class T>(AttentionLink link, const T*) {
      const int input = attrs_.input(link);
      return input < 0 ? nullptr : static_cast<const T*>(in[input]);
    };
    const int32_t* numbers = nullptr;
    const uint8_t* flags = nullptr;
    const void* floats = nullptr;
    return {.key_lengths = at(AttentionLink::lengths, numbers),
            .document_starts = at(AttentionLink::documents, numbers),
            .mask = at(AttentionLink::mask, flags),
            .blocks = at(AttentionLink::blocks, flags),
            .bias = at(AttentionLink::bias, floats),
            .distance_bias = at(AttentionLink::distance_bias, floats),
            .sinks = at(AttentionLink::sink, floats),
            .temperatures = at(AttentionLink::temperature, floats),
            .relative_keys = at(AttentionLink::relative_keys, floats),
            .content_biases = at(AttentionLink::content_bias, floats),
            .position_biases = at(AttentionLink::position_bias, floats),
            .spans = at(AttentionLink::span, floats),
            .rng = at(AttentionLink::rng, numbers)};
  }

 private:
  AttentionAttrs attrs_;
};

AttentionProblem problem_of(const NodeProblem& n) {
  const auto& a = n.attrs<AttentionAttrs>();
  const auto q = n.input_dims(0);
  AttentionProblem p;
  p.dtype = n.input(0).dtype;
  p.batch = q[0];
  p.tq = q[1];
  p.heads = a.heads;
  p.kv_heads = a.kv();
  p.heads_kept = a.kept();
  if (a.packed) {
    p.tk = p.tq;
    p.head_dim = p.value_dim = q[2] / (p.heads + 2 * p.kv_heads);
  } else {
    p.tk = n.input_dims(1)[1];
    p.head_dim = q[2] / p.heads;
    p.value_dim = n.input_dims(2)[2] / p.kv_heads;
  }
  p.scale = a.scale_of(p.head_dim);
  p.causal = a.causal;
  p.window_left = a.window_left;
  p.window_right = a.window_right;
  add_links(n, a, p);
  set_dense_strides(p, /*packed=*/true);
  if (a.packed)
    p.q = p.k = p.v = p.dq = p.dk =
        p.dv = {.batch = p.tq * q[2], .token = q[2], .head = p.head_dim};
  return p;
}

// Where q, k and v begin: in three values, or in one behind each other.
class Operands {
 public:
  explicit Operands(const NodeProblem& n) : packed_(n.attrs<AttentionAttrs>().packed) {
    if (!packed_) return;
    const auto& a = n.attrs<AttentionAttrs>();
    const auto element = static_cast<int64_t>(dtype_size(n.input(0).dtype));
    const int64_t head = n.input_dims(0)[2] / (a.heads + 2 * a.kv()) * element;
    k_ = static_cast<size_t>(a.heads * head);
    v_ = static_cast<size_t>((a.heads + a.kv()) * head);
  }
  size_t count() const { return packed_ ? 1 : 3; }
  template <class P>
  P q(P const* values) const {
    return values[0];
  }
  template <class P>
  P k(P const* values) const {
    return packed_ ? shifted(values[0], k_) : values[1];
  }
  template <class P>
  P v(P const* values) const {
    return packed_ ? shifted(values[0], v_) : values[2];
  }

 private:
  static const void* shifted(const void* p, size_t bytes) {
    return static_cast<const std::byte*>(p) + bytes;
  }
  static void* shifted(void* p, size_t bytes) { return static_cast<std::byte*>(p) + bytes; }

  bool packed_;
  size_t k_ = 0, v_ = 0;  // bytes
};

std::unique_ptr<NodePlan> bind_attention(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<AttentionAttrs>();
  AttentionProblem p = problem_of(n);
  p.want_lse = a.lse;
  p.want_entropy = a.entropy;
  p.want_mass = a.mass;
  p.top_links = a.top_links;
  return bind_kernel(
      n, "attention", attention_kernels(), p, choice,
      [o = Operands(n), links = LinkInputs(a), a](const void* const* in, void* const* out) {
        AttentionArgs args{
            .q = o.q(in), .k = o.k(in), .v = o.v(in), .out = out[0], .links = links(in)};
        if (a.lse) args.lse = out[a.lse_output()];
        if (a.entropy) args.entropy = out[a.entropy_output()];
        if (a.mass) args.mass = out[a.mass_output()];
        if (a.top_links > 0) {
          args.top_keys = static_cast<int32_t*>(out[a.top_keys_output()]);
          args.top_probabilities = out[a.top_probabilities_output()];
        }
        return args;
      });
}

std::unique_ptr<NodePlan> bind_attention_grad(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<AttentionAttrs>();
  const auto bind = [o = Operands(n), links = LinkInputs(a), given = a.operands() + a.links(), a](
                        const void* const* in, void* const* out) {
    AttentionBackwardArgs args{.q = o.q(in),
                               .k = o.k(in),
                               .v = o.v(in),
                               .out = in[given],
                               .lse = in[given + 1],
                               .dout = in[given + 2],
                               .dq = o.q(out),
                               .dk = o.k(out),
                               .dv = o.v(out),
                               .links = links(in)};
    if (a.link_gradients) {
      void* const* next = out + o.count();
      if (a.bias) args.dbias = *next++;
      if (a.distance_bias) args.ddistance_bias = *next++;
      if (a.sink) args.dsinks = *next++;
      if (a.temperature) args.dtemperatures = *next++;
      if (a.relative_keys) args.drelative_keys = *next++;
      if (a.content_bias) args.dcontent_biases = *next++;
      if (a.position_bias) args.dposition_biases = *next++;
      if (a.span) args.dspans = *next++;
    }
    return args;
  };
  return bind_kernel(n, "attention_backward", attention_backward_kernels(), problem_of(n), choice,
                     bind);
}

}  // namespace

BindingGroup attention_bindings() {
  return {{{"attention", bind_attention}, {"attention_grad", bind_attention_grad}},
          {family_of("attention", attention_kernels()),
           family_of("attention_backward", attention_backward_kernels())}};
}

}  // namespace fovea
