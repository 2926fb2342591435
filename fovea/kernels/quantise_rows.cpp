#include "fovea/kernels/quantise_rows.h"

#include <cmath>
#include <string>

#include "fovea/base/error.h"

namespace fovea {
namespace {

template <class T>
void quantise(const T* from, int64_t dim, int8_t* to, float& scale) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < dim; ++i) {
    const float size = std::abs(static_cast<float>(from[i]));
    finite = finite && std::isfinite(size);
    largest = std::max(largest, size);
  }
  scale = finite ? largest / 127 : NAN;
  // Rows of numbers whose inverse is none are as good as 0.
  const float inverse = finite && largest > 1e-36f ? 127 / largest : 0;
  if (inverse == 0 && finite) scale = 0;
  for (int64_t i = 0; i < dim; ++i)
    to[i] = inverse == 0
                ? int8_t{0}
                : static_cast<int8_t>(std::nearbyint(static_cast<float>(from[i]) * inverse));
}

template <class T>
void quantise_all(const QuantiseRows& r, const T* from, int8_t* to, float* scales,
                  ThreadPool& pool) {
  using attention_detail::row;
  pool.parallel_for(r.batch * r.tokens, [&](int64_t n, int) {
    const int64_t b = n / r.tokens, t = n % r.tokens;
    for (int64_t h = 0; h < r.heads; ++h)
      quantise(row(from, r.from, b, t, h), r.dim, row(to, r.to, b, t, h),
               *row(scales, r.scales, b, t, h));
  });
}

}  // namespace

void quantise_rows(const QuantiseRows& rows, const void* from, int8_t* to, float* scales,
                   ThreadPool* pool) {
  ThreadPool alone(1);
  ThreadPool& workers = pool ? *pool : alone;
  if (rows.dtype == DType::f32)
    quantise_all(rows, static_cast<const float*>(from), to, scales, workers);
  else if (rows.dtype == DType::bf16)
    quantise_all(rows, static_cast<const bf16*>(from), to, scales, workers);
  else
    throw Error{ErrorCode::invalid_argument, "[quantise_rows] expected dtype of f32 or bf16, got " +
                                                 std::string(dtype_name(rows.dtype))};
}

}  // namespace fovea
