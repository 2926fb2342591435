#include "fovea/kernels/attention_call.h"

#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Case;

AttentionProblem problem() {
  return Case{.batch = 2, .tq = 40, .tk = 40, .heads = 2, .kv_heads = 2, .dim = 16, .value_dim = 16}
      .problem(true, DType::f32);
}

TEST(AttentionCall, ItGivesWhatThePlannedKernelGives) {
  AttentionProblem p = problem();
  p.window_left = 12;
  p.prefix = 3;
  p.sink = true;
  Arrays<float> a(p);
  a.randomise(1);
  a.sinks = {0.5f, -1.0f};
  a.dsinks = {0, 0};
  Arrays<double> want(p);
  want.copy_inputs(a);
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  attention_test::forward_ref(in_double, want);
  attention_test::backward_ref(in_double, want);
  ThreadPool pool(2);
  for (ThreadPool* with : {static_cast<ThreadPool*>(nullptr), &pool}) {
    attention(p, a.forward(), with);
    attention_backward(p, a.backward(), with);
    attention_test::expect_near(a.out, want.out, 3e-6, "out");
    attention_test::expect_near(a.dq, want.dq, 2e-5, "dq");
    attention_test::expect_near(a.dsinks, want.dsinks, 2e-5, "dsinks");
  }
}

TEST(AttentionCall, MemoryThatTheProblemNamesMustBeGiven) {
  const auto expect = [](auto change, std::string_view first, std::string_view second) {
    AttentionProblem p = problem();
    Arrays<float> a(p);
    AttentionArgs forward = a.forward();
    AttentionBackwardArgs backward = a.backward();
    change(p, forward, backward);
    Caught caught = error_of([&] { attention(p, forward); });
    if (caught.what == "no error") caught = error_of([&] { attention_backward(p, backward); });
    EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
    EXPECT_TRUE(contains(caught.what, first) && contains(caught.what, second)) << caught.what;
  };
  expect([](auto&, auto& f, auto&) { f.q = nullptr; }, "q", "null");
  expect([](auto&, auto& f, auto&) { f.lse = nullptr; }, "lse", "want_lse");
  expect([](auto&, auto&, auto& b) { b.dk = nullptr; }, "dk", "null");
  expect([](auto& p, auto&, auto&) { p.mask = true; }, "links.mask", "mask");
  expect([](auto& p, auto&, auto&) { p.bias = true; }, "links.bias", "bias");
  expect([](auto& p, auto&, auto&) { p.sink = true; }, "links.sinks", "sink");
  expect([](auto& p, auto&, auto&) { p.relative_keys = true; }, "links.relative_keys", "relative");
  expect([](auto& p, auto&, auto&) { p.temperature = true; }, "links.temperatures", "temperature");
  expect([](auto& p, auto&, auto&) { p.dropout = 0.1; }, "links.rng", "dropout");
  expect([](auto& p, auto&, auto&) { p.block = 16; }, "links.blocks", "block");
  expect([](auto& p, auto&, auto&) { p.documents = 2; }, "links.document_starts", "documents");
  expect([](auto& p, auto&, auto&) { p.distance_bias = true; }, "links.distance_bias", "distance");
}

TEST(AttentionCall, ATypeThatNoKernelTakesIsAnError) {
  AttentionProblem p = problem();
  Arrays<float> a(p);
  p.dtype = DType::f16;
  const Caught caught = error_of([&] { attention(p, a.forward()); });
  EXPECT_EQ(caught.code, ErrorCode::unsupported);
  EXPECT_TRUE(contains(caught.what, "attention")) << caught.what;
}

}  // namespace
}  // namespace fovea
