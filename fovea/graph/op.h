// The op table: one row an op, with everything that the rest of the house needs to know of it.
// A row has either a decomposition into simpler ops or, for a leaf, kernels (bound in runtime/).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

// What a shape rule sees. Rules throw through fail(), which names op and node.
struct InferContext {
  const Op& op;
  const Attrs& attrs;
  std::span<const ValueType> inputs;
  std::string_view node_name;

  [[noreturn]] void fail(const std::string& what) const;
  // Fails unless the condition holds.
  void expect(bool condition, const std::string& what) const {
    if (!condition) fail(what);
  }
  // Fails where the sizes are known to differ; what is not known is checked when the plan is made.
  void same(const Size& a, const Size& b, const std::string& what) const;
  // Fails unless both have one element type and rank, and sizes that may agree. Kernels take sizes
  // from one operand, so a rule must hold the others against it.
  void alike(const ValueType& a, const ValueType& b, const std::string& what) const;
  // An axis counted from the front, or from the back when negative. Fails out of range.
  size_t axis(int64_t axis, size_t rank) const;
  std::string inputs_text() const;
};

// Work of one node. Bytes count each input read and each output written once.
struct Cost {
  Size flops;
  Size bytes;
};

// What a gradient rule sees: the node in the graph that is being extended, and the gradient that
// each output received (an empty Value where none did).
struct GradientContext {
  Graph& graph;
  int node_id;
  std::span<const Value> output_gradients;

  const Node& node() const { return graph.node(node_id); }
  Value input(size_t i) const { return node().inputs[i]; }
  Value output(int i = 0) const { return {node_id, i}; }
  Value gradient(size_t i = 0) const { return output_gradients[i]; }
};

struct Op {
  std::string_view name;
  int version = 1;
  Attrs defaults = {};
  int min_inputs = 1;
  int max_inputs = 1;  // -1: any number
  std::vector<ValueType> (*infer)(const InferContext&) = nullptr;
  // Floating-point operations. nullptr: one for each element of the first output.
  Size (*flops)(const Graph&, const Node&) = nullptr;
  // One value for each input; an empty Value where no gradient flows. Called with at least one
  // output gradient present. nullptr: through the decomposition, and where there is none, no
  // gradient.
  std::vector<Value> (*gradient)(GradientContext&) = nullptr;
  // Builds the same results from simpler ops; the inputs are given, the outputs returned in order.
  std::vector<Value> (*decompose)(Graph&, std::span<const Value> inputs, const Attrs&) = nullptr;
  // The attributes with the outputs added that `gradient` reads (log-sum-exp, indices, statistics).
  Attrs (*saving)(const Attrs&) = nullptr;
  // The attributes without the outputs that nobody reads; used(i) is asked for each.
  Attrs (*without_unused)(const Attrs&, const std::vector<bool>& used) = nullptr;

  bool commutative = false;
  bool random = false;  // never merged with its like: each has its own stream
  bool view = false;    // the bytes of its input under another shape
  bool source = false;  // input, variable, constant: not run
  // One output, element by element: it may stand in the memory of any input of the same type.
  bool in_place = false;
  // The input in whose memory an output may stand though the node reads both, or -1: each element
  // is read before it is written. Only where the types are the same.
  int (*writes_over)(const Node&, int output) = nullptr;
  bool no_gradient = false;  // comparisons, indices, updates: a gradient ends here
};

// nullptr when there is no such op.
const Op* find_op(std::string_view name);
// Throws Error with the nearest name when there is no such op.
const Op& get_op(std::string_view name);
// All rows, sorted by name.
std::span<const Op* const> all_ops();

Cost node_cost(const Graph& graph, const Node& node);
// Sum over all nodes; a view costs nothing.
Cost graph_cost(const Graph& graph);

// The families that make up the table; op.cpp joins them.
std::span<const Op> source_ops();
std::span<const Op> elementwise_ops();
std::span<const Op> chain_ops();
std::span<const Op> shape_ops();
std::span<const Op> reduce_ops();
std::span<const Op> product_ops();
std::span<const Op> norm_ops();
std::span<const Op> normaliser_ops();
std::span<const Op> attention_ops();
std::span<const Op> attention_block_ops();
std::span<const Op> linear_attention_ops();
std::span<const Op> pair_attention_ops();
std::span<const Op> conv_ops();
std::span<const Op> index_ops();
std::span<const Op> loss_ops();
std::span<const Op> optimiser_ops();

}  // namespace fovea
