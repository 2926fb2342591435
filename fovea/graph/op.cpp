#include "fovea/graph/op.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "fovea/base/text.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/register_op.h"

namespace fovea {

void InferContext::fail(const std::string& what) const {
  throw Error(ErrorCode::invalid_argument,
              fmt::format("[{} {}] {}{}", op.name, node_name, what,
                          inputs.empty() ? "" : " (inputs: " + inputs_text() + ")"));
}

std::string InferContext::inputs_text() const {
  std::string s;
  for (auto& t : inputs) s += (s.empty() ? "" : ", ") + to_text(t);
  return s;
}

void InferContext::same(const Size& a, const Size& b, const std::string& what) const {
  if (a == b) return;
  if (a.is_constant() && b.is_constant())
    fail(fmt::format("expected {} to agree, got {} and {}", what, a.text(), b.text()));
}

void InferContext::alike(const ValueType& a, const ValueType& b, const std::string& what) const {
  expect(a.dtype == b.dtype && a.rank() == b.rank(), "expected " + what + " alike");
  for (size_t i = 0; i < a.rank(); ++i) same(a.shape[i], b.shape[i], "the sizes of " + what);
}

size_t InferContext::axis(int64_t axis, size_t rank) const {
  const auto n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n)
    fail(fmt::format("expected an axis from {} to {}, got {}", -n, n - 1, axis));
  return axis_index(axis, rank);
}

namespace {

bool before(const Op* a, const Op* b) { return a->name < b->name; }

std::vector<const Op*>& op_table() {
  static std::vector<const Op*> table = [] {
    std::vector<const Op*> rows;
    for (const auto family :
         {source_ops(), elementwise_ops(), chain_ops(), shape_ops(), reduce_ops(), product_ops(),
          norm_ops(), normaliser_ops(), attention_ops(), attention_block_ops(),
          linear_attention_ops(), pair_attention_ops(), conv_ops(), index_ops(), loss_ops(),
          optimiser_ops()})
      for (const Op& op : family) rows.push_back(&op);
    std::sort(rows.begin(), rows.end(), before);
    return rows;
  }();
  return table;
}

}  // namespace

std::span<const Op* const> all_ops() { return op_table(); }

void register_op(Op op) {
  // Rows and their names live as long as the program: nodes point to them.
  static std::deque<std::pair<std::string, Op>> registered;
  const auto wrong = [&](const std::string& what) {
    throw Error(ErrorCode::invalid_argument, fmt::format("[op {}] {}", op.name, what));
  };
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  if (op.name.empty() || !std::all_of(op.name.begin(), op.name.end(), fits))
    wrong("expected a name of small letters, digits and '_'");
  if (find_op(op.name)) wrong("there is an op of this name already; choose another");
  if (!op.infer) wrong("expected a shape rule (Op::infer)");
  auto& [name, row] = registered.emplace_back(std::string(op.name), std::move(op));
  row.name = name;
  std::vector<const Op*>& table = op_table();
  table.insert(std::lower_bound(table.begin(), table.end(), &row, before), &row);
}

const Op* find_op(std::string_view name) {
  const auto table = all_ops();
  const auto it = std::lower_bound(table.begin(), table.end(), name,
                                   [](const Op* op, std::string_view n) { return op->name < n; });
  return it != table.end() && (*it)->name == name ? *it : nullptr;
}

const Op& get_op(std::string_view name) {
  if (const Op* op = find_op(name)) return *op;
  std::vector<std::string_view> names;
  for (const Op* op : all_ops()) names.push_back(op->name);
  throw Error(ErrorCode::not_found,
              fmt::format("[op] there is no op '{}'{}", name, did_you_mean(name, names)));
}

Cost node_cost(const Graph& graph, const Node& node) {
  if (node.op->source || node.op->view) return {};
  Cost cost;
  cost.flops = node.op->flops ? node.op->flops(graph, node) : element_count(node.types[0].shape);
  const auto add = [&](const ValueType& t) {
    cost.bytes =
        cost.bytes + element_count(t.shape) * Size(static_cast<int64_t>(dtype_size(t.dtype)));
  };
  for (Value v : node.inputs) add(graph.type(v));
  for (auto& t : node.types) add(t);
  return cost;
}

Cost graph_cost(const Graph& graph) {
  Cost total;
  for (int id = 0; id < graph.size(); ++id) {
    const Cost c = node_cost(graph, graph.node(id));
    total.flops = total.flops + c.flops;
    total.bytes = total.bytes + c.bytes;
  }
  return total;
}

namespace {

// Replaces symbols in every attribute that holds a size, a shape or a type.
class Specialiser : public TextFormVisitor {
 public:
  explicit Specialiser(const SizeBindings& bindings) : bindings_(bindings) {}

 protected:
  void text_form(std::string_view, std::string& v) override {
    const size_t open = v.find('[');
    if (open == std::string::npos) {
      v = evaluated(Size::parse(v)).text();
      return;
    }
    Shape shape;
    from_text(std::string_view(v).substr(open), shape);
    for (Size& s : shape) s = evaluated(s);
    v = v.substr(0, open) + shape_text(shape);
  }

 private:
  Size evaluated(const Size& s) const { return s.is_constant() ? s : Size(s.eval(bindings_)); }
  const SizeBindings& bindings_;
};

}  // namespace

Graph specialise(const Graph& graph, const SizeBindings& bindings) {
  for (auto& [symbol, n] : bindings)
    if (n < 0)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[size] {} = {} is negative", symbol, n));
  Graph result;
  GraphRewriter rewriter(graph, result);
  Specialiser specialiser(bindings);
  for (int id = 0; id < graph.size(); ++id) {
    Attrs attrs = graph.node(id).attrs;
    attrs.visit(specialiser);
    rewriter.copy(id, std::move(attrs));
  }
  rewriter.finish();
  return result;
}

}  // namespace fovea
