#include "fovea/passes/recompute.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "fovea/passes/memory_plan.h"
#include "fovea/passes/uses.h"

namespace fovea {

namespace {

// A byte that is moved costs as much as this many operations.
constexpr double kFlopsOfByte = 8;
// Values below this size are not worth a node.
constexpr size_t kLeastBytes = 4096;
// Nodes that are computed again for the sake of one value, at most.
constexpr size_t kLongestChain = 16;

class Recomputer {
 public:
  Recomputer(const Graph& graph, const PassContext& context)
      : graph_(graph),
        context_(context),
        sized_(specialise(graph, context.sizes)),
        // What comes after the loss in the graph's order belongs to the backward part.
        boundary_(graph.output(context.differentiate_output).node) {
    find_readers();
  }

  Graph run() {
    size_t least = arena_of(graph_);
    Graph best = graph_;
    std::vector<int> roots;  // values that are not kept, as they were chosen
    std::set<int> in_vain;   // those that made it worse
    bool tried_again = true;
    while (least > context_.memory_bytes) {
      const int next = cheapest(chosen_for(roots), in_vain);
      if (next < 0) {
        // What did not help alone may help now.
        if (tried_again) break;
        tried_again = true;
        in_vain.clear();
        continue;
      }
      roots.push_back(next);
      Graph with = rebuilt(chosen_for(roots));
      const size_t bytes = arena_of(with);
      if (bytes > least) {
        roots.pop_back();
        in_vain.insert(next);
        continue;
      }
      least = bytes;
      best = std::move(with);
      tried_again = false;
    }
    if (least > context_.memory_bytes)
      throw Error(
          ErrorCode::out_of_memory,
          fmt::format("[recompute] a step needs at least {:.3g} MB, the budget is {:.3g} MB "
                      "(a smaller train.batch, or a larger train.accumulate, needs less)",
                      static_cast<double>(least) / 1e6,
                      static_cast<double>(context_.memory_bytes) / 1e6));
    return leaner(std::move(roots), std::move(best));
  }

 private:
  // Who reads what; a view's readers read what it shows.
  void find_readers() {
    const Uses uses(graph_);
    read_late_.resize(static_cast<size_t>(graph_.size()));
    kept_.resize(static_cast<size_t>(graph_.size()));
    for (int id = graph_.size() - 1; id >= 0; --id)
      for (size_t i = 0; i < graph_.node(id).types.size(); ++i)
        for (auto& use : uses[{id, static_cast<int32_t>(i)}]) {
          const bool view = use.node >= 0 && graph_.node(use.node).op->view;
          if (use.node > boundary_ || (view && read_late(use.node)))
            read_late_[static_cast<size_t>(id)] = true;
          if (use.node < 0 || (view && kept(use.node))) kept_[static_cast<size_t>(id)] = true;
        }
  }
  bool read_late(int id) const { return read_late_[static_cast<size_t>(id)]; }
  // Outputs and new values of variables live to the end.
  bool kept(int id) const { return kept_[static_cast<size_t>(id)]; }

  size_t arena_of(const Graph& g) const {
    return plan_memory(specialise(g, context_.sizes)).arena_bytes;
  }
  size_t bytes_of(int id) const {
    size_t bytes = 0;
    for (const ValueType& t : sized_.node(id).types)
      bytes += static_cast<size_t>(element_count(t.shape).constant()) * dtype_size(t.dtype);
    return bytes;
  }
  double cost_of(int id) const {
    const Cost c = node_cost(sized_, sized_.node(id));
    return static_cast<double>(c.flops.constant()) +
           kFlopsOfByte * static_cast<double>(c.bytes.constant());
  }

  bool candidate(int id) const {
    const Op& op = *graph_.node(id).op;
    return !op.source && !op.view && !kept(id) && read_late(id) && bytes_of(id) >= kLeastBytes;
  }
  // Whether the backward part reads a clone in place of this node.
  bool cloned(int id, const std::set<int>& chosen) const {
    const Node& n = graph_.node(id);
    return chosen.count(id) > 0 ||
           (n.op->view && id <= boundary_ && cloned(n.inputs[0].node, chosen));
  }

