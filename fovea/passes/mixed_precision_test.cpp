#include "fovea/passes/mixed_precision.h"

#include "fovea/graph/ops.h"
#include "fovea/passes/differentiate.h"
#include "fovea/passes/test_graph.h"

namespace fovea {
namespace {

PassContext everywhere() {
  PassContext context;
  context.bf16 = true;
  return context;
}

void expect_mixed(const std::string& before, const std::string& after,
                  const PassContext& context = everywhere()) {
  const Graph graph = graph_of(before);
  expect_graph(mixed_precision(graph, context), after);
  expect_graph(graph, before);
}
void expect_unchanged(const std::string& lines, const PassContext& context = everywhere()) {
  expect_mixed(lines, lines, context);
}

const std::string kWeights = R"(x = input(type=f32[B,8])
w = variable(type=f32[8,8])
b = variable(type=f32[8])
)";

TEST(MixedPrecision, WeightsAreRoundedAndOutputsStay) {
  expect_mixed(kWeights + R"(y = linear(%x, %w, %b) : f32[B,8]
output y = %y
)",
               kWeights + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
y = linear(%x, %w.bf16, %b, out=f32) : f32[B,8]
output y = %y
)");
}

TEST(MixedPrecision, WhatOnlyProductsReadIsStoredInBf16) {
  expect_mixed(kWeights + R"(n = layer_norm(%x, %b, %b) : f32[B,8]
h = linear(%n, %w, %b, activation=gelu) : f32[B,8]
y = linear(%h, %w, %x, residual=true) : f32[B,8]
output y = %y
)",
               kWeights + R"(n = layer_norm(%x, %b, %b, out=bf16) : bf16[B,8]
w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear(%n, %w.bf16, %b, activation=gelu, out=bf16) : bf16[B,8]
y = linear(%h, %w.bf16, %x, residual=true, out=f32) : f32[B,8]
output y = %y
)");
}

TEST(MixedPrecision, WhatAnybodyElseReadsStaysF32) {
  expect_mixed(kWeights + R"(n = rms_norm(%x, %b) : f32[B,8]
h = linear(%n, %w) : f32[B,8]
y = linear(%h, %w) : f32[B,8]
t = tanh(%h) : f32[B,8]
output y = %y
output t = %t
output n = %n
)",
               kWeights + R"(n = rms_norm(%x, %b) : f32[B,8]
w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear(%n, %w.bf16, out=f32) : f32[B,8]
y = linear(%h, %w.bf16, out=f32) : f32[B,8]
t = tanh(%h) : f32[B,8]
output y = %y
output t = %t
output n = %n
)");
}

TEST(MixedPrecision, OnlyTheNodesThatSaySoWithoutTheContext) {
  expect_mixed(kWeights + R"(h = linear(%x, %w) : f32[B,8]
y = linear(%h, %w, compute=bf16) : f32[B,8]
output y = %y
)",
               kWeights + R"(h = linear(%x, %w) : f32[B,8]
w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
y = linear(%h, %w.bf16, compute=bf16, out=f32) : f32[B,8]
output y = %y
)",
               {});
  expect_unchanged(kWeights + R"(h = linear(%x, %w) : f32[B,8]
output h = %h
)",
                   {});
}

TEST(MixedPrecision, ANodeMayKeepF32) {
  // Its weight is that of another node too; its operand is not stored in bf16.
  expect_mixed(kWeights + R"(h = linear(%x, %w) : f32[B,8]
y = linear(%h, %w, compute=f32) : f32[B,8]
output y = %y
)",
               kWeights + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear(%x, %w.bf16, out=f32) : f32[B,8]
y = linear(%h, %w, compute=f32) : f32[B,8]
output y = %y
)");
}

TEST(MixedPrecision, AttentionTakesAndGivesBf16) {
  const std::string weights = R"(x = input(type=f32[B,T,8])
w = variable(type=f32[24,8])
wo = variable(type=f32[8,8])
)";
  expect_mixed(weights + R"(qkv = linear(%x, %w) : f32[B,T,24]
a = attention(%qkv, heads=2, lse=true, packed=true) : f32[B,T,8], f32[B,2,T]
y = linear(%a, %wo) : f32[B,T,8]
output y = %y
output lse = %a:1
)",
               weights + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[24,8]
qkv = linear(%x, %w.bf16, out=bf16) : bf16[B,T,24]
a = attention(%qkv, heads=2, lse=true, packed=true) : bf16[B,T,8], f32[B,2,T]
wo.bf16 = cast(%wo, dtype=bf16) : bf16[8,8]
y = linear(%a, %wo.bf16, out=f32) : f32[B,T,8]
output y = %y
output lse = %a:1
)");
  // What others read of it, and what it reads of others, goes through casts.
  expect_mixed(R"(q = input(type=f32[B,T,8])
k = input(type=f32[B,U,8])
a = attention(%q, %k, %k, heads=2, compute=bf16) : f32[B,T,8]
y = add(%a, %q) : f32[B,T,8]
output y = %y
output a = %a
)",
               R"(q = input(type=f32[B,T,8])
