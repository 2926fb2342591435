#include "fovea/explain/token_grid.h"

#include <fmt/format.h>

#include <vector>

#include "fovea/base/error.h"
#include "fovea/data/dataset.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/passes/fuse_attention.h"

namespace fovea {

TokenGrid::Box TokenGrid::box(int64_t token, int64_t height, int64_t width) const {
  FOVEA_ASSERT(token >= 0 && token < tokens());
  const int64_t row = token / columns, column = token % columns;
  return {row * height / rows, (row + 1) * height / rows, column * width / columns,
          (column + 1) * width / columns};
}

namespace {

// The last node of the op patches that the node reads, directly or not; -1 where there is none.
int last_patches(const Graph& graph, int reader) {
  std::vector<bool> read(static_cast<size_t>(reader) + 1);
  read.back() = true;
  for (int id = reader; id >= 0; --id) {
    if (!read[static_cast<size_t>(id)]) continue;
    if (graph.node(id).op->name == "patches") return id;
    for (Value v : graph.node(id).inputs) read[static_cast<size_t>(v.node)] = true;
  }
  return -1;
}

// The tokens of a model of sequences or rows (models/series.h), by the name of its embedding.
TokenGrid series_grid(const Graph& graph, int64_t tokens) {
  const Shape& series = graph.shape({graph.find(kSeriesInput), 0});
  if (const int embed = graph.find("seq.embed"); embed >= 0) {
    const Shape& token = graph.shape(graph.node(embed).inputs[0]);
    return {1, tokens, TokenKind::steps, token.back().constant() / series[2].constant()};
  }
  if (graph.find("seq.embed.weight") < 0 || !(series[2] == Size(tokens)))
    throw Error{
        ErrorCode::unsupported,
        "[explain] which numbers the tokens of this model stand for cannot be told (explain "
        "takes models of sequences that the task sequence_classification makes)"};
  return {1, tokens, TokenKind::column};
}

}  // namespace

TokenGrid token_grid(const Graph& inference) {
  const Graph graph = fuse_attention(inference, {});
  for (int id = 0; id < graph.size(); ++id) {
    const Node& node = graph.node(id);
    if (node.op->name != "attention") continue;
    const int patches = last_patches(graph, id);
    const Size& columns = graph.shape(node.inputs[0])[1];
    if (patches < 0 && graph.find(kSeriesInput) >= 0 && columns.is_constant())
      return series_grid(graph, columns.constant());
    if (patches < 0)
      throw Error{ErrorCode::unsupported,
                  fmt::format("[explain] the tokens of {} lie on no grid: they do not come from "
                              "patches of an image, so there is no picture to lay them on (explain "
                              "takes vision models of patches)",
                              node.name)};
    const Shape& image = graph.shape(graph.node(patches).inputs[0]);
    const int64_t side = graph.node(patches).attrs.get<PatchesAttrs>().size;
    const Size tokens = graph.shape(node.inputs[0])[1];
    if (!image[1].is_constant() || !image[2].is_constant() ||
        !(tokens == graph.shape({patches, 0})[1]))
      throw Error{
          ErrorCode::unsupported,
          fmt::format("[explain] {} works on {} tokens, its patches are {}: which token "
                      "lies where cannot be told (explain takes models that keep every patch)",
                      node.name, tokens.text(), graph.shape({patches, 0})[1].text())};
    return {image[1].constant() / side, image[2].constant() / side};
  }
  throw Error{ErrorCode::unsupported,
              "[explain] the model has no attention to look at (`fovea "
              "graph` shows its nodes)"};
}

}  // namespace fovea
