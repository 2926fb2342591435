#include "fovea/formats/onnx.h"

#include <gtest/gtest.h>
#include <onnx/checker.h>
#include <onnx/shape_inference/implementation.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "fovea/base/build_info.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

const Size kBatch = Size::symbol("B");
const Size kLength = Size::symbol("T");

HostTensorPtr ramp(std::vector<int64_t> shape) {
  auto tensor = std::make_shared<HostTensor>();
  tensor->shape = std::move(shape);
  int64_t count = 1;
  for (int64_t n : tensor->shape) count *= n;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(i));
  tensor->bytes.resize(values.size() * sizeof(float));
  std::memcpy(tensor->bytes.data(), values.data(), tensor->bytes.size());
  return tensor;
}

// A graph and numbers for its weights.
Bundle bundle_of(const std::function<void(Graph&)>& build) {
  Bundle bundle;
  build(bundle.graph);
  for (int id = 0; id < bundle.graph.size(); ++id) {
    const Node& node = bundle.graph.node(id);
    if (node.op->name != "variable") continue;
    std::vector<int64_t> shape;
    for (const Size& s : node.types[0].shape) shape.push_back(s.constant());
    bundle.weights[node.name] = ramp(shape);
  }
  return bundle;
}

// The model as another program sees it: checked, with the types of all values worked out; those of
// the outputs must be the ones that the graph gives.
onnx::ModelProto exported(const Bundle& bundle) {
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(onnx_model(bundle)));
  EXPECT_NO_THROW(onnx::checker::check_model(model));
  onnx::ModelProto open = model;
  for (auto& output : *open.mutable_graph()->mutable_output())
    output.mutable_type()->mutable_tensor_type()->clear_shape();
  for (onnx::ModelProto* m : {&model, &open})
    EXPECT_NO_THROW(onnx::shape_inference::InferShapes(*m, onnx::OpSchemaRegistry::Instance(),
                                                       onnx::ShapeInferenceOptions{true, 1, true}));
  for (int i = 0; i < open.graph().output_size(); ++i) {
    const auto& declared = model.graph().output(i).type().tensor_type().shape();
    const auto& found = open.graph().output(i).type().tensor_type();
    if (!found.has_shape()) continue;  // a shape that is computed
    EXPECT_EQ(found.shape().dim_size(), declared.dim_size());
    for (int d = 0; d < std::min(found.shape().dim_size(), declared.dim_size()); ++d)
      if (found.shape().dim(d).has_dim_value()) {
        EXPECT_EQ(found.shape().dim(d).dim_value(), declared.dim(d).dim_value());
      }
  }
  return model;
}
onnx::ModelProto exported(const std::function<void(Graph&)>& build) {
  return exported(bundle_of(build));
}

std::vector<std::string> op_types(const onnx::ModelProto& model) {
  std::vector<std::string> types;
  for (const auto& node : model.graph().node()) types.push_back(node.op_type());
  return types;
}
int64_t count(const onnx::ModelProto& model, const std::string& op) {
  const auto types = op_types(model);
  return std::count(types.begin(), types.end(), op);
}
const onnx::TensorProto* initializer(const onnx::ModelProto& model, const std::string& name) {
  for (const auto& tensor : model.graph().initializer())
    if (tensor.name() == name) return &tensor;
  return nullptr;
}
std::vector<int64_t> integers(const onnx::ModelProto& model, const std::string& name) {
  const onnx::TensorProto* tensor = initializer(model, name);
  if (!tensor || tensor->data_type() != onnx::TensorProto::INT64) return {};
  std::vector<int64_t> values(tensor->raw_data().size() / sizeof(int64_t));
  std::memcpy(values.data(), tensor->raw_data().data(), tensor->raw_data().size());
  return values;
}
std::vector<float> floats(const onnx::TensorProto& tensor) {
  std::vector<float> values(tensor.raw_data().size() / sizeof(float));
  std::memcpy(values.data(), tensor.raw_data().data(), tensor.raw_data().size());
  return values;
}
const onnx::NodeProto& first(const onnx::ModelProto& model, const std::string& op) {
  for (const auto& node : model.graph().node())
    if (node.op_type() == op) return node;
  static const onnx::NodeProto none;
  ADD_FAILURE() << "no node " << op;
  return none;
}
// "B,8,1"
std::string shape_of(const onnx::ValueInfoProto& info) {
  std::string text;
  for (const auto& dim : info.type().tensor_type().shape().dim())
    text += (text.empty() ? "" : ",") +
            (dim.has_dim_param() ? dim.dim_param() : std::to_string(dim.dim_value()));
  return text;
}

