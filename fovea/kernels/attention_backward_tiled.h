// Attention for long sequences in bf16, backward: operands and products with vdpbf16ps behind plain
// functions, for the driver with the masks (attention_backward_tiled_avx3.cpp); forward turns rows
// with them too. Not for callers.
#pragma once

#include <cstdint>
#include <memory>

#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_detail {

// bf16 with vdpbf16ps, with all masks, biases, sinks, the soft cap, temperatures and changed rows
// (attention_rows.h); nullptr for others.
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward_tiled_avx512bf16(
    const AttentionProblem& problem);

// Whether the driver is compiled in, and takes the problem apart from its types.
bool tiled_backward(const AttentionProblem& problem);
std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_tiled_backward(
    const AttentionProblem& problem);

namespace tiled_bf16 {

// Rows of elements.
struct RowsFrom {
  const bf16* first;
  int64_t token;  // from row to row, in elements
  int64_t count, dim;
};

// Turns rows by their positions (attention_rows.h) in f32 and rounds them; what is not turned is
// copied.
struct RotatedRows {
  const bf16* const* rows;
  int64_t count, dim;
  const float* table;  // of the first row's position: half cosines, half sines; then of the next
  int64_t half;
  RotaryLayout layout;
};
void rotated(const RotatedRows& from, bf16* to, int64_t stride);

// Pairs along the rows' elements, [pairs(dim)][width]; rows that are not there are 0.
void transposed(const RowsFrom& from, uint32_t* to, int64_t width);
// Rows `stride` elements apart, filled up with zeros to 32 elements.
void copied(const RowsFrom& from, bf16* to, int64_t stride);
// Pairs of rows, [pairs(rows)][stride]; where there is no row, and beyond dim up to 32 elements: 0.
void paired(const RowsFrom& from, int64_t rows, uint32_t* to, int64_t stride);

// C[row][lane] from rows of pairs, `a_row` elements apart, and B[step][lane].
struct Product {
  const void* a;
  int64_t a_row;  // elements of bf16; of columns(): pairs from step to step
  const uint32_t* b;
  int64_t b_step;
  int64_t steps;
  float* c;
  int64_t c_row;
};
void rows_by_lanes(const Product& x, int64_t rows, int64_t lanes);  // C = A B
void rows_by_lanes_scaled(const Product& x, int64_t rows, int64_t lanes, const float* lane_factor);
void add_rows_by_lanes(const Product& x, int64_t rows, int64_t lanes);  // C += A B
void add_columns_by_lanes(const Product& x, int64_t rows,
                          int64_t lanes);  // C += A^T B, A[step][row]

// A block of scores [keys][width] and of dP, which lies like them.
struct GradientBlock {
  float* scores;
  float* dp;
  int64_t keys, width;
  bf16* p_rows;        // [keys][width]
  bf16* ds_rows;       // [keys][width]
  uint32_t* ds_pairs;  // pairs of keys, [pairs(keys)][width]
  // Added to scores times their factor: distances[lane - key]. Null: nothing.
  const float* distances = nullptr;
};
// P = exp2(factor scores + distances - lse) and dS = P (dP - delta), rounded. keep: dS as it was
// stands in dp.
void probabilities(const GradientBlock& x, float factor, const float* lses, const float* deltas,
                   bool keep);
// From P and dS in f32, which stand in scores and dp.
void rounded(const GradientBlock& x);

float dot_rows(const bf16* a, const bf16* b, int64_t n);

}  // namespace tiled_bf16
}  // namespace fovea::attention_detail
