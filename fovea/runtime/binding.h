// From nodes to kernels: one binding for each leaf op, listed in bindings.cpp. The op table knows
// no kernels and kernels know no graph; only the bind_*.cpp files know both.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/graph/op.h"
#include "fovea/kernels/kernel.h"
#include "fovea/kernels/strided.h"

namespace fovea {

// A node whose sizes are numbers.
struct NodeProblem {
  const Graph& graph;
  const Node& node;

  const ValueType& input(size_t i) const { return graph.type(node.inputs[i]); }
  const ValueType& output(size_t i = 0) const { return node.types[i]; }
  std::vector<int64_t> input_dims(size_t i) const { return dims(input(i)); }
  std::vector<int64_t> output_dims(size_t i = 0) const { return dims(output(i)); }
  template <class T>
  const T& attrs() const {
    return node.attrs.get<T>();
  }
  static std::vector<int64_t> dims(const ValueType& type);
};

// Element strides that walk a dense array of shape `from` as if it had shape `to` (NumPy's
// broadcasting): 0 along the axes that are repeated.
std::vector<int64_t> broadcast_strides(const std::vector<int64_t>& from,
                                       const std::vector<int64_t>& to);
int64_t product(const std::vector<int64_t>& dims, size_t first = 0, size_t last = SIZE_MAX);

// A node with its kernels planned. run() allocates nothing and does not throw.
class NodePlan {
 public:
  virtual ~NodePlan() = default;
  virtual void run(const void* const* inputs, void* const* outputs,
                   const KernelContext& context) const noexcept = 0;

  // Writes packed_bytes for KernelContext::packed, once, where none of packed_inputs ever changes;
  // reads no other input.
  virtual void pack(const void* const* /*inputs*/, std::byte* /*to*/) const noexcept {}

  std::string kernel;  // "matmul:dnnl"
  size_t scratch_bytes = 0;
  size_t worker_scratch_bytes = 0;
  size_t packed_bytes = 0;
  std::vector<size_t> packed_inputs;
};

// Which kernel a family must use: FOVEA_FORCE_KERNEL=attention=hwy_avx2,matmul=ref.
class KernelChoice {
 public:
  KernelChoice() = default;
  // Throws Error when the text names a family or a kernel that does not exist (with what there is).
  static KernelChoice parse(std::string_view text);
  static KernelChoice from_environment();

  // The name that is forced, or nothing.
  std::string_view forced(std::string_view family) const;

 private:
  std::map<std::string, std::string, std::less<>> forced_;
};

// A family's kernels, best first.
struct KernelFamily {
  std::string_view name;
  std::vector<std::string_view> kernels;
};

struct Binding {
  std::string_view op;
  std::unique_ptr<NodePlan> (*bind)(const NodeProblem&, const KernelChoice&);
};

// All bindings, sorted by op; nullptr when the op has none (it is lowered to its decomposition).
std::span<const Binding> bindings();
const Binding* find_binding(std::string_view op);
// All families of kernels, sorted by name.
std::span<const KernelFamily> kernel_families();

// What one bind_*.cpp file offers.
struct BindingGroup {
  std::vector<Binding> bindings;
  std::vector<KernelFamily> families;
};
BindingGroup attention_bindings();
BindingGroup attention_block_bindings();
BindingGroup conv_bindings();
BindingGroup copy_bindings();
BindingGroup elementwise_bindings();
BindingGroup index_bindings();
BindingGroup linear_attention_bindings();
BindingGroup loss_bindings();
BindingGroup norm_bindings();
BindingGroup normaliser_bindings();
BindingGroup optimiser_bindings();
BindingGroup pair_attention_bindings();
BindingGroup product_bindings();
BindingGroup reduce_bindings();

[[noreturn]] void no_kernel(const NodeProblem& problem, std::string_view family,
                            std::string_view forced);

template <class Problem, class Args>
KernelFamily family_of(std::string_view name, std::span<const Kernel<Problem, Args>> list) {
  KernelFamily family{name, {}};
  for (auto& k : list) family.kernels.push_back(k.name);
  return family;
}

// The first kernel of the list that supports the problem, or the forced one; its name goes to
// `chosen`. Throws Error when there is none.
template <class Problem, class Args>
std::unique_ptr<KernelPlan<Args>> choose_kernel(const NodeProblem& node, std::string_view family,
                                                std::span<const Kernel<Problem, Args>> list,
                                                const Problem& problem, const KernelChoice& choice,
                                                std::string& chosen) {
  const std::string_view forced = choice.forced(family);
  for (auto& kernel : list) {
    if (!forced.empty() && kernel.name != forced) continue;
    if (auto plan = kernel.plan(problem)) {
      chosen = std::string(family) + ":" + std::string(kernel.name);
      return plan;
    }
  }
  no_kernel(node, family, forced);
}

// A node that is one kernel: `fill` makes its arguments from the node's pointers.
template <class Args, class Fill>
class SingleKernel final : public NodePlan {
 public:
  SingleKernel(std::unique_ptr<KernelPlan<Args>> plan, Fill fill)
      : plan_(std::move(plan)), fill_(std::move(fill)) {
    scratch_bytes = plan_->scratch_bytes;
    worker_scratch_bytes = plan_->worker_scratch_bytes;
    packed_bytes = plan_->packed_bytes;
  }
  void run(const void* const* inputs, void* const* outputs,
           const KernelContext& context) const noexcept override {
    plan_->run(fill_(inputs, outputs), context);
  }
  void pack(const void* const* inputs, std::byte* to) const noexcept override {
    void* const none[8] = {};
    plan_->pack(fill_(inputs, none), to);
  }

 private:
  std::unique_ptr<KernelPlan<Args>> plan_;
  Fill fill_;
};

template <class Problem, class Args, class Fill>
std::unique_ptr<NodePlan> bind_kernel(const NodeProblem& node, std::string_view family,
                                      std::span<const Kernel<Problem, Args>> list,
                                      const Problem& problem, const KernelChoice& choice,
                                      Fill fill) {
  std::string chosen;
  auto plan = choose_kernel(node, family, list, problem, choice, chosen);
  auto bound = std::make_unique<SingleKernel<Args, Fill>>(std::move(plan), std::move(fill));
  bound->kernel = std::move(chosen);
  return bound;
}

}  // namespace fovea
