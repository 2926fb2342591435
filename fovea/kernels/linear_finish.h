// How the AVX-512 kernels of linear with bf16 weights finish their results: bias, activation or its
// gradient, residual and conversion of a block in L1, up to 32 columns at a time; and their plan.
#pragma once

#include "fovea/kernels/avx512_bf16.h"
#include "fovea/kernels/linear.h"

#if FOVEA_AVX512_BF16

namespace fovea::linear_detail {

// A block of results on its way out, at most 32 columns wide, with rows `stride` floats apart and
// 64-byte aligned; row and column are those of the problem's arrays.
struct FinishBlock {
  const float* h = nullptr;
  int64_t stride = 0;
  int64_t row = 0, rows = 0;
  int64_t column = 0, columns = 0;
};

struct FinishCall {
  const LinearProblem& p;
  const LinearArgs& args;
};

// Finishes the rows [first, end) of the block.
using FinishRows = void (*)(const FinishCall&, const FinishBlock&, int64_t first, int64_t end);

// For a problem: [0] for part of a block's columns, [1] for all 32 of them.
struct Finish {
  FinishRows rows[2] = {};
  void operator()(const FinishCall& call, const FinishBlock& block, int64_t first,
                  int64_t end) const {
    rows[block.columns == 32](call, block, first, end);
  }
};

FOVEA_AVX512_BF16_BEGIN
namespace finish {

enum class Step { none, relu, silu, gelu, relu_slope, silu_slope, gelu_slope };

inline __m512 set(float v) { return _mm512_set1_ps(v); }
inline __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand where one is NaN.
inline __m512 at_most(float limit, __m512 x) { return _mm512_maskz_min_ps(0xffff, set(limit), x); }
inline __m512 at_least(float limit, __m512 x) { return _mm512_maskz_max_ps(0xffff, set(limit), x); }

// 2^(u + error), |error| < 0.01. Relative error 1e-7; rough: 3e-6, and no error.
template <bool rough>
inline __m512 exp2(__m512 u, __m512 error) {
  __m512 f = _mm512_maskz_reduce_ps(0xffff, u, 0x09);  // u - floor(u)
  __m512 y;
  if constexpr (rough) {
    y = set(1.353414525e-2f);
    y = fma(y, f, set(5.201150278e-2f));
    y = fma(y, f, set(2.414427339e-1f));
    y = fma(y, f, set(6.930038383e-1f));
    y = fma(y, f, set(1.000002593f));
  } else {
    f = _mm512_add_ps(f, error);
    y = set(1.877579076e-3f);
    y = fma(y, f, set(8.989334364e-3f));
    y = fma(y, f, set(5.582632277e-2f));
    y = fma(y, f, set(2.401536155e-1f));
    y = fma(y, f, set(6.931530734e-1f));
    y = fma(y, f, set(9.999999251e-1f));
  }
  return _mm512_maskz_scalef_ps(0xffff, y, u);
}
// 2^(x c). What rounding takes from the product would be 1e-6 of the result at 2^-20.
template <bool rough>
inline __m512 exp2_of_product(__m512 x, float c) {
  const __m512 u = _mm512_mul_ps(x, set(c));
  return exp2<rough>(u, _mm512_fmsub_ps(x, set(c), u));
}

// 1 / x for 1 <= x < 2^125, one step of Newton's from 14 bits.
inline __m512 reciprocal(__m512 x) {
  const __m512 r = _mm512_maskz_rcp14_ps(0xffff, x);
  return fma(r, _mm512_fnmadd_ps(x, r, set(1.0f)), r);
}

// Phi(-a) = exp(-a^2 / 2) t P(t), t = 1 / (1 + c a), for 0 <= a <= 40: both tails keep their
// relative accuracy, 2e-8 and the rounding of a^2. P by Remez' algorithm.
struct Tail {
  __m512 probability;
  __m512 bell;  // exp(-a^2 / 2)
};
inline Tail normal_tail(__m512 a) {
  constexpr float kHalfLog2e = 0.72134752044448170f;
  constexpr float kHalfSqrt2 = 0.70710678118654752f;
  const __m512 bell = exp2_of_product<false>(_mm512_mul_ps(a, a), -kHalfLog2e);
  const __m512 t = reciprocal(fma(a, set(0.3f * kHalfSqrt2), set(1.0f)));
  __m512 y = set(-6.471684052e-2f);
  y = fma(y, t, set(2.425472627e-1f));
  y = fma(y, t, set(-2.556112508e-1f));
  y = fma(y, t, set(2.731952909e-1f));
  y = fma(y, t, set(-4.681410117e-2f));
  y = fma(y, t, set(1.072174988e-1f));
  y = fma(y, t, set(7.424137648e-2f));
  y = fma(y, t, set(8.534594518e-2f));
  y = fma(y, t, set(8.459480869e-2f));
  return {_mm512_mul_ps(_mm512_mul_ps(bell, t), y), bell};
}
// The same without a division: log2 Phi(-a) is nearly a parabola. Relative error 7e-5 for a <= 9
// (where Phi is 1e-19), then it falls to 0 too soon. Remez.
inline __m512 rough_tail(__m512 a) {
  __m512 q = set(-9.777599908e-7f);
  q = fma(q, a, set(4.039748018e-5f));
  q = fma(q, a, set(-7.236098072e-4f));
  q = fma(q, a, set(7.502900339e-3f));
  q = fma(q, a, set(-5.144637821e-2f));
  q = fma(q, a, set(-4.614696775e-1f));
  q = fma(q, a, set(-1.149892881f));
  q = fma(q, a, set(-1.000098442f));
  return exp2<true>(q, q);
}
// 1 - a phi(a) / Phi(-a), to 4e-5 (1 + a^2) for a <= 6; Remez.
inline __m512 rough_slope_of_tail(__m512 a) {
  __m512 r = set(9.467801951e-5f);
  r = fma(r, a, set(-2.109160488e-3f));
  r = fma(r, a, set(1.991754235e-2f));
  r = fma(r, a, set(-1.0631956e-1f));
  r = fma(r, a, set(-6.39786048e-1f));
  r = fma(r, a, set(-7.969231979e-1f));
  return fma(r, a, set(9.999569902e-1f));
}

inline __m512 magnitude(__m512 x) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|).
template <bool rough>
inline __m512 gelu(__m512 x) {
  const __m512 a = at_most(rough ? 13.0f : 40.0f, magnitude(x));
  const __m512 tail = rough ? rough_tail(a) : normal_tail(a).probability;
  return _mm512_fnmadd_ps(a, tail, at_least(0.0f, x));
}
// Phi(x) + x phi(x): q = Phi(-a) - a phi(a) below 0, 1 - q above.
template <bool rough>
inline __m512 gelu_slope(__m512 x) {
  const __m512 a = at_most(rough ? 13.0f : 40.0f, magnitude(x));
  __m512 q;
  if constexpr (rough) {
    q = _mm512_mul_ps(rough_tail(a), rough_slope_of_tail(a));
  } else {
    const Tail tail = normal_tail(a);
    const __m512 density = _mm512_mul_ps(tail.bell, set(0.39894228040143268f));
    q = _mm512_fnmadd_ps(a, density, tail.probability);
  }
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
  return _mm512_mask_sub_ps(q, static_cast<__mmask16>(~negative), set(1.0f), q);
}

template <bool rough>
inline __m512 exp_negative(__m512 x) {
  return exp2_of_product<rough>(x, -1.44269504088896341f);
}
// x s, s = 1 / (1 + exp(-x)); and s (1 + x (1 - s)), where 1 - s = s exp(-x) loses no digits.
template <bool rough>
inline __m512 silu(__m512 x) {
  const __m512 held = at_least(-80.0f, x);
  const __m512 e = exp_negative<rough>(at_most(80.0f, held));
  return _mm512_mul_ps(held, reciprocal(_mm512_add_ps(set(1.0f), e)));
}
template <bool rough>
inline __m512 silu_slope(__m512 x) {
  const __m512 held = at_most(80.0f, at_least(-80.0f, x));
  const __m512 e = exp_negative<rough>(held);
  const __m512 s = reciprocal(_mm512_add_ps(set(1.0f), e));
  return fma(_mm512_mul_ps(held, s), _mm512_mul_ps(e, s), s);
}

template <Step step, bool rough>
inline __m512 function(__m512 x) {
  if constexpr (step == Step::relu) return at_least(0.0f, x);
  if constexpr (step == Step::silu) return silu<rough>(x);
  if constexpr (step == Step::gelu) return gelu<rough>(x);
  if constexpr (step == Step::relu_slope)
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), set(1.0f));
  if constexpr (step == Step::silu_slope) return silu_slope<rough>(x);
  if constexpr (step == Step::gelu_slope) return gelu_slope<rough>(x);
  return x;
}

