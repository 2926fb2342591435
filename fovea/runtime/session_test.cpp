#include "fovea/runtime/session.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "fovea/base/test_errors.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace {
// Of the whole program, libraries included.
std::atomic<int64_t> allocations{0}, frees{0};

void* allocate(size_t bytes, size_t alignment) {
  allocations.fetch_add(1);
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
}
void* allocate_or_throw(size_t bytes, size_t alignment) {
  if (void* p = allocate(bytes, alignment)) return p;
  throw std::bad_alloc();
}
void release(void* p) {
  if (p == nullptr) return;
  frees.fetch_add(1);
  std::free(p);
}
}  // namespace

void* operator new(size_t n) { return allocate_or_throw(n, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new[](size_t n) { return allocate_or_throw(n, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t n, std::align_val_t a) {
  return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a) {
  return allocate_or_throw(n, static_cast<size_t>(a));
}
void* operator new(size_t n, const std::nothrow_t&) noexcept {
  return allocate(n, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](size_t n, const std::nothrow_t&) noexcept {
  return allocate(n, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, static_cast<size_t>(a));
}
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, static_cast<size_t>(a));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete[](void* p, size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { release(p); }

namespace fovea {

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every node, however small, runs on all threads.
Session session_of(Graph graph, int threads = 1) {
  return Session(std::move(graph), std::make_shared<VariableStore>(),
                 std::make_shared<ThreadPool>(threads), {.microseconds_worth_sharing = 0});
}

void write(Execution& e, std::string_view input, const std::vector<float>& numbers) {
  const auto bytes = e.input(input);
  ASSERT_EQ(bytes.size(), numbers.size() * sizeof(float));
  std::copy(numbers.begin(), numbers.end(), reinterpret_cast<float*>(bytes.data()));
}
std::vector<float> read(const Execution& e, std::string_view output) {
  const auto y = e.output_f32(output);
  return std::vector<float>(y.begin(), y.end());
}

// y [B,N] = 2 x + row, with row [N] an input too.
Graph two_sizes() {
  Graph g;
  const Size b = Size::symbol("B"), n = Size::symbol("N");
  const Value x = ops::input(g, "x", DType::f32, {b, n});
  const Value row = ops::input(g, "row", DType::f32, {n});
  g.set_output("y", ops::add(g, ops::scaled(g, x, 2), row));
  return g;
}
void expect_two_sizes(Execution& e, int64_t b, int64_t n) {
  std::vector<float> x, row, y;
  for (int64_t i = 0; i < b * n; ++i) x.push_back(static_cast<float>(i + n));
  for (int64_t i = 0; i < n; ++i) row.push_back(static_cast<float>(-i * b));
  for (int64_t i = 0; i < b * n; ++i)
    y.push_back(2 * x[static_cast<size_t>(i)] + row[static_cast<size_t>(i % n)]);
  write(e, "x", x);
  write(e, "row", row);
  e.run();
  EXPECT_EQ(read(e, "y"), y) << b << " x " << n;
}

TEST(Session, RunsForEachSizeThatItIsAskedFor) {
  Session s = session_of(two_sizes());
  Execution& small = s.prepare({{"B", 2}, {"N", 3}});
  expect_two_sizes(small, 2, 3);
  Execution& large = s.prepare({{"B", 40}, {"N", 33}});  // moves the arena
  expect_two_sizes(large, 40, 33);
  for (int i = 0; i < 3; ++i) {
    expect_two_sizes(small, 2, 3);
    expect_two_sizes(large, 40, 33);
  }
  EXPECT_EQ(&s.prepare({{"B", 2}, {"N", 3}}), &small);
}

TEST(Session, StaysRightWhenMorePlansAreAskedForThanItKeeps) {
  Session s = session_of(two_sizes());
  for (int round = 0; round < 2; ++round)
    for (int64_t b = 1; b <= 33; ++b) expect_two_sizes(s.prepare({{"B", b}, {"N", 5}}), b, 5);
}

TEST(Session, KeepsTheLast32Plans) {
  Session s = session_of(two_sizes());
  const Execution* first = &s.prepare({{"B", 1}, {"N", 1}});
  for (int64_t b = 2; b <= 32; ++b) s.prepare({{"B", b}, {"N", 1}});
  EXPECT_EQ(&s.prepare({{"B", 1}, {"N", 1}}), first);
  const int64_t before = allocations;
  s.prepare({{"B", 2}, {"N", 1}});
  EXPECT_LT(allocations - before, 10);  // found, not planned again
}

TEST(Session, AMissingSizeIsAnErrorThatNamesIt) {
  Session s = session_of(two_sizes());
  const Caught e = error_of([&] { s.prepare({{"B", 2}}); });
  EXPECT_EQ(e.code, ErrorCode::invalid_argument);
  EXPECT_TRUE(contains(e.what, "N")) << e.what;
}

TEST(Session, SizesThatDoNotFitEachOtherAreAnError) {
  Graph g;
  const Value a = ops::input(g, "a", DType::f32, {Size::symbol("M")});
  const Value b = ops::input(g, "b", DType::f32, {Size::symbol("N")});
  g.set_output("y", ops::add(g, a, b));
  Session s = session_of(std::move(g));
  EXPECT_NO_THROW(s.prepare({{"M", 4}, {"N", 4}}));
  const Caught e = error_of([&] { s.prepare({{"M", 4}, {"N", 5}}); });
  EXPECT_EQ(e.code, ErrorCode::invalid_argument) << e.what;
  EXPECT_TRUE(contains(e.what, "add")) << e.what;
  EXPECT_EQ(error_of([&] { s.prepare({{"M", -1}, {"N", -1}}); }).code, ErrorCode::invalid_argument);
}

TEST(Session, AnUnknownInputOrOutputIsAnErrorThatNamesIt) {
  Session s = session_of(two_sizes());
  Execution& e = s.prepare({{"B", 1}, {"N", 1}});
  const Caught input = error_of([&] { e.input("z"); });
  EXPECT_EQ(input.code, ErrorCode::not_found);
  EXPECT_TRUE(contains(input.what, "'z'")) << input.what;
  EXPECT_EQ(error_of([&] { e.input("mul"); }).code, ErrorCode::not_found);
  const Caught output = error_of([&] { e.output("z"); });
  EXPECT_EQ(output.code, ErrorCode::not_found);
  EXPECT_TRUE(contains(output.what, "'z'")) << output.what;
  EXPECT_EQ(error_of([&] { e.output_type("z"); }).code, ErrorCode::not_found);
  EXPECT_TRUE(e.has_input("x"));
  EXPECT_FALSE(e.has_input("y"));
}

TEST(Session, APlanThatNeedsMoreMemoryThanThereIsStaysAnError) {
  Session s = session_of(two_sizes());
  expect_two_sizes(s.prepare({{"B", 2}, {"N", 3}}), 2, 3);
  for (int i = 0; i < 2; ++i)  // the failed plan is not found in the cache either
    EXPECT_EQ(error_of([&] {
                s.prepare({{"B", int64_t{1} << 30}, {"N", int64_t{1} << 20}});
              }).code,
              ErrorCode::out_of_memory);
  EXPECT_EQ(error_of([&] {
              s.prepare({{"B", int64_t{1} << 31}, {"N", int64_t{1} << 31}});
            }).code,
            ErrorCode::out_of_memory);
  expect_two_sizes(s.prepare({{"B", 2}, {"N", 3}}), 2, 3);
}

TEST(Session, AnOpWithoutAKernelIsAnErrorThatSaysWhatToDo) {
  Graph g;
  g.set_output("y", ops::patches(g, ops::input(g, "x", DType::f32, {1, 4, 4, 1}), 2));
  Session s = session_of(std::move(g));
  const Caught e = error_of([&] { s.prepare({}); });
  EXPECT_EQ(e.code, ErrorCode::unsupported);
  EXPECT_TRUE(contains(e.what, "patches")) << e.what;
  EXPECT_TRUE(contains(e.what, "run the passes")) << e.what;
}

TEST(Session, ATypeThatNoKernelTakesIsAnErrorThatNamesTheNode) {
  Graph g;
  const Value x = ops::input(g, "x", DType::bf16, {2, 2});
  g.set_output("y", g.add("matmul", {x, x}, MatmulAttrs{}, "product"));
  Session s = session_of(std::move(g));
  const Caught e = error_of([&] { s.prepare({}); });
  EXPECT_EQ(e.code, ErrorCode::unsupported);
  EXPECT_TRUE(contains(e.what, "product") && contains(e.what, "bf16")) << e.what;
}

TEST(Session, AStoredConstantThatIsMissingIsAnError) {
  Graph g;
  g.set_output("y", g.add("constant", {}, ConstantAttrs{{DType::f32, {100}}, {}, "0123abcd"}));
  Session s = session_of(std::move(g));
  const Caught e = error_of([&] { s.prepare({}); });
  EXPECT_EQ(e.code, ErrorCode::not_found);
  EXPECT_TRUE(contains(e.what, "0123abcd")) << e.what;
}

// A training step with a bit of everything that allocates somewhere.
Graph step_with_everything() {
  Graph g;
  const Value image = ops::input(g, "image", DType::f32, {4, 12, 12, 1});
  Value x =
      ops::conv2d(g, "stem", image, 8, 3, {.stride_h = 2, .stride_w = 2, .pad_h = 1, .pad_w = 1});
  x = ops::max_pool(g, x);
  x = ops::reshape(g, x, {4, 9, 8});
  x = ops::layer_norm(g, "norm", x);
  const Value q = ops::linear(g, "q", x, 8);
  x = ops::add(g, x, ops::attention(g, q, x, x, {.heads = 2}));
  x = ops::softmax(g, ops::matmul(g, x, ops::transpose(g, x, {0, 2, 1})));
  x = ops::concat(g, {ops::pad(g, x, 1, 1, 1), ops::pad(g, x, 1, 0, 2)}, 2);
  const Value w = ops::weight(g, "w", {18}, 0.1), m = ops::weight(g, "m", {18}, 0);
  const Value gradient = ops::reduce_sum(g, ops::mul(g, x, w), {0, 1});
  const Value step =
      g.add("sgd", {w, gradient, m, ops::constant(g, 0.1), ops::constant(g, 1)}, SgdAttrs{0.9, 0});
  g.update(w, step);
  g.update(m, {step.node, 1});
  g.set_output("y", gradient);
  return g;
}

// Allocations, and blocks still held, of five steps with the kernels of the choice.
std::pair<int64_t, int64_t> memory_of_five_steps(const char* choice, int threads) {
  setenv("FOVEA_FORCE_KERNEL", choice, 1);
  Session s = session_of(step_with_everything(), threads);
  unsetenv("FOVEA_FORCE_KERNEL");
  Execution& e = s.prepare({});
  write(e, "image", std::vector<float>(4 * 12 * 12, 0.5f));
  e.run();
  const int64_t before = allocations, freed = frees;
  for (int i = 0; i < 5; ++i) e.run();
  const int64_t made = allocations - before;
  return {made, made - (frees - freed)};
}

TEST(Session, RunningAllocatesNothing) {
  for (int threads : {1, 2, 4})
    EXPECT_EQ(
        memory_of_five_steps("matmul=ref,conv2d=ref,linear=ref,linear_grad_weight=ref", threads)
            .first,
        0)
        << threads << " threads";
}

// oneDNN 2.6 makes a table of the arguments within each execution and frees it again.
TEST(Session, RunningHoldsNoMoreMemoryThanBeforeWithOneDnnEither) {
  for (int threads : {1, 2, 4})
    EXPECT_EQ(memory_of_five_steps("", threads).second, 0) << threads << " threads";
}

TEST(Session, ANodeThatIsTooSmallToWakeOthersRunsAlone) {
  const auto product = [](double worth, int64_t rows) {
    Graph g;
    const Value x = ops::input(g, "x", DType::f32, {Size::symbol("B"), 64});
    g.set_output("y", ops::matmul(g, x, ops::weight(g, "w", {64, 64}, 0)));
    Session s(std::move(g), std::make_shared<VariableStore>(), std::make_shared<ThreadPool>(2),
              {.microseconds_worth_sharing = worth});
    return s.prepare({{"B", rows}}).reports().at(0).alone;
  };
  const double usual = SessionOptions().microseconds_worth_sharing;
  EXPECT_TRUE(product(usual, 1));
  EXPECT_TRUE(product(usual, 49));
  EXPECT_FALSE(product(usual, 4096));
  EXPECT_FALSE(product(0, 1));
}

TEST(Session, TheCounterOfAllocationsCounts) {
  const int64_t before = allocations;
  std::vector<int> v(100);
  EXPECT_GT(allocations - before, 0) << v.size();
}

TEST(Session, ReportsNameKernelsAndCosts) {
  Session s = session_of(step_with_everything());
  Execution& e = s.prepare({});
  write(e, "image", std::vector<float>(4 * 12 * 12, 0.5f));
  e.run_timed();
  bool matmul = false;
  for (auto& report : e.reports()) {
    EXPECT_NE(report.kernel, "") << report.name;
    EXPECT_GE(report.milliseconds, 0) << report.name;
    EXPECT_GT(report.bytes, 0) << report.name;
    if (report.op == "matmul") {
      matmul = true;
      EXPECT_EQ(report.flops, 2 * 4 * 9 * 9 * 8);
      EXPECT_TRUE(report.kernel.starts_with("matmul:")) << report.kernel;
    }
  }
  EXPECT_TRUE(matmul);
  EXPECT_GE(e.values_bytes(), e.arena_bytes());
  EXPECT_GT(e.total_bytes(), e.arena_bytes());
}

TEST(Session, TheWayOfRunningDoesNotChangeTheNumbers) {
  std::vector<std::vector<float>> results;
  for (int way = 0; way < 3; ++way) {
    Session s = session_of(step_with_everything());
    Execution& e = s.prepare({});
    write(e, "image", std::vector<float>(4 * 12 * 12, 0.5f));
    for (int i = 0; i < 3; ++i) {
      if (way == 0) e.run();
      if (way == 1) e.run_timed();
      const std::string fault = way == 2 ? e.run_looking_for_non_finite() : "";
      EXPECT_EQ(fault, "");
    }
    results.push_back(read(e, "y"));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// y = a / b + log(c), each named.
Graph faulty() {
  Graph g;
  const auto in = [&](const char* name) { return ops::input(g, name, DType::f32, {2}); };
  const Value a = in("a"), b = in("b"), c = in("c");
  const Value quotient = g.add("div", {a, b}, NoAttrs{}, "quotient");
  const Value logarithm = g.add("log", {c}, NoAttrs{}, "logarithm");
  g.set_output("y", g.add("add", {quotient, logarithm}, NoAttrs{}, "sum"));
  return g;
}
std::string fault_of(const std::vector<float>& a, const std::vector<float>& b,
                     const std::vector<float>& c) {
  Session s = session_of(faulty());
  Execution& e = s.prepare({});
  write(e, "a", a);
  write(e, "b", b);
  write(e, "c", c);
  return e.run_looking_for_non_finite();
}

TEST(Session, NamesTheNodeThatMadeTheFirstNan) {
  EXPECT_EQ(fault_of({1, 2}, {1, 1}, {1, -1}), "logarithm");
  EXPECT_EQ(fault_of({0, 2}, {0, 1}, {1, 1}), "quotient");
  EXPECT_EQ(fault_of({0, 2}, {0, 1}, {1, -1}), "quotient");
}
TEST(Session, NamesTheNodeThatMadeTheFirstInfinity) {
  EXPECT_EQ(fault_of({1, 2}, {0, 1}, {1, 1}), "quotient");
  EXPECT_EQ(fault_of({1, 2}, {1, 1}, {0, 1}), "logarithm");
  // The sum of the infinities is NaN, but the fault lies before it.
  EXPECT_EQ(fault_of({1, 2}, {0, 1}, {0, 1}), "quotient");
}
TEST(Session, NamesAnInputThatHoldsANan) { EXPECT_EQ(fault_of({1, kNan}, {1, 1}, {1, 1}), "a"); }
TEST(Session, NamesNothingWhereAllNumbersAreFinite) {
  EXPECT_EQ(fault_of({1, 2}, {1, 1}, {1, 1}), "");
}

TEST(Session, AMaskOfInfinitiesIsNoFault) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {2, 2});
  const Value visible = ops::binary(g, "less_equal", ops::iota(g, DType::i32, {2, 2}, 1),
                                    ops::iota(g, DType::i32, {2, 2}, 0));
  const Value masked = ops::select(g, visible, x, ops::constant(g, -INFINITY));
  g.set_output("y", ops::softmax(g, masked));
  Session s = session_of(std::move(g));
  Execution& e = s.prepare({});
  write(e, "x", {1, 2, 3, 4});
  EXPECT_EQ(e.run_looking_for_non_finite(), "");
}

TEST(Session, NamesAVariableThatHoldsANan) {
  Graph g;
  const Value v = ops::weight(g, "weights", {2}, 0);
  g.set_output("y", ops::unary(g, "exp", v));
  auto store = std::make_shared<VariableStore>();
  Session s(g, store, std::make_shared<ThreadPool>(1));
  const float numbers[] = {1, kNan};
  store->set("weights", DType::f32, {2}, std::as_bytes(std::span(numbers)));
  EXPECT_EQ(s.prepare({}).run_looking_for_non_finite(), "weights");
}

TEST(Session, TwoSessionsShareTheirVariables) {
  Graph writer, reader;
  const Value v = ops::weight(writer, "v", {2}, 0);
  writer.update(v, ops::add(writer, v, ops::constant(writer, 1)));
  reader.set_output("y", ops::scaled(reader, ops::weight(reader, "v", {2}, 0), 10));
  auto store = std::make_shared<VariableStore>();
  auto pool = std::make_shared<ThreadPool>(1);
  Session w(writer, store, pool), r(reader, store, pool);
  const uint64_t version = store->version();
  for (int i = 0; i < 3; ++i) w.prepare({}).run();
  Execution& e = r.prepare({});
  e.run();
  EXPECT_EQ(read(e, "y"), (std::vector<float>{30, 30}));
  EXPECT_EQ(store->version(), version + 3);  // reading changes nothing
}

}  // namespace

}  // namespace fovea
