// Tests an op by one row: how to make a graph with the op in it, and within what numbers. From the
// row the harness tells whether every kernel is right, whether the gradient is, which kernels
// support it, and whether the number of threads changes a bit.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea::harness {

// The numbers of one input: uniform in [low, high), or one of the multiples of `step` in
// [low, high]. Inputs of whole numbers take step 1.
struct Range {
  double low = -2;
  double high = 2;
  double step = 0;
};

// Numbers outside any session. Every type that is tested fits into double.
using Numbers = std::vector<double>;
using NumbersByName = std::map<std::string, Numbers>;

struct OpRow {
  std::string op;
  std::string label;  // tells the rows of one op apart
  // Makes the inputs (input nodes), the node and perhaps others that feed it; gives the outputs to
  // compare. The type is f32, or f64 for the reference; it is that of all floating inputs that the
  // row wants to vary.
  std::function<std::vector<Value>(Graph&, DType)> build;
  // Names of the inputs for which the gradient is compared with finite differences.
  std::vector<std::string> differentiable = {};
  // By input name; others are in [-2, 2), i32 in [0, 2].
  std::map<std::string, Range> ranges = {};
  // f32 against f64: |got - expected| <= tolerance max(1, |expected|).
  double tolerance = 1e-5;
  // f64 against central differences in f64, likewise.
  double gradient_tolerance = 1e-6;
  // Which of the outputs a gradient flows into; empty: all of a floating type.
  std::vector<size_t> seeds = {};
  // The outputs as the test itself computes them from the inputs, where that is plain to write.
  std::function<std::vector<Numbers>(const NumbersByName&)> expected = {};
};

std::vector<OpRow> attention_extra_rows();
std::vector<OpRow> attention_link_rows();
std::vector<OpRow> attention_normaliser_rows();
std::vector<OpRow> attention_row_rows();
std::vector<OpRow> attention_rows();
std::vector<OpRow> conv_rows();
std::vector<OpRow> elementwise_rows();
std::vector<OpRow> index_rows();
std::vector<OpRow> norm_rows();
std::vector<OpRow> normalise_rows();
std::vector<OpRow> optimiser_rows();
std::vector<OpRow> product_rows();
std::vector<OpRow> score_rows();
std::vector<OpRow> shape_rows();
// All of them.
const std::vector<OpRow>& all_rows();

// How one kernel took to a row.
struct Support {
  std::string kernel;  // "matmul:dnnl"
  bool supported = false;
};
// For each kernel of each family that the row's op uses; none for an op without kernels.
std::vector<Support> support_of(const OpRow& row);

// Each finds fault with gtest's EXPECT_*.
void expect_right(const OpRow& row);
void expect_gradient(const OpRow& row);
void expect_equal_bits_for_any_threads(const OpRow& row);

// One line for each kernel of the row: time, GFLOP/s, GB/s.
void print_speed(const OpRow& row);

}  // namespace fovea::harness
