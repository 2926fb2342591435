// Ops that move elements: broadcast, reshape, transpose, concat, slice, pad, iota.
#include "fovea/graph/op_attrs.h"
#include "fovea/kernels/copy.h"
#include "fovea/runtime/binding.h"

namespace fovea {

namespace {

using CopyPlan = KernelPlan<CopyArgs>;

// Copies pieces, each from a byte offset of an input to a byte offset of the output, after zeroing
// the output where asked.
class CopyPieces final : public NodePlan {
 public:
  struct Piece {
    std::unique_ptr<CopyPlan> plan;
    size_t input = 0;
    int64_t from = 0, to = 0;  // bytes
  };

  void run(const void* const* inputs, void* const* outputs,
           const KernelContext& context) const noexcept override {
    if (zero_) zero_->run({outputs[0]}, context);
    for (auto& p : pieces_)
      p.plan->run({static_cast<const std::byte*>(inputs[p.input]) + p.from,
                   static_cast<std::byte*>(outputs[0]) + p.to},
                  context);
  }

  void zero(std::unique_ptr<KernelPlan<FillArgs>> plan) {
    add_scratch(*plan);
    zero_ = std::move(plan);
  }
  void add(Piece piece) {
    add_scratch(*piece.plan);
    pieces_.push_back(std::move(piece));
  }

 private:
  template <class P>
  void add_scratch(const P& plan) {
    scratch_bytes = std::max(scratch_bytes, plan.scratch_bytes);
    worker_scratch_bytes = std::max(worker_scratch_bytes, plan.worker_scratch_bytes);
  }
  std::unique_ptr<KernelPlan<FillArgs>> zero_;
  std::vector<Piece> pieces_;
};

int64_t element_size(const NodeProblem& n) {
  return static_cast<int64_t>(dtype_size(n.output().dtype));
}

void add_piece(CopyPieces& plan, const NodeProblem& n, const KernelChoice& choice,
               std::vector<int64_t> dims, std::vector<int64_t> from, std::vector<int64_t> to,
               size_t input = 0, int64_t from_offset = 0, int64_t to_offset = 0) {
  const CopyProblem p{element_size(n), std::move(dims), std::move(from), std::move(to)};
  auto kernel = choose_kernel(n, "copy", copy_kernels(), p, choice, plan.kernel);
  plan.add({std::move(kernel), input, from_offset * p.element_size, to_offset * p.element_size});
}

std::unique_ptr<NodePlan> bind_broadcast(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto out = n.output_dims();
  add_piece(*plan, n, choice, out, broadcast_strides(n.input_dims(0), out), dense_strides(out));
  return plan;
}
std::unique_ptr<NodePlan> bind_reshape(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto out = n.output_dims();
  add_piece(*plan, n, choice, out, dense_strides(out), dense_strides(out));
  return plan;
}
std::unique_ptr<NodePlan> bind_transpose(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto in = dense_strides(n.input_dims(0));
  const auto out = n.output_dims();
  std::vector<int64_t> from;
  for (int64_t axis : n.attrs<TransposeAttrs>().order)
    from.push_back(in[static_cast<size_t>(axis)]);
  add_piece(*plan, n, choice, out, from, dense_strides(out));
  return plan;
}
std::unique_ptr<NodePlan> bind_concat(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto out = dense_strides(n.output_dims());
  const size_t axis = axis_index(n.attrs<ConcatAttrs>().axis, out.size());
  int64_t at = 0;
  for (size_t i = 0; i < n.node.inputs.size(); ++i) {
    const auto in = n.input_dims(i);
    add_piece(*plan, n, choice, in, dense_strides(in), out, i, 0, at * out[axis]);
    at += in[axis];
  }
  return plan;
}
std::unique_ptr<NodePlan> bind_slice(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto& a = n.attrs<SliceAttrs>();
  const auto in = dense_strides(n.input_dims(0));
  const auto out = n.output_dims();
  add_piece(*plan, n, choice, out, in, dense_strides(out), 0,
            a.start.constant() * in[axis_index(a.axis, in.size())]);
  return plan;
}
std::unique_ptr<NodePlan> bind_pad(const NodeProblem& n, const KernelChoice& choice) {
  auto plan = std::make_unique<CopyPieces>();
  const auto& a = n.attrs<PadAttrs>();
  const auto in = n.input_dims(0);
  const auto out = dense_strides(n.output_dims());
  std::string zeroing;
  plan->zero(choose_kernel(n, "fill", fill_kernels(),
                           FillProblem{n.output().dtype, product(n.output_dims()), 0}, choice,
                           zeroing));
  add_piece(*plan, n, choice, in, dense_strides(in), out, 0, 0,
            a.before.constant() * out[axis_index(a.axis, out.size())]);
  return plan;
}
std::unique_ptr<NodePlan> bind_iota(const NodeProblem& n, const KernelChoice& choice) {
  const auto& a = n.attrs<IotaAttrs>();
  const auto dims = n.output_dims();
  const IotaProblem p{a.type.dtype, dims, static_cast<int64_t>(axis_index(a.axis, dims.size()))};
  return bind_kernel(n, "iota", iota_kernels(), p, choice,
                     [](const void* const*, void* const* out) { return IotaArgs{out[0]}; });
}

}  // namespace

BindingGroup copy_bindings() {
  return {{{"broadcast", bind_broadcast},
           {"reshape", bind_reshape},
           {"transpose", bind_transpose},
           {"concat", bind_concat},
           {"slice", bind_slice},
           {"pad", bind_pad},
           {"iota", bind_iota}},
          {family_of("copy", copy_kernels()), family_of("fill", fill_kernels()),
           family_of("iota", iota_kernels())}};
}

}  // namespace fovea
