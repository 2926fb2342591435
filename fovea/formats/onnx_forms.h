// How each op is said in ONNX: one table from the op's name to the function that adds its nodes.
#pragma once

#include <string_view>
#include <vector>

#include "fovea/formats/onnx_nodes.h"

namespace fovea {

// A node that is to be written, and where.
struct OnnxCall {
  OnnxNodes& to;
  const Graph& graph;
  const Node& node;
  std::vector<OnnxRef> inputs;

  const ValueType& type(size_t input) const { return graph.type(node.inputs[input]); }
  OnnxRef add(std::string_view op, std::vector<OnnxRef> in,
              std::vector<OnnxAttribute> attributes = {}) const {
    return to.add(op, std::move(in), std::move(attributes));
  }
};

struct OnnxForm {
  std::string_view op;
  std::string_view onnx;  // the one node that says the same; empty where `write` is given
  // The outputs of the node; none where it has to be written through its decomposition.
  std::vector<OnnxRef> (*write)(const OnnxCall&) = nullptr;
};

// nullptr where the op has no form of its own.
const OnnxForm* find_onnx_form(std::string_view op);

}  // namespace fovea
