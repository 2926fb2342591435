#include "fovea/runtime/variables.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fovea/base/test_errors.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

template <class T>
std::vector<T> read(const VariableStore& store, std::string_view name) {
  const auto bytes = store.get(name).data.bytes();
  const auto* p = reinterpret_cast<const T*>(bytes.data());
  return std::vector<T>(p, p + bytes.size() / sizeof(T));
}

VariableAttrs attrs(DType dtype, Shape shape, Init init, double scale, std::string source = {}) {
  return {
      .type = {dtype, std::move(shape)}, .init = init, .scale = scale, .source = std::move(source)};
}

TEST(Variables, BeginAsTheirAttributesSay) {
  Graph g;
  ops::variable(g, "ones", attrs(DType::f32, {2, 2}, Init::constant, 1));
  ops::variable(g, "step", attrs(DType::i32, {}, Init::constant, 7));
  ops::variable(g, "exact", attrs(DType::f64, {2}, Init::constant, 0.1));
  ops::variable(g, "normal", attrs(DType::f32, {10000}, Init::normal, 0.5));
  ops::variable(g, "uniform", attrs(DType::f32, {10000}, Init::uniform, 0.5));
  ops::variable(g, "average", attrs(DType::f32, {10000}, Init::copy, 0, "normal"));
  VariableStore store;
  store.create(g, 3);
  EXPECT_EQ(read<float>(store, "ones"), (std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(read<int32_t>(store, "step"), std::vector<int32_t>{7});
  EXPECT_EQ(read<double>(store, "exact"), (std::vector<double>{0.1, 0.1}));
  EXPECT_EQ(read<float>(store, "average"), read<float>(store, "normal"));

  double sum = 0, square = 0;
  for (float v : read<float>(store, "normal")) sum += v, square += double{v} * v;
  EXPECT_NEAR(sum / 10000, 0, 0.02);
  EXPECT_NEAR(std::sqrt(square / 10000), 0.5, 0.02);
  const auto uniform = read<float>(store, "uniform");
  const auto [low, high] = std::minmax_element(uniform.begin(), uniform.end());
  EXPECT_GE(*low, -0.5f);
  EXPECT_LT(*high, 0.5f);
  EXPECT_GT(*high - *low, 0.99f);
  EXPECT_EQ(store.get("ones").kind, VariableKind::weight);
  EXPECT_EQ(store.get("ones").shape, (std::vector<int64_t>{2, 2}));
}

TEST(Variables, RandomNumbersDependOnSeedAndNameAlone) {
  const auto make = [](uint64_t seed, bool others) {
    Graph g;
    if (others) ops::weight(g, "other", {50}, 1);
    ops::weight(g, "w", {50}, 1);
    VariableStore store;
    store.create(g, seed);
    return read<float>(store, "w");
  };
  EXPECT_EQ(make(1, false), make(1, true));
  EXPECT_NE(make(1, false), make(2, false));
  Graph g;
  ops::weight(g, "w", {50}, 1);
  ops::weight(g, "other", {50}, 1);
  VariableStore store;
  store.create(g, 1);
  EXPECT_NE(read<float>(store, "w"), read<float>(store, "other"));
}

TEST(Variables, KeepWhatTheyHoldWhenAnotherGraphNamesThem) {
  Graph g;
  ops::weight(g, "w", {2}, 1);
  VariableStore store;
  store.create(g, 1);
  const float numbers[] = {4, 5};
  store.set("w", DType::f32, {2}, std::as_bytes(std::span(numbers)));
  ops::weight(g, "later", {1}, 0);
  store.create(g, 2);
  EXPECT_EQ(read<float>(store, "w"), (std::vector<float>{4, 5}));
  EXPECT_TRUE(store.has("later"));
  EXPECT_EQ(store.all().size(), 2u);
}

TEST(Variables, AnotherTypeOrShapeForAKnownNameIsAnError) {
  VariableStore store;
  Graph g, other_shape, other_type;
  ops::weight(g, "w", {2}, 1);
  ops::weight(other_shape, "w", {3}, 1);
  ops::variable(other_type, "w", attrs(DType::i32, {2}, Init::constant, 0));
  store.create(g, 1);
  const Caught shape = error_of([&] { store.create(other_shape, 1); });
  EXPECT_EQ(shape.code, ErrorCode::invalid_argument);
  EXPECT_TRUE(contains(shape.what, "f32[3]") && contains(shape.what, "f32[2]")) << shape.what;
  EXPECT_TRUE(contains(error_of([&] { store.create(other_type, 1); }).what, "i32[2]"));
}

TEST(Variables, ACopyOfNothingIsAnError) {
  Graph g;
  ops::variable(g, "average", attrs(DType::f32, {2}, Init::copy, 0, "missing"));
  VariableStore store;
  const Caught e = error_of([&] { store.create(g, 1); });
  EXPECT_EQ(e.code, ErrorCode::not_found);
  EXPECT_TRUE(contains(e.what, "'missing'")) << e.what;
}

TEST(Variables, ACopyOfAnotherTypeOrShapeIsAnError) {
  for (const VariableAttrs& copy :
       {attrs(DType::f32, {3}, Init::copy, 0, "w"), attrs(DType::i32, {2}, Init::copy, 0, "w")}) {
    Graph g;
    ops::weight(g, "w", {2}, 1);
    ops::variable(g, "average", copy);
    VariableStore store;
    const Caught e = error_of([&] { store.create(g, 1); });
    EXPECT_EQ(e.code, ErrorCode::invalid_argument);
    EXPECT_TRUE(contains(e.what, "average") && contains(e.what, "f32[2]")) << e.what;
  }
}

TEST(Variables, ATypeWithoutInitialNumbersIsAnError) {
  Graph g;
  ops::variable(g, "half", attrs(DType::bf16, {2}, Init::constant, 0));
  VariableStore store;
  EXPECT_EQ(error_of([&] { store.create(g, 1); }).code, ErrorCode::unsupported);
}

TEST(Variables, ASizeThatIsNotKnownIsAnError) {
  Graph g;
  ops::variable(g, "w", attrs(DType::f32, {Size::symbol("B")}, Init::constant, 0));
  VariableStore store;
  EXPECT_EQ(error_of([&] { store.create(g, 1); }).code, ErrorCode::invalid_argument);
}

TEST(Variables, GettingOrSettingAnUnknownOneIsAnErrorThatNamesIt) {
  VariableStore store;
  const Caught got = error_of([&] { store.get("w"); });
  EXPECT_EQ(got.code, ErrorCode::not_found);
  EXPECT_TRUE(contains(got.what, "'w'")) << got.what;
  EXPECT_EQ(error_of([&] { store.set("w", DType::f32, {}, {}); }).code, ErrorCode::not_found);
  EXPECT_FALSE(store.has("w"));
}

TEST(Variables, SettingAnotherTypeShapeOrSizeIsAnError) {
  Graph g;
  ops::weight(g, "w", {2, 3}, 1);
  VariableStore store;
  store.create(g, 1);
  const auto before = read<float>(store, "w");
  const std::vector<float> six(6), five(5);
  const auto set = [&](DType dtype, std::vector<int64_t> shape, const std::vector<float>& numbers) {
    return error_of([&] { store.set("w", dtype, shape, std::as_bytes(std::span(numbers))); });
  };
  EXPECT_EQ(set(DType::f32, {3, 2}, six).code, ErrorCode::invalid_argument);
  EXPECT_EQ(set(DType::i32, {2, 3}, six).code, ErrorCode::invalid_argument);
  EXPECT_EQ(set(DType::f32, {2, 3}, five).code, ErrorCode::invalid_argument);
  EXPECT_EQ(read<float>(store, "w"), before);
  EXPECT_EQ(set(DType::f32, {2, 3}, six).what, "no error");
  EXPECT_EQ(read<float>(store, "w"), six);
}

TEST(Variables, ReadersShareTheLockAndAWriterHoldsItAlone) {
  VariableStore store;
  {
    const auto one = store.lock(false), two = store.lock(false);
    EXPECT_TRUE(one.shared.owns_lock() && two.shared.owns_lock());
  }
  const auto writer = store.lock(true);
  EXPECT_TRUE(writer.alone.owns_lock());
}

}  // namespace

}  // namespace fovea