k = input(type=f32[B,U,8])
q.bf16 = cast(%q, dtype=bf16) : bf16[B,T,8]
k.bf16 = cast(%k, dtype=bf16) : bf16[B,U,8]
a = attention(%q.bf16, %k.bf16, %k.bf16, heads=2, compute=bf16) : bf16[B,T,8]
a.f32 = cast(%a, dtype=f32) : f32[B,T,8]
y = add(%a.f32, %q) : f32[B,T,8]
output y = %y
output a = %a.f32
)",
               {});
}

TEST(MixedPrecision, GradientsAreProductsToo) {
  const std::string inputs = R"(dy = input(type=f32[B,6])
x = input(type=f32[B,8])
pre = input(type=f32[B,8])
w = variable(type=f32[6,8])
w2 = variable(type=f32[8,8])
)";
  expect_mixed(inputs + R"(d = linear_grad_input(%dy, %w, %pre, activation=gelu) : f32[B,8]
dw = linear_grad_weight(%dy, %x, bias=true) : f32[6,8], f32[6]
dx = linear_grad_input(%d, %w2) : f32[B,8]
dw2 = linear_grad_weight(%d, %x) : f32[8,8]
output dx = %dx
output dw = %dw
output db = %dw:1
output dw2 = %dw2
)",
               inputs + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[6,8]
d = linear_grad_input(%dy, %w.bf16, %pre, activation=gelu, out=bf16) : bf16[B,8]
x.bf16 = cast(%x, dtype=bf16) : bf16[B,8]
dw = linear_grad_weight(%dy, %x.bf16, bias=true) : f32[6,8], f32[6]
w2.bf16 = cast(%w2, dtype=bf16) : bf16[8,8]
dx = linear_grad_input(%d, %w2.bf16, out=f32) : f32[B,8]
dw2 = linear_grad_weight(%d, %x) : f32[8,8]
output dx = %dx
output dw = %dw
output db = %dw:1
output dw2 = %dw2
)");
}

TEST(MixedPrecision, WhatGoesIntoAnActivationHasTheTypeOfTheResult) {
  // The result is for products alone, but somebody else reads what went into the activation.
  expect_mixed(kWeights + R"(h = linear(%x, %w, activation=silu, pre=true) : f32[B,8], f32[B,8]
y = linear(%h, %w) : f32[B,8]
output y = %y
output pre = %h:1
)",
               kWeights + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear(%x, %w.bf16, activation=silu, pre=true, out=f32) : f32[B,8], f32[B,8]
y = linear(%h, %w.bf16, out=f32) : f32[B,8]
output y = %y
output pre = %h:1
)");
  // Nobody reads it.
  expect_mixed(kWeights + R"(h = linear(%x, %w, activation=silu, pre=true) : f32[B,8], f32[B,8]
y = linear(%h, %w) : f32[B,8]
output y = %y
)",
               kWeights + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear(%x, %w.bf16, activation=silu, pre=true, out=bf16) : bf16[B,8], bf16[B,8]
y = linear(%h, %w.bf16, out=f32) : f32[B,8]
output y = %y
)");
}

TEST(MixedPrecision, NormsReadTheirGradientAsItComes) {
  const std::string inputs = R"(x = input(type=f32[B,8])
g = variable(type=f32[8])
mean = input(type=f32[B])
rstd = input(type=f32[B])
w = variable(type=f32[8,8])
)";
  // Products and a norm read h.
  expect_mixed(inputs + R"(h = linear_grad_input(%x, %w) : f32[B,8]
d = layer_norm_grad(%x, %g, %mean, %rstd, %h) : f32[B,8], f32[8], f32[8]
e = linear_grad_input(%h, %w, %d, residual=true) : f32[B,8]
output e = %e
)",
               inputs + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear_grad_input(%x, %w.bf16, out=bf16) : bf16[B,8]
d = layer_norm_grad(%x, %g, %mean, %rstd, %h) : f32[B,8], f32[8], f32[8]
e = linear_grad_input(%h, %w.bf16, %d, residual=true, out=f32) : f32[B,8]
output e = %e
)");
  // A norm alone does not make it bf16.
  expect_mixed(inputs + R"(h = linear_grad_input(%x, %w) : f32[B,8]
d = rms_norm_grad(%x, %g, %rstd, %h) : f32[B,8], f32[8]
output d = %d
)",
               inputs + R"(w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
