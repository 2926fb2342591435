#include "fovea/passes/fold.h"

#include <numeric>
#include <vector>

#include "fovea/graph/ops.h"

namespace fovea {

namespace {

constexpr int64_t kMaxElements = 65536;  // of a result that is worth keeping as a constant

bool known(const Shape& shape) {
  return std::all_of(shape.begin(), shape.end(), [](auto& s) { return s.is_constant(); });
}

// Whether a value of the one shape broadcasts to the other for certain.
bool broadcasts_into(const Shape& from, const Shape& to) {
  if (from.size() > to.size()) return false;
  for (size_t i = 0; i < from.size(); ++i)
    if (!(from[i] == Size(1)) && !(from[i] == to[to.size() - from.size() + i])) return false;
  return true;
}

// Looks for sizes in attributes that are known only when a plan is made.
class SymbolFinder : public TextFormVisitor {
 public:
  bool found = false;

 protected:
  void text_form(std::string_view, std::string& v) override {
    Shape shape;
    const size_t open = v.find('[');
    if (open == std::string::npos)
      shape.push_back(Size::parse(v));
    else
      from_text(std::string_view(v).substr(open), shape);
    found = found || !known(shape);
  }
};

class Folder {
 public:
  Folder(const Graph& graph, const PassContext& context)
      : graph_(graph), context_(context), rewriter_(graph, result_) {}

  Graph run() {
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& n = graph_.node(id);
      // What came before is simplified already, so chains fold in one go.
      const std::vector<Value> inputs = rewriter_.mapped(n.inputs);
      Value v = n.op->source ? Value{} : simplified(n, inputs);
      if (!v) v = evaluated(n, inputs);
      if (v)
        rewriter_.map({id, 0}, v);
      else
        rewriter_.copy(id);
    }
    rewriter_.finish();
    return std::move(result_);
  }

 private:
  bool is(Value v, double number) const { return uniform_constant(result_, v) == number; }
  bool is_op(Value v, std::string_view op) const { return result_.node(v).op->name == op; }

  // The value that n equals, or an empty one.
  Value simplified(const Node& n, const std::vector<Value>& in) {
    const std::string_view op = n.op->name;
    if (op == "add") return is(in[1], 0) ? same(n, in, 0) : is(in[0], 0) ? same(n, in, 1) : Value{};
    if (op == "mul") return is(in[1], 1) ? same(n, in, 0) : is(in[0], 1) ? same(n, in, 1) : Value{};
    if (op == "sub") return is(in[1], 0) ? same(n, in, 0) : Value{};
    if (op == "div") return is(in[1], 1) ? same(n, in, 0) : Value{};
    if (op == "select") {
      const auto condition = uniform_constant(result_, in[0]);
      return condition ? same(n, in, *condition != 0 ? 1 : 2) : Value{};
    }
    if (op == "neg") return is_op(in[0], "neg") ? result_.node(in[0]).inputs[0] : Value{};
    if (op == "cast" || op == "broadcast")
      return result_.type(in[0]) == n.types[0] ? in[0] : Value{};
    if (op == "reshape") return reshaped(n, in[0]);
    if (op == "transpose") return transposed(n, in[0]);
    if (op == "slice")
      return n.attrs.get<SliceAttrs>().start == Size(0) && result_.type(in[0]) == n.types[0]
                 ? in[0]
                 : Value{};
    if (op == "pad") {
      const auto& a = n.attrs.get<PadAttrs>();
      return a.before == Size(0) && a.after == Size(0) ? in[0] : Value{};
    }
    if (op == "dropout") return n.attrs.get<DropoutAttrs>().rate == 0 ? in[0] : Value{};
    return {};
  }

  // Input i of a broadcasting op, where the others do not widen it.
  Value same(const Node& n, const std::vector<Value>& in, size_t i) const {
    if (result_.type(in[i]) != n.types[0]) return {};
    for (Value v : in)
      if (!broadcasts_into(result_.shape(v), n.types[0].shape)) return {};
    return in[i];
  }

  Value reshaped(const Node& n, Value x) {
    Value from = x;
    // Where the numbers of elements are not proved equal, the inner reshape is the check.
    if (is_op(x, "reshape") &&
        element_count(result_.shape(x)) == element_count(result_.shape(result_.node(x).inputs[0])))
      from = result_.node(x).inputs[0];
    if (result_.type(from) == n.types[0]) return from;
    return from == x ? Value{} : result_.add_named(*n.op, {from}, n.attrs, n.name);
  }

  Value transposed(const Node& n, Value x) {
    std::vector<int64_t> order = n.attrs.get<TransposeAttrs>().order;
    Value from = x;
    if (is_op(x, "transpose")) {
      const auto& inner = result_.node(x).attrs.get<TransposeAttrs>().order;
      for (int64_t& axis : order) axis = inner[static_cast<size_t>(axis)];
      from = result_.node(x).inputs[0];
    }
    std::vector<int64_t> given(order.size());
    std::iota(given.begin(), given.end(), 0);
    if (order == given) return from;
    return from == x ? Value{} : result_.add_named(*n.op, {from}, TransposeAttrs{order}, n.name);
  }

  // The stored tensor of a constant, which may be among the old or the new; nullptr if inline or
  // not here.
  HostTensorPtr stored(const ConstantAttrs& a) const {
    for (const auto* store : {&graph_.constants(), &result_.constants()})
      if (const auto it = store->find(a.hash); it != store->end()) return it->second;
    return nullptr;
  }

  bool can_evaluate(const Node& n, const std::vector<Value>& in) const {
    if (!context_.evaluate || n.op->source || n.op->random || n.types.size() != 1) return false;
    if (!known(n.types[0].shape)) return false;
    const int64_t count = element_count(n.types[0].shape).constant();
    int64_t before = 0;  // numbers that are there already: weights that are joined, cut or rounded
    for (Value v : in) {
      const Node& input = result_.node(v);
      if (!input.attrs.holds<ConstantAttrs>() || !known(result_.shape(v))) return false;
      before += element_count(result_.shape(v)).constant();
      const auto& a = input.attrs.get<ConstantAttrs>();
      if (a.values.empty() && !stored(a)) return false;
    }
    if (count == 0 || (count > kMaxElements && count > before)) return false;
    SymbolFinder finder;
    Attrs attrs = n.attrs;
    attrs.visit(finder);
    return !finder.found;
  }

  Value evaluated(const Node& n, const std::vector<Value>& in) {
    if (!can_evaluate(n, in)) return {};
    Graph small;
    std::vector<Value> inputs;
    for (Value v : in) {
      const Node& input = result_.node(v);
      inputs.push_back(small.add_named(*input.op, {}, input.attrs, input.name));
      const auto& a = input.attrs.get<ConstantAttrs>();
      if (a.values.empty()) small.store_constant(a.hash, stored(a));
    }
    small.set_output("value", small.add_named(*n.op, inputs, n.attrs, n.name));
    const HostTensorPtr tensor = context_.evaluate(small);
    if (!tensor) return {};
    const Value v = ops::constant(result_, tensor, n.name);
    FOVEA_ASSERT(result_.type(v) == n.types[0]);
    return v;
  }

  const Graph& graph_;
  const PassContext& context_;
  Graph result_;
  GraphRewriter rewriter_;
};

}  // namespace

Graph fold(const Graph& graph, const PassContext& context) { return Folder(graph, context).run(); }

}  // namespace fovea