Value floats_in(Graph& g, Shape shape) { return ops::input(g, "x", DType::f32, std::move(shape)); }

// A vision transformer in small: everything that the large one is made of.
void classifier(Graph& g) {
  const Value image = ops::input(g, "image", DType::u8, {kBatch, 8, 8, 1});
  Value x = ops::scaled(g, ops::cast(g, image, DType::f32), 2.0 / 255);
  x = ops::gelu(
      g, ops::conv2d(g, "stem", x, 4, 3, {.stride_h = 2, .stride_w = 2, .pad_h = 1, .pad_w = 1}));
  x = ops::linear(g, "embed", ops::patches(g, x, 2), 8);
  x = ops::add(g, x, ops::weight(g, "position", {4, 8}, 0.02));
  const Value h = ops::layer_norm(g, "norm", x);
  const Value a = ops::attention(g, ops::linear(g, "q", h, 8), ops::linear(g, "k", h, 8, false),
                                 ops::linear(g, "v", h, 8), {.heads = 2}, "attn");
  x = ops::add(g, x, ops::linear(g, "out", a, 8));
  const Value logits = ops::linear(g, "head", ops::reduce_mean(g, x, {1}), 3);
  g.set_output("logits", logits);
  g.set_output("probabilities", ops::softmax(g, logits));
}

TEST(Onnx, AVisionTransformerIsAModelThatTheCheckerAccepts) {
  Bundle bundle = bundle_of(classifier);
  bundle.labels = {"cat", "dog", "mouse"};
  OnnxSummary summary;
  const std::string bytes = onnx_model(bundle, {}, &summary);
  const onnx::ModelProto model = exported(bundle);
  EXPECT_EQ(summary.bytes, bytes.size());
  EXPECT_EQ(summary.nodes, model.graph().node_size());
  EXPECT_EQ(model.producer_name(), "fovea");
  EXPECT_EQ(model.producer_version(), version());
  EXPECT_FALSE(model.doc_string().empty());
  ASSERT_EQ(model.opset_import_size(), 1);
  EXPECT_EQ(model.opset_import(0).version(), 17);
  ASSERT_EQ(model.metadata_props_size(), 1);
  EXPECT_EQ(model.metadata_props(0).value(), "cat\ndog\nmouse");

  ASSERT_EQ(model.graph().input_size(), 1);
  EXPECT_EQ(model.graph().input(0).name(), "image");
  EXPECT_EQ(model.graph().input(0).doc_string(), "u8[B,8,8,1]");
  EXPECT_EQ(model.graph().input(0).type().tensor_type().elem_type(), onnx::TensorProto::UINT8);
  EXPECT_EQ(shape_of(model.graph().input(0)), "B,8,8,1");
  ASSERT_EQ(model.graph().output_size(), 2);
  EXPECT_EQ(model.graph().output(0).name(), "logits");
  EXPECT_EQ(model.graph().output(1).name(), "probabilities");
  EXPECT_EQ(shape_of(model.graph().output(1)), "B,3");
  EXPECT_EQ(count(model, "Softmax"), 2);
  EXPECT_EQ(count(model, "LayerNormalization"), 1);
  EXPECT_EQ(count(model, "Conv"), 1);
  // No shape has to be computed while the model runs: any batch size is open in each of them.
  EXPECT_EQ(count(model, "Shape"), 0);
  EXPECT_EQ(count(model, "Identity"), 0);
}

TEST(Onnx, TheSameBundleGivesTheSameBytes) {
  EXPECT_EQ(onnx_model(bundle_of(classifier)), onnx_model(bundle_of(classifier)));
}

TEST(Onnx, NodesAndWeightsKeepTheirNames) {
  const onnx::ModelProto model = exported(classifier);
  EXPECT_NE(initializer(model, "position"), nullptr);
  EXPECT_NE(initializer(model, "norm.weight"), nullptr);
  EXPECT_EQ(first(model, "LayerNormalization").name(), "norm");
  const auto& nodes = model.graph().node();
  EXPECT_TRUE(
      std::any_of(nodes.begin(), nodes.end(), [](auto& n) { return n.name() == "attn.softmax"; }));
}

