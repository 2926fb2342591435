// Linear attention, forward, in SIMD of each target; bf16 is converted when it is loaded and
// stored.
#define HWY_TARGET_INCLUDE "fovea/kernels/linear_attention_hwy.cpp"
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

using linear_attention_detail::ForwardTask;

template <class T>
class Forward : Chunks<T, ForwardTask> {
  using Base = Chunks<T, ForwardTask>;
  using Base::args_, Base::at, Base::layout_, Base::length_, Base::p_, Base::room, Base::task_;

 public:
  using Base::Base;

  void run() {
    Base::clear_state();
    const int64_t blind = Base::blind();
    for (int64_t h = 0; h < p_.group() && blind > 0; ++h)
      write_zeros(at(args_.out, p_.out, 0, Base::query_head(h)), p_.out, blind, p_.value_dim);
    if (p_.causal) {
      for (int64_t i = 0; i < Base::chunk_count(p_.tk); ++i) {
        const Chunk c = Base::chunk_of(i);
        if (c.keys > 0) Base::load_keys(c);
        for (int64_t h = 0; h < p_.group() && c.queries > 0; ++h) queries(c, Base::query_head(h));
        if (c.keys > 0) Base::add_keys(c);
      }
      return;
    }
    for (int64_t i = 0; i < Base::chunk_count(length_); ++i) {
      Base::load_keys(Base::keys_of(i));
      Base::add_keys(Base::keys_of(i));
    }
    for (int64_t h = 0; h < p_.group(); ++h)
      for (int64_t i = 0; i < Base::chunk_count(p_.tq); ++i)
        queries(Base::queries_of(i), Base::query_head(h));
  }

 private:
  HWY_NOINLINE void queries(const Chunk& c, int64_t head) const {
    const F32 d;
    Base::load_queries(c, head);
    float* const norm = room(layout_.norm);
    float* const out = room(layout_.out);
    product<Into::set, Contiguous::row>({.a = room(layout_.qt),
                                         .a_stride = layout_.chunk,
                                         .b = room(layout_.state),
                                         .b_stride = layout_.value_dim,
                                         .c = out,
                                         .c_stride = layout_.value_dim,
                                         .lane_row = nullptr,
                                         .steps = p_.head_dim},
                                        c.queries, layout_.value_dim / kLanes);
    if (c.keys > 0) own_keys(c, norm, out);
    for (int64_t v = 0; v < c.queries; v += kLanes)
      hn::Store(simd::inverse_or_zero(hn::Load(d, norm + v)), d, norm + v);
    scale_rows(out, c.queries, layout_.value_dim, norm);
    store_rows(out, layout_.value_dim, c.queries, p_.value_dim,
               at(args_.out, p_.out, c.first_query, head), p_.out.token);
  }

  // The links within the chunk.
  void own_keys(const Chunk& c, float* norm, float* out) const {
    const F32 d;
    float* const links = room(layout_.links);
    Base::chunk_links(c, room(layout_.k), layout_.dim, room(layout_.qt), p_.head_dim, links);
    for (int64_t v = 0; v < c.queries; v += kLanes) {
      Vec sum = hn::Load(d, norm + v);
      for (int64_t j = 0; j < c.keys && c.seen_from(j) <= v; ++j) {
        float* const link = links + j * layout_.chunk + v;
        const Vec left = hn::IfThenElseZero(sees(c, j, v), hn::Load(d, link));
        hn::Store(left, d, link);
        sum = hn::Add(sum, left);
      }
      hn::Store(sum, d, norm + v);
    }
    for (int64_t i = 0; i < c.queries; i += kStep) {
      const int64_t rows = HWY_MIN(kStep, c.queries - i);
      product<Into::add, Contiguous::row>({.a = links + i,
                                           .a_stride = layout_.chunk,
                                           .b = room(layout_.v),
                                           .b_stride = layout_.value_dim,
                                           .c = out + i * layout_.value_dim,
                                           .c_stride = layout_.value_dim,
                                           .lane_row = nullptr,
                                           .steps = c.seen_by(i + rows)},
                                          rows, layout_.value_dim / kLanes);
    }
  }
};

}  // namespace

void linear_attention_forward(const ForwardTask& task, float* scratch) {
  const Layout layout(task.problem, kLanes, false);
  if (task.problem.dtype == DType::f32)
    Forward<float>(task, layout, scratch).run();
  else
    Forward<bf16>(task, layout, scratch).run();
}
int64_t linear_attention_lanes() { return kLanes; }

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::linear_attention_detail {

void append_hwy([[maybe_unused]] std::vector<LinearAttentionKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name)                                                             \
  if (supported & bit)                                                                           \
    list.push_back({name, plan_hwy<LinearAttentionArgs, false, target::linear_attention_forward, \
                                   target::linear_attention_lanes>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea::linear_attention_detail
#endif  // HWY_ONCE