// One row of a block: 32 floats, of which the first 16 are `low`.
struct Row {
  __m512 low, high;
};
// Which of them exist; whole: all of them, and no masks.
template <bool whole>
struct Columns {
  explicit Columns(int64_t n)
      : low(avx512_bf16::mask16(n)),
        high(avx512_bf16::mask16(n - 16)),
        all(avx512_bf16::mask32(n)) {}
  __mmask16 low, high;
  __mmask32 all;

  Row load(const float* p) const {
    if constexpr (whole) return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)};
    return {_mm512_maskz_loadu_ps(low, p), _mm512_maskz_loadu_ps(high, p + 16)};
  }
  Row load(const bf16* p) const {
    const auto* at = reinterpret_cast<const __m256i*>(p);
    if constexpr (whole)
      return {avx512_bf16::widen(_mm256_loadu_si256(at)),
              avx512_bf16::widen(_mm256_loadu_si256(at + 1))};
    return {avx512_bf16::widen(_mm256_maskz_loadu_epi16(low, at)),
            avx512_bf16::widen(_mm256_maskz_loadu_epi16(high, at + 1))};
  }
  Row load(const void* p, DType type, int64_t i) const {
    return type == DType::f32 ? load(static_cast<const float*>(p) + i)
                              : load(static_cast<const bf16*>(p) + i);
  }
  void store(Row v, float* p) const {
    if constexpr (whole) {
      _mm512_storeu_ps(p, v.low);
      _mm512_storeu_ps(p + 16, v.high);
    } else {
      _mm512_mask_storeu_ps(p, low, v.low);
      _mm512_mask_storeu_ps(p + 16, high, v.high);
    }
  }
  void store(Row v, bf16* p) const {
    if constexpr (whole)
      _mm512_storeu_si512(p, avx512_bf16::narrow(v.low, v.high));
    else
      _mm512_mask_storeu_epi16(p, all, avx512_bf16::narrow(v.low, v.high));
  }
};