TEST(Onnx, TheWeightOfALinearNodeIsLaidOutAnew) {
  const onnx::ModelProto model = exported([](Graph& g) {
    g.set_output("y", ops::linear(g, "fc", floats_in(g, {kBatch, 3}), 2));
  });
  EXPECT_EQ(op_types(model), (std::vector<std::string>{"MatMul", "Add"}));
  EXPECT_EQ(initializer(model, "fc.weight"), nullptr);
  const onnx::TensorProto* weight = initializer(model, "fc.weight.transposed");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->dims(0), 3);
  EXPECT_EQ(weight->dims(1), 2);
  EXPECT_EQ(floats(*weight), (std::vector<float>{0, 3, 1, 4, 2, 5}));
}

TEST(Onnx, AWeightOfAConvolutionHasItsChannelsBeforeItsKernel) {
  const onnx::ModelProto model = exported([](Graph& g) {
    g.set_output("y", ops::conv2d(g, "c", floats_in(g, {kBatch, 6, 6, 2}), 3, 2, {}));
  });
  const onnx::TensorProto* weight = initializer(model, "c.weight.transposed");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ((std::vector<int64_t>(weight->dims().begin(), weight->dims().end())),
            (std::vector<int64_t>{3, 2, 2, 2}));
  std::vector<float> first_channels = floats(*weight);
  first_channels.resize(8);
  EXPECT_EQ(first_channels, (std::vector<float>{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(op_types(model), (std::vector<std::string>{"Transpose", "Conv", "Transpose"}));
}

TEST(Onnx, TransposesThatFollowEachOtherAreOne) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = ops::transpose(g, floats_in(g, {kBatch, 2, 3}), {2, 0, 1});
    g.set_output("y", ops::transpose(g, x, {0, 2, 1}));
  });
  EXPECT_EQ(count(model, "Transpose"), 1);
}

// --- Every op that a model for inference may have

struct FormCase {
  const char* name;
  std::function<Value(Graph&)> build;
};

