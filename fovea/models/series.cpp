#include "fovea/models/series.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "fovea/graph/ops.h"

namespace fovea {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "[model] " + what);
}

Value floats(Graph& g, const std::vector<double>& values, std::vector<int64_t> shape,
             std::string_view name) {
  auto tensor = std::make_shared<HostTensor>();
  tensor->shape = std::move(shape);
  for (const double value : values) {
    const auto v = static_cast<float>(value);
    const auto bytes = std::as_bytes(std::span(&v, 1));
    tensor->bytes.insert(tensor->bytes.end(), bytes.begin(), bytes.end());
  }
  return ops::constant(g, std::move(tensor), name);
}

// [T,C]: sin(t / 10000^(2i/C)) and, beside it, the cosine.
Value sines(Graph& g, int64_t steps, int64_t width) {
  std::vector<double> values;
  for (int64_t t = 0; t < steps; ++t)
    for (int64_t c = 0; c < width; ++c) {
      const double power = static_cast<double>(c / 2 * 2) / static_cast<double>(width);
      const double angle = static_cast<double>(t) / std::pow(10000.0, power);
      values.push_back(c % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  return floats(g, values, {steps, width}, "position");
}

// [B,T,1], 1 where a step is there.
Value presence(Graph& g, Value length, Size steps) {
  const Shape batch = g.shape(length);
  const Value place = ops::iota(g, DType::i32, {1, steps}, 1);
  const Value there = ops::cast(
      g, ops::binary(g, "less", place, ops::reshape(g, length, {batch[0], 1})), DType::f32);
  return ops::reshape(g, there, {batch[0], steps, 1});
}

Value standardised(Graph& g, const SeriesInputs& in) {
  const auto features = static_cast<int64_t>(in.mean.size());
  std::vector<double> deviation = in.deviation;
  for (double& d : deviation)
    if (d == 0) d = 1;
  const Value mean = floats(g, in.mean, {features}, "mean");
  const Value scale = floats(g, deviation, {features}, "deviation");
  Value x = ops::div(g, ops::sub(g, in.series, mean), scale);
  if (in.gaps)  // NaN is equal to nothing
    x = ops::select(g, ops::binary(g, "equal", in.series, in.series), x, ops::constant(g, 0));
  // Padding stands in a token beside steps that are there, and must say nothing.
  if (in.length) x = ops::mul(g, x, presence(g, in.length, g.shape(in.series)[1]));
  return x;
}

struct Tokens {
  Value x;       // [B,N,C]
  Value length;  // i32 [B], or none
};

Tokens step_tokens(Graph& g, Value x, Value length, const SeriesOptions& o) {
  const Shape shape = g.shape(x);
  const int64_t steps = shape[1].constant(), features = shape[2].constant();
  if (o.patch < 1 || o.patch > steps)
    refuse(fmt::format("patch: expected 1 to the {} steps of a sequence, got {}", steps, o.patch));
  const int64_t tokens = (steps + o.patch - 1) / o.patch;
  if (tokens * o.patch > steps) x = ops::pad(g, x, 1, 0, tokens * o.patch - steps);
  if (o.patch > 1) x = ops::reshape(g, x, {shape[0], tokens, o.patch * features});
  x = ops::linear(g, "embed", x, o.width);
  const Value position = o.position == SeriesPosition::learned
                             ? ops::weight(g, "position", {tokens, o.width}, 0.02)
                             : sines(g, tokens, o.width);
  if (length && o.patch > 1) {  // rounded up; the quotient of a multiple is exact
    const Value whole = ops::add(g, ops::cast(g, length, DType::f32),
                                 ops::constant(g, static_cast<double>(o.patch - 1)));
    length = ops::cast(
        g,
        ops::unary(g, "floor", ops::div(g, whole, ops::constant(g, static_cast<double>(o.patch)))),
        DType::i32);
  }
  return {ops::add(g, x, position), length};
}

Value feature_tokens(Graph& g, Value x, const SeriesOptions& o) {
  const Shape shape = g.shape(x);
  const int64_t features = shape[2].constant();
  const Value weight = ops::weight(g, "embed.weight", {features, o.width}, 0.5);
  const Value bias = ops::weight(g, "embed.bias", {features, o.width}, 0.5);
  const Value column = ops::reshape(g, x, {shape[0], features, 1});
  return ops::add(g, ops::mul(g, column, weight), bias);
}

}  // namespace

Value series_classifier(Graph& g, const SeriesInputs& in, int64_t classes, const SeriesOptions& o,
                        const BuildContext& context) {
  if (o.width < 1 || o.width > 1 << 16)
    refuse(fmt::format("width: expected 1 to 65536, got {}", o.width));
  const Shape shape = g.shape(in.series);
  const bool one_row = shape[1] == Size(1) && !in.length;
  if (o.tokens == SeriesTokens::features && !one_row)
    refuse(
        fmt::format("tokens: features is for single rows, these samples have {} steps (take "
                    "steps)",
                    shape[1].text()));
  Value x;
  {
    const Graph::Scope scope(g, "series");
    x = standardised(g, in);
  }
  const Graph::Scope scope(g, "seq");
  Tokens tokens;
  if (one_row && o.tokens != SeriesTokens::steps)
    tokens.x = feature_tokens(g, x, o);
  else
    tokens = step_tokens(g, x, in.length, o);
  tokens.x = maybe_dropout(g, tokens.x, o.dropout, context, "drop");
  const EncoderOptions encoder_options{.layers = o.layers,
                                       .width = o.width,
                                       .heads = o.heads,
                                       .mlp = o.mlp,
                                       .dropout = o.dropout,
                                       .attention = o.attention};
  const Value h = encoder(g, tokens.x, encoder_options, context, tokens.length);
  Value pooled;
  if (tokens.length) {
    const Value sum =
        ops::reduce_sum(g, ops::mul(g, h, presence(g, tokens.length, g.shape(h)[1])), {1});
    const Value count =
        ops::binary(g, "max", ops::cast(g, tokens.length, DType::f32), ops::constant(g, 1));
    pooled = ops::div(g, sum, ops::reshape(g, count, {shape[0], 1}));
  } else {
    pooled = ops::reduce_mean(g, h, {1});
  }
  return ops::linear(g, "head", pooled, classes);
}

}  // namespace fovea
