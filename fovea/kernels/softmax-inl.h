// The powers of groups of rows and their sums, which softmax_hwy.cpp computes for cross-entropy
// too; included once a target.
#ifndef FOVEA_KERNELS_SOFTMAX_EXP_ROWS_
#define FOVEA_KERNELS_SOFTMAX_EXP_ROWS_

#include <cstddef>
#include <cstdint>

#include "fovea/kernels/hwy_targets.h"
#include "hwy/highway.h"

namespace fovea::softmax_detail {

// A group of rows and what is known of each: base, the maximum (0 where that is -infinity), and
// sum, of exp(x - base).
struct ExpRows {
  const float* x;
  // exp(x - maximum of the lane so far); null: not wanted. Short rows are padded to whole vectors
  // and lie in the scratch; a long row lies where the result will.
  float* e;
  int64_t count, cols;
  float* base;       // [count], for each whole vectors
  float* sum;        // [count]
  float* lane_base;  // of one row: the maxima of the lanes for each block of a long row
};

// The powers of a group of short rows, or what a long row leaves of each block, for any target.
size_t scratch_bytes_for(int64_t cols);

}  // namespace fovea::softmax_detail
#endif

#if defined(FOVEA_KERNELS_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_SOFTMAX_INL_H_
#undef FOVEA_KERNELS_SOFTMAX_INL_H_
#else
#define FOVEA_KERNELS_SOFTMAX_INL_H_
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {

// Rows that go together; more than one means that they are short.
int64_t softmax_group(int64_t cols);
// At most softmax_group(cols) rows.
void softmax_exp_rows(const softmax_detail::ExpRows& rows);
// to = scale exp(x - base) + shift for row r of what softmax_exp_rows left in e.
void softmax_scale_row(const softmax_detail::ExpRows& rows, int64_t r, float scale, float shift,
                       float* to);
// The natural logarithm of sums of powers, a vector of them: NaN stays, and 0 gives 0.
void softmax_log_sums(const float* sum, float* out);

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