  // The nodes that must run again so that `id` can: those that are neither kept to the backward
  // part anyway nor chosen already. Empty: too long.
  std::vector<int> chain_of(int id, const std::set<int>& chosen) const {
    std::vector<int> chain, pending = {id};
    while (!pending.empty()) {
      const int at = pending.back();
      pending.pop_back();
      if (std::find(chain.begin(), chain.end(), at) != chain.end()) continue;
      chain.push_back(at);
      if (chain.size() > kLongestChain) return {};
      for (Value v : graph_.node(at).inputs)
        if (!graph_.node(v).op->source && !cloned(v.node, chosen) && !read_late(v.node) &&
            !kept(v.node))
          pending.push_back(v.node);
    }
    return chain;
  }
  std::set<int> chosen_for(const std::vector<int>& roots) const {
    std::set<int> chosen;
    for (int root : roots) {
      const std::vector<int> chain = chain_of(root, chosen);
      chosen.insert(chain.begin(), chain.end());
    }
    return chosen;
  }

  // The value that frees the most for what its chain costs; -1 where there is none left.
  int cheapest(const std::set<int>& chosen, const std::set<int>& in_vain) const {
    int best = -1;
    double best_price = 0;
    for (int id = 0; id <= boundary_; ++id) {
      if (chosen.count(id) || in_vain.count(id) || !candidate(id)) continue;
      const std::vector<int> chain = chain_of(id, chosen);
      if (chain.empty()) continue;
      double cost = 0;
      for (int at : chain) cost += cost_of(at);
      const double price = cost / static_cast<double>(bytes_of(id));
      if (best >= 0 && price >= best_price) continue;
      best = id;
      best_price = price;
    }
    return best;
  }

  // Keeps again what the budget has room for: some choices turn out to be of no use.
  Graph leaner(std::vector<int> roots, Graph best) const {
    for (size_t i = roots.size(); i-- > 0;) {
      std::vector<int> fewer = roots;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      Graph with = rebuilt(chosen_for(fewer));
      if (arena_of(with) > context_.memory_bytes) continue;
      roots = std::move(fewer);
      best = std::move(with);
    }
    return best;
  }

  // The graph with the chosen nodes cloned before the first node of the backward part that reads
  // them; that part reads the clones.
  Graph rebuilt(const std::set<int>& chosen) const {
    Graph result;
    GraphRewriter rewriter(graph_, result);
    std::map<int, int> clones;  // old node, node of the result
    const auto again = [&](auto& self, int id) -> int {
      if (const auto it = clones.find(id); it != clones.end()) return it->second;
      const Node& n = graph_.node(id);
      std::vector<Value> inputs;
      for (Value v : n.inputs)
        inputs.push_back(cloned(v.node, chosen) ? Value{self(self, v.node), v.output}
                                                : rewriter[v]);
      Attrs attrs = n.attrs;
      if (attrs.holds<DropoutAttrs>()) {
        auto a = attrs.get<DropoutAttrs>();
        if (a.stream.empty()) a.stream = n.name;
        attrs = a;
      }
      const Value v =
          result.add_named(*n.op, inputs, attrs, free_name(graph_, result, n.name + ".again"));
      return clones[id] = v.node;
    };
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& n = graph_.node(id);
      const bool late =
          id > boundary_ && std::any_of(n.inputs.begin(), n.inputs.end(),
                                        [&](Value v) { return cloned(v.node, chosen); });
      if (!late) {
        rewriter.copy(id);
        continue;
      }
      std::vector<Value> inputs;
      for (Value v : n.inputs)
        inputs.push_back(cloned(v.node, chosen) ? Value{again(again, v.node), v.output}
                                                : rewriter[v]);
      const Value now = result.add_named(*n.op, inputs, n.attrs, n.name);
      for (size_t i = 0; i < n.types.size(); ++i) {
        const auto output = static_cast<int32_t>(i);
        rewriter.map({id, output}, {now.node, output});
      }
    }
    rewriter.finish();
    return result;
  }

  const Graph& graph_;
  const PassContext& context_;
  Graph sized_;
  int boundary_;
  std::vector<bool> read_late_, kept_;  // by node
};

}  // namespace

Graph recompute(const Graph& graph, const PassContext& context) {
  if (context.memory_bytes == 0 || context.differentiate_output.empty()) return graph;
  return Recomputer(graph, context).run();
}

}  // namespace fovea
