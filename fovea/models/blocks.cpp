#include "fovea/models/blocks.h"

#include <fmt/format.h>

#include "fovea/graph/ops.h"

namespace fovea {

namespace {
void check_range(const char* key, int64_t value, int64_t most) {
  if (value < 1 || value > most)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[model] {}: expected 1 to {}, got {}", key, most, value));
}
}  // namespace

Value maybe_dropout(Graph& g, Value x, double rate, const BuildContext& context,
                    std::string_view name) {
  if (!context.training || rate == 0) return x;
  return ops::dropout(g, x, context.rng, rate, name);
}

Value feed_forward(Graph& g, Value x, const EncoderOptions& o) {
  const Value h = ops::gelu(g, ops::linear(g, "fc1", x, o.mlp));
  return ops::linear(g, "fc2", h, o.width);
}

Value encoder(Graph& g, Value x, const EncoderOptions& o, const BuildContext& context,
              Value lengths) {
  check_range("layers", o.layers, 1000);
  check_range("heads", o.heads, o.width);
  check_range("mlp", o.mlp, 1 << 20);
  if (o.width % o.heads != 0)
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("[model] heads: expected a divisor of width={}, got {}", o.width, o.heads));
  const Graph::Scope scope(g, "enc");
  for (int64_t i = 0; i < o.layers; ++i) {
    const Graph::Scope layer(g, std::to_string(i));
    const Value a = self_attention(g, ops::layer_norm(g, "norm1", x), o.heads, o.attention,
                                   {.rng = context.training ? context.rng : Value{},
                                    .lengths = lengths,
                                    .penalties = context.training ? context.penalties : nullptr});
    x = ops::add(g, x, maybe_dropout(g, a, o.dropout, context, "drop1"));
    const Value h = feed_forward(g, ops::layer_norm(g, "norm2", x), o);
    x = ops::add(g, x, maybe_dropout(g, h, o.dropout, context, "drop2"));
  }
  return ops::layer_norm(g, "norm", x);
}

}  // namespace fovea