std::vector<FormCase> form_cases() {
  std::vector<FormCase> cases;
  const auto add = [&](const char* name, std::function<Value(Graph&)> build) {
    cases.push_back({name, std::move(build)});
  };
  for (const char* op :
       {"neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "silu", "gelu",
        "square", "reciprocal", "erf", "sin", "cos", "sign", "floor", "is_finite"})
    add(op, [op](Graph& g) { return ops::unary(g, op, floats_in(g, {kBatch, 3})); });
  for (const char* op : {"add", "sub", "mul", "div", "max", "min", "pow", "equal", "not_equal",
                         "less", "less_equal", "greater", "greater_equal"})
    add(op, [op](Graph& g) {
      return ops::binary(g, op, floats_in(g, {kBatch, 1, 3}),
                         ops::constant(g, 2, DType::f32, {2, 1}));
    });
  for (const char* op : {"logical_and", "logical_or"})
    add(op, [op](Graph& g) {
      const Value a = ops::input(g, "a", DType::boolean, {kBatch});
      return ops::binary(g, op, a, ops::unary(g, "logical_not", a));
    });
  add("select", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, 3});
    const Value zero = ops::constant(g, 0);
    return ops::select(g, ops::binary(g, "greater", x, zero), x, zero);
  });
  for (DType t :
       {DType::bf16, DType::f16, DType::f64, DType::i8, DType::u8, DType::i32, DType::boolean})
    add("cast", [t](Graph& g) { return ops::cast(g, floats_in(g, {kBatch}), t); });
  add("broadcast", [](Graph& g) {
    return ops::broadcast(g, floats_in(g, {kBatch, 1}), {4, kBatch, 3});
  });
  add("broadcast to another input's size", [](Graph& g) {
    ops::input(g, "tokens", DType::i32, {kBatch, kLength});
    return ops::broadcast(g, floats_in(g, {kBatch, 1}), {kBatch, kLength});
  });
  add("reshape", [](Graph& g) {
    return ops::reshape(g, floats_in(g, {kBatch, kLength, 6}), {kBatch * kLength, 2, 3});
  });
  add("reshape of two sizes", [](Graph& g) {
    ops::input(g, "tokens", DType::i32, {kBatch, kLength});
    return ops::reshape(g, floats_in(g, {kBatch * kLength, 6}), {kBatch, kLength, 6});
  });
  add("reshape of nothing", [](Graph& g) {
    return ops::reshape(g, floats_in(g, {kBatch, 0}), {0, kBatch});
  });
  add("transpose", [](Graph& g) {
    return ops::transpose(g, floats_in(g, {kBatch, 2, 3}), {2, 0, 1});
  });
  add("concat", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, 3});
    return ops::concat(g, {x, x}, -1);
  });
  add("slice", [](Graph& g) { return ops::slice(g, floats_in(g, {kBatch, 5}), -1, 1, 3); });
  add("slice of unknown size", [](Graph& g) {
    return ops::slice(g, floats_in(g, {kBatch, kLength}), 1, 1, kLength - Size(1));
  });
  add("pad", [](Graph& g) { return ops::pad(g, floats_in(g, {kBatch, 5}), 1, 1, 2); });
  add("pad of unknown size", [](Graph& g) {
    return ops::pad(g, floats_in(g, {kBatch, 5}), 1, 0, kBatch);
  });
  add("iota", [](Graph& g) { return ops::iota(g, DType::f32, {4}, 0); });
  add("iota in two axes", [](Graph& g) {
    floats_in(g, {kBatch, kLength});
    return ops::iota(g, DType::i32, {kBatch, kLength}, -1);
  });
  add("gather", [](Graph& g) {
    return ops::embedding(g, "table", ops::input(g, "i", DType::i32, {kBatch, kLength}), 9, 4);
  });
  for (const char* op : {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"}) {
    add(op, [op](Graph& g) {
      return g.add(op, {floats_in(g, {kBatch, 2, 3})}, ReduceAttrs{{-1, 0}});
    });
    add(op, [op](Graph& g) {
      return g.add(op, {floats_in(g, {kBatch, 2})}, ReduceAttrs{{1}, true});
    });
    add(op, [op](Graph& g) { return g.add(op, {floats_in(g, {kBatch, 2})}, ReduceAttrs{}); });
  }
  add("sum_squares", [](Graph& g) { return g.add("sum_squares", {floats_in(g, {kBatch, 2})}); });
  for (bool a : {false, true})
    for (bool b : {false, true})
      add("matmul", [a, b](Graph& g) {
        const Value y = ops::input(g, "y", DType::f32, b ? Shape{4, 3} : Shape{3, 4});
        const Shape shape = a ? Shape{kBatch, 3, 2} : Shape{kBatch, 2, 3};
        return ops::matmul(g, floats_in(g, shape), y, {.transpose_a = a, .transpose_b = b});
      });
  for (Activation a : {Activation::none, Activation::relu, Activation::silu, Activation::gelu})
    add("linear", [a](Graph& g) {
      const Value x = floats_in(g, {kBatch, 3});
      return g.add("linear", {x, ops::weight(g, "w", {3, 3}, 1), ops::weight(g, "b", {3}, 1), x},
                   LinearAttrs{.activation = a, .residual = true});
    });
  add("linear in bf16", [](Graph& g) {
    const Value w = ops::cast(g, ops::weight(g, "w", {2, 3}, 1), DType::bf16);
    return ops::linear(g, floats_in(g, {kBatch, 3}), w);
  });
  add("softmax", [](Graph& g) { return ops::softmax(g, floats_in(g, {kBatch, 3})); });
  add("log_softmax", [](Graph& g) { return ops::log_softmax(g, floats_in(g, {kBatch, 3})); });
  add("layer_norm", [](Graph& g) { return ops::layer_norm(g, "n", floats_in(g, {kBatch, 3})); });
  add("layer_norm with a residual", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, 3}), w = ops::weight(g, "w", {3}, 1);
    return g.add("layer_norm", {x, x, w, w}, NormAttrs{.stats = true, .residual = true});
  });
  add("rms_norm", [](Graph& g) {
    return ops::rms_norm(g, floats_in(g, {kBatch, 3}), ops::weight(g, "w", {3}, 1));
  });
  add("attention with a mask, a window and grouped heads", [](Graph& g) {
    const Value q = floats_in(g, {kBatch, kLength, 8});
    const Value k = ops::linear(g, "k", q, 4), v = ops::linear(g, "v", q, 6);
    return ops::attention(g, q, k, v,
                          {.heads = 4, .kv_heads = 2, .causal = true, .window_left = 3});
  });
  add("attention with rotary positions", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, kLength, 16});
    return ops::attention(g, x, x, x, {.heads = 2, .causal = true, .rotary = 6});
  });
  add("cosine attention with temperatures", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, 5, 12}), t = ops::weight(g, "t", {3}, 1);
    return ops::attention(
        g, x, x, x,
        {.heads = 3, .cosine = true, .rotary = 4, .rotary_layout = RotaryLayout::halves},
        {.temperature = t});
  });
  add("packed attention with dropped heads", [](Graph& g) {
    return g.add("attention", {floats_in(g, {kBatch, 5, 24})},
                 AttentionAttrs{.heads = 4, .heads_kept = 2, .lse = true, .packed = true});
  });
  add("conv2d", [](Graph& g) {
    return ops::conv2d(g, "c", floats_in(g, {kBatch, 7, 6, 2}), 3, 3,
                       {.stride_h = 2, .stride_w = 1, .pad_h = 1, .pad_w = 2});
  });
  const PoolAttrs pool{.size_h = 3, .size_w = 2, .stride_h = 2, .stride_w = 1, .pad_h = 1};
  add("max_pool", [pool](Graph& g) {
    return ops::max_pool(g, floats_in(g, {kBatch, 7, 6, 2}), pool);
  });
  add("avg_pool", [pool](Graph& g) {
    return ops::avg_pool(g, floats_in(g, {kBatch, 7, 6, 2}), pool);
  });
  add("patches", [](Graph& g) { return ops::patches(g, floats_in(g, {kBatch, 4, 6, 3}), 2); });
  add("mean_squared_error", [](Graph& g) {
    const Value x = floats_in(g, {kBatch, 4});
    return ops::mean_squared_error(g, x, x);
  });
  add("elementwise", [](Graph& g) {
    return g.add("elementwise", {floats_in(g, {kBatch, 4})},
                 ElementwiseAttrs{{"mul 0 0", "exp 1"}});
  });
  add("constants", [](Graph& g) {
    const Value c = ops::cast(g, ops::constant(g, {1, 2, 3}, DType::f16, {3}), DType::f32);
    return ops::add(g, floats_in(g, {kBatch, 3}), c);
  });
  add("constant of unknown size", [](Graph& g) {
    return ops::add(g, floats_in(g, {kBatch}), ops::constant(g, 4, DType::f32, {kBatch}));
  });
  return cases;
}