// One problem's results in up to 32 columns. Y: of y. What ends in bf16 need not be computed to the
// last bit.
template <Step step, class Y, bool whole>
class Finisher {
 public:
  Finisher(const FinishCall& call, int64_t column, int64_t columns)
      : columns_(columns),
        save_(kForward && call.p.save_pre),
        residual_(call.p.residual),
        pre_type_(call.p.pre),
        residual_type_(call.p.residual_type),
        pre_(call.args.pre),
        residuals_(call.args.residual),
        pre_out_(call.args.pre_out),
        y_(static_cast<Y*>(call.args.y)) {
    if (call.p.bias) bias_ = columns_.load(static_cast<const float*>(call.args.bias) + column);
  }

  // v: the product; i: where its first column stands in the problem's arrays.
  void operator()(Row v, int64_t i) const {
    v = {_mm512_add_ps(v.low, bias_.low), _mm512_add_ps(v.high, bias_.high)};
    if (save_) {
      if (pre_type_ == DType::f32)
        columns_.store(v, static_cast<float*>(pre_out_) + i);
      else
        columns_.store(v, static_cast<bf16*>(pre_out_) + i);
    }
    if constexpr (kForward) v = {function<step, kRough>(v.low), function<step, kRough>(v.high)};
    if constexpr (kSlope) {
      const Row at = columns_.load(pre_, pre_type_, i);
      v = {_mm512_mul_ps(v.low, function<step, kRough>(at.low)),
           _mm512_mul_ps(v.high, function<step, kRough>(at.high))};
    }
    if (residual_) {
      const Row more = columns_.load(residuals_, residual_type_, i);
      v = {_mm512_add_ps(v.low, more.low), _mm512_add_ps(v.high, more.high)};
    }
    columns_.store(v, y_ + i);
  }

 private:
  static constexpr bool kRough = sizeof(Y) == 2;
  static constexpr bool kForward = step == Step::relu || step == Step::silu || step == Step::gelu;
  static constexpr bool kSlope = step != Step::none && !kForward;

  // Copies, which the stores to y cannot be thought to change.
  Columns<whole> columns_;
  bool save_, residual_;
  DType pre_type_, residual_type_;
  const void *pre_, *residuals_;
  void* pre_out_;
  Y* y_;
  Row bias_{_mm512_setzero_ps(), _mm512_setzero_ps()};
};

