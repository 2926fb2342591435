// Rows in 8 bits with a scale each, as a cache of attention holds them
// (AttentionProblem::kv_dtype): a row is its scale times the numbers that stand there.
#pragma once

#include <cstdint>

#include "fovea/kernels/attention.h"

namespace fovea {

struct QuantiseRows {
  DType dtype = DType::f32;  // of the rows: f32 or bf16
  int64_t batch = 1;
  int64_t tokens = 1;
  int64_t heads = 1;
  int64_t dim = 1;
  AttentionStrides from = {};    // of the rows
  AttentionStrides to = {};      // of their numbers in i8
  AttentionStrides scales = {};  // of an f32 for each row
};

// The scale is the largest number of a row divided by 127; numbers are rounded to the nearest. A
// row that is not finite gets a scale of NaN, so that it stays what it was to its readers. Throws
// Error (invalid_argument) for another type. Without a pool: on the calling thread.
void quantise_rows(const QuantiseRows& rows, const void* from, int8_t* to, float* scales,
                   ThreadPool* pool = nullptr);

}  // namespace fovea
