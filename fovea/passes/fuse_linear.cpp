#include "fovea/passes/fuse_linear.h"

#include <algorithm>
#include <map>
#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

// "gelu" or, with the suffix, "gelu_grad"; none where the op is no activation.
Activation activation_of(std::string_view op, std::string_view suffix = "") {
  if (!op.ends_with(suffix)) return Activation::none;
  op.remove_suffix(suffix.size());
  const auto names = enum_names(Activation{});
  for (size_t i = 1; i < names.size(); ++i)
    if (names[i] == op) return static_cast<Activation>(i);
  return Activation::none;
}

// A node that is to be made of several, at the place of the last of them.
struct Fused {
  const Op* op = nullptr;
  std::vector<Value> inputs;  // of the old graph
  Attrs attrs;
  std::vector<std::pair<Value, int>> outputs;  // old value, output of the new node
};

class Fuser {
 public:
  explicit Fuser(const Graph& graph)
      : graph_(graph), uses_(graph), absorbed_(static_cast<size_t>(graph.size())) {}

  void fuse_linear(int id) {
    const Node& n = graph_.node(id);
    auto a = n.attrs.get<LinearAttrs>();
    if (a.activation != Activation::none || a.residual) return;
    Fused f{n.op, n.inputs, {}, {}};
    Chain chain(id);
    if (const int next = uses_.only_reader(chain.value); next >= 0) {
      const Activation activation = activation_of(graph_.node(next).op->name);
      if (activation != Activation::none) {
        a.activation = activation;
        chain.take(next);
      }
    }
    if (const Value other = added(chain.value)) {
      a.residual = true;
      f.inputs.push_back(other);
      chain.take(uses_.only_reader(chain.value));
    }
    f.attrs = a;
    finish(std::move(f), chain);
  }

  void fuse_linear_grad_input(int id) {
    const Node& n = graph_.node(id);
    auto a = n.attrs.get<LinearGradInputAttrs>();
    if (a.activation != Activation::none || a.residual) return;
    Fused f{n.op, n.inputs, {}, {}};
    Chain chain(id);
    if (const int next = uses_.only_reader(chain.value); next >= 0) {
      const Node& slope = graph_.node(next);
      const Activation activation = activation_of(slope.op->name, "_grad");
      if (activation != Activation::none && slope.inputs[1] == chain.value &&
          graph_.type(slope.inputs[0]) == graph_.type(chain.value)) {
        a.activation = activation;
        f.inputs.push_back(slope.inputs[0]);
        chain.take(next);
      }
    }
    if (const Value other = added(chain.value)) {
      a.residual = true;
      f.inputs.push_back(other);
      chain.take(uses_.only_reader(chain.value));
    }
    f.attrs = a;
    finish(std::move(f), chain);
  }

  void fuse_norm_grad(int id) {
    const Node& n = graph_.node(id);
    if (n.attrs.get<NormGradAttrs>().add) return;
    Chain chain(id);
    const Value other = added(chain.value);
    if (!other || other.node == id) return;
    const int add = uses_.only_reader(chain.value);
    // The new node stands where the addition stands: nobody may read the others before.
    for (size_t i = 1; i < n.types.size(); ++i)
      for (auto& use : uses_[{id, static_cast<int32_t>(i)}])
        if (use.node >= 0 && use.node < add) return;
    Fused f{n.op, n.inputs, NormGradAttrs{.add = true}, {}};
    f.inputs.push_back(other);
    for (size_t i = 1; i < n.types.size(); ++i)
      f.outputs.emplace_back(Value{id, static_cast<int32_t>(i)}, static_cast<int>(i));
    chain.take(add);
    finish(std::move(f), chain);
  }

  Graph build() {
    Graph result;
    GraphRewriter rewriter(graph_, result);
    for (int id = 0; id < graph_.size(); ++id) {
      if (const auto it = fused_.find(id); it != fused_.end()) {
        const Fused& f = it->second;
        const Value v =
            result.add_named(*f.op, rewriter.mapped(f.inputs), f.attrs, graph_.node(id).name);
        for (auto& [old, output] : f.outputs) rewriter.map(old, {v.node, output});
      } else if (!absorbed_[static_cast<size_t>(id)]) {
        rewriter.copy(id);
      }
    }
    rewriter.finish();
    return result;
  }

 private:
  // The nodes that become one: the first, and what was taken after it.
  struct Chain {
    explicit Chain(int id) : value{id, 0}, nodes{id} {}
    void take(int id) {
      value = {id, 0};
      nodes.push_back(id);
    }
    Value value;
    std::vector<int> nodes;
  };

  // What the only reader of v adds to it, if it is of the same type and was not fused already.
  Value added(Value v) const {
    const int next = uses_.only_reader(v);
    if (next < 0 || absorbed_[static_cast<size_t>(next)] || fused_.count(next)) return {};
    const Node& n = graph_.node(next);
    if (n.op->name != "add") return {};
    const Value other = n.inputs[0] == v ? n.inputs[1] : n.inputs[0];
    return graph_.type(other) == graph_.type(v) ? other : Value{};
  }

  void finish(Fused f, const Chain& chain) {
    if (chain.nodes.size() < 2) return;
    for (int id : chain.nodes) absorbed_[static_cast<size_t>(id)] = true;
    f.outputs.emplace_back(chain.value, 0);
    fused_.emplace(chain.nodes.back(), std::move(f));
  }

  const Graph& graph_;
  Uses uses_;
  std::vector<bool> absorbed_;
  std::map<int, Fused> fused_;  // by the last of the nodes that it replaces
};

}  // namespace

Graph fuse_linear(const Graph& graph, const PassContext&) {
  Fuser fuser(graph);
  for (int id = 0; id < graph.size(); ++id)
    if (graph.node(id).op->name == "linear") fuser.fuse_linear(id);
  return fuser.build();
}

Graph fuse_gradients(const Graph& graph, const PassContext&) {
  Fuser fuser(graph);
  for (int id = 0; id < graph.size(); ++id) {
    const std::string_view op = graph.node(id).op->name;
    if (op == "linear_grad_input") fuser.fuse_linear_grad_input(id);
    if (op == "layer_norm_grad" || op == "rms_norm_grad") fuser.fuse_norm_grad(id);
  }
  return fuser.build();
}

}  // namespace fovea
