#include "fovea/passes/fuse_elementwise.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "fovea/graph/elementwise_steps.h"
#include "fovea/passes/uses.h"

namespace fovea {

namespace {

// What the kernels take at most, with room.
constexpr size_t kMaxInputs = 12;
constexpr size_t kMaxSteps = 24;

bool loadable(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::u8 || t == DType::i32 ||
         t == DType::boolean;
}

class ChainFuser {
 public:
  explicit ChainFuser(const Graph& graph)
      : graph_(graph), uses_(graph), absorbed_(static_cast<size_t>(graph.size())) {}

  Graph run() {
    // From the back: the last node of a chain takes what feeds it.
    for (int id = graph_.size() - 1; id >= 0; --id)
      if (!absorbed_[static_cast<size_t>(id)] && may_end(id)) grow(id);
    Graph result;
    GraphRewriter rewriter(graph_, result);
    for (int id = 0; id < graph_.size(); ++id) {
      if (const auto it = chains_.find(id); it != chains_.end()) {
        const Chain& c = it->second;
        rewriter.map({id, 0}, result.add_named(get_op("elementwise"), rewriter.mapped(c.inputs),
                                               c.attrs, graph_.node(id).name));
      } else if (!absorbed_[static_cast<size_t>(id)]) {
        rewriter.copy(id);
      }
    }
    rewriter.finish();
    return result;
  }

 private:
  struct Chain {
    std::vector<Value> inputs;
    ElementwiseAttrs attrs;
  };

  static bool is_bool(DType t) { return t == DType::boolean; }

  // An op that computes in f32, perhaps with bools.
  bool is_step(int id) const {
    const Node& n = graph_.node(id);
    if (!is_chain_op(*n.op)) return false;
    const auto fits = [](DType t) { return t == DType::f32 || is_bool(t); };
    return fits(n.types[0].dtype) && std::all_of(n.inputs.begin(), n.inputs.end(), [&](Value v) {
             return fits(graph_.type(v).dtype);
           });
  }
  bool is_cast(int id, DType to) const {
    const Node& n = graph_.node(id);
    return n.op->name == "cast" && n.types[0].dtype == to;
  }
  bool may_end(int id) const {
    const DType t = graph_.node(id).types[0].dtype;
    if (is_cast(id, DType::bf16)) return graph_.type(graph_.node(id).inputs[0]).dtype == DType::f32;
    return t == DType::f32 && is_step(id);
  }

  static bool contains(const std::vector<Value>& values, Value v) {
    return std::find(values.begin(), values.end(), v) != values.end();
  }

  // Whether only nodes of the chain read the value, and no other chain has it.
  bool is_ours(Value v, const std::vector<int>& members) const {
    if (absorbed_[static_cast<size_t>(v.node)]) return false;
    const auto& uses = uses_[v];
    return std::all_of(uses.begin(), uses.end(), [&](const Uses::Use& use) {
      return use.node >= 0 && std::find(members.begin(), members.end(), use.node) != members.end();
    });
  }

  // Takes what feeds `last`, from the back: when a value's turn comes, all of its readers have had
  // theirs.
  void grow(int last) {
    const Node& end = graph_.node(last);
    const Shape& shape = end.types[0].shape;
    const bool narrow = is_cast(last, DType::bf16);
    std::vector<int> members = {last};
    std::vector<int> steps;           // in descending order
    std::map<Value, Value> read_for;  // a cast or broadcast, and what is read in its place
    std::vector<Value> inputs;
    std::vector<Value> pending = narrow ? end.inputs : std::vector<Value>{Value{last, 0}};
    while (!pending.empty()) {
      const auto latest = std::max_element(pending.begin(), pending.end());
      const Value v = *latest;
      pending.erase(latest);
      if (contains(inputs, v)) continue;
      const Node& n = graph_.node(v);
      const bool ours = v.node == last || is_ours(v, members);
      const bool room = steps.size() < kMaxSteps &&
                        inputs.size() + pending.size() + n.inputs.size() <= kMaxInputs;
      if (ours && room && is_step(v.node) && n.types[0].shape == shape) {
        steps.push_back(v.node);
        if (v.node != last) members.push_back(v.node);
        for (Value in : n.inputs)
          if (!contains(pending, in)) pending.push_back(in);
      } else if (ours && read_through(v)) {
        members.push_back(v.node);
        read_for[v] = n.inputs[0];
        if (!contains(inputs, n.inputs[0])) inputs.push_back(n.inputs[0]);
      } else {
        inputs.push_back(v);
      }
    }
    if (steps.empty() || members.size() < 2 || !spans(inputs, shape)) return;
    std::reverse(steps.begin(), steps.end());
    Chain chain{inputs, {}};
    chain.attrs.out = narrow ? TypeChoice::bf16 : TypeChoice::f32;
    std::map<Value, size_t> registers;
    for (size_t i = 0; i < inputs.size(); ++i) registers[inputs[i]] = i;
    for (const auto& [value, source] : read_for) registers[value] = registers.at(source);
    for (size_t i = 0; i < steps.size(); ++i) {
      const Node& n = graph_.node(steps[i]);
      std::string text(n.op->name);
      for (Value v : n.inputs) text += fmt::format(" {}", registers.at(v));
      chain.attrs.steps.push_back(text);
      registers[{steps[i], 0}] = inputs.size() + i;
    }
    for (int id : members) absorbed_[static_cast<size_t>(id)] = id != last;
    chains_.emplace(last, std::move(chain));
  }

  // A conversion that reading does by itself. Not one from bool: a bool in a register stays one.
  bool read_through(Value v) const {
    const Node& n = graph_.node(v);
    const bool cast = n.op->name == "cast";
    if (!cast && n.op->name != "broadcast") return false;
    const DType from = graph_.type(n.inputs[0]).dtype;
    if (!cast) return from == DType::f32 || is_bool(from);
    return n.types[0].dtype == DType::f32 && loadable(from) && !is_bool(from);
  }

  // Whether the inputs alone, broadcast together, have the shape of the result, and that for
  // certain.
  bool spans(const std::vector<Value>& inputs, const Shape& shape) const {
    Shape have(shape.size(), Size(1));
    for (Value v : inputs) {
      if (!loadable(graph_.type(v).dtype)) return false;
      const Shape& s = graph_.shape(v);
      for (size_t i = 0; i < s.size(); ++i) {
        if (s[i] == Size(1)) continue;
        Size& there = have[shape.size() - s.size() + i];
        there = s[i];
        if (!(there == shape[shape.size() - s.size() + i])) return false;
      }
    }
    return have == shape;
  }

  const Graph& graph_;
  Uses uses_;
  std::vector<bool> absorbed_;
  std::map<int, Chain> chains_;  // by the last node
};

}  // namespace

Graph fuse_elementwise(const Graph& graph, const PassContext&) { return ChainFuser(graph).run(); }

}  // namespace fovea
