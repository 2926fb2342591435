#include "fovea/base/philox.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/dropout.h"
#include "fovea/kernels/gather.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

std::unique_ptr<NodePlan> bind_gather(const NodeProblem& n, const KernelChoice& choice) {
  const auto table = n.input_dims(0);
  const GatherProblem p{n.input(0).dtype, table[0], table[1], product(n.input_dims(1))};
  return bind_kernel(n, "gather", gather_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return GatherArgs{in[0], static_cast<const int32_t*>(in[1]), out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_scatter_add(const NodeProblem& n, const KernelChoice& choice) {
  const auto table = n.output_dims();
  const GatherProblem p{n.input(0).dtype, table[0], table[1], product(n.input_dims(1))};
  return bind_kernel(n, "scatter_add", scatter_add_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return ScatterAddArgs{in[0], static_cast<const int32_t*>(in[1]), out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_dropout(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<DropoutAttrs>();
  const auto dims = n.output_dims();
  const DropoutProblem p{n.output().dtype, dims[0], product(dims, 1), a.rate,
                         stream_id(a.stream.empty() ? n.node.name : a.stream)};
  return bind_kernel(n, "dropout", dropout_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return DropoutArgs{in[0], static_cast<const int32_t*>(in[1]), out[0]};
                     });
}

}  // namespace

BindingGroup index_bindings() {
  return {{{"gather", bind_gather}, {"scatter_add", bind_scatter_add}, {"dropout", bind_dropout}},
          {family_of("gather", gather_kernels()), family_of("scatter_add", scatter_add_kernels()),
           family_of("dropout", dropout_kernels())}};
}

}  // namespace fovea
