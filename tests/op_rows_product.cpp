// matmul and linear.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

OpRow matmul_row(std::string label, Shape a, Shape b, MatmulAttrs attrs = {},
                 bool gradient = true) {
  OpRow row{.op = "matmul",
            .label = std::move(label),
            .build = [=](Graph& g, DType t) -> std::vector<Value> {
              return {ops::matmul(g, ops::input(g, "a", t, a), ops::input(g, "b", t, b), attrs)};
            }};
  if (gradient) row.differentiable = {"a", "b"};
  row.tolerance = gradient ? 1e-5 : 1e-4;  // long sums
  return row;
}

OpRow linear_row(std::string label, Shape x, Shape weight, bool bias, bool gradient = true) {
  OpRow row{
      .op = "linear",
      .label = std::move(label),
      .build = [=](Graph& g, DType t) -> std::vector<Value> {
        const Value b = bias ? ops::input(g, "bias", t, {weight[0]}) : Value{};
        return {ops::linear(g, ops::input(g, "x", t, x), ops::input(g, "weight", t, weight), b)};
      }};
  if (gradient) row.differentiable = {"x", "weight"};
  if (gradient && bias) row.differentiable.push_back("bias");
  row.tolerance = gradient ? 1e-5 : 1e-4;
  return row;
}

}  // namespace

std::vector<OpRow> product_rows() {
  return {
      matmul_row("plain", {5, 7}, {7, 3}),
      matmul_row("a_transposed", {7, 5}, {7, 3}, {.transpose_a = true}),
      matmul_row("b_transposed", {5, 7}, {3, 7}, {.transpose_b = true}),
      matmul_row("both_transposed", {7, 5}, {3, 7}, {.transpose_a = true, .transpose_b = true}),
      matmul_row("one_row", {1, 9}, {9, 4}),
      matmul_row("one_column", {6, 9}, {9, 1}),
      matmul_row("outer_product", {4, 1}, {1, 5}),
      matmul_row("batched", {3, 4, 5}, {3, 5, 2}),
      matmul_row("batched_b_transposed", {2, 3, 4, 5}, {2, 3, 6, 5}, {.transpose_b = true}),
      matmul_row("one_b_for_all", {3, 4, 5}, {5, 2}),
      matmul_row("one_a_for_all", {4, 5}, {3, 5, 2}),
      matmul_row("one_a_transposed_for_all", {5, 4}, {3, 5, 2}, {.transpose_a = true}),
      matmul_row("batch_broadcast_both_ways", {2, 1, 3, 4}, {3, 4, 2}),
      matmul_row("grouped_heads", {2, 2, 3, 4, 5}, {2, 2, 1, 6, 5}, {.transpose_b = true}),
      matmul_row("no_rows", {0, 4}, {4, 3}, {}, false),
      matmul_row("many_rows", {777, 65}, {65, 33}, {}, false),
      matmul_row("wide", {70, 130}, {130, 1100}, {}, false),
      matmul_row("long_sum", {4100, 24}, {4100, 40}, {.transpose_a = true}, false),
      matmul_row("large_b_transposed", {64, 600}, {600, 600}, {.transpose_b = true}, false),
      matmul_row("many_batches", {37, 49, 16}, {37, 16, 49}, {}, false),
      linear_row("with_bias", {6, 5}, {4, 5}, true),
      linear_row("without_bias", {6, 5}, {4, 5}, false),
      linear_row("sequence", {2, 3, 5}, {4, 5}, true),
      linear_row("one_output", {6, 5}, {1, 5}, true),
      linear_row("large", {300, 3, 64}, {128, 64}, true, false),
      linear_row("few_rows_long_sum", {8, 3000}, {16, 3000}, true, false),
  };
}

}  // namespace fovea::harness
