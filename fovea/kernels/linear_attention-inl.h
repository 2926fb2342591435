// SIMD parts shared by the kernels of linear attention, included once a target: chunks of tokens
// and the running state. In a chunk the lanes run over queries (Q^T is made once) or over the
// columns of V, so no sum needs a horizontal step. What a causal mask hides is left out in steps of
// 16 keys.
#if defined(FOVEA_KERNELS_LINEAR_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_LINEAR_ATTENTION_INL_H_
#undef FOVEA_KERNELS_LINEAR_ATTENTION_INL_H_
#else
#define FOVEA_KERNELS_LINEAR_ATTENTION_INL_H_
#endif

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/linear_attention_layout.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using linear_attention_detail::kStep;
using linear_attention_detail::Layout;

// phi = elu + 1; its slope is min(phi, 1).
HWY_INLINE Vec feature(Vec x) {
  return hn::Add(simd::exp(simd::at_most(x, 0.0f)), simd::at_least(x, 0.0f));
}
HWY_INLINE Vec slope_of_feature(Vec phi) { return simd::at_most(phi, 1.0f); }

HWY_NOINLINE void make_features(float* rows, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kLanes)
    hn::Store(feature(hn::Load(F32(), rows + i)), F32(), rows + i);
}

// sums[column] += factors[row] * rows[row][column]; no factors: 1.
HWY_NOINLINE void add_rows(const float* rows, int64_t count, int64_t width, const float* factors,
                           float* sums) {
  const F32 d;
  for (int64_t c = 0; c < width; c += kLanes) {
    Vec sum = hn::Zero(d);
    for (int64_t r = 0; r < count; ++r) {
      const Vec x = hn::Load(d, rows + r * width + c);
      sum = factors ? hn::MulAdd(x, hn::Set(d, factors[r]), sum) : hn::Add(sum, x);
    }
    hn::Store(hn::Add(hn::Load(d, sums + c), sum), d, sums + c);
  }
}

HWY_NOINLINE void scale_rows(float* rows, int64_t count, int64_t width, const float* factors) {
  const F32 d;
  for (int64_t r = 0; r < count; ++r) {
    const Vec factor = hn::Set(d, factors[r]);
    for (int64_t c = r * width; c < (r + 1) * width; c += kLanes)
      hn::Store(hn::Mul(hn::Load(d, rows + c), factor), d, rows + c);
  }
}

// The tokens of one chunk: its keys, and the queries that stand at its positions.
struct Chunk {
  int64_t first_key, keys;
  int64_t first_query, queries;
  int64_t shift;  // of the first query against the first key

  // The first column, a multiple of kStep, whose query sees the key.
  int64_t seen_from(int64_t key) const { return HWY_MAX(0, key - shift) / kStep * kStep; }
  // How many keys the queries before `end` see at most.
  int64_t seen_by(int64_t end) const { return HWY_MIN(keys, shift + end); }
};

// Lanes whose query sees the key, from a column on.
HWY_INLINE auto sees(const Chunk& c, int64_t key, int64_t column) {
  const I32 di;
  const auto query = hn::Iota(di, static_cast<int32_t>(column + c.shift));
  return hn::RebindMask(F32(), hn::Lt(hn::Set(di, static_cast<int32_t>(key - 1)), query));
}

// What both directions share: the chunks, and the running state.
template <class T, class TaskType>
class Chunks {
 public:
  Chunks(const TaskType& task, const Layout& layout, float* scratch)
      : p_(task.problem),
        args_(task.args),
        task_(task),
        layout_(layout),
        scratch_(scratch),
        length_(p_.key_length(task.args.key_lengths, task.batch)) {}

 protected:
  using In = const T*;