TEST(Onnx, EachOpHasAFormThatTheCheckerAccepts) {
  for (const FormCase& c : form_cases()) {
    SCOPED_TRACE(c.name);
    try {
      const onnx::ModelProto model = exported([&](Graph& g) {
        const Value y = c.build(g);
        for (size_t i = 0; i < g.node(y).types.size(); ++i)
          g.set_output("out" + std::to_string(i), {y.node, static_cast<int32_t>(i)});
      });
      EXPECT_GE(model.graph().node_size(), 1);
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
}

TEST(Onnx, AReshapeLeavesTheBatchOpen) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch, kLength, 6});
    g.set_output("kept", ops::reshape(g, x, {kBatch, 3, kLength * Size(2)}));
    g.set_output("flat", ops::reshape(g, x, {kBatch * kLength, 6}));
  });
  ASSERT_EQ(op_types(model), (std::vector<std::string>{"Reshape", "Reshape"}));
  EXPECT_EQ(integers(model, model.graph().node(0).input(1)), (std::vector<int64_t>{0, 3, -1}));
  EXPECT_EQ(integers(model, model.graph().node(1).input(1)), (std::vector<int64_t>{-1, 6}));
}

TEST(Onnx, ComposedSizesAreComputedFromTheInputs) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch, kLength});
    const Size odd = ceildiv(kLength, 2) * kBatch + max(kBatch, kLength) - Size(3);
    g.set_output("y", ops::reduce_sum(g, x, {0, 1}));
    g.set_output("i", ops::iota(g, DType::i32, {odd, min(kBatch, 4)}, 1));
  });
  EXPECT_EQ(count(model, "Shape"), 2);  // B and T, each once
  for (const char* op : {"Mod", "Div", "Mul", "Max", "Min", "Sub"}) EXPECT_GE(count(model, op), 1);
}

