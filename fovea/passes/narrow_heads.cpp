#include "fovea/passes/narrow_heads.h"

#include <map>
#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

// How many of its first rows (outputs) and columns (inputs) a linear keeps; 0: all. One that stands
// between two attentions may lose both.
struct Cut {
  int64_t rows = 0;
  int64_t columns = 0;
};

class Narrower {
 public:
  explicit Narrower(const Graph& graph) : graph_(graph), uses_(graph) {}

  Graph run() {
    for (int id = 0; id < graph_.size(); ++id) plan(id);
    if (cuts_.empty()) return graph_;
    GraphRewriter rewriter(graph_, result_);
    for (int id = 0; id < graph_.size(); ++id) {
      if (const auto it = cuts_.find(id); it != cuts_.end())
        cut(id, it->second, rewriter);
      else if (const auto a = narrowed_.find(id); a != narrowed_.end())
        rewriter.copy(id, a->second);
      else
        rewriter.copy(id);
    }
    rewriter.finish();
    return std::move(result_);
  }

 private:
  void plan(int id) {
    const Node& n = graph_.node(id);
    if (n.op->name != "attention") return;
    auto a = n.attrs.get<AttentionAttrs>();
    const int64_t group = a.heads / a.kv(), kept = a.kept();
    if (a.packed || n.types.size() > 1 || kept == a.heads || kept == 0 || kept % group != 0) return;
    if (a.links() > 0) return;  // those of each head are not cut
    for (Value v : n.inputs)
      if (graph_.node(v).op->name != "linear" || graph_.node(v).types.size() != 1 ||
          uses_.only_reader(v) != id || graph_.node(v).attrs.get<LinearAttrs>().residual)
        return;
    const int out = uses_.only_reader({id, 0});
    if (out < 0 || graph_.node(out).op->name != "linear" || graph_.node(out).inputs[0].node != id)
      return;
    const int64_t d = graph_.shape(n.inputs[0]).back().constant() / a.heads;
    const int64_t dv = graph_.shape(n.inputs[2]).back().constant() / a.kv();
    const int64_t kv_kept = kept / group;
    cuts_[n.inputs[0].node].rows = kept * d;
    cuts_[n.inputs[1].node].rows = kv_kept * d;
    cuts_[n.inputs[2].node].rows = kv_kept * dv;
    cuts_[out].columns = kept * dv;
    if (a.kv_heads != 0) a.kv_heads = kv_kept;
    a.heads = kept;
    a.heads_kept = -1;
    narrowed_[id] = a;
  }

  void cut(int id, Cut c, GraphRewriter& rewriter) {
    const Node& n = graph_.node(id);
    std::vector<Value> inputs = rewriter.mapped(n.inputs);
    const auto first = [&](size_t i, int64_t axis, int64_t length, const char* name) {
      if (length == 0) return;
      inputs[i] = result_.add_named(get_op("slice"), {inputs[i]}, SliceAttrs{axis, 0, length},
                                    free_name(graph_, result_, n.name + "." + name));
    };
    first(1, 0, c.rows, "kept");
    first(1, 1, c.columns, c.rows ? "kept_inputs" : "kept");
    if (inputs.size() > (n.attrs.get<LinearAttrs>().residual ? size_t{3} : size_t{2}))
      first(2, 0, c.rows, "kept_bias");
    const Value now = result_.add_named(*n.op, inputs, n.attrs, n.name);
    for (size_t i = 0; i < n.types.size(); ++i) {
      const auto output = static_cast<int32_t>(i);
      rewriter.map({id, output}, {now.node, output});
    }
  }

  const Graph& graph_;
  Uses uses_;
  std::map<int, Cut> cuts_;                 // linears, by node
  std::map<int, AttentionAttrs> narrowed_;  // attention, by node
  Graph result_;
};

}  // namespace

Graph narrow_heads(const Graph& graph, const PassContext&) { return Narrower(graph).run(); }

}  // namespace fovea
