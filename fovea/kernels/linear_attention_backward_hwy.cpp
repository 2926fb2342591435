// Linear attention, backward, in SIMD of each target; bf16 is converted when it is loaded and
// stored.
#define HWY_TARGET_INCLUDE "fovea/kernels/linear_attention_backward_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/linear_attention-inl.h"
#include "fovea/kernels/linear_attention_layout.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using linear_attention_detail::BackwardTask;

// The formulas stand in linear_attention_ref.cpp. Within a chunk, with A = phi(K) phi(Q)^T and
// B = V dO^T under the mask, and M = B * n + w there: dphi(Q)^T = n Y + z w + phi(K)^T M,
// dphi(K) = M phi(Q), dV = (A * n) dO; the rest comes from the states.
template <class T>
class Backward : Chunks<T, BackwardTask> {
  using Base = Chunks<T, BackwardTask>;
  using Base::args_, Base::at, Base::layout_, Base::length_, Base::p_, Base::room, Base::task_;

 public:
  using Base::Base;

  void run() {
    Base::clear_state();
    fill_zero(room(layout_.later), p_.head_dim * layout_.value_dim);
    fill_zero(room(layout_.later_mass), layout_.dim);
    const int64_t blind = Base::blind(), group = p_.group();
    for (int64_t h = 0; h < group && blind > 0; ++h)
      write_zeros(at(args_.dq, p_.dq, 0, Base::query_head(h)), p_.dq, blind, p_.head_dim);
    if (p_.causal) {
      causal();
    } else {
      const int64_t key_chunks = Base::chunk_count(length_);
      for (int64_t i = 0; i < key_chunks; ++i) {
        Base::load_keys(Base::keys_of(i));
        Base::add_keys(Base::keys_of(i));
      }
      for (int64_t h = 0; h < group; ++h) {
        for (int64_t i = 0; i < Base::chunk_count(p_.tq); ++i) {
          const Chunk c = Base::queries_of(i);
          queries(c, h);
          add_queries(c, h);
        }
      }
      for (int64_t i = 0; i < key_chunks; ++i) {
        Base::load_keys(Base::keys_of(i));
        clear(0, layout_.chunk);
        keys(Base::keys_of(i), 0);
      }
    }
    const int64_t rest = p_.tk - length_;
    if (rest == 0) return;
    write_zeros(at(args_.dk, p_.dk, length_, task_.kv_head), p_.dk, rest, p_.head_dim);
    write_zeros(at(args_.dv, p_.dv, length_, task_.kv_head), p_.dv, rest, p_.value_dim);
  }

 private:
  void causal() {
    const int64_t chunks = Base::chunk_count(p_.tk);
    for (int64_t i = 0; i < chunks; ++i) {
      const Chunk c = Base::chunk_of(i);
      if (c.keys > 0) {
        Base::load_keys(c);
        clear(c.first_key, c.keys);
      }
      for (int64_t h = 0; h < p_.group() && c.queries > 0; ++h) queries(c, h);
      if (c.keys > 0) Base::add_keys(c);
    }
    for (int64_t i = chunks - 1; i >= 0; --i) {
      const Chunk c = Base::chunk_of(i);
      if (c.keys > 0) {
        Base::load_keys(c);
        keys(c, c.first_key);
      }
      for (int64_t h = 0; h < p_.group() && c.queries > 0; ++h) {
        Base::load_features(c, Base::query_head(h));
        load_dout(c, h);
        add_queries(c, h);
      }
    }
  }

  // Rows of dk and dv that wait.
  void clear(int64_t first, int64_t rows) const {
    fill_zero(room(layout_.dk) + first * layout_.dim, rows * layout_.dim);
    fill_zero(room(layout_.dv) + first * layout_.value_dim, rows * layout_.value_dim);
  }
  void load_dout(const Chunk& c, int64_t h) const {
    copy_rows(at(args_.dout, p_.dout, c.first_query, Base::query_head(h)), p_.dout.token, c.queries,
              p_.value_dim, room(layout_.out), layout_.value_dim);
  }

