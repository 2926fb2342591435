#include "fovea/passes/join_projections.h"

#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

class Joiner {
 public:
  explicit Joiner(const Graph& graph)
      : graph_(graph), uses_(graph), absorbed_(static_cast<size_t>(graph.size())) {}

  Graph run() {
    for (int id = 0; id < graph_.size(); ++id)
      if (fits(id))
        for (Value v : projections(graph_.node(id))) absorbed_[static_cast<size_t>(v.node)] = true;
    GraphRewriter rewriter(graph_, result_);
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& n = graph_.node(id);
      if (absorbed_[static_cast<size_t>(id)]) continue;
      if (n.op->name == "attention" && absorbed_[static_cast<size_t>(n.inputs[0].node)])
        join(id, rewriter);
      else
        rewriter.copy(id);
    }
    rewriter.finish();
    return std::move(result_);
  }

 private:
  // q, k and v.
  static std::span<const Value> projections(const Node& attention) {
    return std::span(attention.inputs).first(attention.attrs.get<AttentionAttrs>().operands());
  }

  bool fits(int id) const {
    const Node& n = graph_.node(id);
    if (n.op->name != "attention") return false;
    const auto& a = n.attrs.get<AttentionAttrs>();
    if (a.packed || graph_.node(n.inputs[0]).op->name != "linear") return false;
    const Node& first = graph_.node(n.inputs[0]);
    for (Value v : projections(n)) {
      const Node& linear = graph_.node(v);
      if (linear.op->name != "linear" || uses_.only_reader(v) != id) return false;
      // Each computes as the others do, and does nothing else.
      if (!(linear.attrs == first.attrs)) return false;
      const auto& l = linear.attrs.get<LinearAttrs>();
      if (l.activation != Activation::none || l.residual) return false;
      if (linear.inputs[0] != first.inputs[0]) return false;
      if (weight_type(linear) != weight_type(first)) return false;
    }
    const int64_t d = graph_.shape(n.inputs[1]).back().constant() / a.kv();
    const int64_t dv = graph_.shape(n.inputs[2]).back().constant() / a.kv();
    return d == dv;
  }
  DType weight_type(const Node& linear) const { return graph_.type(linear.inputs[1]).dtype; }

  void join(int id, GraphRewriter& rewriter) {
    const Node& n = graph_.node(id);
    const auto add = [&](std::string_view op, std::vector<Value> inputs, const Attrs& attrs,
                         const char* name) {
      return result_.add_named(get_op(op), std::move(inputs), attrs,
                               free_name(graph_, result_, n.name + "." + name));
    };
    std::vector<Value> weights, biases;
    DType bias_type = DType::f32;
    for (Value v : projections(n)) {
      const Node& linear = graph_.node(v);
      weights.push_back(rewriter[linear.inputs[1]]);
      if (linear.inputs.size() == 3) biases.push_back(rewriter[linear.inputs[2]]);
    }
    if (!biases.empty()) bias_type = result_.type(biases[0]).dtype;
    // A projection without bias where another has one.
    for (size_t i = 0; i < projections(n).size() && !biases.empty(); ++i)
      if (const Node& linear = graph_.node(n.inputs[i]); linear.inputs.size() == 2)
        biases.insert(biases.begin() + static_cast<std::ptrdiff_t>(i),
                      add("constant", {},
                          ConstantAttrs{{bias_type, {graph_.shape(linear.inputs[1])[0]}}, {0}, {}},
                          "no_bias"));
    std::vector<Value> inputs = {rewriter[graph_.node(n.inputs[0]).inputs[0]],
                                 add("concat", weights, ConcatAttrs{0}, "weights")};
    if (!biases.empty()) inputs.push_back(add("concat", biases, ConcatAttrs{0}, "biases"));
    const Value qkv = add("linear", inputs, graph_.node(n.inputs[0]).attrs, "qkv");
    auto a = n.attrs.get<AttentionAttrs>();
    a.packed = true;
    std::vector<Value> operands = {qkv};
    for (size_t i = projections(n).size(); i < n.inputs.size(); ++i)
      operands.push_back(rewriter[n.inputs[i]]);
    const Value joined = result_.add_named(*n.op, std::move(operands), a, n.name);
    for (size_t i = 0; i < n.types.size(); ++i) {
      const auto output = static_cast<int32_t>(i);
      rewriter.map({id, output}, {joined.node, output});
    }
  }

  const Graph& graph_;
  Uses uses_;
  std::vector<bool> absorbed_;
  Graph result_;
};

}  // namespace

Graph join_projections(const Graph& graph, const PassContext&) { return Joiner(graph).run(); }

}  // namespace fovea
