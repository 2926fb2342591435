#include "fovea/passes/fuse_cross_entropy.h"

#include <vector>

#include "fovea/passes/uses.h"

namespace fovea {

namespace {

bool is_last(int64_t axis, size_t rank) { return rank > 0 && axis_index(axis, rank) + 1 == rank; }

Shape leading(const Shape& shape) { return Shape(shape.begin(), shape.end() - 1); }

// A written-out cross-entropy, in the old graph.
struct Match {
  Value logits;
  Value labels;              // of the rows' shape, or with a last axis of 1
  std::vector<int> members;  // what the new node stands for, with the labels' reshapes
};

class CrossEntropyFuser {
 public:
  explicit CrossEntropyFuser(const Graph& graph)
      : graph_(graph), uses_(graph), gone_(static_cast<size_t>(graph.size())) {}

  Graph run() {
    std::vector<Match> at(static_cast<size_t>(graph_.size()));
    for (int id = graph_.size() - 1; id >= 0; --id)
      if (auto m = match(id)) {
        remove(id, m->members);
        at[static_cast<size_t>(id)] = std::move(*m);
      }
    for (const Match& m : at)
      if (m.logits) keep(m.labels.node);
    Graph result;
    GraphRewriter rewriter(graph_, result);
    for (int id = 0; id < graph_.size(); ++id) {
      const Match& m = at[static_cast<size_t>(id)];
      if (m.logits)
        rewriter.map({id, 0}, fused(id, m, rewriter, result));
      else if (!gone_[static_cast<size_t>(id)])
        rewriter.copy(id);
    }
    rewriter.finish();
    return result;
  }

 private:
  const Node& node(Value v) const { return graph_.node(v); }
  bool is_op(Value v, std::string_view op) const { return node(v).op->name == op; }
  bool once(Value v) const { return uses_[v].size() == 1; }

  Value fused(int id, const Match& m, const GraphRewriter& rewriter, Graph& result) const {
    const std::string& name = graph_.node(id).name;
    const Shape& rows = graph_.node(id).types[0].shape;
    Value labels = rewriter[m.labels];
    if (result.shape(labels) != rows)
      labels = result.add_named(get_op("reshape"), {labels}, ShapeAttrs{rows},
                                free_name(graph_, result, name + ".labels"));
    const Value loss = result.add_named(get_op("cross_entropy"), {rewriter[m.logits], labels},
                                        CrossEntropyAttrs{}, name);
    FOVEA_ASSERT(result.type(loss) == graph_.type({id, 0}));
    return loss;
  }

  // Marks the members that nothing else reads, from the back.
  void remove(int last, std::vector<int> members) {
    gone_[static_cast<size_t>(last)] = true;
    std::sort(members.begin(), members.end(), std::greater<>());
    for (int id : members) {
      const auto& uses = uses_[{id, 0}];
      gone_[static_cast<size_t>(id)] = std::all_of(uses.begin(), uses.end(), [&](auto& use) {
        return use.node >= 0 && gone_[static_cast<size_t>(use.node)];
      });
    }
  }

  // One match may read what another stands for.
  void keep(int id) {
    if (!gone_[static_cast<size_t>(id)]) return;
    gone_[static_cast<size_t>(id)] = false;
    for (Value v : graph_.node(id).inputs) keep(v.node);
  }

