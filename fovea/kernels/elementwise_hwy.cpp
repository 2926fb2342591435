// unary, binary, select and cast for f32: chains of one step, or of none.
#include <array>
#include <memory>
#include <utility>

#include "fovea/kernels/elementwise.h"
#include "fovea/kernels/elementwise_blocks.h"
#include "fovea/kernels/hwy_lists.h"
#include "hwy/targets.h"

namespace fovea {
namespace {

std::array<const void*, 1> inputs_of(const UnaryArgs& a) { return {a.x}; }
std::array<const void*, 2> inputs_of(const BinaryArgs& a) { return {a.a, a.b}; }
std::array<const void*, 3> inputs_of(const SelectArgs& a) { return {a.cond, a.a, a.b}; }
std::array<const void*, 1> inputs_of(const CastArgs& a) { return {a.x}; }

template <class Args>
class OfChain final : public KernelPlan<Args> {
 public:
  explicit OfChain(std::unique_ptr<KernelPlan<ChainArgs>> chain) : chain_(std::move(chain)) {
    this->scratch_bytes = chain_->scratch_bytes;
    this->worker_scratch_bytes = chain_->worker_scratch_bytes;
  }

  void run(const Args& args, const KernelContext& context) const noexcept override {
    const auto inputs = inputs_of(args);
    chain_->run({inputs.data(), args.y}, context);
  }

 private:
  std::unique_ptr<KernelPlan<ChainArgs>> chain_;
};

template <class Args>
std::unique_ptr<KernelPlan<Args>> plan(const ChainProblem& p,
                                       const elementwise::BlockFunctions& functions) {
  auto chain = elementwise::plan_blocks(p, functions);
  if (!chain) return nullptr;
  return std::make_unique<OfChain<Args>>(std::move(chain));
}

using Functions = const elementwise::BlockFunctions& (*)();

template <Functions kFunctions>
std::unique_ptr<KernelPlan<UnaryArgs>> plan_unary(const UnaryProblem& p) {
  if (p.dtype != DType::f32 || p.op == UnaryOp::logical_not) return nullptr;
  const ChainStep step{.kind = ChainStep::Kind::unary, .unary = p.op};
  return plan<UnaryArgs>({.dims = p.dims,
                          .inputs = {{p.dtype, p.strides}},
                          .steps = {step},
                          .y = result_type(p.op, p.dtype)},
                         kFunctions());
}

template <Functions kFunctions>
std::unique_ptr<KernelPlan<BinaryArgs>> plan_binary(const BinaryProblem& p) {
  if (p.dtype != DType::f32 || p.op == BinaryOp::logical_and || p.op == BinaryOp::logical_or)
    return nullptr;
  const ChainStep step{.kind = ChainStep::Kind::binary, .binary = p.op, .a = 0, .b = 1};
  return plan<BinaryArgs>({.dims = p.dims,
                           .inputs = {{p.dtype, p.a_strides}, {p.dtype, p.b_strides}},
                           .steps = {step},
                           .y = result_type(p.op, p.dtype)},
                          kFunctions());
}

template <Functions kFunctions>
std::unique_ptr<KernelPlan<SelectArgs>> plan_select(const SelectProblem& p) {
  if (p.dtype != DType::f32) return nullptr;
  const ChainStep step{.kind = ChainStep::Kind::select, .a = 0, .b = 1, .c = 2};
  return plan<SelectArgs>(
      {.dims = p.dims,
       .inputs = {{DType::boolean, p.cond_strides}, {p.dtype, p.a_strides}, {p.dtype, p.b_strides}},
       .steps = {step},
       .y = p.dtype},
      kFunctions());
}

// Where f32 on the way changes nothing: to f32, and from f32.
template <Functions kFunctions>
std::unique_ptr<KernelPlan<CastArgs>> plan_cast(const CastProblem& p) {
  if (p.to != DType::f32 && p.from != DType::f32) return nullptr;
  return plan<CastArgs>({.dims = p.dims, .inputs = {{p.from, p.strides}}, .steps = {}, .y = p.to},
                        kFunctions());
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<UnaryProblem, UnaryArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_unary<target::block_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

void append_hwy([[maybe_unused]] KernelList<BinaryProblem, BinaryArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_binary<target::block_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

void append_hwy([[maybe_unused]] KernelList<SelectProblem, SelectArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_select<target::block_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

void append_hwy([[maybe_unused]] KernelList<CastProblem, CastArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_cast<target::block_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea
