#include "fovea/passes/fuse_attention.h"

#include <cmath>
#include <numeric>
#include <vector>

namespace fovea {

namespace {

constexpr int kMaxMaskDepth = 12;  // of the expression that makes a mask

using Order = std::vector<int64_t>;

Order given_order(size_t rank) {
  Order order(rank);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Which links a mask leaves, as the attributes of attention say it; -1: no limit.
struct Window {
  int64_t left = -1;
  int64_t right = -1;
};

// Reads masks: bool values that broadcast to scores [..,Tq,Tk].
class MaskReader {
 public:
  MaskReader(const Graph& graph, Size tq, Size tk)
      : graph_(graph), tq_(std::move(tq)), tk_(std::move(tk)) {}

  // Narrows the window to the links where `mask` is true (false, if negated). False where the mask
  // is no window.
  bool narrow(Value mask, bool negated, Window& window, int depth = 0) const {
    if (depth > kMaxMaskDepth) return false;
    const Node& n = graph_.node(mask);
    const std::string_view op = n.op->name;
    if (op == "logical_not") return narrow(n.inputs[0], !negated, window, depth + 1);
    if (op == "broadcast") return narrow(n.inputs[0], negated, window, depth + 1);
    if (op == (negated ? "logical_or" : "logical_and"))
      return narrow(n.inputs[0], negated, window, depth + 1) &&
             narrow(n.inputs[1], negated, window, depth + 1);
    const bool less = op == "less" || op == "less_equal";
    if (!less && op != "greater" && op != "greater_equal") return false;
    const auto a = place(n.inputs[0], 0), b = place(n.inputs[1], 0);
    if (!a || !b) return false;
    // As d >= bound in integers, which negated is -d >= 1 - bound.
    Place d = less ? minus(*b, *a) : minus(*a, *b);
    int64_t bound = op == "less" || op == "greater" ? 1 : 0;
    if (negated) {
      d = minus({}, d);
      bound = 1 - bound;
    }
    // Query i stands above key i + Tk - Tq; right: j - i - (Tk - Tq) <= r; left: >= -l.
    const Size shift = tk_ - tq_;
    if (d.key == -1 && d.query == 1) return limit(d.offset - bound - shift, window.right);
    if (d.key == 1 && d.query == -1) return limit(d.offset - bound + shift, window.left);
    return false;
  }

 private:
  // key * j + query * i + offset, for key j and query i.
  struct Place {
    int64_t key = 0;
    int64_t query = 0;
    Size offset = 0;
  };
  static Place minus(const Place& a, const Place& b) {
    return {a.key - b.key, a.query - b.query, a.offset - b.offset};
  }

  static bool limit(const Size& distance, int64_t& side) {
    if (!distance.is_constant() || distance.constant() < 0) return false;
    side = side < 0 ? distance.constant() : std::min(side, distance.constant());
    return true;
  }

  std::optional<Place> place(Value v, int depth) const {
    const Node& n = graph_.node(v);
    const std::string_view op = n.op->name;
    if (depth > kMaxMaskDepth || graph_.type(v).dtype != DType::i32) return std::nullopt;
    if (const auto c = uniform_constant(graph_, v)) {
      if (*c != std::floor(*c) || std::abs(*c) > 0x7fffffff) return std::nullopt;
      return Place{0, 0, static_cast<int64_t>(*c)};
    }
    if (op == "iota") return along(axis_of(n), graph_.shape(v));
    if (op == "broadcast") return place(n.inputs[0], depth + 1);
    if (op == "reduce_max") return last(n);
    if (op != "add" && op != "sub") return std::nullopt;
    const auto a = place(n.inputs[0], depth + 1), b = place(n.inputs[1], depth + 1);
    if (!a || !b) return std::nullopt;
    return op == "sub" ? minus(*a, *b) : minus(*a, minus({}, *b));
  }

  static size_t axis_of(const Node& iota) {
    const auto& a = iota.attrs.get<IotaAttrs>();
    return axis_index(a.axis, a.type.rank());
  }
  // A count along one axis of a value that broadcasts to the scores.
  std::optional<Place> along(size_t axis, const Shape& shape) const {
    if (shape[axis] == Size(1)) return Place{};
    if (axis + 1 == shape.size() && shape[axis] == tk_) return Place{1, 0, 0};
    if (axis + 2 == shape.size() && shape[axis] == tq_) return Place{0, 1, 0};
    return std::nullopt;
  }
  // The largest number of an iota, which is how a size that is not known yet becomes a value.
  std::optional<Place> last(const Node& reduce) const {
    const Node& iota = graph_.node(reduce.inputs[0]);
    if (iota.op->name != "iota") return std::nullopt;
    const auto rank = static_cast<int64_t>(iota.types[0].rank());
    const size_t axis = axis_of(iota);
    for (int64_t reduced : reduce.attrs.get<ReduceAttrs>().axes)
      if (static_cast<size_t>(reduced < 0 ? reduced + rank : reduced) == axis)
        return Place{0, 0, iota.types[0].shape[axis] - Size(1)};
    return std::nullopt;
  }

  const Graph& graph_;
  Size tq_, tk_;
};

// A packed value [B,T,heads..*D] that was split into [B,heads..,T,D].
struct Split {
  Value packed;
  Shape heads;           // one or two axes
  int64_t size = 0;      // of a head
  bool swapped = false;  // [B,heads..,D,T] instead
  double scale = 1;      // that stands on the way
};

struct Match {
  int last = -1;  // the node that the new one replaces
  Value q, k, v;
  AttentionAttrs attrs;
};

class AttentionFuser {
 public:
  explicit AttentionFuser(const Graph& graph) : graph_(graph), readers_(counted_readers(graph)) {}

  Graph run() const {
    std::vector<Match> at(static_cast<size_t>(graph_.size()));
    for (int id = 0; id < graph_.size(); ++id)
      if (const auto m = match(id)) at[static_cast<size_t>(m->last)] = *m;
    const std::vector<bool> kept = still_read(at);

    Graph result;
    GraphRewriter rewriter(graph_, result);
    for (int id = 0; id < graph_.size(); ++id) {
      const Match& m = at[static_cast<size_t>(id)];
      if (!kept[static_cast<size_t>(id)]) continue;
      if (m.last < 0) {
        rewriter.copy(id);
        continue;
      }
      const Value v = result.add_named(get_op("attention"), rewriter.mapped({m.q, m.k, m.v}),
                                       m.attrs, graph_.node(id).name);
      FOVEA_ASSERT(result.type(v) == graph_.type({id, 0}));
      rewriter.map({id, 0}, v);
    }
    rewriter.finish();
    return result;
  }

 private:
  const Node& node(Value v) const { return graph_.node(v); }
  bool is_op(Value v, std::string_view op) const { return node(v).op->name == op; }

  // By node: how often its outputs are read. The ops of the pattern have one output each.
  static std::vector<int> counted_readers(const Graph& graph) {
    std::vector<int> readers(static_cast<size_t>(graph.size()));
    for (int id = 0; id < graph.size(); ++id)
      for (Value v : graph.node(id).inputs) ++readers[static_cast<size_t>(v.node)];
    for (auto& [name, v] : graph.outputs()) ++readers[static_cast<size_t>(v.node)];
    for (auto& [variable, v] : graph.updates()) ++readers[static_cast<size_t>(v.node)];
    return readers;
  }
  bool once(Value v) const { return readers_[static_cast<size_t>(v.node)] == 1; }

  // Which nodes stay: all but those that only the replaced ones have read.
  std::vector<bool> still_read(const std::vector<Match>& at) const {
    std::vector<bool> read(static_cast<size_t>(graph_.size()));
    const auto mark = [&](Value v) { read[static_cast<size_t>(v.node)] = true; };
    for (auto& [name, v] : graph_.outputs()) mark(v);
    for (auto& [variable, v] : graph_.updates()) {
      mark(variable);
      mark(v);
    }
    for (int id = graph_.size() - 1; id >= 0; --id) {
      const auto i = static_cast<size_t>(id);
      const Node& n = graph_.node(id);
      // Inputs, variables and what was dead before are not this pass's to remove.
      const bool declared = n.attrs.holds<InputAttrs>() || n.attrs.holds<VariableAttrs>();
      read[i] = read[i] || declared || readers_[i] == 0;
      if (!read[i]) continue;
      if (at[i].last >= 0) {
        for (Value v : {at[i].q, at[i].k, at[i].v}) mark(v);
        continue;
      }
      for (Value v : n.inputs) mark(v);
    }
    return read;
  }

  // Takes a factor off: mul or div by one positive number.
  bool take_scale(Value& v, double& scale) const {
    const Node& n = node(v);
    if (n.op->name != "mul" && n.op->name != "div") return false;
    for (size_t i : {size_t{1}, size_t{0}}) {
      const auto c = uniform_constant(graph_, n.inputs[i]);
      if (!c || !(element_count(graph_.shape(n.inputs[i])) == Size(1))) continue;
      if (n.op->name == "div" && i == 0) continue;
      const double factor = n.op->name == "div" ? 1 / *c : *c;
      if (!(factor > 0) || !std::isfinite(factor)) return false;
      if (graph_.type(n.inputs[1 - i]) != n.types[0]) return false;
      scale *= factor;
      v = n.inputs[1 - i];
      return true;
    }
    return false;
  }

  // Takes a transpose off; `order` stays the one from the value that is left.
  bool take_transpose(Value& v, Order& order) const {
    if (!is_op(v, "transpose")) return false;
    const auto& inner = node(v).attrs.get<TransposeAttrs>().order;
    for (int64_t& axis : order) axis = inner[static_cast<size_t>(axis)];
    v = node(v).inputs[0];
    return true;
  }

  // What splits and scales a packed value may be read by others as well: it stays for them.
  std::optional<Split> split(Value v, bool may_scale) const {
    Split s;
    const size_t rank = graph_.shape(v).size();
    if (rank != 4 && rank != 5) return std::nullopt;
    Order order = given_order(rank);
    while (take_transpose(v, order) || (may_scale && take_scale(v, s.scale))) {
    }
    if (!is_op(v, "reshape")) return std::nullopt;
    const Shape& apart = graph_.shape(v);
    s.packed = node(v).inputs[0];
    const Shape& packed = graph_.shape(s.packed);
    if (packed.size() != 3 || !(packed[0] == apart[0]) || !(packed[1] == apart[1]))
      return std::nullopt;
    s.heads = Shape(apart.begin() + 2, apart.end() - 1);
    if (!packed[2].is_constant() || !apart.back().is_constant() || apart.back() == Size(0) ||
        !(packed[2] == element_count(s.heads) * apart.back()))
      return std::nullopt;
    s.size = apart.back().constant();

    Order expected = {0};
    for (size_t i = 2; i + 1 < rank; ++i) expected.push_back(static_cast<int64_t>(i));
    expected.insert(expected.end(), {1, static_cast<int64_t>(rank) - 1});
    s.swapped = order != expected;
    if (s.swapped) std::swap(expected[rank - 2], expected[rank - 1]);
    if (order != expected) return std::nullopt;
    while (may_scale && take_scale(s.packed, s.scale)) {
    }
    return s;
  }

  // How many key/value heads serve the query heads, when consecutive query heads share one; 0 where
  // they are shared in another way.
  static int64_t shared_heads(const Shape& q, const Shape& kv) {
    if (q.size() != kv.size()) return 0;
    int64_t count = 1;
    bool shared = false;
    for (size_t i = 0; i < q.size(); ++i) {
      if (!q[i].is_constant() || !kv[i].is_constant()) return 0;
      if (!(kv[i] == Size(1)) && (shared || !(kv[i] == q[i]))) return 0;
      shared = shared || !(kv[i] == q[i]);
      count *= kv[i].constant();
    }
    return count;
  }

  // Takes the mask off the scores. False where there is one that is no window.
  bool take_mask(Value& scores, Window& window) const {
    const Node& n = node(scores);
    const bool added = n.op->name == "add";
    if (!added && n.op->name != "select") return true;
    const Shape& shape = n.types[0].shape;
    const MaskReader reader(graph_, shape[shape.size() - 2], shape.back());
    for (size_t i : {size_t{0}, size_t{1}}) {
      // select(mask, a, b) itself, or the summand that is select(mask, 0 or -inf, -inf or 0).
      Value mask = n.inputs[i];
      while (added && is_op(mask, "broadcast")) mask = node(mask).inputs[0];
      const Node& choice = added ? node(mask) : n;
      if (choice.op->name != "select") continue;
      const Value inner = added ? n.inputs[1 - i] : n.inputs[1 + i];
      if (graph_.type(inner) != n.types[0]) continue;
      for (size_t hidden : {size_t{1}, size_t{2}}) {
        if (uniform_constant(graph_, choice.inputs[hidden]) != -INFINITY) continue;
        const Value other = choice.inputs[3 - hidden];
        if (added ? uniform_constant(graph_, other) != 0.0 : other != inner) continue;
        if (!reader.narrow(choice.inputs[0], hidden == 1, window)) return false;
        scores = inner;
        return true;
      }
    }
    return false;
  }

  // The attention whose result the node joins: a reshape to [B,Tq,H*Dv].
  std::optional<Match> match(int id) const {
    const Node& join = graph_.node(id);
    if (join.op->name != "reshape" || join.types[0].rank() != 3) return std::nullopt;
    Value at = join.inputs[0];
    const size_t rank = graph_.shape(at).size();
    if (rank != 4 && rank != 5) return std::nullopt;
    Order order = given_order(rank);
    bool alone = once(at);
    while (take_transpose(at, order)) alone = alone && once(at);
    Order expected = {0, static_cast<int64_t>(rank) - 2};  // [B,heads..,Tq,Dv] -> [B,Tq,heads..,Dv]
    for (size_t i = 1; i + 2 < rank; ++i) expected.push_back(static_cast<int64_t>(i));
    expected.push_back(static_cast<int64_t>(rank) - 1);
    if (!alone || order != expected || !is_op(at, "matmul")) return std::nullopt;

    const auto& weighted = node(at).attrs.get<MatmulAttrs>();
    const auto v = split(node(at).inputs[1], false);
    if (!v || weighted.transpose_a || weighted.transpose_b != v->swapped) return std::nullopt;
    at = node(at).inputs[0];
    if (!is_op(at, "softmax") || !once(at)) return std::nullopt;

    Window window;
    double scale = 1;
    at = node(at).inputs[0];
    const Value masked = at;
    if (!take_mask(at, window) || !once(masked)) return std::nullopt;
    do {
      if (!once(at)) return std::nullopt;
    } while (take_scale(at, scale));
    if (!is_op(at, "matmul")) return std::nullopt;
    const auto& product = node(at).attrs.get<MatmulAttrs>();
    const auto q = split(node(at).inputs[0], true), k = split(node(at).inputs[1], true);
    if (!q || !k || product.transpose_a != q->swapped || product.transpose_b == k->swapped)
      return std::nullopt;
    return made(id, *q, *k, *v, scale * q->scale * k->scale, window);
  }

  std::optional<Match> made(int id, const Split& q, const Split& k, const Split& v, double scale,
                            const Window& window) const {
    const int64_t shared = shared_heads(q.heads, k.heads);
    if (shared == 0 || q.size != k.size || k.heads != v.heads) return std::nullopt;
    const int64_t heads = element_count(q.heads).constant();
    const Shape &qs = graph_.shape(q.packed), &ks = graph_.shape(k.packed);
    if (!(qs[0] == ks[0]) || !(qs[0] == graph_.shape(v.packed)[0])) return std::nullopt;
    if (graph_.shape({id, 0}) != Shape{qs[0], qs[1], heads * v.size}) return std::nullopt;

    Match m{id, q.packed, k.packed, v.packed, {}};
    m.attrs.heads = heads;
    m.attrs.kv_heads = shared == heads ? 0 : shared;
    // 1 / sqrt(head size) is the default; a constant holds it only to its own precision.
    const double steps = graph_.type(q.packed).dtype == DType::f64 ? 1e-15 : 1.2e-7;
    const bool usual = std::abs(scale * std::sqrt(static_cast<double>(q.size)) - 1) <= steps;
    m.attrs.scale = usual ? 0 : scale;
    m.attrs.causal = window.right == 0;
    m.attrs.window_left = window.left;
    m.attrs.window_right = window.right == 0 ? -1 : window.right;
    keep_first_heads(m, v.size);
    return m;
  }

  // slice and pad that leave the first heads and set the others to 0 are part of attention.
  void keep_first_heads(Match& m, int64_t size) const {
    if (!once({m.last, 0})) return;
    const int slice = only_reader(m.last);
    if (slice < 0 || graph_.node(slice).op->name != "slice" || !once({slice, 0})) return;
    const int pad = only_reader(slice);
    if (pad < 0 || graph_.node(pad).op->name != "pad") return;
    const auto& s = graph_.node(slice).attrs.get<SliceAttrs>();
    const auto& p = graph_.node(pad).attrs.get<PadAttrs>();
    if ((s.axis != 2 && s.axis != -1) || (p.axis != 2 && p.axis != -1)) return;
    if (!(s.start == Size(0)) || !(p.before == Size(0)) || !s.length.is_constant()) return;
    if (s.length.constant() % size != 0 || !(s.length + p.after == Size(m.attrs.heads * size)))
      return;
    const int64_t kept = s.length.constant() / size;
    m.attrs.heads_kept = kept == m.attrs.heads ? -1 : kept;
    m.last = pad;
  }
  int only_reader(int id) const {
    for (int reader = id + 1; reader < graph_.size(); ++reader)
      for (Value v : graph_.node(reader).inputs)
        if (v.node == id) return reader;
    return -1;  // an output or an update
  }

  const Graph& graph_;
  const std::vector<int> readers_;
};

}  // namespace

Graph fuse_attention(const Graph& graph, const PassContext&) { return AttentionFuser(graph).run(); }

}  // namespace fovea