  // dQ; n and w of each query; and what the chunk's own queries give its keys.
  HWY_NOINLINE void queries(const Chunk& c, int64_t h) const {
    const F32 d;
    const int64_t chunk = layout_.chunk, head = Base::query_head(h);
    Base::load_queries(c, head);
    load_dout(c, h);
    float* const qt = room(layout_.qt);
    float* const doutt = room(layout_.doutt);
    float* const y = room(layout_.y);
    float* const norm = room(layout_.norm);
    float* const dot = room(layout_.dot);
    load_transposed(room(layout_.out), layout_.value_dim, c.queries, p_.value_dim, 1.0f, doutt,
                    chunk);
    product<Into::set, Contiguous::step>({.a = room(layout_.state),
                                          .a_stride = layout_.value_dim,
                                          .b = doutt,
                                          .b_stride = chunk,
                                          .c = y,
                                          .c_stride = chunk,
                                          .lane_row = nullptr,
                                          .steps = p_.value_dim},
                                         p_.head_dim, Base::vecs(c));
    for (int64_t v = 0; v < c.queries; v += kLanes) {
      Vec sum = hn::Zero(d);
      for (int64_t i = v; i < p_.head_dim * chunk; i += chunk)
        sum = hn::MulAdd(hn::Load(d, qt + i), hn::Load(d, y + i), sum);
      hn::Store(sum, d, dot + v);
    }
    float* const links = room(layout_.links);
    float* const dlinks = room(layout_.dlinks);
    if (c.keys > 0) {
      Base::chunk_links(c, room(layout_.k), layout_.dim, qt, p_.head_dim, links);
      Base::chunk_links(c, room(layout_.v), layout_.value_dim, doutt, p_.value_dim, dlinks);
    }
    for (int64_t v = 0; v < c.queries; v += kLanes) {
      Vec mass = hn::Load(d, norm + v), product_sum = hn::Load(d, dot + v);
      for (int64_t j = 0; j < c.keys && c.seen_from(j) <= v; ++j) {
        const auto seen = sees(c, j, v);
        const Vec a = hn::IfThenElseZero(seen, hn::Load(d, links + j * chunk + v));
        const Vec b = hn::IfThenElseZero(seen, hn::Load(d, dlinks + j * chunk + v));
        mass = hn::Add(mass, a);
        product_sum = hn::MulAdd(a, b, product_sum);
      }
      const Vec inverse = simd::inverse_or_zero(mass);
      const Vec weight = hn::Neg(hn::Mul(hn::Mul(product_sum, inverse), inverse));
      hn::Store(inverse, d, norm + v);
      hn::Store(weight, d, dot + v);
      const float* const z = room(layout_.mass);
      for (int64_t i = 0; i < p_.head_dim; ++i) {
        float* const at_y = y + i * chunk + v;
        hn::Store(hn::MulAdd(hn::Load(d, at_y), inverse, hn::Mul(hn::Set(d, z[i]), weight)), d,
                  at_y);
      }
      for (int64_t j = 0; j < c.keys; ++j) {
        const bool some = c.seen_from(j) <= v;
        float* const link = links + j * chunk + v;
        float* const dlink = dlinks + j * chunk + v;
        const auto seen = sees(c, j, v);
        const Vec a = some ? hn::Load(d, link) : hn::Zero(d);
        const Vec b = some ? hn::Load(d, dlink) : hn::Zero(d);
        hn::Store(hn::IfThenElseZero(seen, hn::Mul(a, inverse)), d, link);
        hn::Store(hn::IfThenElseZero(seen, hn::MulAdd(b, inverse, weight)), d, dlink);
      }
    }
    if (c.keys > 0) own_keys(c);
    std::copy_n(norm, c.queries, room(layout_.inverses) + h * p_.tq + c.first_query);
    std::copy_n(dot, c.queries, room(layout_.weights) + h * p_.tq + c.first_query);
    store_dq(c, head);
  }

  void own_keys(const Chunk& c) const {
    const int64_t chunk = layout_.chunk;
    product<Into::add, Contiguous::row>({.a = room(layout_.k),
                                         .a_stride = layout_.dim,
                                         .b = room(layout_.dlinks),
                                         .b_stride = chunk,
                                         .c = room(layout_.y),
                                         .c_stride = chunk,
                                         .lane_row = nullptr,
                                         .steps = c.keys},
                                        p_.head_dim, Base::vecs(c));
    for (int64_t j = 0; j < c.keys; j += kStep) {
      const int64_t from = c.seen_from(j), steps = c.queries - from;
      if (steps <= 0) return;
      const int64_t rows = HWY_MIN(kStep, c.keys - j), token = c.first_key + j;
      product<Into::add, Contiguous::step>({.a = room(layout_.dlinks) + j * chunk + from,
                                            .a_stride = chunk,
                                            .b = room(layout_.q) + from * layout_.dim,
                                            .b_stride = layout_.dim,
                                            .c = room(layout_.dk) + token * layout_.dim,
                                            .c_stride = layout_.dim,
                                            .lane_row = nullptr,
                                            .steps = steps},
                                           rows, layout_.dim / kLanes);
      product<Into::add, Contiguous::step>({.a = room(layout_.links) + j * chunk + from,
                                            .a_stride = chunk,
                                            .b = room(layout_.out) + from * layout_.value_dim,
                                            .b_stride = layout_.value_dim,
                                            .c = room(layout_.dv) + token * layout_.value_dim,
                                            .c_stride = layout_.value_dim,
                                            .lane_row = nullptr,
                                            .steps = steps},
                                           rows, layout_.value_dim / kLanes);
    }
  }

