#include "fovea/graph/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fovea/base/philox.h"
#include "fovea/base/visit.h"
#include "fovea/graph/op.h"

namespace fovea::ops {

Value input(Graph& g, std::string_view name, DType dtype, Shape shape) {
  return g.add("input", {}, InputAttrs{{dtype, std::move(shape)}}, name);
}
Value variable(Graph& g, std::string_view name, VariableAttrs attrs) {
  return g.add("variable", {}, std::move(attrs), name);
}
Value weight(Graph& g, std::string_view name, Shape shape, double deviation) {
  return variable(g, name,
                  {.type = {DType::f32, std::move(shape)},
                   .init = deviation == 0 ? Init::constant : Init::normal,
                   .scale = deviation,
                   .source = {}});
}

Value constant(Graph& g, double value, DType dtype, Shape shape) {
  return g.add("constant", {}, ConstantAttrs{{dtype, std::move(shape)}, {value}, {}});
}
Value constant(Graph& g, const std::vector<double>& values, DType dtype, Shape shape) {
  if (values.size() > 64 && dtype == DType::f32) {
    auto tensor = std::make_shared<HostTensor>();
    for (const Size& s : shape) tensor->shape.push_back(s.constant());
    for (const double v : values) {
      const auto narrow = static_cast<float>(v);
      const auto bytes = std::as_bytes(std::span(&narrow, 1));
      tensor->bytes.insert(tensor->bytes.end(), bytes.begin(), bytes.end());
    }
    return constant(g, std::move(tensor));
  }
  return g.add("constant", {}, ConstantAttrs{{dtype, std::move(shape)}, values, {}});
}

namespace {
template <class T>
std::vector<double> numbers(const HostTensor& t) {
  const auto* p = reinterpret_cast<const T*>(t.bytes.data());
  return std::vector<double>(p, p + t.bytes.size() / sizeof(T));
}
}  // namespace

Value constant(Graph& g, HostTensorPtr tensor, std::string_view name) {
  ConstantAttrs a{{tensor->dtype, {}}, {}, {}};
  for (int64_t n : tensor->shape) a.type.shape.push_back(n);
  const size_t count = tensor->bytes.size() / dtype_size(tensor->dtype);
  if (count <= 64 && count > 0) {
    switch (tensor->dtype) {
      case DType::f32:
        a.values = numbers<float>(*tensor);
        break;
      case DType::f64:
        a.values = numbers<double>(*tensor);
        break;
      case DType::i32:
        a.values = numbers<int32_t>(*tensor);
        break;
      case DType::u8:
      case DType::boolean:
        a.values = numbers<uint8_t>(*tensor);
        break;
      case DType::i8:
        a.values = numbers<int8_t>(*tensor);
        break;
      case DType::bf16:
      case DType::f16:
        break;  // kept by hash
    }
    // A NaN does not read back from the text form as the same bits.
    if (std::any_of(a.values.begin(), a.values.end(), [](double v) { return std::isnan(v); }))
      a.values.clear();
  }
  if (a.values.empty()) {
    const std::string_view bytes(reinterpret_cast<const char*>(tensor->bytes.data()),
                                 tensor->bytes.size());
    a.hash = fmt::format("{:016x}", stream_id(fmt::format("{}{}", to_text(a.type), bytes)));
    g.store_constant(a.hash, tensor);
  }
  return g.add("constant", {}, a, name);
}

Value unary(Graph& g, std::string_view op, Value x) { return g.add(op, {x}); }
Value binary(Graph& g, std::string_view op, Value a, Value b) { return g.add(op, {a, b}); }
Value add(Graph& g, Value a, Value b) { return binary(g, "add", a, b); }
Value sub(Graph& g, Value a, Value b) { return binary(g, "sub", a, b); }
Value mul(Graph& g, Value a, Value b) { return binary(g, "mul", a, b); }
Value div(Graph& g, Value a, Value b) { return binary(g, "div", a, b); }
Value gelu(Graph& g, Value x) { return unary(g, "gelu", x); }
Value scaled(Graph& g, Value x, double factor) {
  return mul(g, x, constant(g, factor, g.type(x).dtype));
}
Value select(Graph& g, Value condition, Value a, Value b) {
  return g.add("select", {condition, a, b});
}
Value cast(Graph& g, Value x, DType dtype) {
  return g.type(x).dtype == dtype ? x : g.add("cast", {x}, CastAttrs{dtype});
}

Value broadcast(Graph& g, Value x, Shape shape) {
  return g.shape(x) == shape ? x : g.add("broadcast", {x}, ShapeAttrs{std::move(shape)});
}
Value reshape(Graph& g, Value x, Shape shape) {
  return g.add("reshape", {x}, ShapeAttrs{std::move(shape)});
}
Value transpose(Graph& g, Value x, std::vector<int64_t> order) {
  return g.add("transpose", {x}, TransposeAttrs{std::move(order)});
}
Value concat(Graph& g, std::vector<Value> xs, int64_t axis) {
  return g.add("concat", std::move(xs), ConcatAttrs{axis});
}
Value slice(Graph& g, Value x, int64_t axis, Size start, Size length) {
  return g.add("slice", {x}, SliceAttrs{axis, std::move(start), std::move(length)});
}
Value pad(Graph& g, Value x, int64_t axis, Size before, Size after) {
  return g.add("pad", {x}, PadAttrs{axis, std::move(before), std::move(after)});
}
Value iota(Graph& g, DType dtype, Shape shape, int64_t axis) {
  return g.add("iota", {}, IotaAttrs{{dtype, std::move(shape)}, axis});
}

Value reduce_sum(Graph& g, Value x, std::vector<int64_t> axes, bool keep) {
  return g.add("reduce_sum", {x}, ReduceAttrs{std::move(axes), keep});
}
Value reduce_mean(Graph& g, Value x, std::vector<int64_t> axes, bool keep) {
  return g.add("reduce_mean", {x}, ReduceAttrs{std::move(axes), keep});
}
Value sum_to(Graph& g, Value x, const Shape& shape) {
  const Shape from = g.shape(x);
  if (from == shape) return x;
  const size_t extra = from.size() - shape.size();
  std::vector<int64_t> axes;
  for (size_t i = 0; i < from.size(); ++i)
    if (i < extra || (shape[i - extra] == Size(1) && !(from[i] == Size(1))))
      axes.push_back(static_cast<int64_t>(i));
  const Value sum = axes.empty() ? x : reduce_sum(g, x, axes);
  return g.shape(sum) == shape ? sum : reshape(g, sum, shape);
}

Value matmul(Graph& g, Value a, Value b, MatmulAttrs attrs) {
  return g.add("matmul", {a, b}, attrs);
}
Value linear(Graph& g, Value x, Value w, Value bias) {
  return bias ? g.add("linear", {x, w, bias}) : g.add("linear", {x, w});
}
Value linear(Graph& g, std::string_view name, Value x, Size out, bool bias) {
  const Size in = g.shape(x).back();
  const double limit = 1 / std::sqrt(static_cast<double>(in.constant()));
  Value w, b;
  {
    const Graph::Scope scope(g, name);
    w = variable(
        g, "weight",
        {.type = {DType::f32, {out, in}}, .init = Init::uniform, .scale = limit, .source = {}});
    if (bias) b = variable(g, "bias", {.type = {DType::f32, {out}}, .source = {}});
  }
  return bias ? g.add("linear", {x, w, b}, LinearAttrs{}, name)
              : g.add("linear", {x, w}, LinearAttrs{}, name);
}
Value softmax(Graph& g, Value x) { return g.add("softmax", {x}); }
Value log_softmax(Graph& g, Value x) { return g.add("log_softmax", {x}); }
Value layer_norm(Graph& g, Value x, Value w, Value bias, NormAttrs attrs) {
  return g.add("layer_norm", {x, w, bias}, attrs);
}
Value layer_norm(Graph& g, std::string_view name, Value x) {
  const Size c = g.shape(x).back();
  Value w, b;
  {
    const Graph::Scope scope(g, name);
    w = variable(g, "weight", {.type = {DType::f32, {c}}, .scale = 1, .source = {}});
    b = variable(g, "bias", {.type = {DType::f32, {c}}, .source = {}});
  }
  return g.add("layer_norm", {x, w, b}, NormAttrs{}, name);
}
Value rms_norm(Graph& g, Value x, Value w, NormAttrs attrs) {
  return g.add("rms_norm", {x, w}, attrs);
}
Value normalise(Graph& g, Value x, NormaliseAttrs attrs, Value rng, std::string_view name) {
  return g.add("normalise", rng ? std::vector{x, rng} : std::vector{x}, attrs, name);
}
Value attention(Graph& g, Value q, Value k, Value v, AttentionAttrs attrs, std::string_view name) {
  return g.add("attention", {q, k, v}, attrs, name);
}
Value attention(Graph& g, Value q, Value k, Value v, AttentionAttrs attrs,
                const AttentionLinkValues& links, std::string_view name) {
  std::vector<Value> inputs = {q, k, v};
  const auto add = [&](Value value) {
    if (value) inputs.push_back(value);
    return static_cast<bool>(value);
  };
  attrs.lengths = add(links.lengths);
  attrs.documents = add(links.documents);
  attrs.mask = add(links.mask);
  if (add(links.blocks) != (attrs.block > 0))
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[attention] expected the input blocks and the attribute block "
                            "together, got block={} and {}",
                            attrs.block, links.blocks ? "the input" : "no input")};
  attrs.bias = add(links.bias);
  attrs.distance_bias = add(links.distance_bias);
  attrs.sink = add(links.sink);
  attrs.temperature = add(links.temperature);
  attrs.relative_keys = add(links.relative_keys);
  attrs.content_bias = add(links.content_bias);
  attrs.position_bias = add(links.position_bias);
  if (add(links.rng) != attrs.is_random())
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[attention] expected the input rng together with dropout or a random "
                            "normaliser, got dropout={}, normaliser={} and {}",
                            attrs.dropout, enum_name(attrs.normaliser),
                            links.rng ? "the input" : "no input")};
  attrs.span = add(links.span);
  if (links.rng && attrs.stream.empty())
    attrs.stream = g.name_of_next(name.empty() ? "attention" : name);
  return g.add("attention", std::move(inputs), attrs, name);
}
Value attention_blocks(Graph& g, Value q, Value k, AttentionBlocksAttrs attrs, Value lengths,
                       std::string_view name) {
  attrs.lengths = static_cast<bool>(lengths);
  return lengths ? g.add("attention_blocks", {q, k, lengths}, attrs, name)
                 : g.add("attention_blocks", {q, k}, attrs, name);
}
Value linear_attention(Graph& g, Value q, Value k, Value v, LinearAttentionAttrs attrs,
                       std::string_view name) {
  return g.add("linear_attention", {q, k, v}, attrs, name);
}
Value additive_attention(Graph& g, Value q, Value k, Value v, Value w, PairAttentionAttrs attrs,
                         std::string_view name) {
  return g.add("additive_attention", {q, k, v, w}, attrs, name);
}
Value subtraction_attention(Graph& g, Value q, Value k, Value v, Value w, PairAttentionAttrs attrs,
                            std::string_view name) {
  return g.add("subtraction_attention", {q, k, v, w}, attrs, name);
}

