// Attention for short sequences of bf16 with vdpbf16ps, backward. With the lanes over queries,
// P^T = exp2(K Q^T - lse), dP^T = V dO^T and dS = P * (dP - delta), both rounded to bf16; then,
// with the lanes over the head dimension (FlashAttention, algorithm 4), dV = P^T dO, dK = dS^T Q,
// dQ = dS K. Sums are formed in f32.
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_short_avx512bf16.h"

#if FOVEA_AVX512_BF16

namespace fovea::attention_detail {
namespace {

using Task = ShortTask<AttentionBackwardArgs>;

// Where one worker's scratch holds what, in floats.
struct Layout {
  explicit Layout(const AttentionProblem& p) {
    lanes = padded(p.tq);
    row_bytes = p.tq <= 64 ? short_bf16::kRowBytes : short_bf16::kWideRowBytes;
    const int64_t query_pairs = short_bf16::pairs(p.tq), key_pairs = short_bf16::pairs(p.tk);
    const bool shared = p.heads > p.kv_heads;
    ScratchPieces scratch;
    k = scratch.take(p.tk * short_bf16::kRowBytes / 4);
    v = scratch.take(p.tk * short_bf16::kRowBytes / 4);
    qt = scratch.take(p.head_dim / 2 * lanes);
    dot = scratch.take(p.value_dim / 2 * lanes);
    q_pairs = scratch.take(query_pairs * p.head_dim);
    dout_pairs = scratch.take(query_pairs * p.value_dim);
    k_pairs = scratch.take(key_pairs * p.head_dim);
    probabilities = scratch.take(p.tk * row_bytes / 4);
    ds = scratch.take(p.tk * row_bytes / 4);
    ds_pairs = scratch.take(key_pairs * lanes);
    lse = scratch.take(lanes);
    delta = scratch.take(lanes);
    dk = scratch.take(shared ? p.tk * p.head_dim : 0);
    dv = scratch.take(shared ? p.tk * p.value_dim : 0);
    total = scratch.used();
  }

  int64_t lanes;                         // row of one number a query
  int64_t row_bytes;                     // of a bf16 a query
  int64_t k, v;                          // rows
  int64_t qt, dot;                       // pairs of Q^T and dO^T, [dim / 2][lanes]
  int64_t q_pairs, dout_pairs, k_pairs;  // pairs of rows
  int64_t probabilities, ds;             // P^T and dS^T, rows of bf16
  int64_t ds_pairs;                      // pairs of rows of dS^T
  int64_t lse, delta;                    // times log2(e); times the scale
  int64_t dk, dv;                        // sums over the heads of a group
  int64_t total;
};

}  // namespace
}  // namespace fovea::attention_detail