  std::optional<Match> match(int id) const {
    const Node& neg = graph_.node(id);
    if (neg.op->name != "neg") return std::nullopt;
    const Value sum = neg.inputs[0];
    if (!is_op(sum, "reduce_sum") || !once(sum)) return std::nullopt;
    const auto& reduce = node(sum).attrs.get<ReduceAttrs>();
    const Value chosen = node(sum).inputs[0];
    const ValueType& type = graph_.type(chosen);
    if (reduce.keep || reduce.axes.size() != 1 || !is_last(reduce.axes[0], type.rank()) ||
        (type.dtype != DType::f32 && type.dtype != DType::f64) || !once(chosen))
      return std::nullopt;

    Match m;
    m.members = {sum.node, chosen.node};
    const Node& choice = node(chosen);
    Value log_p, mask;
    if (choice.op->name == "select") {
      if (uniform_constant(graph_, choice.inputs[2]) != 0.0) return std::nullopt;
      mask = choice.inputs[0];
      log_p = choice.inputs[1];
      m.members.push_back(choice.inputs[2].node);
    } else if (choice.op->name == "mul") {
      const size_t cast = is_op(choice.inputs[0], "cast") ? 0 : 1;
      if (!is_op(choice.inputs[cast], "cast")) return std::nullopt;
      mask = node(choice.inputs[cast]).inputs[0];
      log_p = choice.inputs[1 - cast];
      m.members.push_back(choice.inputs[cast].node);
    } else {
      return std::nullopt;
    }
    if (graph_.type(log_p) != type || !take_log_p(log_p, m) || !take_mask(mask, type.shape, m))
      return std::nullopt;
    return m;
  }

  bool take_log_p(Value v, Match& m) const {
    if (!once(v)) return false;
    m.members.push_back(v.node);
    if (is_op(v, "log_softmax")) {
      m.logits = node(v).inputs[0];
      return true;
    }
    if (!is_op(v, "log")) return false;
    const Value p = node(v).inputs[0];
    if (!is_op(p, "softmax") || !once(p)) return false;
    m.members.push_back(p.node);
    m.logits = node(p).inputs[0];
    return true;
  }

  // The comparison of classes with labels may be read by others: it stays for them.
  bool take_mask(Value mask, const Shape& shape, Match& m) const {
    while (is_op(mask, "broadcast")) {
      m.members.push_back(mask.node);
      mask = node(mask).inputs[0];
    }
    if (!is_op(mask, "equal") || graph_.shape(mask) != shape) return false;
    m.members.push_back(mask.node);
    const auto& in = node(mask).inputs;
    for (size_t classes : {size_t{0}, size_t{1}}) {
      Match with = m;
      if (!are_classes(in[classes], shape, with) || !take_labels(in[1 - classes], shape, with))
        continue;
      m = std::move(with);
      return true;
    }
    return false;
  }

  // 0, 1, .. along the last axis, however it got its other axes.
  bool are_classes(Value v, const Shape& shape, Match& m) const {
    while (true) {
      const Node& n = node(v);
      if (!(n.types[0].rank() > 0 && n.types[0].shape.back() == shape.back())) return false;
      m.members.push_back(v.node);
      if (n.op->name == "iota")
        return n.types[0].dtype == DType::i32 &&
               is_last(n.attrs.get<IotaAttrs>().axis, n.types[0].rank());
      // A reshape that puts axes of 1 in front, or takes them away.
      const bool same_row = n.op->name == "reshape" &&
                            element_count(n.types[0].shape) == shape.back() &&
                            element_count(graph_.shape(n.inputs[0])) == shape.back();
      if (n.op->name != "broadcast" && !same_row) return false;
      v = n.inputs[0];
    }
  }

  // One label for each row: [..,1], perhaps made so from [..], perhaps broadcast to all classes.
  bool take_labels(Value v, const Shape& shape, Match& m) const {
    if (graph_.type(v).dtype != DType::i32) return false;
    while (is_op(v, "broadcast") && graph_.shape(node(v).inputs[0]).size() == shape.size()) {
      m.members.push_back(v.node);
      v = node(v).inputs[0];
    }
    Shape column = leading(shape);
    column.emplace_back(1);
    if (graph_.shape(v) != column) return false;
    m.labels = v;
    while (is_op(v, "reshape")) {
      m.members.push_back(v.node);
      v = node(v).inputs[0];
      if (graph_.shape(v) != leading(shape)) continue;
      m.labels = v;
      break;
    }
    // What the labels come through stays.
    std::erase(m.members, m.labels.node);
    return true;
  }

  const Graph& graph_;
  Uses uses_;
  std::vector<bool> gone_;  // by node
};

}  // namespace

Graph fuse_cross_entropy(const Graph& graph, const PassContext&) {
  return CrossEntropyFuser(graph).run();
}

}  // namespace fovea