Value conv2d(Graph& g, Value x, Value w, Value bias, Conv2dAttrs attrs) {
  return bias ? g.add("conv2d", {x, w, bias}, attrs) : g.add("conv2d", {x, w}, attrs);
}
Value conv2d(Graph& g, std::string_view name, Value x, int64_t out, int64_t size,
             Conv2dAttrs attrs) {
  const Size in = g.shape(x).back();
  const double fan_in = static_cast<double>(in.constant() * size * size);
  Value w, b;
  {
    const Graph::Scope scope(g, name);
    w = weight(g, "weight", {out, size, size, in}, std::sqrt(2 / fan_in));  // He et al. 2015
    b = variable(g, "bias", {.type = {DType::f32, {out}}, .source = {}});
  }
  return g.add("conv2d", {x, w, b}, attrs, name);
}
Value max_pool(Graph& g, Value x, PoolAttrs attrs) { return g.add("max_pool", {x}, attrs); }
Value avg_pool(Graph& g, Value x, PoolAttrs attrs) { return g.add("avg_pool", {x}, attrs); }
Value patches(Graph& g, Value x, int64_t size) { return g.add("patches", {x}, PatchesAttrs{size}); }

Value gather(Graph& g, Value table, Value indices) { return g.add("gather", {table, indices}); }
Value embedding(Graph& g, std::string_view name, Value indices, int64_t vocabulary, int64_t width) {
  Value table;
  {
    const Graph::Scope scope(g, name);
    table = weight(g, "weight", {vocabulary, width}, 0.02);
  }
  return g.add("gather", {table, indices}, NoAttrs{}, name);
}
Value scatter_add(Graph& g, Value updates, Value indices, Size rows) {
  return g.add("scatter_add", {updates, indices}, ScatterAddAttrs{std::move(rows)});
}
Value dropout(Graph& g, Value x, Value rng, double rate, std::string_view name) {
  return g.add("dropout", {x, rng}, DropoutAttrs{rate, {}}, name);
}
Value cross_entropy(Graph& g, Value logits, Value labels, CrossEntropyAttrs attrs) {
  return g.add("cross_entropy", {logits, labels}, attrs);
}
Value mean_squared_error(Graph& g, Value prediction, Value target) {
  return g.add("mean_squared_error", {prediction, target});
}

}  // namespace fovea::ops