FOVEA_AVX512_BF16_BEGIN
namespace fovea::attention_detail {
namespace {

using namespace short_bf16;

// P and dS of some lanes of queries.
struct Piece {
  const std::byte *k, *v;
  const uint32_t *qt, *dot;
  int64_t lanes;  // row of qt, dot and ds_pairs
  int64_t k_pairs, v_pairs;
  const float *lse, *delta;
  float factor, scale;
  std::byte *probabilities, *ds;
  uint32_t* ds_pairs;
  int64_t row_bytes;
};

// Two vectors, of two keys.
template <class T>
struct Keys {
  typename T::F even, odd;
};

// From scores and gradients of probabilities, of R keys from 2 pair on.
template <class T, int R>
[[gnu::always_inline]] inline void finish(const Piece& x, int64_t pair, int64_t lane, Keys<T> s,
                                          Keys<T> g) {
  const auto factor = T::set(x.factor), scale = T::set(x.scale);
  const auto lse = T::load(x.lse + lane), delta = T::load(x.delta + lane);
  const int64_t at = 2 * pair * x.row_bytes + 2 * lane;
  const auto even_p = exp2<T, 3>(T::fms(s.even, factor, lse));
  const auto even_ds = even_p * T::fms(g.even, scale, delta);
  T::store_narrow(x.probabilities + at, even_p);
  T::store_narrow(x.ds + at, even_ds);
  auto odd_ds = T::zero();
  if constexpr (R == 2) {
    const auto odd_p = exp2<T, 3>(T::fms(s.odd, factor, lse));
    odd_ds = odd_p * T::fms(g.odd, scale, delta);
    T::store_narrow(x.probabilities + at + x.row_bytes, odd_p);
    T::store_narrow(x.ds + at + x.row_bytes, odd_ds);
  }
  T::store_pairs(x.ds_pairs + pair * x.lanes + lane, even_ds, odd_ds);
}

// Of keys 2 pair to 2 pair + R - 1.
template <int R, int V, bool H>
[[gnu::noinline]] void gradients(const Piece& piece, int64_t pair) {
  const Piece x = piece;  // which no store changes
  __m512 s[R][V ? V : 1], g[R][V ? V : 1];
  __m256 half_s[R], half_g[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) s[r][v] = g[r][v] = Whole::zero();
    if (H) half_s[r] = half_g[r] = Half::zero();
  }
  const std::byte* k = x.k + 2 * pair * kRowBytes;
  const uint32_t* qt = x.qt;
  for (int64_t i = x.k_pairs; i > 0; --i, k += 4, qt += x.lanes) {
    __m512i right[V ? V : 1];
    __m256i half_right;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = Whole::load_pairs(qt + 16 * v);
    if (H) half_right = Half::load_pairs(qt + 16 * V);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const __m512i left = broadcast_pair(k + r * kRowBytes);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) s[r][v] = Whole::dot(s[r][v], left, right[v]);
      if (H) half_s[r] = Half::dot(half_s[r], left, half_right);
    }
  }
  const std::byte* value = x.v + 2 * pair * kRowBytes;
  const uint32_t* dot = x.dot;
  for (int64_t i = x.v_pairs; i > 0; --i, value += 4, dot += x.lanes) {
    __m512i right[V ? V : 1];
    __m256i half_right;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = Whole::load_pairs(dot + 16 * v);
    if (H) half_right = Half::load_pairs(dot + 16 * V);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const __m512i left = broadcast_pair(value + r * kRowBytes);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) g[r][v] = Whole::dot(g[r][v], left, right[v]);
      if (H) half_g[r] = Half::dot(half_g[r], left, half_right);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
    finish<Whole, R>(x, pair, 16 * v, {s[0][v], s[R - 1][v]}, {g[0][v], g[R - 1][v]});
  if constexpr (H)
    finish<Half, R>(x, pair, 16 * V, {half_s[0], half_s[R - 1]}, {half_g[0], half_g[R - 1]});
}

template <int V, bool H>
void all_gradients(const Piece& x, int64_t keys) {
  for (int64_t pair = 0; pair < keys / 2; ++pair) gradients<2, V, H>(x, pair);
  if (keys % 2) gradients<1, V, H>(x, keys / 2);
}

using AllGradients = void (*)(const Piece&, int64_t);
constexpr AllGradients kGradients[2][5] = {
    {nullptr, all_gradients<1, false>, all_gradients<2, false>, all_gradients<3, false>,
     all_gradients<4, false>},
    {all_gradients<0, true>, all_gradients<1, true>, all_gradients<2, true>, all_gradients<3, true>,
     nullptr}};