  // dphi(Q)^T times the slope, turned round.
  void store_dq(const Chunk& c, int64_t head) const {
    const F32 d;
    const int64_t width = Base::vecs(c) * kLanes;
    float* const y = room(layout_.y);
    for (int64_t i = 0; i < p_.head_dim; ++i) {
      for (int64_t v = i * layout_.chunk; v < i * layout_.chunk + width; v += kLanes) {
        const Vec slope = slope_of_feature(hn::Load(d, room(layout_.qt) + v));
        hn::Store(hn::Mul(hn::Load(d, y + v), slope), d, y + v);
      }
    }
    T* const dq = at(args_.dq, p_.dq, c.first_query, head);
    // phi(Q)^T has been used: its rows may go. Those of q are needed for the sums.
    if constexpr (std::is_same_v<T, float>) {
      transpose<false>(y, layout_.chunk, p_.head_dim, c.queries, 1.0f, dq, p_.dq.token);
    } else {
      float* const rows = room(layout_.qt);
      transpose<false>(y, layout_.chunk, p_.head_dim, c.queries, 1.0f, rows, p_.head_dim);
      store_rows(rows, p_.head_dim, c.queries, p_.head_dim, dq, p_.dq.token);
    }
  }

  // R and r with the queries whose phi(Q) and dO are loaded.
  void add_queries(const Chunk& c, int64_t h) const {
    const int64_t first = h * p_.tq + c.first_query;
    scale_rows(room(layout_.out), c.queries, layout_.value_dim, room(layout_.inverses) + first);
    Base::outer_products(room(layout_.q), room(layout_.out), c.queries, room(layout_.later));
    add_rows(room(layout_.q), c.queries, layout_.dim, room(layout_.weights) + first,
             room(layout_.later_mass));
  }

  // What R and r give the loaded keys, added to what waits from the row on; written out.
  HWY_NOINLINE void keys(const Chunk& c, int64_t row) const {
    const F32 d;
    float* const dk = room(layout_.dk) + row * layout_.dim;
    float* const dv = room(layout_.dv) + row * layout_.value_dim;
    const float* const k = room(layout_.k);
    transpose<false>(room(layout_.later), layout_.value_dim, p_.head_dim, p_.value_dim, 1.0f,
                     room(layout_.later_t), layout_.dim);
    // The lanes beyond head_dim are not stored, but no product may meet what stood there.
    for (int64_t e = 0; e < p_.value_dim; ++e)
      fill_zero(room(layout_.later_t) + e * layout_.dim + p_.head_dim, layout_.dim - p_.head_dim);
    product<Into::add, Contiguous::step>({.a = room(layout_.v),
                                          .a_stride = layout_.value_dim,
                                          .b = room(layout_.later_t),
                                          .b_stride = layout_.dim,
                                          .c = dk,
                                          .c_stride = layout_.dim,
                                          .lane_row = nullptr,
                                          .steps = p_.value_dim},
                                         c.keys, layout_.dim / kLanes);
    product<Into::add, Contiguous::step>({.a = k,
                                          .a_stride = layout_.dim,
                                          .b = room(layout_.later),
                                          .b_stride = layout_.value_dim,
                                          .c = dv,
                                          .c_stride = layout_.value_dim,
                                          .lane_row = nullptr,
                                          .steps = p_.head_dim},
                                         c.keys, layout_.value_dim / kLanes);
    for (int64_t j = 0; j < c.keys; ++j) {
      for (int64_t i = 0; i < layout_.dim; i += kLanes) {
        float* const to = dk + j * layout_.dim + i;
        const Vec sum = hn::Add(hn::Load(d, to), hn::Load(d, room(layout_.later_mass) + i));
        hn::Store(hn::Mul(sum, slope_of_feature(hn::Load(d, k + j * layout_.dim + i))), d, to);
      }
    }
    store_rows(dk, layout_.dim, c.keys, p_.head_dim,
               at(args_.dk, p_.dk, c.first_key, task_.kv_head), p_.dk.token);
    store_rows(dv, layout_.value_dim, c.keys, p_.value_dim,
               at(args_.dv, p_.dv, c.first_key, task_.kv_head), p_.dv.token);
  }
};

}  // namespace

void linear_attention_backward(const BackwardTask& task, float* scratch) {
  const Layout layout(task.problem, kLanes, true);
  if (task.problem.dtype == DType::f32)
    Backward<float>(task, layout, scratch).run();
  else
    Backward<bf16>(task, layout, scratch).run();
}
int64_t linear_attention_backward_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::linear_attention_detail {

void append_backward_hwy([[maybe_unused]] std::vector<LinearAttentionBackwardKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)                                                          \
  if (supported & bit)                                                                        \
    list.push_back(                                                                           \
        {name, plan_hwy<LinearAttentionBackwardArgs, true, target::linear_attention_backward, \
                        target::linear_attention_backward_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::linear_attention_detail
#endif  // HWY_ONCE
