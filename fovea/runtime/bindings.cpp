#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "fovea/base/text.h"
#include "fovea/runtime/binding.h"
#include "fovea/runtime/register_bindings.h"

namespace fovea {

namespace {

struct Tables {
  std::vector<Binding> bindings;
  std::vector<KernelFamily> families;
};

void sort(Tables& t) {
  std::sort(t.bindings.begin(), t.bindings.end(), [](auto& a, auto& b) { return a.op < b.op; });
  std::sort(t.families.begin(), t.families.end(), [](auto& a, auto& b) { return a.name < b.name; });
}

Tables& tables() {
  static Tables t = [] {
    Tables all;
    for (auto group : {attention_bindings, attention_block_bindings, conv_bindings, copy_bindings,
                       elementwise_bindings, index_bindings, linear_attention_bindings,
                       loss_bindings, norm_bindings, normaliser_bindings, optimiser_bindings,
                       pair_attention_bindings, product_bindings, reduce_bindings}) {
      BindingGroup g = group();
      all.bindings.insert(all.bindings.end(), g.bindings.begin(), g.bindings.end());
      all.families.insert(all.families.end(), g.families.begin(), g.families.end());
    }
    sort(all);
    for (auto& b : all.bindings) FOVEA_ASSERT(find_op(b.op) != nullptr);
    return all;
  }();
  return t;
}

}  // namespace

std::span<const Binding> bindings() { return tables().bindings; }
std::span<const KernelFamily> kernel_families() { return tables().families; }

const Binding* find_binding(std::string_view op) {
  const auto all = bindings();
  const auto it = std::lower_bound(all.begin(), all.end(), op,
                                   [](const Binding& b, std::string_view n) { return b.op < n; });
  return it != all.end() && it->op == op ? &*it : nullptr;
}

void register_bindings(const BindingGroup& group) {
  const auto wrong = [](std::string_view name, const char* what) {
    throw Error(ErrorCode::invalid_argument, fmt::format("[binding {}] {}", name, what));
  };
  Tables more = tables();
  for (Binding b : group.bindings) {
    const Op* op = find_op(b.op);
    if (!op) wrong(b.op, "there is no such op; call register_op() first");
    if (!b.bind) wrong(b.op, "expected a function");
    if (std::any_of(more.bindings.begin(), more.bindings.end(),
                    [&](auto& other) { return other.op == b.op; }))
      wrong(b.op, "the op has a binding already");
    b.op = op->name;
    more.bindings.push_back(b);
  }
  for (const KernelFamily& family : group.families) {
    if (std::any_of(more.families.begin(), more.families.end(),
                    [&](auto& other) { return other.name == family.name; }))
      wrong(family.name, "there is a family of this name already");
    more.families.push_back(family);
  }
  sort(more);
  tables() = std::move(more);
}

std::vector<int64_t> NodeProblem::dims(const ValueType& type) {
  std::vector<int64_t> d;
  for (auto& s : type.shape) d.push_back(s.constant());
  return d;
}

int64_t product(const std::vector<int64_t>& dims, size_t first, size_t last) {
  int64_t n = 1;
  for (size_t i = first; i < std::min(last, dims.size()); ++i) n *= dims[i];
  return n;
}

std::vector<int64_t> broadcast_strides(const std::vector<int64_t>& from,
                                       const std::vector<int64_t>& to) {
  const std::vector<int64_t> dense = dense_strides(from);
  std::vector<int64_t> s(to.size());
  for (size_t i = 0; i < from.size(); ++i) {
    const size_t at = to.size() - from.size() + i;
    s[at] = from[i] == 1 && to[at] != 1 ? 0 : dense[i];
  }
  return s;
}

KernelChoice KernelChoice::parse(std::string_view text) {
  KernelChoice choice;
  std::vector<std::string_view> families;
  for (auto& f : kernel_families()) families.push_back(f.name);
  while (!text.empty()) {
    const size_t end = std::min(text.find(','), text.size());
    const std::string_view item = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos)
      throw Error(ErrorCode::invalid_argument,
                  fmt::format("[FOVEA_FORCE_KERNEL] expected family=kernel, got '{}'", item));
    const std::string_view family = item.substr(0, equals), kernel = item.substr(equals + 1);
    const auto it = std::find_if(kernel_families().begin(), kernel_families().end(),
                                 [&](auto& f) { return f.name == family; });
    if (it == kernel_families().end())
      throw Error(ErrorCode::not_found,
                  fmt::format("[FOVEA_FORCE_KERNEL] there is no family '{}'{} (families: {})",
                              family, did_you_mean(family, families), fmt::join(families, ", ")));
    if (std::find(it->kernels.begin(), it->kernels.end(), kernel) == it->kernels.end())
      throw Error(
          ErrorCode::not_found,
          fmt::format("[FOVEA_FORCE_KERNEL] {} has no kernel '{}' on this processor{} (it has: {})",
                      family, kernel, did_you_mean(kernel, it->kernels),
                      fmt::join(it->kernels, ", ")));
    choice.forced_[std::string(family)] = std::string(kernel);
  }
  return choice;
}

KernelChoice KernelChoice::from_environment() {
  const char* text = std::getenv("FOVEA_FORCE_KERNEL");
  return text ? parse(text) : KernelChoice();
}

std::string_view KernelChoice::forced(std::string_view family) const {
  const auto it = forced_.find(family);
  return it == forced_.end() ? std::string_view() : it->second;
}

void no_kernel(const NodeProblem& problem, std::string_view family, std::string_view forced) {
  std::string inputs;
  for (size_t i = 0; i < problem.node.inputs.size(); ++i)
    inputs += (i ? ", " : "") + to_text(problem.input(i));
  if (!forced.empty())
    throw Error(ErrorCode::unsupported,
                fmt::format("[FOVEA_FORCE_KERNEL] {}={} does not support {} ({} of {})", family,
                            forced, problem.node.name, problem.node.op->name, inputs));
  throw Error(ErrorCode::unsupported,
              fmt::format("[{} {}] no kernel supports {}", problem.node.op->name, problem.node.name,
                          inputs));
}

}  // namespace fovea
