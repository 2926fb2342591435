// What follows the product of linear, and the passes over rows of its oneDNN kernels, in SIMD of
// each target.
#define HWY_TARGET_INCLUDE "fovea/kernels/linear_epilogue_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_dnnl.h"
#include "fovea/kernels/rows-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using namespace simd;
using linear_detail::EpilogueBlock;

enum class Function { none, relu, silu, gelu, relu_slope, silu_slope, gelu_slope };
constexpr bool is_slope(Function f) { return f >= Function::relu_slope; }

template <Function kFunction>
HWY_INLINE Vec apply(Vec x) {
  if constexpr (kFunction == Function::relu) return relu(x);
  if constexpr (kFunction == Function::silu) return silu(x);
  if constexpr (kFunction == Function::gelu) return gelu(x);
  if constexpr (kFunction == Function::relu_slope) return relu_slope(x);
  if constexpr (kFunction == Function::silu_slope) return silu_slope(x);
  if constexpr (kFunction == Function::gelu_slope) return gelu_slope(x);
  return x;
}

// An array that is f32, bf16 or not there. Which one is the same for all of a block, so the
// branches cost nothing beside the loads.
class Input {
 public:
  Input(const void* p, bool present, DType type, int64_t at) {
    if (present && type == DType::f32) f32_ = static_cast<const float*>(p) + at;
    if (present && type == DType::bf16) bf16_ = static_cast<const bf16*>(p) + at;
  }
  explicit operator bool() const { return f32_ || bf16_; }
  template <class Count>
  HWY_INLINE Vec at(int64_t i, Count n) const {
    return f32_ ? get(f32_ + i, n) : get(bf16_ + i, n);
  }

 private:
  const float* f32_ = nullptr;
  const bf16* bf16_ = nullptr;
};
class Output {
 public:
  Output(void* p, bool present, DType type, int64_t at) {
    if (present && type == DType::f32) f32_ = static_cast<float*>(p) + at;
    if (present && type == DType::bf16) bf16_ = static_cast<bf16*>(p) + at;
  }
  explicit operator bool() const { return f32_ || bf16_; }
  template <class Count>
  HWY_INLINE void set(Vec v, int64_t i, Count n) const {
    if (f32_)
      put(v, f32_ + i, n);
    else
      put(v, bf16_ + i, n);
  }

 private:
  float* f32_ = nullptr;
  bf16* bf16_ = nullptr;
};

template <Function kFunction, class Y>
void finish(const LinearProblem& p, const LinearArgs& args, const EpilogueBlock& block) {
  const float* bias =
      block.add_bias ? static_cast<const float*>(args.bias) + block.first_column : nullptr;
  for (int64_t r = 0; r < block.rows; ++r) {
    const float* h = block.h + r * block.stride;
    const int64_t at = (block.first_row + r) * p.n + block.first_column;
    Y* y = static_cast<Y*>(args.y) + at;
    const Input pre(args.pre, is_slope(kFunction), p.pre, at);
    const Input residual(args.residual, p.residual, p.residual_type, at);
    const Output pre_out(args.pre_out, p.save_pre, p.pre, at);
    for_columns(block.columns, [&](int64_t i, auto n) HWY_ATTR {
      Vec v = get(h + i, n);
      if (bias) v = hn::Add(v, get(bias + i, n));
      if constexpr (is_slope(kFunction)) {
        v = hn::Mul(v, apply<kFunction>(pre.at(i, n)));
      } else {
        if (pre_out) pre_out.set(v, i, n);
        v = apply<kFunction>(v);
      }
      if (residual) v = hn::Add(v, residual.at(i, n));
      put(v, y + i, n);
    });
  }
}

template <class Y>
linear_detail::Epilogue finish_for(Function f) {
  static constexpr linear_detail::Epilogue kList[] = {
      finish<Function::none, Y>,       finish<Function::relu, Y>,
      finish<Function::silu, Y>,       finish<Function::gelu, Y>,
      finish<Function::relu_slope, Y>, finish<Function::silu_slope, Y>,
      finish<Function::gelu_slope, Y>};
  return kList[static_cast<int>(f)];
}