template <Step step, class Y, bool whole>
void finish_rows(const FinishCall& call, const FinishBlock& block, int64_t first, int64_t end) {
  const Finisher<step, Y, whole> finisher(call, block.column, block.columns);
  const int64_t next = call.p.n;
  const float* h = block.h + first * block.stride;
  int64_t i = (block.row + first) * next + block.column;
  for (int64_t r = first; r < end; ++r, h += block.stride, i += next)
    finisher({_mm512_load_ps(h), _mm512_load_ps(h + 16)}, i);
}

template <class Y, bool whole>
inline FinishRows rows_for(Step step) {
  switch (step) {
    case Step::none:
      return finish_rows<Step::none, Y, whole>;
    case Step::relu:
      return finish_rows<Step::relu, Y, whole>;
    case Step::silu:
      return finish_rows<Step::silu, Y, whole>;
    case Step::gelu:
      return finish_rows<Step::gelu, Y, whole>;
    case Step::relu_slope:
      return finish_rows<Step::relu_slope, Y, whole>;
    case Step::silu_slope:
      return finish_rows<Step::silu_slope, Y, whole>;
    case Step::gelu_slope:
      return finish_rows<Step::gelu_slope, Y, whole>;
  }
  return nullptr;
}

inline Step step_of(const LinearProblem& p) {
  if (p.activation == LinearActivation::none) return Step::none;
  const bool slope = p.activation == LinearActivation::gradient;
  if (p.function == UnaryOp::relu) return slope ? Step::relu_slope : Step::relu;
  if (p.function == UnaryOp::silu) return slope ? Step::silu_slope : Step::silu;
  return slope ? Step::gelu_slope : Step::gelu;
}

}  // namespace finish
FOVEA_TARGET_END

inline Finish finish_for(const LinearProblem& p) {
  const finish::Step step = finish::step_of(p);
  if (p.y == DType::f32)
    return {{finish::rows_for<float, false>(step), finish::rows_for<float, true>(step)}};
  return {{finish::rows_for<bf16, false>(step), finish::rows_for<bf16, true>(step)}};
}

// Whether the problem is one of bf16 weights with a function that is known here.
inline bool can_finish(const LinearProblem& p) {
  const bool known =
      p.function == UnaryOp::relu || p.function == UnaryOp::silu || p.function == UnaryOp::gelu;
  return p.w == DType::bf16 && (known || p.activation == LinearActivation::none);
}

// The plan of either family. Kernels holds how the problem is cut (panels, row_blocks,
// column_blocks, packed_bytes(), scratch_bytes() of a worker), packs a panel of the weights and
// computes a block of results from x of type X.
template <class Kernels>
class LinearPlan final : public KernelPlan<LinearArgs> {
 public:
  explicit LinearPlan(const LinearProblem& problem)
      : p_(problem), kernels_(problem), finish_(finish_for(problem)) {
    packed_bytes = static_cast<size_t>(kernels_.packed_bytes());
    scratch_bytes = packed_bytes;
    worker_scratch_bytes = static_cast<size_t>(kernels_.scratch_bytes());
  }

  void pack(const LinearArgs& args, std::byte* to) const noexcept override {
    for (int64_t panel = 0; panel < kernels_.panels; ++panel) pack_panel(args, panel, to);
  }

  void run(const LinearArgs& args, const KernelContext& context) const noexcept override {
    const int64_t blocks = kernels_.row_blocks * kernels_.column_blocks;
    if (blocks == 0) return;
    const std::byte* packed = context.packed;
    if (!packed) {
      packed = context.scratch;
      if (kernels_.packed_bytes() <= Kernels::kMostSerialPack) {
        pack(args, context.scratch);
      } else {
        context.pool->parallel_for(
            kernels_.panels, [&](int64_t panel, int) { pack_panel(args, panel, context.scratch); });
      }
    }
    const FinishCall call{p_, args};
    context.pool->parallel_for(blocks, [&](int64_t i, int worker) {
      std::byte* const scratch = context.worker<std::byte>(worker);
      if (p_.x == DType::f32)
        kernels_.template run_block<float>(call, finish_, packed, i, scratch);
      else
        kernels_.template run_block<bf16>(call, finish_, packed, i, scratch);
    });
  }

 private:
  void pack_panel(const LinearArgs& args, int64_t panel, std::byte* to) const {
    kernels_.pack_panel(p_, static_cast<const bf16*>(args.w), panel, to);
  }

  LinearProblem p_;
  Kernels kernels_;
  Finish finish_;
};

}  // namespace fovea::linear_detail

#endif  // FOVEA_AVX512_BF16
