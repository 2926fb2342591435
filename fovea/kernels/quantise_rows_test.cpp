#include "fovea/kernels/quantise_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/base/test_errors.h"

namespace fovea {
namespace {

template <class T>
void expect_close(DType dtype) {
  constexpr int64_t kBatch = 2, kTokens = 5, kHeads = 3, kDim = 19, kRow = kHeads * kDim + 4;
  std::vector<T> from(kBatch * kTokens * kRow, T(7.0f));
  PhiloxStream random(1, stream_id("quantise_rows_test"));
  for (T& x : from) x = T(static_cast<float>(random.normal()));
  const AttentionStrides wide{.batch = kTokens * kRow, .token = kRow, .head = kDim};
  const QuantiseRows rows{.dtype = dtype,
                          .batch = kBatch,
                          .tokens = kTokens,
                          .heads = kHeads,
                          .dim = kDim,
                          .from = wide,
                          .to = AttentionStrides::head_major(kTokens, kHeads, kDim),
                          .scales = AttentionStrides::packed(kTokens, kHeads, 1)};
  std::vector<int8_t> to(kBatch * kTokens * kHeads * kDim, 99);
  std::vector<float> scales(kBatch * kTokens * kHeads, -1);
  ThreadPool pool(2);
  quantise_rows(rows, from.data(), to.data(), scales.data(), &pool);
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t h = 0; h < kHeads; ++h) {
        using attention_detail::row;
        const float scale = *row(scales.data(), rows.scales, b, t, h);
        const int8_t* numbers = row(to.data(), rows.to, b, t, h);
        int largest = 0;
        for (int64_t i = 0; i < kDim; ++i) {
          const auto x = static_cast<float>(row(from.data(), wide, b, t, h)[i]);
          EXPECT_NEAR(scale * static_cast<float>(numbers[i]), x, 0.501f * scale);
          largest = std::max(largest, std::abs(static_cast<int>(numbers[i])));
        }
        EXPECT_EQ(largest, 127);
      }
}

TEST(QuantiseRows, NumbersAreRoundedToTheNearest) {
  expect_close<float>(DType::f32);
  expect_close<bf16>(DType::bf16);
}

TEST(QuantiseRows, ZerosStayZerosAndWhatIsNotFiniteStaysThat) {
  const std::vector<float> from = {0, 0, 1e-40f, 0, NAN, 1, 2, -INFINITY};
  std::vector<int8_t> to(8, 99);
  std::vector<float> scales(4, -1);
  quantise_rows({.tokens = 4,
                 .dim = 2,
                 .from = AttentionStrides::packed(4, 1, 2),
                 .to = AttentionStrides::packed(4, 1, 2),
                 .scales = AttentionStrides::packed(4, 1, 1)},
                from.data(), to.data(), scales.data());
  EXPECT_EQ(scales[0], 0.0f);
  EXPECT_EQ(scales[1], 0.0f);
  EXPECT_TRUE(std::isnan(scales[2]) && std::isnan(scales[3]));
  for (int8_t x : to) EXPECT_EQ(x, 0);
}

TEST(QuantiseRows, OtherTypesAreAnError) {
  const Caught caught =
      error_of([] { quantise_rows({.dtype = DType::f64}, nullptr, nullptr, nullptr); });
  EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
  EXPECT_TRUE(contains(caught.what, "f64")) << caught.what;
}

}  // namespace
}  // namespace fovea
