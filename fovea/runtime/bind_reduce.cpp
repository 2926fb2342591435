#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/reduce.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

template <ReduceOp kOp>
std::unique_ptr<NodePlan> bind_reduce(const NodeProblem& n, const KernelChoice& choice) {
  ReduceProblem p{n.input(0).dtype, kOp, n.input_dims(0), {}};
  p.reduced.resize(p.dims.size());
  for (int64_t axis : n.attrs<ReduceAttrs>().axes)
    p.reduced[axis_index(axis, p.dims.size())] = true;
  return bind_kernel(n, "reduce", reduce_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return ReduceArgs{in[0], out[0]};
                     });
}

std::unique_ptr<NodePlan> bind_sum_squares(const NodeProblem& n, const KernelChoice& choice) {
  SumSquaresProblem p{n.output().dtype, {}};
  for (size_t i = 0; i < n.node.inputs.size(); ++i) p.sizes.push_back(product(n.input_dims(i)));
  return bind_kernel(n, "sum_squares", sum_squares_kernels(), p, choice,
                     [](const void* const* in, void* const* out) {
                       return SumSquaresArgs{in, out[0]};
                     });
}

}  // namespace

BindingGroup reduce_bindings() {
  return {{{"reduce_sum", bind_reduce<ReduceOp::sum>},
           {"reduce_mean", bind_reduce<ReduceOp::mean>},
           {"reduce_max", bind_reduce<ReduceOp::max>},
           {"reduce_min", bind_reduce<ReduceOp::min>},
           {"sum_squares", bind_sum_squares}},
          {family_of("reduce", reduce_kernels()), family_of("sum_squares", sum_squares_kernels())}};
}

}  // namespace fovea
