#include "fovea/kernels/copy.h"

#include <limits>
#include <numeric>

#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::run;
using Dims = std::vector<int64_t>;

template <class T>
void check_transpose() {
  constexpr int64_t rows = 130, cols = 257;
  std::vector<T> x(rows * cols), y(rows * cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(i * 7 + 1);
  run(copy_kernels(), {sizeof(T), {cols, rows}, {1, cols}, {}}, {x.data(), y.data()}, 2);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols; ++c) ASSERT_EQ(y[c * rows + r], x[r * cols + c]);
}

TEST(Copy, TransposesElementsOfEverySize) {
  check_transpose<uint8_t>();
  check_transpose<uint16_t>();
  check_transpose<uint32_t>();
  check_transpose<uint64_t>();
}

TEST(Copy, PermutesFourAxes) {
  // [B, T, H, D] -> [B, H, T, D]
  const int64_t b = 2, t = 5, h = 3, d = 4;
  std::vector<float> x(static_cast<size_t>(b * t * h * d)), y(x.size());
  std::iota(x.begin(), x.end(), 0.0f);
  run(copy_kernels(), {4, {b, h, t, d}, {t * h * d, d, h * d, 1}, {}}, {x.data(), y.data()});
  size_t at = 0;
  for (int64_t i = 0; i < b; ++i)
    for (int64_t k = 0; k < h; ++k)
      for (int64_t j = 0; j < t; ++j)
        for (int64_t l = 0; l < d; ++l)
          ASSERT_EQ(y[at++], static_cast<float>(((i * t + j) * h + k) * d + l));
}

TEST(Copy, SlicesAndJoinsRows) {
  const std::vector<int32_t> a = {1, 2, 3, 4, 5, 6}, b = {7, 8};  // [2, 3] and [2, 1]
  std::vector<int32_t> joined(8), middle(2);
  run(copy_kernels(), {4, {2, 3}, {}, {4, 1}}, {a.data(), joined.data()});
  run(copy_kernels(), {4, {2, 1}, {}, {4, 1}}, {b.data(), joined.data() + 3});
  EXPECT_EQ(joined, (std::vector<int32_t>{1, 2, 3, 7, 4, 5, 6, 8}));
  run(copy_kernels(), {4, {2, 1}, {4, 1}, {}}, {joined.data() + 1, middle.data()});
  EXPECT_EQ(middle, (std::vector<int32_t>{2, 5}));
}

TEST(Copy, RepeatsAndReverses) {
  const std::vector<int32_t> x = {1, 2, 3};
  std::vector<int32_t> y(6), z(3);
  run(copy_kernels(), {4, {2, 3}, {0, 1}, {}}, {x.data(), y.data()});
  EXPECT_EQ(y, (std::vector<int32_t>{1, 2, 3, 1, 2, 3}));
  run(copy_kernels(), {4, {3}, {-1}, {}}, {x.data() + 2, z.data()});
  EXPECT_EQ(z, (std::vector<int32_t>{3, 2, 1}));
}

TEST(Copy, CopiesNothingOfAnEmptyShape) {
  int32_t untouched = 5;
  run(copy_kernels(), {4, {0, 3}, {}, {}}, {&untouched, &untouched});
  run(copy_kernels(), {4, {3, 0}, {}, {}}, {&untouched, &untouched});
  EXPECT_EQ(untouched, 5);
}

template <class T>
std::vector<T> fill(double value, DType dtype) {
  std::vector<T> y(40001);
  run(fill_kernels(), {dtype, 40000, value}, {y.data()}, 2);
  EXPECT_EQ(std::memcmp(&y[40000], std::vector<T>(1).data(), sizeof(T)), 0) << "wrote past the end";
  y.pop_back();
  return y;
}

TEST(Copy, FillsEveryType) {
  EXPECT_EQ(fill<float>(1.5, DType::f32), std::vector<float>(40000, 1.5f));
  EXPECT_EQ(fill<double>(1.5, DType::f64), std::vector<double>(40000, 1.5));
  EXPECT_EQ(fill<int32_t>(-3.7, DType::i32), std::vector<int32_t>(40000, -3));
  EXPECT_EQ(fill<uint8_t>(300, DType::u8), std::vector<uint8_t>(40000, 255));
  EXPECT_EQ(fill<int8_t>(-300, DType::i8), std::vector<int8_t>(40000, -128));
  EXPECT_EQ(fill<uint8_t>(300, DType::boolean), std::vector<uint8_t>(40000, 1));
  for (bf16 v : fill<bf16>(-2, DType::bf16)) ASSERT_EQ(static_cast<float>(v), -2.0f);
}

TEST(Copy, IotaCountsAlongAnAxis) {
  std::vector<int32_t> y(12);
  run(iota_kernels(), {DType::i32, {2, 3, 2}, 1}, {y.data()});
  EXPECT_EQ(y, (std::vector<int32_t>{0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2}));
  std::vector<float> z(3);
  run(iota_kernels(), {DType::f32, {3}, 0}, {z.data()});
  EXPECT_EQ(z, (std::vector<float>{0, 1, 2}));
}

TEST(Copy, WhatIsNotSupportedHasNoPlan) {
  EXPECT_FALSE(leaf::supported(copy_kernels(), {3, {4}, {}, {}}));
  EXPECT_FALSE(leaf::supported(copy_kernels(), {4, {4}, {1, 1}, {}}));
  // Nine dimensions of which no two can be joined.
  EXPECT_FALSE(
      leaf::supported(copy_kernels(), {4, Dims(9, 2), {1, 2, 4, 8, 16, 32, 64, 128, 256}, {}}));
  EXPECT_FALSE(leaf::supported(fill_kernels(), {DType::f16, 4, 0.0}));
  EXPECT_FALSE(leaf::supported(fill_kernels(), {DType::f32, -4, 0.0}));
  EXPECT_FALSE(leaf::supported(iota_kernels(), {DType::u8, {3}, 0}));
  EXPECT_FALSE(leaf::supported(iota_kernels(), {DType::i32, {3}, 1}));
  EXPECT_FALSE(leaf::supported(iota_kernels(), {DType::i32, {3}, -1}));
}

}  // namespace
}  // namespace fovea
