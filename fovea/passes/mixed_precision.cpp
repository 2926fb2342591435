#include "fovea/passes/mixed_precision.h"

#include <map>
#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

class Mixer {
 public:
  Mixer(const Graph& graph, const PassContext& context)
      : graph_(graph), context_(context), uses_(graph), rewriter_(graph, result_) {}

  Graph run() {
    for (int id = 0; id < graph_.size(); ++id) {
      if (mixed(id))
        product(id);
      else
        plain(id);
    }
    for (auto& [name, v] : graph_.outputs()) rewriter_.map(v, as(v, graph_.type(v).dtype));
    for (auto& [variable, v] : graph_.updates()) rewriter_.map(v, as(v, graph_.type(v).dtype));
    rewriter_.finish();
    return std::move(result_);
  }

 private:
  // Whether the node's products are to be computed in bf16.
  bool mixed(int id) const {
    const Node& n = graph_.node(id);
    if (n.types[0].dtype != DType::f32) return false;
    const auto wanted = [&](TypeChoice compute) {
      return compute == TypeChoice::bf16 || (compute == TypeChoice::same && context_.bf16);
    };
    if (n.attrs.holds<LinearAttrs>()) return wanted(n.attrs.get<LinearAttrs>().compute);
    if (n.attrs.holds<LinearGradInputAttrs>())
      return wanted(n.attrs.get<LinearGradInputAttrs>().compute);
    if (n.attrs.holds<LinearGradWeightAttrs>())
      return wanted(n.attrs.get<LinearGradWeightAttrs>().compute);
    if (n.attrs.holds<AttentionAttrs>()) return wanted(n.attrs.get<AttentionAttrs>().compute);
    return false;
  }

  // Whether the node reads this input in either type as it comes.
  bool takes_bf16(int id, size_t slot) const {
    const Node& n = graph_.node(id);
    const std::string_view op = n.op->name;
    if (op == "layer_norm_grad") return slot == 4;  // dy
    if (op == "rms_norm_grad") return slot == 3;
    if (!mixed(id)) return false;
    if (op == "linear") return slot == 0;
    if (op == "linear_grad_weight") return true;
    if (op == "linear_grad_input") {
      const auto& a = n.attrs.get<LinearGradInputAttrs>();
      return slot == 0 || (slot == 2 && a.activation != Activation::none);
    }
    return n.attrs.holds<AttentionAttrs>() && is_operand(n, slot);
  }
  // Of attention and its gradient: q, k, v, the result and its gradient, but not the log-sum-exp
  // and what describes links.
  static bool is_operand(const Node& n, size_t slot) {
    const auto& a = n.attrs.get<AttentionAttrs>();
    const size_t given = a.operands() + a.links();
    return slot < a.operands() || slot == given || slot == given + 2;
  }

  // Whether everything that reads the value takes it in bf16, and some product does.
  bool wants_bf16(Value v) const {
    bool product = false;
    for (auto& use : uses_[v]) {
      if (use.node < 0 || !takes_bf16(use.node, use.slot)) return false;
      product = product || mixed(use.node);
    }
    return product;
  }
  static TypeChoice choice(bool bf16) { return bf16 ? TypeChoice::bf16 : TypeChoice::f32; }

  // The value in a type, through a cast that is made once.
  Value as(Value old, DType dtype) {
    const Value now = rewriter_[old];
    if (result_.type(now).dtype == dtype) return now;
    auto [it, first] = casts_.try_emplace({now, dtype}, Value{});
    if (first) {
      const std::string name = graph_.node(old).name + "." + std::string(dtype_name(dtype));
      it->second = result_.add_named(get_op("cast"), {now}, CastAttrs{dtype},
                                     free_name(graph_, result_, name));
    }
    return it->second;
  }
  Value f32(Value old) { return as(old, graph_.type(old).dtype); }

  void put(int id, std::vector<Value> inputs, const Attrs& attrs) {
    const Node& n = graph_.node(id);
    const Value v = result_.add_named(*n.op, std::move(inputs), attrs, n.name);
    for (size_t i = 0; i < n.types.size(); ++i) {
      const auto output = static_cast<int32_t>(i);
      rewriter_.map({id, output}, {v.node, output});
    }
  }

  void plain(int id) {
    const Node& n = graph_.node(id);
    std::vector<Value> inputs;
    for (size_t i = 0; i < n.inputs.size(); ++i)
      inputs.push_back(takes_bf16(id, i) ? rewriter_[n.inputs[i]] : f32(n.inputs[i]));
    Attrs attrs = n.attrs;
    if (n.attrs.holds<NormAttrs>() && n.types[0].dtype == DType::f32 && wants_bf16({id, 0})) {
      auto a = n.attrs.get<NormAttrs>();
      if (a.out == TypeChoice::same) a.out = TypeChoice::bf16;
      attrs = a;
    }
    put(id, std::move(inputs), attrs);
  }

  void product(int id) {
    const Node& n = graph_.node(id);
    std::vector<Value> inputs;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const Value v = n.inputs[i];
      const bool attention = n.attrs.holds<AttentionAttrs>();
      if (!attention && takes_bf16(id, i))
        inputs.push_back(rewriter_[v]);
      else if (attention ? is_operand(n, i) : i == 1)  // 1: the weight
        inputs.push_back(as(v, DType::bf16));
      else
        inputs.push_back(f32(v));
    }
    // What says that a gradient of a weight is computed in bf16 is the type of an operand.
    if (n.op->name == "linear_grad_weight" && result_.type(inputs[0]).dtype == DType::f32 &&
        result_.type(inputs[1]).dtype == DType::f32)
      inputs[1] = as(n.inputs[1], DType::bf16);
    put(id, std::move(inputs), attributes(id));
  }

  Attrs attributes(int id) const {
    const Node& n = graph_.node(id);
    if (n.attrs.holds<LinearAttrs>()) {
      auto a = n.attrs.get<LinearAttrs>();
      // What goes into the activation has the type of the result.
      const bool pre = n.types.size() < 2 || uses_[{id, 1}].empty() || wants_bf16({id, 1});
      a.out = choice(wants_bf16({id, 0}) && pre && !a.residual);
      return a;
    }
    if (n.attrs.holds<LinearGradInputAttrs>()) {
      auto a = n.attrs.get<LinearGradInputAttrs>();
      a.out = choice(wants_bf16({id, 0}) && !a.residual);
      return a;
    }
    return n.attrs;
  }

  const Graph& graph_;
  const PassContext& context_;
  Uses uses_;
  Graph result_;
  GraphRewriter rewriter_;
  std::map<std::pair<Value, DType>, Value> casts_;
};

}  // namespace

Graph mixed_precision(const Graph& graph, const PassContext& context) {
  return Mixer(graph, context).run();
}

}  // namespace fovea
