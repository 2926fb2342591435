#include "fovea/passes/lower.h"

#include <fmt/format.h>

#include <vector>

#include "fovea/graph/ops.h"

namespace fovea {

namespace {

constexpr int kMaxDepth = 32;  // of decompositions within decompositions

class Lowerer {
 public:
  Lowerer(const Graph& graph, const PassContext& context)
      : graph_(graph), context_(context), rewriter_(graph, result_) {}

  Graph run() {
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& n = graph_.node(id);
      if (runs(*n.op)) {
        rewriter_.copy(id);
        continue;
      }
      const auto outputs = decomposed(n, rewriter_.mapped(n.inputs), n.name, 0);
      for (size_t i = 0; i < outputs.size(); ++i)
        rewriter_.map({id, static_cast<int32_t>(i)}, outputs[i]);
    }
    rewriter_.finish();
    return std::move(result_);
  }

 private:
  bool runs(const Op& op) const {
    return op.source || op.view || !context_.has_kernel || context_.has_kernel(op);
  }

  // Builds the decomposition of a node on the given inputs of the result; gives the node's outputs.
  std::vector<Value> decomposed(const Node& n, const std::vector<Value>& inputs,
                                const std::string& name, int depth) {
    FOVEA_ASSERT(depth < kMaxDepth);
    if (!n.op->decompose)
      throw Error(ErrorCode::unsupported,
                  fmt::format("[lower {}] the op {} has no kernel here and no decomposition", name,
                              n.op->name));
    // First on a sheet of its own, so that each node can be named and lowered in turn.
    Graph sheet;
    std::vector<Value> sheet_inputs;
    for (Value v : inputs)
      sheet_inputs.push_back(ops::input(sheet, "in", result_.type(v).dtype, result_.type(v).shape));
    const std::vector<Value> sheet_outputs = n.op->decompose(sheet, sheet_inputs, n.attrs);
    FOVEA_ASSERT(sheet_outputs.size() == n.types.size());
    for (auto& [hash, tensor] : sheet.constants()) result_.store_constant(hash, tensor);

    std::vector<std::vector<Value>> now(static_cast<size_t>(sheet.size()));
    const auto mapped = [&](Value v) {
      return now[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
    };
    for (size_t i = 0; i < inputs.size(); ++i)
      now[static_cast<size_t>(sheet_inputs[i].node)] = {inputs[i]};
    for (int id = 0; id < sheet.size(); ++id) {
      auto& outputs = now[static_cast<size_t>(id)];
      if (!outputs.empty()) continue;
      const Node& inner = sheet.node(id);
      std::vector<Value> inner_inputs;
      for (Value v : inner.inputs) inner_inputs.push_back(mapped(v));
      const std::string inner_name = free_name(fmt::format("{}.{}", name, inner.name));
      if (!runs(*inner.op)) {
        outputs = decomposed(inner, inner_inputs, inner_name, depth + 1);
        continue;
      }
      const Value v = result_.add_named(*inner.op, inner_inputs, inner.attrs, inner_name);
      for (size_t i = 0; i < inner.types.size(); ++i)
        outputs.push_back({v.node, static_cast<int32_t>(i)});
    }
    std::vector<Value> outputs;
    for (size_t i = 0; i < sheet_outputs.size(); ++i)
      outputs.push_back(typed(mapped(sheet_outputs[i]), n.types[i], name));
    return outputs;
  }

  // Where sizes are not proved equal, a decomposition may arrive at another of the equal names.
  Value typed(Value v, const ValueType& type, const std::string& name) {
    FOVEA_ASSERT(result_.type(v).dtype == type.dtype);
    if (result_.type(v) == type) return v;
    return result_.add_named(get_op("reshape"), {v}, ShapeAttrs{type.shape},
                             free_name(name + ".reshape"));
  }

  // Nodes that come later keep their names, so these are not free either.
  std::string free_name(const std::string& name) const {
    std::string free = name;
    for (int i = 2; graph_.find(free) >= 0 || result_.find(free) >= 0; ++i)
      free = fmt::format("{}_{}", name, i);
    return free;
  }

  const Graph& graph_;
  const PassContext& context_;
  Graph result_;
  GraphRewriter rewriter_;
};

}  // namespace

Graph lower(const Graph& graph, const PassContext& context) {
  return Lowerer(graph, context).run();
}

}  // namespace fovea