class Backward {
 public:
  Backward(const Task& task, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(p_),
        scratch_(scratch),
        keys_(key_length(p_, task.args.links.key_lengths, task.batch)) {}

  void run() const {
    for (int64_t g = task_.first_kv_head; g < task_.end_kv_head; ++g) group(g);
  }

 private:
  const bf16* at(const void* base, const AttentionStrides& s, int64_t head) const {
    return row(static_cast<const bf16*>(base), s, task_.batch, 0, head);
  }
  bf16* at(void* base, const AttentionStrides& s, int64_t head) const {
    return row(static_cast<bf16*>(base), s, task_.batch, 0, head);
  }
  std::byte* bytes(int64_t place) const { return reinterpret_cast<std::byte*>(scratch_ + place); }
  uint32_t* words(int64_t place) const { return reinterpret_cast<uint32_t*>(scratch_ + place); }

  // A key/value head and the query heads that read it.
  void group(int64_t g) const {
    const int64_t count = p_.heads / p_.kv_heads;
    const int64_t kept = keys_ > 0 ? kept_in_group(p_, g) : 0;
    for (int64_t h = kept; h < count; ++h)
      write_zeros(at(args_.dq, p_.dq, g * count + h), p_.dq.token, p_.tq, p_.head_dim);
    bf16* const dk = at(args_.dk, p_.dk, g);
    bf16* const dv = at(args_.dv, p_.dv, g);
    const int64_t seen = kept > 0 ? keys_ : 0;
    write_zeros(dk + seen * p_.dk.token, p_.dk.token, p_.tk - seen, p_.head_dim);
    write_zeros(dv + seen * p_.dv.token, p_.dv.token, p_.tk - seen, p_.value_dim);
    if (kept == 0) return;
    const bf16* const k = at(args_.k, p_.k, g);
    copy_rows(k, p_.k.token, keys_, p_.head_dim, bytes(layout_.k));
    row_pairs(k, p_.k.token, keys_, p_.head_dim, words(layout_.k_pairs));
    copy_rows(at(args_.v, p_.v, g), p_.v.token, keys_, p_.value_dim, bytes(layout_.v));
    for (int64_t h = 0; h < kept; ++h) {
      head(g * count + h);
      key_gradient(layout_.probabilities, layout_.dout_pairs, p_.value_dim, layout_.dv, kept, h, dv,
                   p_.dv.token);
      key_gradient(layout_.ds, layout_.q_pairs, p_.head_dim, layout_.dk, kept, h, dk, p_.dk.token);
    }
  }

  // P and dS of a head, and its dQ.
  void head(int64_t head) const {
    const bf16* const q = at(args_.q, p_.q, head);
    const bf16* const dout = at(args_.dout, p_.dout, head);
    const float scale = static_cast<float>(p_.scale);
    const int64_t lanes = layout_.lanes;
    transposed(q, p_.q.token, p_.tq, p_.head_dim, 0, words(layout_.qt), lanes);
    transposed(dout, p_.dout.token, p_.tq, p_.value_dim, 0, words(layout_.dot), lanes);
    row_pairs(q, p_.q.token, p_.tq, p_.head_dim, words(layout_.q_pairs));
    row_pairs(dout, p_.dout.token, p_.tq, p_.value_dim, words(layout_.dout_pairs));
    per_query(head, scale);
    for (int64_t lane = 0; lane < p_.tq; lane += kPieceLanes) {
      const Vectors vectors(std::min(p_.tq - lane, kPieceLanes));
      const Piece piece{.k = bytes(layout_.k),
                        .v = bytes(layout_.v),
                        .qt = words(layout_.qt) + lane,
                        .dot = words(layout_.dot) + lane,
                        .lanes = lanes,
                        .k_pairs = p_.head_dim / 2,
                        .v_pairs = p_.value_dim / 2,
                        .lse = scratch_ + layout_.lse + lane,
                        .delta = scratch_ + layout_.delta + lane,
                        .factor = scale * kLog2E,
                        .scale = scale,
                        .probabilities = bytes(layout_.probabilities) + 2 * lane,
                        .ds = bytes(layout_.ds) + 2 * lane,
                        .ds_pairs = words(layout_.ds_pairs) + lane,
                        .row_bytes = layout_.row_bytes};
      kGradients[vectors.half][vectors.whole](piece, keys_);
    }
    product<4, Finish::round>({.a = bytes(layout_.ds_pairs),
                               .a_step = 4 * lanes,
                               .b = words(layout_.k_pairs),
                               .b_step = p_.head_dim,
                               .steps = pairs(keys_),
                               .c = nullptr,
                               .c_row = 0,
                               .out = at(args_.dq, p_.dq, head),
                               .out_row = p_.dq.token,
                               .extra = nullptr},
                              p_.tq, p_.head_dim / 16);
  }

  // The log-sum-exp and rowsum(dO * O) of each query, as the lanes want them.
  void per_query(int64_t head, float scale) const {
    float* const delta = scratch_ + layout_.delta;
    float* const lse = scratch_ + layout_.lse;
    const uint32_t* const dot = words(layout_.dot);
    for (int64_t i = 0; i < p_.tq; i += 16) _mm512_store_ps(delta + i, _mm512_setzero_ps());
    each_transposed(at(args_.out, p_.out, head), p_.out.token, p_.tq, p_.value_dim,
                    [&](int64_t pair, int64_t row, __m512i x) {
                      const __m512i y = _mm512_load_si512(dot + pair * layout_.lanes + row);
                      const __m512 sum = _mm512_load_ps(delta + row);
                      _mm512_store_ps(delta + row, _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y));
                    });
    const float* from =
        static_cast<const float*>(args_.lse) + (task_.batch * p_.heads + head) * p_.tq;
    // +infinity makes the probabilities of queries that see no key, or are not there, 0.
    const __m512 infinity = _mm512_set1_ps(HUGE_VALF), none = _mm512_set1_ps(-HUGE_VALF);
    for (int64_t i = 0; i < p_.tq; i += 16) {
      const __m512 x = _mm512_mask_loadu_ps(none, avx512_bf16::mask16(p_.tq - i), from + i);
      // log2(e) in two parts.
      const __m512 low = _mm512_mul_ps(x, _mm512_set1_ps(1.92596299e-8f));
      const __m512 scaled = _mm512_fmadd_ps(x, _mm512_set1_ps(1.44269502f), low);
      _mm512_store_ps(
          lse + i, _mm512_mask_mov_ps(scaled, _mm512_cmp_ps_mask(x, none, _CMP_EQ_OQ), infinity));
      _mm512_store_ps(delta + i, _mm512_mul_ps(_mm512_load_ps(delta + i), _mm512_set1_ps(scale)));
    }
  }