TEST(Onnx, RowsThatNoKeyIsSeenInAreZerosAsInFovea) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch, kLength, 8});
    g.set_output("y", ops::attention(g, x, x, x, {.causal = true}));
  });
  EXPECT_EQ(count(model, "Softmax"), 0);
  EXPECT_GE(count(model, "Where"), 2);
}

TEST(Onnx, StoredConstantsAreInitializers) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value table = ops::constant(g, ramp({100}), "table");
    g.set_output("y", ops::add(g, floats_in(g, {kBatch, 100}), table));
  });
  const onnx::TensorProto* table = initializer(model, "table");
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(floats(*table)[99], 99);
}

TEST(Onnx, NumbersThatDoNotFitTheirTypeAreTheNearestThatDo) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value c = ops::constant(g, {-1e300, 1e300, NAN, 7}, DType::u8, {4});
    g.set_output("y", ops::concat(g, {ops::input(g, "x", DType::u8, {kBatch}), c}, 0));
  });
  ASSERT_EQ(model.graph().initializer_size(), 1);
  EXPECT_EQ(model.graph().initializer(0).raw_data(), std::string("\0\xff\0\x07", 4));
}

TEST(Onnx, WhatNoOutputNeedsIsLeftOutButInputsStay) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch});
    ops::linear(g, "unused", ops::input(g, "other", DType::f32, {kBatch, 3}), 2);
    g.add("dropout", {x, ops::input(g, "rng", DType::i32, {3})}, DropoutAttrs{});
    g.set_output("y", ops::unary(g, "exp", x));
  });
  EXPECT_EQ(op_types(model), std::vector<std::string>{"Exp"});
  EXPECT_EQ(model.graph().initializer_size(), 0);
  EXPECT_EQ(model.graph().input_size(), 3);
}

TEST(Onnx, AValueWithTwoNamesOrThatIsAnInputIsCopied) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch}), y = ops::unary(g, "exp", x);
    g.set_output("a", y);
    g.set_output("b", y);
    g.set_output("c", x);
    g.set_output("d", ops::weight(g, "w", {2}, 1));
  });
  EXPECT_EQ(op_types(model), (std::vector<std::string>{"Exp", "Identity", "Identity", "Identity"}));
}

TEST(Onnx, ANodeNamedLikeAnOutputGetsANumber) {
  const onnx::ModelProto model = exported([](Graph& g) {
    const Value x = floats_in(g, {kBatch});
    const Value y = g.add("exp", {x}, {}, "y");
    g.set_output("y", g.add("neg", {y}, {}, "z"));
  });
  EXPECT_EQ(first(model, "Exp").output(0), "y_2");
  EXPECT_EQ(first(model, "Neg").output(0), "y");
}

// --- Errors

void expect_refused(ErrorCode code, std::string_view text, const Bundle& bundle,
                    const OnnxOptions& options = {}) {
  expect_error(code, text, [&] { onnx_model(bundle, options); });
}
void expect_refused(ErrorCode code, std::string_view text,
                    const std::function<void(Graph&)>& build) {
  expect_refused(code, text, bundle_of(build));
}

TEST(Onnx, AnOpWithoutFormAndDecompositionIsNamedWithItsNode) {
  expect_refused(ErrorCode::unsupported, "the node 'drop': the op dropout has no form",
                 [](Graph& g) {
                   const Value rng = ops::input(g, "rng", DType::i32, {3});
                   g.set_output("y", ops::dropout(g, floats_in(g, {kBatch}), rng, 0.1, "drop"));
                 });
  expect_refused(ErrorCode::unsupported, "the op max_pool has no such form", [](Graph& g) {
    const Value y = ops::max_pool(g, floats_in(g, {kBatch, 4, 4, 1}), {.indices = true});
    g.set_output("y", {y.node, 1});
  });
}

TEST(Onnx, AStepThatUpdatesVariablesIsAnError) {
  expect_refused(ErrorCode::unsupported, "updates the variable 'w'", [](Graph& g) {
    const Value w = ops::weight(g, "w", {2}, 1);
    g.update(w, ops::scaled(g, w, 2));
    g.set_output("y", w);
  });
}

