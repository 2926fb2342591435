#include "fovea/models/vision.h"

#include <fmt/format.h>

#include "fovea/graph/ops.h"

namespace fovea {

Value vision_classifier(Graph& g, Value image, int64_t classes, const VisionOptions& o,
                        const BuildContext& context) {
  if (o.width < 1 || o.width > 1 << 16)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[model] width: expected 1 to 65536, got {}", o.width));
  Value x;
  {
    // Bytes 0..255 to -1..1: near enough to what any data set's own mean and deviation give.
    const Graph::Scope scope(g, "pixels");
    x = ops::cast(g, image, DType::f32);
    x = ops::add(g, ops::scaled(g, x, 2.0 / 255.0), ops::constant(g, -1));
  }
  {
    const Graph::Scope scope(g, "stem");
    for (size_t i = 0; i < o.stem.size(); ++i) {
      if (o.stem[i] < 1)
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("[model] stem: expected at least 1 channel, got {}", o.stem[i]));
      x = ops::conv2d(g, std::to_string(i), x, o.stem[i], 3,
                      {.stride_h = 2, .stride_w = 2, .pad_h = 1, .pad_w = 1});
      x = ops::gelu(g, x);
    }
  }
  const Shape s = g.shape(x);
  const bool whole =
      o.patch >= 1 && s[1].constant() % o.patch == 0 && s[2].constant() % o.patch == 0;
  if (!whole)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[model] patch: {}x{} after the stem is no multiple of patch={}",
                            s[1].text(), s[2].text(), o.patch));
  const Graph::Scope scope(g, "vit");
  Value tokens = ops::patches(g, x, o.patch);
  tokens = ops::linear(g, "embed", tokens, o.width);
  const Shape t = g.shape(tokens);
  const Value position = ops::weight(g, "position", {t[1], t[2]}, 0.02);
  tokens = maybe_dropout(g, ops::add(g, tokens, position), o.dropout, context, "drop");
  const EncoderOptions encoder_options{.layers = o.layers,
                                       .width = o.width,
                                       .heads = o.heads,
                                       .mlp = o.mlp,
                                       .dropout = o.dropout,
                                       .attention = o.attention};
  const Value h = encoder(g, tokens, encoder_options, context);
  return ops::linear(g, "head", ops::reduce_mean(g, h, {1}), classes);
}

}  // namespace fovea
