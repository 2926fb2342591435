// The vocabulary of model builders: each function checks its arguments, adds a node and returns its
// value. Shapes are written [B,T,C]; floats mean f32 (f64 in references). Throws Error on misfits.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "fovea/graph/graph.h"
#include "fovea/graph/op_attrs.h"

namespace fovea::ops {

Value input(Graph& g, std::string_view name, DType dtype, Shape shape);
Value variable(Graph& g, std::string_view name, VariableAttrs attrs);
// A weight: normal with the given deviation. A deviation of 0 gives zeros.
Value weight(Graph& g, std::string_view name, Shape shape, double deviation);
// The same value for each element of the shape; a scalar when none is given.
Value constant(Graph& g, double value, DType dtype = DType::f32, Shape shape = {});
Value constant(Graph& g, const std::vector<double>& values, DType dtype, Shape shape);
// Any size: up to 64 elements stand inline, more in the graph's constant store.
Value constant(Graph& g, HostTensorPtr tensor, std::string_view name = {});

// Elementwise, broadcasting as NumPy does.
Value unary(Graph& g, std::string_view op, Value x);
Value binary(Graph& g, std::string_view op, Value a, Value b);
Value add(Graph& g, Value a, Value b);
Value sub(Graph& g, Value a, Value b);
Value mul(Graph& g, Value a, Value b);
Value div(Graph& g, Value a, Value b);
Value gelu(Graph& g, Value x);
Value scaled(Graph& g, Value x, double factor);
Value select(Graph& g, Value condition, Value a, Value b);
Value cast(Graph& g, Value x, DType dtype);

Value broadcast(Graph& g, Value x, Shape shape);
Value reshape(Graph& g, Value x, Shape shape);
Value transpose(Graph& g, Value x, std::vector<int64_t> order);
Value concat(Graph& g, std::vector<Value> xs, int64_t axis);
Value slice(Graph& g, Value x, int64_t axis, Size start, Size length);
Value pad(Graph& g, Value x, int64_t axis, Size before, Size after);
Value iota(Graph& g, DType dtype, Shape shape, int64_t axis);

Value reduce_sum(Graph& g, Value x, std::vector<int64_t> axes, bool keep = false);
Value reduce_mean(Graph& g, Value x, std::vector<int64_t> axes, bool keep = false);
// The sum over the axes along which `shape` was broadcast to x's shape: the gradient of
// broadcasting.
Value sum_to(Graph& g, Value x, const Shape& shape);

// a [..,m,k] b [..,k,n] -> [..,m,n]; leading axes broadcast.
Value matmul(Graph& g, Value a, Value b, MatmulAttrs attrs = {});
// x [..,K], weight [N,K], bias [N] or none -> [..,N].
Value linear(Graph& g, Value x, Value weight, Value bias = {});
// Makes the variables `weight` (uniform, 1/sqrt(K) wide, as is usual) and `bias` below `name`.
Value linear(Graph& g, std::string_view name, Value x, Size out, bool bias = true);
Value softmax(Graph& g, Value x);
Value log_softmax(Graph& g, Value x);
Value layer_norm(Graph& g, Value x, Value weight, Value bias, NormAttrs attrs = {});
Value layer_norm(Graph& g, std::string_view name, Value x);
Value rms_norm(Graph& g, Value x, Value weight, NormAttrs attrs = {});
// What the normaliser makes of the last axis (base/normaliser.h). rng as dropout's, for the random
// ones.
Value normalise(Graph& g, Value x, NormaliseAttrs attrs, Value rng = {},
                std::string_view name = {});
// Further inputs of attention, with the shapes of AttentionLink; those that are given set the
// attributes of their names.
struct AttentionLinkValues {
  Value lengths = {}, documents = {}, mask = {};
  Value blocks = {};  // with attrs.block
  Value bias = {}, distance_bias = {}, sink = {}, temperature = {};
  Value relative_keys = {}, content_bias = {}, position_bias = {};
  Value rng = {};   // with attrs.dropout or a random normaliser
  Value span = {};  // with attrs.span_ramp
};
// q [B,Tq,H*D], k [B,Tk,Hkv*D], v [B,Tk,Hkv*Dv] -> [B,Tq,H*Dv] (Vaswani et al. 2017). Dropout's
// stream has the name of the node, unless attrs.stream names another.
Value attention(Graph& g, Value q, Value k, Value v, AttentionAttrs attrs,
                std::string_view name = {});
Value attention(Graph& g, Value q, Value k, Value v, AttentionAttrs attrs,
                const AttentionLinkValues& links, std::string_view name = {});
// Which blocks of links carry the attention of q and k (kernels/attention_blocks.h), for
// AttentionLinkValues::blocks: bool [B,H,ceil(Tq/block),ceil(Tk/block)]. lengths i32 [B], or none.
Value attention_blocks(Graph& g, Value q, Value k, AttentionBlocksAttrs attrs, Value lengths = {},
                       std::string_view name = {});
// The same shapes; phi(q) S / (phi(q) z) with phi = elu + 1, S and z sums over the keys of phi(k) v
// and phi(k) (Katharopoulos et al. 2020): work grows with Tq + Tk.
Value linear_attention(Graph& g, Value q, Value k, Value v, LinearAttentionAttrs attrs,
                       std::string_view name = {});
// The same shapes and w [H*D]; scores scale w . tanh(q + k) of each head, then softmax (Bahdanau et
// al. 2015).
Value additive_attention(Graph& g, Value q, Value k, Value v, Value w, PairAttentionAttrs attrs,
                         std::string_view name = {});
// The same with scores scale w . relu(q - k) (Zhao et al. 2020, pairwise, relation of subtraction).
Value subtraction_attention(Graph& g, Value q, Value k, Value v, Value w, PairAttentionAttrs attrs,
                            std::string_view name = {});

// x [B,H,W,C], weight [O,KH,KW,C], bias [O] or none -> [B,OH,OW,O].
Value conv2d(Graph& g, Value x, Value weight, Value bias = {}, Conv2dAttrs attrs = {});
Value conv2d(Graph& g, std::string_view name, Value x, int64_t out, int64_t size,
             Conv2dAttrs attrs);
Value max_pool(Graph& g, Value x, PoolAttrs attrs = {});
Value avg_pool(Graph& g, Value x, PoolAttrs attrs = {});
// [B,H,W,C] -> [B,(H/s)*(W/s),s*s*C], row by row (Dosovitskiy et al. 2021).
Value patches(Graph& g, Value x, int64_t size);

// table [V,C], indices i32 [..] -> [..,C].
Value gather(Graph& g, Value table, Value indices);
// Makes the table as the variable `weight` [vocabulary,width] below `name`: indices i32 [..] ->
// [..,width].
Value embedding(Graph& g, std::string_view name, Value indices, int64_t vocabulary, int64_t width);
Value scatter_add(Graph& g, Value updates, Value indices, Size rows);
// rng i32 [3]: seed, step, index of the first sample in the global batch.
Value dropout(Graph& g, Value x, Value rng, double rate, std::string_view name = {});
// logits [..,C], labels i32 [..] (negative: ignored) -> loss [..].
Value cross_entropy(Graph& g, Value logits, Value labels, CrossEntropyAttrs attrs = {});
// Mean over all axes but the first: [B,..], [B,..] -> [B].
Value mean_squared_error(Graph& g, Value prediction, Value target);

}  // namespace fovea::ops
