// Convolution and pooling, with their gradient ops.
#include "tests/op_harness.h"

namespace fovea::harness {

namespace {

struct Conv {
  std::string label;
  Shape x, weight;
  Conv2dAttrs attrs;
  bool bias = true;
  bool gradient = true;
};

void add_convolutions(std::vector<OpRow>& rows) {
  const Conv all[] = {
      {"plain", {2, 5, 6, 3}, {4, 3, 3, 3}, {}},
      {"without_bias", {1, 5, 5, 2}, {3, 2, 2, 2}, {}, false},
      {"strided_padded", {2, 7, 7, 2}, {3, 3, 3, 2}, {2, 2, 1, 1}},
      {"stride_that_leaves_a_rest", {1, 6, 8, 1}, {2, 3, 3, 1}, {2, 2, 0, 0}},
      {"unequal_strides_and_padding", {1, 6, 5, 2}, {2, 3, 2, 2}, {2, 1, 2, 0}},
      {"pointwise", {2, 3, 3, 5}, {4, 1, 1, 5}, {}},
      {"whole_image", {3, 4, 4, 2}, {5, 4, 4, 2}, {}},
      {"stem", {6, 28, 28, 1}, {32, 3, 3, 1}, {2, 2, 1, 1}, true, false},
      {"second_stem", {5, 14, 14, 32}, {64, 3, 3, 32}, {2, 2, 1, 1}, true, false},
  };
  for (const Conv& c : all) {
    OpRow row{.op = "conv2d",
              .label = c.label,
              .build = [c](Graph& g, DType t) -> std::vector<Value> {
                const Value bias = c.bias ? ops::input(g, "bias", t, {c.weight[0]}) : Value{};
                return {ops::conv2d(g, ops::input(g, "x", t, c.x),
                                    ops::input(g, "weight", t, c.weight), bias, c.attrs)};
              },
              .tolerance = c.gradient ? 1e-5 : 1e-4};
    if (c.gradient) row.differentiable = {"x", "weight"};
    if (c.gradient && c.bias) row.differentiable.push_back("bias");
    rows.push_back(row);

    const auto places = [&](int axis, int64_t stride, int64_t pad) {
      const auto i = static_cast<size_t>(axis);
      return (c.x[i].constant() + 2 * pad - c.weight[i].constant()) / stride + 1;
    };
    const Shape y = {c.x[0], places(1, c.attrs.stride_h, c.attrs.pad_h),
                     places(2, c.attrs.stride_w, c.attrs.pad_w), c.weight[0]};
    Conv2dGradAttrs to_x, to_weight;
    static_cast<Conv2dAttrs&>(to_x) = c.attrs;
    static_cast<Conv2dAttrs&>(to_weight) = c.attrs;
    to_x.shape = c.x;
    to_weight.shape = c.weight;
    rows.push_back(
        {.op = "conv2d_grad_input",
         .label = c.label,
         .build = [=](Graph& g, DType t) -> std::vector<Value> {
           return {g.add("conv2d_grad_input",
                         {ops::input(g, "dy", t, y), ops::input(g, "weight", t, c.weight)}, to_x)};
         },
         .tolerance = 1e-4});
    rows.push_back({.op = "conv2d_grad_weight",
                    .label = c.label,
                    .build = [=](Graph& g, DType t) -> std::vector<Value> {
                      return {g.add("conv2d_grad_weight",
                                    {ops::input(g, "dy", t, y), ops::input(g, "x", t, c.x)},
                                    to_weight)};
                    },
                    .tolerance = 1e-4});
  }
}

struct Pool {
  std::string label;
  Shape x;
  PoolAttrs attrs;
  bool gradient = true;
};

void add_pools(std::vector<OpRow>& rows) {
  const Pool all[] = {
      {"halved", {2, 4, 6, 3}, {}},
      {"overlapping", {1, 7, 7, 2}, {.size_h = 3, .size_w = 3}},
      {"padded", {2, 5, 5, 1}, {.size_h = 3, .size_w = 3, .pad_h = 1, .pad_w = 1}},
      {"rest_left_out", {1, 5, 7, 2}, {}},
      {"unequal",
       {1, 6, 5, 2},
       {.size_h = 1, .size_w = 3, .stride_h = 1, .stride_w = 2, .pad_h = 0, .pad_w = 2}},
      {"whole_image", {3, 3, 4, 2}, {.size_h = 3, .size_w = 4}},
      {"large", {9, 28, 28, 16}, {}, false},
  };
  for (const Pool& p : all) {
    for (std::string op : {"max_pool", "avg_pool"}) {
      OpRow row{.op = op, .label = p.label, .build = [=](Graph& g, DType t) -> std::vector<Value> {
                  return {g.add(op, {ops::input(g, "x", t, p.x)}, p.attrs)};
                }};
      if (p.gradient) row.differentiable = {"x"};
      rows.push_back(std::move(row));
    }
    PoolAttrs with_indices = p.attrs;
    with_indices.indices = true;
    rows.push_back({.op = "max_pool",
                    .label = p.label + "_with_indices",
                    .build = [=](Graph& g, DType t) -> std::vector<Value> {
                      const Value y = ops::max_pool(g, ops::input(g, "x", t, p.x), with_indices);
                      return {y, {y.node, 1}};
                    }});
    rows.back().ranges = {{"x", {-2, 2, 0.5}}};  // equal maxima: the first one counts
    PoolGradAttrs grad;
    static_cast<PoolAttrs&>(grad) = p.attrs;
    grad.shape = p.x;
    rows.push_back({.op = "max_pool_grad",
                    .label = p.label,
                    .build = [=](Graph& g, DType t) -> std::vector<Value> {
                      const Value y = ops::max_pool(g, ops::input(g, "x", t, p.x), with_indices);
                      const Value dy = ops::input(g, "dy", t, g.shape(y));
                      return {g.add("max_pool_grad", {dy, {y.node, 1}}, grad)};
                    }});
    rows.push_back({.op = "avg_pool_grad",
                    .label = p.label,
                    .build = [=](Graph& g, DType t) -> std::vector<Value> {
                      const Value y = ops::avg_pool(g, ops::input(g, "x", t, p.x), p.attrs);
                      const Value dy = ops::input(g, "dy", t, g.shape(y));
                      return {g.add("avg_pool_grad", {dy}, grad)};
                    }});
  }
}

}  // namespace

std::vector<OpRow> conv_rows() {
  std::vector<OpRow> rows;
  add_convolutions(rows);
  add_pools(rows);
  return rows;
}

}  // namespace fovea::harness
