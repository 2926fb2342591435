// The products of queries with relative keys (Dai et al. 2019, Transformer-XL, section 3.3),
// included once a target. The keys that one query and its neighbour meet are shifted by one, so a
// block of queries is multiplied with all relative keys that its links meet, [query][relative key],
// and read along the diagonals: row by row, with a stride that is one shorter.
#if defined(FOVEA_KERNELS_ATTENTION_RELATIVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_RELATIVE_INL_H_
#undef FOVEA_KERNELS_ATTENTION_RELATIVE_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_RELATIVE_INL_H_
#endif

#include <cstdint>

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_rows.h"
#include "fovea/kernels/attention_scores-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::relative_width;

// Relative keys of one key/value head, [tq + tk - 1][head_dim], to rows of padded floats (if `rows`
// is not null) and transposed, [head_dim][relative_width]; what is absent is 0.
HWY_INLINE void lay_out_relative(const AttentionProblem& p, const float* from, float* rows,
                                 float* transposed) {
  const int64_t count = p.tq + p.tk - 1, width = relative_width(p);
  if (rows) {
    const int64_t padded = whole_vectors(p.head_dim);
    copy_rows(from, p.head_dim, count, p.head_dim, rows, padded);
    fill_zero(rows + count * padded, (width - count) * padded);
  }
  for (int64_t c = 0; c < p.head_dim; ++c) fill_zero(transposed + c * width + count, width - count);
  transpose<false>(from, p.head_dim, count, p.head_dim, 1.0f, transposed, width);
}

// The relative keys that a block of links meets.
struct RelativeBlock {
  RelativeBlock(const AttentionProblem& p, const ScoreBlock& x, int64_t query, int64_t count)
      : queries(count) {
    const int64_t least = x.first_key - (query + count - 1) + p.tq - 1;
    first = least / kLanes * kLanes;
    columns = whole_vectors(least - first + x.keys + count - 1);
    corner = least - first + count - 1;
  }

  int64_t queries;
  int64_t first;    // relative key, a multiple of the lanes
  int64_t columns;  // from there on, in whole vectors
  int64_t corner;   // where in the first query's row the first key stands; one less a query
};

// Adds the products to the scores. qt: the queries for relative keys, transposed, [head_dim][stride
// of the scores]; products: room for relative_block_room() floats.
HWY_NOINLINE void add_relative(const AttentionProblem& p, const ScoreBlock& x, int64_t query,
                               int64_t queries, const float* qt, const float* transposed,
                               float* products) {
  const RelativeBlock r(p, x, query, queries);
  product<Into::set, Contiguous::row>({.a = qt,
                                       .a_stride = x.stride,
                                       .b = transposed + r.first,
                                       .b_stride = relative_width(p),
                                       .c = products,
                                       .c_stride = r.columns,
                                       .lane_row = nullptr,
                                       .steps = p.head_dim},
                                      queries, r.columns / kLanes);
  transpose<true>(products + r.corner, r.columns - 1, queries, x.keys, 1.0f, x.scores, x.stride);
}

// What the gradients of a block's scores add to those of its queries and of relative keys.
struct RelativeGradients {
  const float* q;     // for relative keys, [queries][dim]
  const float* rows;  // relative keys, [relative_width][dim]
  float* dq;          // [queries][dim]
  float* drows;       // [relative_width][dim]
  int64_t dim;        // in whole vectors
};

// ds lies like the scores.
HWY_NOINLINE void add_relative_gradients(const AttentionProblem& p, const ScoreBlock& x,
                                         int64_t query, int64_t queries, const float* ds,
                                         const RelativeGradients& to, float* products) {
  const RelativeBlock r(p, x, query, queries);
  fill_zero(products, queries * r.columns);
  transpose<false>(ds, x.stride, x.keys, queries, 1.0f, products + r.corner, r.columns - 1);
  product<Into::add, Contiguous::row>({.a = products,
                                       .a_stride = r.columns,
                                       .b = to.q,
                                       .b_stride = to.dim,
                                       .c = to.drows + r.first * to.dim,
                                       .c_stride = to.dim,
                                       .lane_row = nullptr,
                                       .steps = queries},
                                      r.columns, to.dim / kLanes);
  product<Into::add, Contiguous::step>({.a = products,
                                        .a_stride = r.columns,
                                        .b = to.rows + r.first * to.dim,
                                        .b_stride = to.dim,
                                        .c = to.dq,
                                        .c_stride = to.dim,
                                        .lane_row = nullptr,
                                        .steps = r.columns},
                                       queries, to.dim / kLanes);
}

// Adds a row of `dim` floats, if there is one, to each of the rows.
HWY_INLINE void add_to_rows(const float* row, float* rows, int64_t stride, int64_t count,
                            int64_t dim) {
  if (!row) return;
  for (int64_t i = 0; i < count; ++i)
    simd::for_columns(dim, [&](int64_t c, auto n) HWY_ATTR {
      simd::put(hn::Add(simd::get(rows + i * stride + c, n), simd::get(row + c, n)),
                rows + i * stride + c, n);
    });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
