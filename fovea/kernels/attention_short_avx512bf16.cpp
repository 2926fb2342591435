// Attention for short sequences of bf16 with vdpbf16ps, forward: S^T = K Q^T with the lanes over
// queries, the softmax down its columns, and O = P V with the lanes over the value dimension. The
// probabilities are rounded to bf16 before they are divided by their sum, which is formed in f32.
#include "fovea/kernels/attention_short_avx512bf16.h"

#include <cmath>

#if FOVEA_AVX512_BF16

namespace fovea::attention_detail {
namespace {

using Task = ShortTask<AttentionArgs>;

// Where one worker's scratch holds what, in floats.
struct Layout {
  explicit Layout(const AttentionProblem& p) {
    lanes = padded(p.tq);
    ScratchPieces scratch;
    qt = scratch.take(p.head_dim / 2 * lanes);
    scores = scratch.take(p.tk * lanes);
    k = scratch.take(p.tk * short_bf16::kRowBytes / 4);
    v = scratch.take(short_bf16::pairs(p.tk) * p.value_dim);
    max = scratch.take(lanes);
    sum = scratch.take(lanes);
    inverse = scratch.take(lanes);
    total = scratch.used();
  }

  int64_t lanes;   // row of one number a query
  int64_t qt;      // pairs of Q^T, [head_dim / 2][lanes]
  int64_t scores;  // S^T, [tk][lanes], overwritten by pairs of P^T, [pairs(tk)][lanes]
  int64_t k, v;    // rows of K, pairs of rows of V
  int64_t max, sum, inverse;
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail

FOVEA_AVX512_BF16_BEGIN
namespace fovea::attention_detail {
namespace {

using namespace short_bf16;

// The natural logarithm of what is at least 1, or infinity, or 0 (-infinity); NaN stays.
inline __m512 log_of_sum(__m512 x) {
  // x = 2^n m, m in [3/4, 3/2); ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 1/5.
  const __m512 one = _mm512_set1_ps(1);
  const __m512 m = _mm512_maskz_getmant_ps(0xffff, x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  __m512 n = _mm512_maskz_getexp_ps(0xffff, x);
  n = _mm512_mask_add_ps(n, _mm512_cmp_ps_mask(m, one, _CMP_LT_OQ), n, one);
  const __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one));
  const __m512 z = _mm512_mul_ps(s, s);
  __m512 p = _mm512_set1_ps(2.0f / 9);
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f / 7));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f / 5));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f / 3));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.0f));
  return _mm512_fmadd_ps(n, _mm512_set1_ps(kLn2), _mm512_mul_ps(p, s));
}

class Forward {
 public:
  Forward(const Task& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        keys_(key_length(p_, task.args.links.key_lengths, task.batch)),
        factor_(static_cast<float>(std::abs(p_.scale)) * kLog2E) {}

  void run() const {
    const int64_t group = p_.heads / p_.kv_heads;
    for (int64_t g = task_.first_kv_head; g < task_.end_kv_head; ++g) {
      if (keys_ > 0 && g * group < p_.heads_kept) {
        copy_rows(at(args_.k, p_.k, g), p_.k.token, keys_, p_.head_dim, bytes(layout_.k));
        row_pairs(at(args_.v, p_.v, g), p_.v.token, keys_, p_.value_dim, words(layout_.v));
      }
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        if (h >= p_.heads_kept)
          nothing(h, 0.0f);
        else if (keys_ == 0)
          nothing(h, -HUGE_VALF);
        else
          head(h);
      }
    }
  }

 private:
  const bf16* at(const void* base, const AttentionStrides& s, int64_t head) const {
    return row(static_cast<const bf16*>(base), s, task_.batch, 0, head);
  }
  bf16* out_of(int64_t head) const {
    return row(static_cast<bf16*>(args_.out), p_.out, task_.batch, 0, head);
  }
  float* lse_of(int64_t head) const {
    if (!p_.want_lse || !args_.lse) return nullptr;
    return static_cast<float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
  }
  std::byte* bytes(int64_t place) const { return reinterpret_cast<std::byte*>(scratch_ + place); }
  uint32_t* words(int64_t place) const { return reinterpret_cast<uint32_t*>(scratch_ + place); }

  void nothing(int64_t head, float lse_value) const {
    write_zeros(out_of(head), p_.out.token, p_.tq, p_.value_dim);
    if (float* lse = lse_of(head)) std::fill_n(lse, p_.tq, lse_value);
  }

  void head(int64_t head) const {
    transposed(at(args_.q, p_.q, head), p_.q.token, p_.tq, p_.head_dim,
               p_.scale < 0 ? 0x80008000u : 0, words(layout_.qt), layout_.lanes);
    for (int64_t lane = 0; lane < p_.tq; lane += kPieceLanes) {
      const Vectors lanes(std::min(p_.tq - lane, kPieceLanes));
      scores(lane, lanes);
      for (int64_t v = 0; v < lanes.whole; ++v) powers<Whole>(lane + 16 * v);
      if (lanes.half) powers<Half>(lane + 16 * lanes.whole);
    }
    product<4, Finish::scale_round>({.a = bytes(layout_.scores),
                                     .a_step = 4 * layout_.lanes,
                                     .b = words(layout_.v),
                                     .b_step = p_.value_dim,
                                     .steps = pairs(keys_),
                                     .c = nullptr,
                                     .c_row = 0,
                                     .out = out_of(head),
                                     .out_row = p_.out.token,
                                     .extra = scratch_ + layout_.inverse},
                                    p_.tq, p_.value_dim / 16);
    if (float* lse = lse_of(head)) write_lse(lse);
  }

