// The checks of the family linear and the lists of its kernels.
#include "fovea/kernels/linear.h"

#include <string>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/kernels/amx.h"
#include "fovea/kernels/avx512_bf16.h"
#include "fovea/kernels/linear_dnnl.h"

namespace fovea {
namespace {

[[noreturn]] void wrong(const std::string& place, const std::string& expected,
                        const std::string& got) {
  throw Error{ErrorCode::invalid_argument, "[" + place + "] expected " + expected + ", got " + got};
}

void not_negative(const char* place, const char* name, int64_t value) {
  if (value < 0) wrong(place, std::string(name) + " of at least 0", std::to_string(value));
}

bool is_f32_or_bf16(DType t) { return t == DType::f32 || t == DType::bf16; }

}  // namespace

namespace linear_detail {

void check(const LinearProblem& p) {
  const char* place = "linear";
  not_negative(place, "rows", p.rows);
  not_negative(place, "n", p.n);
  not_negative(place, "k", p.k);
  if (p.save_pre && p.activation != LinearActivation::forward)
    wrong(place, "save_pre only where an activation runs forward", "save_pre without one");
  const auto goes_with_w = [&](const char* name, DType type) {
    if (p.w == DType::bf16 ? is_f32_or_bf16(type) : type == p.w) return;
    const std::string other = p.w == DType::bf16 ? "f32 or bf16" : std::string(dtype_name(p.w));
    wrong(place,
          std::string(name) + " of type " + other + " with w " + std::string(dtype_name(p.w)),
          std::string(dtype_name(type)));
  };
  goes_with_w("x", p.x);
  goes_with_w("y", p.y);
  if (p.save_pre || p.activation == LinearActivation::gradient) goes_with_w("pre", p.pre);
  if (p.residual) goes_with_w("residual", p.residual_type);
}

void check(const LinearGradWeightProblem& p) {
  const char* place = "linear_grad_weight";
  not_negative(place, "rows", p.rows);
  not_negative(place, "n", p.n);
  not_negative(place, "k", p.k);
  if (p.dy != p.x && !(is_f32_or_bf16(p.dy) && is_f32_or_bf16(p.x)))
    wrong(place, "dy and x of the same type, or each f32 or bf16",
          std::string(dtype_name(p.dy)) + " and " + std::string(dtype_name(p.x)));
}

}  // namespace linear_detail

std::span<const Kernel<LinearProblem, LinearArgs>> linear_kernels() {
  using List = std::vector<Kernel<LinearProblem, LinearArgs>>;
  static const List& list = *new List([] {
    List all;
    if (amx::available()) all.push_back({"amx", linear_detail::plan_amx});
    if (avx512_bf16::pays()) all.push_back({"avx512bf16", linear_detail::plan_avx512bf16});
    all.push_back({"dnnl", linear_detail::plan_dnnl});
    all.push_back({"ref", linear_detail::plan_ref});
    return all;
  }());
  return list;
}

std::span<const Kernel<LinearGradWeightProblem, LinearGradWeightArgs>>
linear_grad_weight_kernels() {
  using List = std::vector<Kernel<LinearGradWeightProblem, LinearGradWeightArgs>>;
  static const List& list = *new List([] {
    List all;
    if (amx::available()) all.push_back({"amx", linear_detail::plan_grad_weight_amx});
    if (avx512_bf16::pays())
      all.push_back({"avx512bf16", linear_detail::plan_grad_weight_avx512bf16});
    linear_detail::append_grad_weight_hwy(all);
    all.push_back({"dnnl", linear_detail::plan_grad_weight_dnnl});
    all.push_back({"ref", linear_detail::plan_grad_weight_ref});
    return all;
  }());
  return list;
}

}  // namespace fovea
