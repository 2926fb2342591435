// What follows the product of linear, and the passes over rows of its oneDNN kernels, in SIMD of
// each target.
#define HWY_TARGET_INCLUDE "fovea/kernels/linear_epilogue_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/linear.h"
#include "fovea/kernels/linear_dnnl.h"
#include "fovea/kernels/math-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using linear_detail::EpilogueBlock;
using simd::F32;
using simd::kLanes;
using simd::Vec;

// 2^y for y <= 0, relative error below 2e-7; 0 below -150. The polynomial is the minimax one of
// degree 5 for 2^f on [0, 1) with p(0) = 1 (8.3e-8).
HWY_INLINE Vec exp2_of_negative(Vec y) {
  const F32 d;
#if HWY_TARGET == HWY_AVX3
  const Vec fraction{_mm512_reduce_ps(y.raw, 0x09)};  // y - floor(y)
#else
  const Vec whole = hn::Floor(y);
  const Vec fraction = hn::Sub(y, whole);
#endif
  Vec p = hn::Set(d, 0.0018671300724391285f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.009017030315890247f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.05579991310967655f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.2401644501528686f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.6931513118048798f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return Vec{_mm512_scalef_ps(p.raw, y.raw)};
#else
  // 2^whole as two factors, since it may lie far below the range.
  const simd::I32 di;
  const auto k = hn::ConvertTo(di, whole);
  const auto half = hn::ShiftRight<1>(k);
  const auto power = [&](auto e) HWY_ATTR {
    return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(e, hn::Set(di, 127))));
  };
  return hn::Mul(hn::Mul(p, power(half)), power(hn::Sub(k, half)));
#endif
}

// Of a in [0, 16]: exp(-a^2 / 2), and the upper tail of the normal distribution, 1 - Phi(a), as
// simd::normal computes it. Beside the product of a narrow layer, gelu is a third of all the work,
// hence this form, which needs a third fewer instructions and no division.
struct Tail {
  Vec exponential;
  Vec tail;
};
HWY_INLINE Tail normal_tail(Vec a) {
  const F32 d;
  const Vec u = hn::MulAdd(a, hn::Set(d, 0.353553390593273762f), hn::Set(d, 1.0f));
  Vec t = hn::ApproximateReciprocal(u);
  t = hn::Mul(t, hn::NegMulAdd(u, t, hn::Set(d, 2.0f)));
  // a^2 log2(e) / 2
  const Vec e = exp2_of_negative(hn::Mul(hn::Mul(a, a), hn::Set(d, -0.721347520444481704f)));
  Vec p = hn::Set(d, -2.9669062945e-2f);
  p = hn::MulAdd(p, t, hn::Set(d, 1.4298983585e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, -2.4513802325e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.4087109650e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, -1.4615548995e-2f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.0190113040e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.2141204540e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.4120630660e-1f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.4104220070e-1f));
  return {e, hn::Mul(hn::Mul(e, t), p)};
}

// x Phi(x) = max(x, 0) - |x| tail(|x|). The maximum passes NaN on.
HWY_INLINE Vec gelu(Vec x) {
  const F32 d;
  const Vec a = hn::Min(hn::Abs(x), hn::Set(d, 16.0f));
  return hn::NegMulAdd(a, normal_tail(a).tail, simd::relu(x));
}
// Phi(x) + x phi(x).
HWY_INLINE Vec gelu_slope(Vec x) {
  const F32 d;
  const Vec bound = hn::Set(d, 16.0f);
  const Vec held = hn::IfThenElse(hn::IsNaN(x), x, hn::Min(hn::Max(x, hn::Neg(bound)), bound));
  const Tail n = normal_tail(hn::Abs(held));
  const Vec upper = hn::Sub(hn::Set(d, 1.0f), n.tail);
  const Vec cumulative = hn::IfThenElse(hn::Lt(held, hn::Zero(d)), n.tail, upper);
  const Vec density = hn::Mul(n.exponential, hn::Set(d, 0.398942280401432678f));
  return hn::MulAdd(held, density, cumulative);
}