  // What a head adds to dV or dK: of `kept` heads the sums are formed at `sums`.
  void key_gradient(int64_t left, int64_t right, int64_t dim, int64_t sums, int64_t kept,
                    int64_t head, bf16* out, int64_t out_row) const {
    const Product x{.a = bytes(left),
                    .a_step = 4,
                    .b = words(right),
                    .b_step = dim,
                    .steps = pairs(p_.tq),
                    .c = scratch_ + sums,
                    .c_row = dim,
                    .out = out,
                    .out_row = out_row,
                    .extra = nullptr};
    if (layout_.row_bytes == kRowBytes)
      key_product<kRowBytes>(x, dim / 16, kept, head);
    else
      key_product<kWideRowBytes>(x, dim / 16, kept, head);
    if (kept == 1 || head + 1 < kept) return;
    const float* sum = scratch_ + sums;
    for (int64_t j = 0; j < keys_; ++j, sum += dim, out += out_row)
      for (int64_t d = 0; d < dim; d += 16) Whole::store_narrow(out + d, Whole::load(sum + d));
  }

  template <int kRow>
  void key_product(const Product& x, int64_t vectors, int64_t kept, int64_t head) const {
    if (kept == 1)
      product<kRow, Finish::round>(x, keys_, vectors);
    else if (head == 0)
      product<kRow, Finish::store>(x, keys_, vectors);
    else
      product<kRow, Finish::add>(x, keys_, vectors);
  }

  const AttentionProblem& p_;
  const AttentionBackwardArgs& args_;
  const Task& task_;
  const Layout layout_;
  float* const scratch_;
  const int64_t keys_;
};

void backward(const Task& task, float* scratch) { Backward(task, scratch).run(); }

}  // namespace
}  // namespace fovea::attention_detail
FOVEA_TARGET_END

std::unique_ptr<fovea::KernelPlan<fovea::AttentionBackwardArgs>>
fovea::attention_detail::plan_backward_short_avx512bf16(const AttentionProblem& problem) {
  check(problem, true);
  if (!short_bf16::supported(problem)) return nullptr;
  return std::make_unique<ShortPlan<AttentionBackwardArgs, Layout>>(problem, backward);
}

#else

std::unique_ptr<fovea::KernelPlan<fovea::AttentionBackwardArgs>>
fovea::attention_detail::plan_backward_short_avx512bf16(const AttentionProblem& problem) {
  check(problem, true);
  return nullptr;
}

#endif