h = linear_grad_input(%x, %w.bf16, out=f32) : f32[B,8]
d = rms_norm_grad(%x, %g, %rstd, %h) : f32[B,8], f32[8]
output d = %d
)");
}

TEST(MixedPrecision, ANormThatSaysItsTypeKeepsIt) {
  expect_mixed(kWeights + R"(n = rms_norm(%x, %b, out=f32) : f32[B,8]
y = linear(%n, %w) : f32[B,8]
output y = %y
)",
               kWeights + R"(n = rms_norm(%x, %b, out=f32) : f32[B,8]
w.bf16 = cast(%w, dtype=bf16) : bf16[8,8]
y = linear(%n, %w.bf16, out=f32) : f32[B,8]
output y = %y
)");
}

TEST(MixedPrecision, UpdatedVariablesKeepTheirType) {
  expect_mixed(R"(x = input(type=f32[B,T,8])
last = variable(type=f32[B,T,8], kind=state)
a = attention(%x, %x, %x) : f32[B,T,8]
output a = %a
update %last = %a
)",
               R"(x = input(type=f32[B,T,8])
last = variable(type=f32[B,T,8], kind=state)
x.bf16 = cast(%x, dtype=bf16) : bf16[B,T,8]
a = attention(%x.bf16, %x.bf16, %x.bf16) : bf16[B,T,8]
a.f32 = cast(%a, dtype=f32) : f32[B,T,8]
output a = %a.f32
update %last = %a.f32
)");
}

TEST(MixedPrecision, NamesThatComeLaterStayTheirs) {
  expect_mixed(kWeights + R"(y = linear(%x, %w) : f32[B,8]
w.bf16 = variable(type=f32[2])
output y = %y
output own = %w.bf16
)",
               kWeights + R"(w.bf16_2 = cast(%w, dtype=bf16) : bf16[8,8]
y = linear(%x, %w.bf16_2, out=f32) : f32[B,8]
w.bf16 = variable(type=f32[2])
output y = %y
output own = %w.bf16
)");
}

TEST(MixedPrecision, LeavesOtherOpsAndTypes) {
  expect_unchanged(kWeights + R"(y = matmul(%x, %w) : f32[B,8]
n = layer_norm(%y, %b, %b) : f32[B,8]
z = softmax(%n) : f32[B,8]
output z = %z
)");
  expect_unchanged(R"(x = input(type=f64[B,8])
w = variable(type=f64[8,8])
y = linear(%x, %w, compute=bf16) : f64[B,8]
output y = %y
)");
}

TEST(MixedPrecision, TwiceIsAsOnce) {
  const Graph once = mixed_precision(graph_of(kWeights + R"(n = rms_norm(%x, %b) : f32[B,8]
h = linear(%n, %w, activation=gelu) : f32[B,8]
y = linear(%h, %w) : f32[B,8]
output y = %y
)"),
                                     everywhere());
  expect_graph(mixed_precision(once, everywhere()),
               print_graph(once).substr(print_graph(once).find("x = ")));
}

TEST(MixedPrecision, ATrainingGraphIsSoundAndItsGradientsAreF32) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 5, 8});
  Value y = ops::layer_norm(g, "norm", x);
  const Value q = ops::linear(g, "q", y, 8), k = ops::linear(g, "k", y, 8, false),
              v = ops::linear(g, "v", y, 8);
  y = ops::attention(g, q, k, v, {.heads = 2}, "attn");
  y = ops::add(g, x, ops::linear(g, "out", y, 8));
  y = ops::gelu(g, ops::linear(g, "up", y, 16));
  g.set_output("loss", ops::reduce_mean(g, ops::unary(g, "square", y), {0, 1, 2}));
  PassContext context = everywhere();
  context.differentiate_output = "loss";
  const Graph mixed = mixed_precision(differentiate(g, context), context);
  verify(mixed);
  size_t gradients = 0;
  for (auto& [name, value] : mixed.outputs()) {
    EXPECT_EQ(mixed.type(value).dtype, DType::f32) << name;
    gradients += name.starts_with(kGradientPrefix);
  }
  EXPECT_EQ(gradients, 2u + 5u + 4u);
  for (int id = 0; id < mixed.size(); ++id) {
    const Node& n = mixed.node(id);
    if (n.op->name == "linear" || n.op->name == "linear_grad_input") {
      EXPECT_EQ(mixed.type(n.inputs[1]).dtype, DType::bf16) << n.name;
    }
    if (n.op->name == "attention_grad") {
      EXPECT_EQ(n.types[0].dtype, DType::bf16) << n.name;
    }
  }
}

}  // namespace
}  // namespace fovea