enum class Function { none, relu, silu, gelu, relu_slope, silu_slope, gelu_slope };
constexpr bool is_slope(Function f) { return f >= Function::relu_slope; }

template <Function kFunction>
HWY_INLINE Vec apply(Vec x) {
  if constexpr (kFunction == Function::relu) return simd::relu(x);
  if constexpr (kFunction == Function::silu) return simd::silu(x);
  if constexpr (kFunction == Function::gelu) return gelu(x);
  if constexpr (kFunction == Function::relu_slope) return simd::relu_slope(x);
  if constexpr (kFunction == Function::silu_slope) return simd::silu_slope(x);
  if constexpr (kFunction == Function::gelu_slope) return gelu_slope(x);
  return x;
}

template <bool kWhole, class T>
HWY_INLINE Vec load(const T* p, int64_t count) {
  if constexpr (kWhole) return simd::load(p);
  return simd::load_some(p, count);
}
template <bool kWhole, class T>
HWY_INLINE void store(Vec v, T* p, int64_t count) {
  if constexpr (kWhole)
    simd::store(v, p);
  else
    simd::store_some(v, p, count);
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
  template <bool kWhole>
  HWY_INLINE Vec get(int64_t i, int64_t count) const {
    return f32_ ? load<kWhole>(f32_ + i, count) : load<kWhole>(bf16_ + i, count);
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
  template <bool kWhole>
  HWY_INLINE void set(Vec v, int64_t i, int64_t count) const {
    if (f32_)
      store<kWhole>(v, f32_ + i, count);
    else
      store<kWhole>(v, bf16_ + i, count);
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
    const auto step = [&]<bool kWhole>(int64_t i, int64_t count) HWY_ATTR {
      Vec v = load<kWhole>(h + i, count);
      if (bias) v = hn::Add(v, load<kWhole>(bias + i, count));
      if constexpr (is_slope(kFunction)) {
        v = hn::Mul(v, apply<kFunction>(pre.template get<kWhole>(i, count)));
      } else {
        if (pre_out) pre_out.template set<kWhole>(v, i, count);
        v = apply<kFunction>(v);
      }
      if (residual) v = hn::Add(v, residual.template get<kWhole>(i, count));
      store<kWhole>(v, y + i, count);
    };
    int64_t i = 0;
    for (; i + kLanes <= block.columns; i += kLanes) step.template operator()<true>(i, kLanes);
    if (i < block.columns) step.template operator()<false>(i, block.columns - i);
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
      s0 = hn::Add(s0, simd::load(p));
      s1 = hn::Add(s1, simd::load(p + kLanes));
      s2 = hn::Add(s2, simd::load(p + 2 * kLanes));
      s3 = hn::Add(s3, simd::load(p + 3 * kLanes));
    }
    simd::store(s0, sums + c);
    simd::store(s1, sums + c + kLanes);
    simd::store(s2, sums + c + 2 * kLanes);
    simd::store(s3, sums + c + 3 * kLanes);
  }
  for (; c < columns; c += kLanes) {
    const int64_t count = columns - c < kLanes ? columns - c : kLanes;
    Vec s = hn::Zero(d);
    const T* p = from + c;
    for (int64_t r = 0; r < rows; ++r, p += stride) {
      s = hn::Add(s, count == kLanes ? simd::load(p) : simd::load_some(p, count));
    }
    simd::store_some(s, sums + c, count);
  }
}

}  // namespace

void linear_epilogue(const LinearProblem& p, const LinearArgs& args, const EpilogueBlock& block) {
  const Function f = function_of(p);
  (p.y == DType::bf16 ? finish_for<bf16>(f) : finish_for<float>(f))(p, args, block);
}

void linear_round_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, bf16* to) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += columns) {
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) simd::store(simd::load(from + i), to + i);
    if (i < columns) simd::store_some(simd::load_some(from + i, columns - i), to + i, columns - i);
  }
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
  for (; i + kLanes <= count; i += kLanes)
    simd::store(hn::Add(simd::load(to + i), simd::load(from + i)), to + i);
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
