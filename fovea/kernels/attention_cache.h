// Where the rows of keys and values lie: in strides, or in the pages of a pool; and the scales of
// rows of i8. For the kernels that read a cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/storage.h"

namespace fovea::attention_detail {

struct CacheRows {
  const std::byte* first;
  AttentionStrides strides;  // in bytes
  const float* scales;       // null: none
  AttentionStrides scale_strides;
  const int32_t* pages;  // the table; null: no pages
  int64_t page_tokens;
  int64_t page_columns;

  // Where token t of sample b stands: a place along `batch`, and along `token`.
  struct Place {
    int64_t batch, token;
  };
  Place place(int64_t b, int64_t t) const {
    if (!pages) return {b, t};
    return {pages[b * page_columns + t / page_tokens], t % page_tokens};
  }
  const void* at(int64_t b, int64_t t, int64_t head) const {
    const Place p = place(b, t);
    return row(first, strides, p.batch, p.token, head);
  }
  float scale(int64_t b, int64_t t, int64_t head) const {
    const Place p = place(b, t);
    return *row(scales, scale_strides, p.batch, p.token, head);
  }
};

inline CacheRows cache_rows(const AttentionProblem& p, const AttentionArgs& args, const void* first,
                            const AttentionStrides& s, const float* scales,
                            const AttentionStrides& scale_strides) {
  const DType type = p.kv_dtype.value_or(p.dtype);
  const auto element = static_cast<int64_t>(dtype_size(type));
  const int64_t page = p.page_tokens > 0 ? p.page_tokens : 1;
  return {
      .first = static_cast<const std::byte*>(first),
      .strides = {.batch = s.batch * element, .token = s.token * element, .head = s.head * element},
      .scales = type == DType::i8 ? scales : nullptr,
      .scale_strides = scale_strides,
      .pages = p.page_tokens > 0 ? args.pages : nullptr,
      .page_tokens = page,
      .page_columns = p.page_columns > 0 ? p.page_columns : (p.tk + page - 1) / page};
}
inline CacheRows cached_keys(const AttentionProblem& p, const AttentionArgs& args) {
  return cache_rows(p, args, args.k, p.k, args.k_scale, p.k_scale);
}
inline CacheRows cached_values(const AttentionProblem& p, const AttentionArgs& args) {
  return cache_rows(p, args, args.v, p.v, args.v_scale, p.v_scale);
}

}  // namespace fovea::attention_detail