Function function_of(const LinearProblem& p) {
  if (p.activation == LinearActivation::none) return Function::none;
  const bool forward = p.activation == LinearActivation::forward;
  if (p.function == UnaryOp::relu) return forward ? Function::relu : Function::relu_slope;
  if (p.function == UnaryOp::silu) return forward ? Function::silu : Function::silu_slope;
  return forward ? Function::gelu : Function::gelu_slope;
}

template <class T>
void sum_columns(const T* from, int64_t stride, int64_t rows, int64_t columns, float* sums) {
  const F32 d;
  constexpr int kVecs = 4;
  int64_t c = 0;
  for (; c + kVecs * kLanes <= columns; c += kVecs * kLanes) {
    Vec s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    const T* p = from + c;
    for (int64_t r = 0; r < rows; ++r, p += stride) {
      s0 = hn::Add(s0, load(p));
      s1 = hn::Add(s1, load(p + kLanes));
      s2 = hn::Add(s2, load(p + 2 * kLanes));
      s3 = hn::Add(s3, load(p + 3 * kLanes));
    }
    store(s0, sums + c);
    store(s1, sums + c + kLanes);
    store(s2, sums + c + 2 * kLanes);
    store(s3, sums + c + 3 * kLanes);
  }
  for (; c < columns; c += kLanes) {
    const int64_t count = columns - c < kLanes ? columns - c : kLanes;
    Vec s = hn::Zero(d);
    const T* p = from + c;
    for (int64_t r = 0; r < rows; ++r, p += stride) {
      s = hn::Add(s, count == kLanes ? load(p) : load_some(p, count));
    }
    store_some(s, sums + c, count);
  }
}

}  // namespace

void linear_epilogue(const LinearProblem& p, const LinearArgs& args, const EpilogueBlock& block) {
  const Function f = function_of(p);
  (p.y == DType::bf16 ? finish_for<bf16>(f) : finish_for<float>(f))(p, args, block);
}

void linear_round_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, bf16* to) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += columns)
    for_columns(columns, [&](int64_t i, auto n) HWY_ATTR { put(get(from + i, n), to + i, n); });
}

void linear_sum_rows(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns,
                     float* sums) {
  if (type == DType::bf16)
    sum_columns(static_cast<const bf16*>(from), stride, rows, columns, sums);
  else
    sum_columns(static_cast<const float*>(from), stride, rows, columns, sums);
}

void linear_add(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(hn::Add(load(to + i), load(from + i)), to + i);
  for (; i < count; ++i) to[i] += from[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
#include <vector>

namespace fovea::linear_detail {
namespace {

void plain_round(const float* from, int64_t stride, int64_t rows, int64_t columns, bf16* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[r * columns + c] = bf16(from[r * stride + c]);
}
void plain_sum(const void* from, DType type, int64_t stride, int64_t rows, int64_t columns,
               float* sums) {
  for (int64_t c = 0; c < columns; ++c) {
    float sum = 0;
    for (int64_t i = c; i < rows * stride; i += stride)
      sum += type == DType::bf16 ? static_cast<float>(static_cast<const bf16*>(from)[i])
                                 : static_cast<const float*>(from)[i];
    sums[c] = sum;
  }
}
void plain_add(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

}  // namespace

std::span<const RowPasses> row_passes() {
  static const std::vector<RowPasses>& list = *new std::vector<RowPasses>([] {
    [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
    std::vector<RowPasses> all;
#define FOVEA_ADD(bit, target, name)                                         \
  if (supported & bit)                                                       \
    all.push_back({name, target::linear_epilogue, target::linear_round_rows, \
                   target::linear_sum_rows, target::linear_add});
    FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
    all.push_back({"plain", plain_epilogue, plain_round, plain_sum, plain_add});
    return all;
  }());
  return list;
}

Epilogue epilogue() { return row_passes().front().epilogue; }

}  // namespace fovea::linear_detail
#endif  // HWY_ONCE