  In at(const void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<In>(base), s, task_.batch, token, head);
  }
  T* at(void* base, const AttentionStrides& s, int64_t token, int64_t head) const {
    return attention_detail::row(static_cast<T*>(base), s, task_.batch, token, head);
  }
  float* room(int64_t at) const { return scratch_ + at; }
  int64_t query_head(int64_t in_group) const { return task_.kv_head * p_.group() + in_group; }

  int64_t chunk_count(int64_t tokens) const { return (tokens + layout_.chunk - 1) / layout_.chunk; }
  // Of positions, for a causal mask.
  Chunk chunk_of(int64_t index) const {
    const int64_t begin = index * layout_.chunk, end = HWY_MIN(begin + layout_.chunk, p_.tk);
    const int64_t behind = p_.tk - p_.tq;
    const int64_t first = HWY_MAX(0, begin - behind), last = HWY_MIN(p_.tq, end - behind);
    return {begin, HWY_MAX(0, HWY_MIN(end, length_) - begin), first, HWY_MAX(0, last - first),
            first + behind - begin};
  }
  Chunk keys_of(int64_t index) const {
    const int64_t begin = index * layout_.chunk;
    return {begin, HWY_MIN(layout_.chunk, length_ - begin), 0, 0, 0};
  }
  Chunk queries_of(int64_t index) const {
    const int64_t begin = index * layout_.chunk;
    return {0, 0, begin, HWY_MIN(layout_.chunk, p_.tq - begin), 0};
  }
  // Queries that stand before the first key.
  int64_t blind() const { return p_.causal ? HWY_MIN(p_.tq, HWY_MAX(0, p_.tq - p_.tk)) : 0; }

  void clear_state() const {
    fill_zero(room(layout_.state), p_.head_dim * layout_.value_dim);
    fill_zero(room(layout_.mass), layout_.dim);
  }
  void load_keys(const Chunk& c) const {
    copy_rows(at(args_.k, p_.k, c.first_key, task_.kv_head), p_.k.token, c.keys, p_.head_dim,
              room(layout_.k), layout_.dim);
    make_features(room(layout_.k), c.keys * layout_.dim);
    copy_rows(at(args_.v, p_.v, c.first_key, task_.kv_head), p_.v.token, c.keys, p_.value_dim,
              room(layout_.v), layout_.value_dim);
  }
  void add_keys(const Chunk& c) const {
    outer_products(room(layout_.k), room(layout_.v), c.keys, room(layout_.state));
    add_rows(room(layout_.k), c.keys, layout_.dim, nullptr, room(layout_.mass));
  }
  // into[head_dim][value_dim] += the sum over rows of left^T right.
  void outer_products(const float* left, const float* right, int64_t rows, float* into) const {
    product<Into::add, Contiguous::row>({.a = left,
                                         .a_stride = layout_.dim,
                                         .b = right,
                                         .b_stride = layout_.value_dim,
                                         .c = into,
                                         .c_stride = layout_.value_dim,
                                         .lane_row = nullptr,
                                         .steps = rows},
                                        p_.head_dim, layout_.value_dim / kLanes);
  }
  void load_features(const Chunk& c, int64_t head) const {
    copy_rows(at(args_.q, p_.q, c.first_query, head), p_.q.token, c.queries, p_.head_dim,
              room(layout_.q), layout_.dim);
    make_features(room(layout_.q), c.queries * layout_.dim);
  }
  // phi(Q)^T, and phi(q) z of each query from the state. Absent queries give 0.
  void load_queries(const Chunk& c, int64_t head) const {
    load_features(c, head);
    load_transposed(room(layout_.q), layout_.dim, c.queries, p_.head_dim, 1.0f, room(layout_.qt),
                    layout_.chunk);
    product<Into::set, Contiguous::step>({.a = room(layout_.mass),
                                          .a_stride = layout_.dim,
                                          .b = room(layout_.qt),
                                          .b_stride = layout_.chunk,
                                          .c = room(layout_.norm),
                                          .c_stride = layout_.chunk,
                                          .lane_row = nullptr,
                                          .steps = p_.head_dim},
                                         1, vecs(c));
  }
  int64_t vecs(const Chunk& c) const { return (c.queries + kLanes - 1) / kLanes; }

  // into[key][query] = left[key] right[query] for the links that a causal mask leaves in steps.
  void chunk_links(const Chunk& c, const float* left, int64_t left_stride, const float* right_t,
                   int64_t steps, float* into) const {
    for (int64_t j = 0; j < c.keys; j += kStep) {
      const int64_t from = c.seen_from(j), rest = vecs(c) - from / kLanes;
      if (rest <= 0) return;
      product<Into::set, Contiguous::step>({.a = left + j * left_stride,
                                            .a_stride = left_stride,
                                            .b = right_t + from,
                                            .b_stride = layout_.chunk,
                                            .c = into + j * layout_.chunk + from,
                                            .c_stride = layout_.chunk,
                                            .lane_row = nullptr,
                                            .steps = steps},
                                           HWY_MIN(kStep, c.keys - j), rest);
    }
  }

  const LinearAttentionProblem& p_;
  decltype(TaskType::args) args_;
  const TaskType& task_;
  const Layout& layout_;
  float* const scratch_;
  const int64_t length_;
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