  // And their maxima, for a piece of the queries.
  void scores(int64_t lane, const Vectors& lanes) const {
    float* const max = scratch_ + layout_.max + lane;
    for (int64_t i = 0; i < lanes.whole + lanes.half; ++i)
      _mm512_store_ps(max + 16 * i, _mm512_set1_ps(-HUGE_VALF));
    const Product x{.a = bytes(layout_.k),
                    .a_step = 4,
                    .b = words(layout_.qt) + lane,
                    .b_step = layout_.lanes,
                    .steps = p_.head_dim / 2,
                    .c = scratch_ + layout_.scores + lane,
                    .c_row = layout_.lanes,
                    .out = nullptr,
                    .out_row = 0,
                    .extra = max};
    if (!lanes.half) return product<kRowBytes, Finish::max>(x, keys_, lanes.whole);
    if (lanes.whole == 0) product_of<kRowBytes, Finish::max, 0, true>(x, keys_);
    if (lanes.whole == 1) product_of<kRowBytes, Finish::max, 1, true>(x, keys_);
    if (lanes.whole == 2) product_of<kRowBytes, Finish::max, 2, true>(x, keys_);
    if (lanes.whole == 3) product_of<kRowBytes, Finish::max, 3, true>(x, keys_);
  }

  // Powers that are rounded to bf16 at once need few digits; the log-sum-exp shall have more.
  template <class V>
  void powers(int64_t lane) const {
    if (p_.want_lse)
      softmax<V, 5>(lane);
    else
      softmax<V, 3>(lane);
  }

  // A vector of scores becomes pairs of exp2(factor (score - maximum)), by a polynomial of the
  // degree.
  template <class V, int kDegree>
  [[gnu::noinline]] void softmax(int64_t lane) const {
    const auto factor = V::set(factor_), nothing = V::zero();
    auto max = V::load(scratch_ + layout_.max + lane);
    max = max == V::set(-HUGE_VALF) ? nothing : max;  // all scores are -infinity
    const auto base = max * factor;
    V::store(scratch_ + layout_.max + lane, base);
    // In one step what rounding took away from the base is left of every score, which the sum has
    // too; where that is more than exp2 bears, the maximum is subtracted first.
    constexpr float kMostFused = 1 << 20;
    const auto sum =
        V::beyond(base, kMostFused)
            ? sum_powers<V, kDegree>(
                  lane, [&](auto score)
                            __attribute__((always_inline)) { return (score - max) * factor; })
            : sum_powers<V, kDegree>(
                  lane, [&](auto score)
                            __attribute__((always_inline)) { return V::fms(score, factor, base); });
    V::store(scratch_ + layout_.sum + lane, sum);
    V::store(scratch_ + layout_.inverse + lane, sum == nothing ? nothing : V::set(1) / sum);
  }
  template <class V, int kDegree, class Exponent>
  typename V::F sum_powers(int64_t lane, const Exponent& exponent) const {
    const auto nothing = V::zero();
    const int64_t stride = layout_.lanes;
    const float* from = scratch_ + layout_.scores + lane;
    uint32_t* to = words(layout_.scores) + lane;
    auto even_sum = nothing, odd_sum = nothing;
    for (int64_t j = 0; j < keys_; j += 2, from += 2 * stride, to += stride) {
      const auto even = exp2<V, kDegree>(exponent(V::load(from)));
      const auto odd = j + 1 < keys_ ? exp2<V, kDegree>(exponent(V::load(from + stride))) : nothing;
      V::store_pairs(to, even, odd);
      even_sum += even;
      odd_sum += odd;
    }
    return even_sum + odd_sum;
  }

  void write_lse(float* lse) const {
    for (int64_t i = 0; i < p_.tq; i += 16) {
      const __m512 ln = log_of_sum(_mm512_load_ps(scratch_ + layout_.sum + i));
      const __m512 base = _mm512_load_ps(scratch_ + layout_.max + i);
      _mm512_mask_storeu_ps(lse + i, avx512_bf16::mask16(p_.tq - i),
                            _mm512_fmadd_ps(base, _mm512_set1_ps(kLn2), ln));
    }
  }

  const AttentionProblem& p_;
  const AttentionArgs& args_;
  const Task& task_;
  const Layout layout_;
  float* const scratch_;
  const int64_t keys_;
  const float factor_;
};

void forward(const Task& task, float* scratch) { Forward(task, scratch).run(); }

}  // namespace
}  // namespace fovea::attention_detail
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_short_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  if (!short_bf16::supported(problem)) return nullptr;
  return std::make_unique<ShortPlan<AttentionArgs, Layout>>(problem, forward);
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionArgs>>
fovea::attention_detail::plan_short_avx512bf16(const AttentionProblem& problem) {
  check(problem, false);
  return nullptr;
}

#endif