TEST(Onnx, ACacheIsAnError) {
  expect_refused(ErrorCode::unsupported, "the variable 'keys' is a cache", [](Graph& g) {
    const Value keys = ops::variable(
        g, "keys", {.type = {DType::f32, {2}}, .kind = VariableKind::cache, .source = {}});
    g.set_output("y", ops::unary(g, "exp", keys));
  });
}

TEST(Onnx, ASizeThatNoInputShowsIsAnError) {
  expect_refused(ErrorCode::unsupported, "the size T is that of no axis", [](Graph& g) {
    floats_in(g, {kLength * Size(2)});
    g.set_output("y", ops::iota(g, DType::i32, {kLength}, 0));
  });
}

TEST(Onnx, AnInputAndAnOutputOfOneNameAreAnError) {
  expect_refused(ErrorCode::unsupported, "both named 'x'",
                 [](Graph& g) { g.set_output("x", ops::unary(g, "exp", floats_in(g, {kBatch}))); });
}

TEST(Onnx, AGraphWithoutOutputsIsAnError) {
  expect_refused(ErrorCode::invalid_argument, "the graph has no output",
                 [](Graph& g) { floats_in(g, {kBatch}); });
}

TEST(Onnx, MissingAndWrongNumbersAreErrors) {
  Bundle bundle = bundle_of(classifier);
  bundle.weights["position"] = ramp({8, 4});
  expect_refused(ErrorCode::invalid_argument, "the variable 'position': expected f32[4,8], got",
                 bundle);
  bundle.weights.erase("position");
  expect_refused(ErrorCode::invalid_argument, "the variable 'position' has no weight", bundle);
  auto cut = std::make_shared<HostTensor>(*ramp({4, 8}));
  cut->bytes.resize(3);
  bundle.weights["position"] = cut;
  expect_refused(ErrorCode::invalid_argument, "got f32[4,8] of 3 bytes", bundle);
  expect_refused(ErrorCode::invalid_argument, "lacks the numbers of the constant 'table'",
                 [](Graph& g) {
                   ConstantAttrs attrs{{DType::f32, {100}}, {}, "0123456789abcdef"};
                   g.set_output("y", g.add("constant", {}, attrs, "table"));
                 });
}

TEST(Onnx, AModelThatIsTooLargeForTheFormatIsAnError) {
  const Bundle bundle = bundle_of(classifier);
  const uint64_t bytes = onnx_model(bundle).size();
  expect_refused(ErrorCode::unsupported, "holds at most 100", bundle, {.most_bytes = 100});
  expect_refused(ErrorCode::unsupported, "an ONNX file holds at most", bundle,
                 {.most_bytes = bytes - 1});
  EXPECT_NO_THROW(onnx_model(bundle, {.most_bytes = bytes}));
}

TEST(Onnx, AFileThatExistsIsOnlyReplacedOnRequest) {
  const TemporaryFolder folder;
  const Bundle bundle = bundle_of(classifier);
  const auto path = folder / "model.onnx";
  write_file_atomically(path, "old");
  expect_error(ErrorCode::invalid_argument, "model.onnx exists already; --overwrite",
               [&] { write_onnx(path, bundle); });
  EXPECT_EQ(read_text_file(path, 100), "old");
  const OnnxSummary summary = write_onnx(path, bundle, {.overwrite = true});
  EXPECT_EQ(read_text_file(path, 1 << 20), onnx_model(bundle));
  EXPECT_EQ(summary.bytes, std::filesystem::file_size(path));
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Onnx, AModelThatCannotBeWrittenLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "model.onnx", "old");
  expect_error(ErrorCode::invalid_argument, "no output",
               [&] { write_onnx(folder / "model.onnx", Bundle{}, {.overwrite = true}); });
  EXPECT_EQ(read_text_file(folder / "model.onnx", 100), "old");
}

TEST(Onnx, AFolderIsAnErrorWhetherItIsThereOrNot) {
  const TemporaryFolder folder;
  const Bundle bundle = bundle_of(classifier);
  expect_error(ErrorCode::not_found, "does not exist",
               [&] { write_onnx(folder / "missing" / "model.onnx", bundle); });
  expect_error(ErrorCode::invalid_argument, "is a folder (give the name of a file in it)",
               [&] { write_onnx(folder.path(), bundle, {.overwrite = true}); });
}

}  // namespace
}  // namespace fovea
