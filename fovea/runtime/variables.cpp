#include "fovea/runtime/variables.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

#include "fovea/base/philox.h"
#include "fovea/graph/op.h"

namespace fovea {

namespace {

std::string type_text(DType dtype, const std::vector<int64_t>& shape) {
  return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(shape, ","));
}

template <class T>
void fill(AlignedBuffer& data, const VariableAttrs& a, std::string_view name, uint64_t seed) {
  auto* p = reinterpret_cast<T*>(data.data());
  const size_t n = data.size() / sizeof(T);
  PhiloxStream random(seed, stream_id(name));
  for (size_t i = 0; i < n; ++i) {
    double v = a.scale;
    if (a.init == Init::normal) v *= random.normal();
    if (a.init == Init::uniform) v *= 2.0 * random.unit() - 1.0;
    p[i] = static_cast<T>(v);
  }
}

// What does not fit must fail before gigabytes of it have been filled: the whole is asked for, and
// given back untouched.
void check_memory(const Graph& graph, const VariableStore& store) {
  size_t whole = 0;
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (n.op->name != "variable" || store.has(n.name)) continue;
    const ValueType& type = n.attrs.get<VariableAttrs>().type;
    size_t bytes = 0;
    if (__builtin_mul_overflow(static_cast<size_t>(element_count(type.shape).eval({})),
                               dtype_size(type.dtype), &bytes) ||
        __builtin_add_overflow(whole, bytes, &whole))
      whole = PTRDIFF_MAX;
  }
  const AlignedBuffer probe(whole, "variables");
}

}  // namespace

void VariableStore::create(const Graph& graph, uint64_t seed) {
  check_memory(graph, *this);
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (n.op->name != "variable") continue;
    const auto& a = n.attrs.get<VariableAttrs>();
    std::vector<int64_t> shape;
    for (auto& s : a.type.shape) shape.push_back(s.eval({}));
    if (const auto it = variables_.find(n.name); it != variables_.end()) {
      if (it->second.dtype != a.type.dtype || it->second.shape != shape)
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("[variable {}] the graph wants {}, the store holds {}", n.name,
                                type_text(a.type.dtype, shape),
                                type_text(it->second.dtype, it->second.shape)));
      continue;
    }
    const int64_t count = element_count(a.type.shape).eval({});
    Variable v{a.type.dtype, shape, a.kind,
               AlignedBuffer(static_cast<size_t>(count) * dtype_size(a.type.dtype), "variables")};
    if (a.init == Init::copy) {
      const Variable& source = get(a.source);
      if (source.dtype != v.dtype || source.shape != v.shape)
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("[variable {}] its source {} is {}, expected {}", n.name, a.source,
                        type_text(source.dtype, source.shape), type_text(v.dtype, v.shape)));
      std::memcpy(v.data.data(), source.data.data(), v.data.size());
    } else if (a.type.dtype == DType::f32) {
      fill<float>(v.data, a, n.name, seed);
    } else if (a.type.dtype == DType::f64) {
      fill<double>(v.data, a, n.name, seed);
    } else if (a.type.dtype == DType::i32) {
      fill<int32_t>(v.data, a, n.name, seed);
    } else {
      throw Error(ErrorCode::unsupported, fmt::format("[variable {}] no initial values for {}",
                                                      n.name, dtype_name(a.type.dtype)));
    }
    variables_.emplace(n.name, std::move(v));
  }
}

const VariableStore::Variable& VariableStore::get(std::string_view name) const {
  const auto it = variables_.find(name);
  if (it == variables_.end())
    throw Error(ErrorCode::not_found, fmt::format("[variables] there is no '{}'", name));
  return it->second;
}
VariableStore::Variable& VariableStore::get(std::string_view name) {
  return const_cast<Variable&>(std::as_const(*this).get(name));
}

void VariableStore::set(std::string_view name, DType dtype, const std::vector<int64_t>& shape,
                        std::span<const std::byte> bytes) {
  Variable& v = get(name);
  if (v.dtype != dtype || v.shape != shape || v.data.size() != bytes.size())
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[variable {}] expected {}, got {}", name, type_text(v.dtype, v.shape),
                            type_text(dtype, shape)));
  if (!bytes.empty()) std::memcpy(v.data.data(), bytes.data(), bytes.size());
}

}  // namespace fovea
