#include "fovea/graph/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "fovea/graph/op.h"

namespace fovea {

Graph::Scope::Scope(Graph& g, std::string_view name) : graph_(g), length_(g.scope_.size()) {
  if (!g.scope_.empty()) g.scope_ += '.';
  g.scope_ += name;
}
Graph::Scope::~Scope() { graph_.scope_.resize(length_); }

std::string Graph::unique_name(std::string name) const {
  if (!by_name_.contains(name)) return name;
  for (int i = 2;; ++i) {
    std::string numbered = fmt::format("{}_{}", name, i);
    if (!by_name_.contains(numbered)) return numbered;
  }
}

Value Graph::add(std::string_view op, std::vector<Value> inputs) {
  const Op& row = get_op(op);
  return add(op, std::move(inputs), row.defaults);
}

Value Graph::add(std::string_view op, std::vector<Value> inputs, Attrs attrs,
                 std::string_view name) {
  const Op& row = get_op(op);
  return add_named(row, std::move(inputs), std::move(attrs),
                   below_scope(name.empty() ? row.name : name));
}

std::string Graph::below_scope(std::string_view name) const {
  return scope_.empty() ? std::string(name) : fmt::format("{}.{}", scope_, name);
}
std::string Graph::name_of_next(std::string_view name) const {
  return unique_name(below_scope(name));
}

Value Graph::add_named(const Op& op, std::vector<Value> inputs, Attrs attrs, std::string name) {
  for (char c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '.' && c != '-')
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[{}] expected a name of letters, digits, '_', '.' and '-', got '{}'",
                              op.name, name));
  name = unique_name(std::move(name));
  const int count = static_cast<int>(inputs.size());
  std::vector<ValueType> types;
  types.reserve(inputs.size());
  for (Value v : inputs) {
    FOVEA_ASSERT(v.node >= 0 && v.node < size());
    FOVEA_ASSERT(v.output >= 0 && v.output < static_cast<int>(node(v).types.size()));
    types.push_back(type(v));
  }
  const InferContext context{op, attrs, types, name};
  if (count < op.min_inputs || (op.max_inputs >= 0 && count > op.max_inputs))
    context.fail(op.min_inputs == op.max_inputs
                     ? fmt::format("expected {} inputs, got {}", op.min_inputs, count)
                     : fmt::format("expected at least {} inputs, got {}", op.min_inputs, count));
  Node n;
  n.types = op.infer(context);
  n.op = &op;
  n.attrs = std::move(attrs);
  n.inputs = std::move(inputs);
  n.name = std::move(name);
  by_name_[n.name] = size();
  nodes_.push_back(std::move(n));
  return {size() - 1, 0};
}

int Graph::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? -1 : it->second;
}

void Graph::set_output(std::string_view name, Value value) {
  FOVEA_ASSERT(value.node >= 0 && value.node < size());
  for (auto& [key, v] : outputs_)
    if (key == name) {
      v = value;
      return;
    }
  outputs_.emplace_back(name, value);
}

void Graph::remove_output(std::string_view name) {
  std::erase_if(outputs_, [&](auto& o) { return o.first == name; });
}

bool Graph::has_output(std::string_view name) const {
  return std::any_of(outputs_.begin(), outputs_.end(), [&](auto& o) { return o.first == name; });
}

Value Graph::output(std::string_view name) const {
  for (auto& [key, v] : outputs_)
    if (key == name) return v;
  throw Error(ErrorCode::not_found, fmt::format("[graph] there is no output '{}'", name));
}

void Graph::update(Value variable, Value value) {
  const Node& n = node(variable);
  if (n.op->name != "variable")
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[update {}] expected a variable, got the op {}", n.name, n.op->name));
  if (!(type(variable) == type(value)))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[update {}] expected {}, got {}", n.name, to_text(type(variable)),
                            to_text(type(value))));
  for (auto& u : updates_)
    if (u.first == variable)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[update {}] the variable has an update already", n.name));
  updates_.emplace_back(variable, value);
}

Value GraphRewriter::operator[](Value old) const {
  const auto it = map_.find(old);
  FOVEA_ASSERT(it != map_.end());
  return it->second;
}

bool GraphRewriter::has(Value old) const { return map_.contains(old); }

std::vector<Value> GraphRewriter::mapped(const std::vector<Value>& old) const {
  std::vector<Value> now;
  now.reserve(old.size());
  for (Value v : old) now.push_back((*this)[v]);
  return now;
}

Value GraphRewriter::copy(int id) { return copy(id, from_.node(id).attrs); }

Value GraphRewriter::copy(int id, Attrs attrs) {
  const Node& n = from_.node(id);
  const Value v = to_.add_named(*n.op, mapped(n.inputs), std::move(attrs), n.name);
  const int outputs = static_cast<int>(std::min(n.types.size(), to_.node(v).types.size()));
  for (int i = 0; i < outputs; ++i) map_[{id, i}] = {v.node, i};
  return v;
}

void GraphRewriter::finish() {
  for (auto& [name, v] : from_.outputs())
    if (has(v)) to_.set_output(name, (*this)[v]);
  for (auto& [variable, value] : from_.updates())
    if (has(variable) && has(value)) to_.update((*this)[variable], (*this)[value]);
  for (auto& [hash, tensor] : from_.constants()) to_.store_constant(hash, tensor);
}

std::string value_text(const Graph& graph, Value value) {
  const std::string& name = graph.node(value).name;
  return value.output == 0 ? "%" + name : fmt::format("%{}:{}", name, value.output);
}

void verify(const Graph& graph) {
  const auto bad = [](const std::string& name, const std::string& what) {
    throw Error(ErrorCode::invalid_argument, fmt::format("[verify {}] {}", name, what));
  };
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    std::vector<ValueType> types;
    for (Value v : n.inputs) {
      if (v.node < 0 || v.node >= id) bad(n.name, "an input stands after its user");
      if (v.output < 0 || v.output >= static_cast<int>(graph.node(v).types.size()))
        bad(n.name, "an input names an output that does not exist");
      types.push_back(graph.type(v));
    }
    if (n.op->infer({*n.op, n.attrs, types, n.name}) != n.types)
      bad(n.name, "its types are not what the shape rule gives");
    if (graph.find(n.name) != id) bad(n.name, "its name is not unique");
  }
  for (auto& [variable, value] : graph.updates())
    if (graph.node(variable).op->name != "variable" || graph.type(variable) != graph.type(value))
      bad(graph.node(variable).name, "an update does not fit");
}

}  // namespace fovea
