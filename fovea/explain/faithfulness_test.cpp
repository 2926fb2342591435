#include "fovea/explain/faithfulness.h"

#include <gtest/gtest.h>

#include <cstring>

#include "fovea/base/error.h"
#include "fovea/base/philox.h"
#include "fovea/explain/test_bright_model.h"

namespace fovea {
namespace {

ImageDataset bright_images(int64_t count) {
  ImageDataset data{"bright", 4, 6, 1, {}, {}, {"dark", "light"}};
  PhiloxStream random(3, stream_id("bright"));
  for (int64_t i = 0; i < count; ++i) {
    std::vector<uint8_t> patches(6);
    for (uint8_t& p : patches) p = static_cast<uint8_t>(random.below(80));
    patches[random.below(6)] = 250;
    const auto image = bright_image(patches);
    data.images.insert(data.images.end(), image.begin(), image.end());
    data.labels.push_back(1);
  }
  return data;
}

double probability(Session& model, const std::vector<uint8_t>& image) {
  Execution& e = model.prepare({{"B", 1}});
  std::memcpy(e.input(kImageInput).data(), image.data(), image.size());
  e.run();
  return static_cast<double>(e.output_f32(kProbabilities)[1]);
}

TEST(Faithfulness, ACurveIsTheProbabilityAsPatchesGo) {
  ImageDataset one{"one", 4, 6, 1, bright_image({60, 250, 20, 30, 10, 160}), {1}, {"a", "b"}};
  const std::vector<uint8_t> black(24);
  Session model = bright_session();
  Explainer explainer = bright_explainer();
  const Faithfulness f = measure_faithfulness(model, explainer, one, black, {.batch = 4});
  EXPECT_EQ(f.images, 1);
  EXPECT_EQ(f.tokens, 6);
  EXPECT_EQ(f.steps, 6);
  ASSERT_EQ(f.rankings.size(), 3u);
  const std::vector<std::vector<uint8_t>> highest = {
      {60, 250, 20, 30, 10, 160}, {60, 0, 20, 30, 10, 160}, {60, 0, 20, 30, 10, 0},
      {0, 0, 20, 30, 10, 0},      {0, 0, 20, 0, 10, 0},     {0, 0, 0, 0, 10, 0},
      {0, 0, 0, 0, 0, 0}};
  const std::vector<std::vector<uint8_t>> lowest = {
      {60, 250, 20, 30, 10, 160}, {60, 250, 20, 30, 0, 160}, {60, 250, 0, 30, 0, 160},
      {60, 250, 0, 0, 0, 160},    {0, 250, 0, 0, 0, 160},    {0, 250, 0, 0, 0, 0},
      {0, 0, 0, 0, 0, 0}};
  for (const RankingFaithfulness& r : f.rankings) {
    ASSERT_EQ(r.highest_first.probability.size(), 7u);
    double high = 0, low = 0;
    for (size_t k = 0; k < 7; ++k) {
      const double h = probability(model, bright_image(highest[k]));
      const double l = probability(model, bright_image(lowest[k]));
      EXPECT_NEAR(r.highest_first.probability[k].mean, h, 1e-6) << enum_name(r.ranking) << k;
      EXPECT_NEAR(r.lowest_first.probability[k].mean, l, 1e-6) << enum_name(r.ranking) << k;
      EXPECT_EQ(r.highest_first.probability[k].error, 0);  // of one image nothing is known
      high += (k == 0 || k == 6 ? 0.5 : 1) * h / 6;
      low += (k == 0 || k == 6 ? 0.5 : 1) * l / 6;
    }
    EXPECT_NEAR(r.highest_first.area.mean, high, 1e-6);
    EXPECT_NEAR(r.lowest_first.area.mean, low, 1e-6);
    EXPECT_NEAR(r.deletion_gain.mean, f.random.area.mean - high, 1e-6);
    EXPECT_NEAR(r.insertion_gain.mean, low - f.random.area.mean, 1e-6);
    EXPECT_GT(r.deletion_gain.mean, 0);
    EXPECT_GT(r.insertion_gain.mean, 0);
  }
}

TEST(Faithfulness, WhereTheModelLooksIsWhatItsAnswerHangsOn) {
  const ImageDataset data = bright_images(100);
  const std::vector<uint8_t> black(24);
  Session model = bright_session();
  Explainer explainer = bright_explainer();
  double told = 0;
  const Faithfulness f =
      measure_faithfulness(model, explainer, data, black, {.progress = [&](double done) {
                             EXPECT_GT(done, told);
                             told = done;
                           }});
  EXPECT_EQ(told, 1);
  for (const RankingFaithfulness& r : f.rankings) {
    EXPECT_GT(r.deletion_gain.mean, 4 * r.deletion_gain.error);
    EXPECT_GT(r.insertion_gain.mean, 4 * r.insertion_gain.error);
    EXPECT_GT(r.deletion_gain.error, 0);
    EXPECT_LT(r.highest_first.area.mean, f.random.area.mean);
    EXPECT_GT(r.lowest_first.area.mean, f.random.area.mean);
    // All begin with the whole image and end with nothing of it.
    EXPECT_NEAR(r.highest_first.probability.front().mean, f.random.probability.front().mean, 1e-9);
    EXPECT_NEAR(r.lowest_first.probability.back().mean, f.random.probability.back().mean, 1e-9);
  }
}

TEST(Faithfulness, DependsOnTheSeedAndOnNothingElse) {
  const ImageDataset data = bright_images(20);
  const std::vector<uint8_t> black(24);
  const auto area = [&](const FaithfulnessOptions& options) {
    Session model = bright_session();
    Explainer explainer = bright_explainer();
    return measure_faithfulness(model, explainer, data, black, options).random.area.mean;
  };
  EXPECT_EQ(area({.batch = 256}), area({.batch = 7}));
  EXPECT_NE(area({.seed = 1}), area({.seed = 2}));
}

TEST(Faithfulness, PatchesMayGoInPartsOfSeveral) {
  const ImageDataset data = bright_images(3);
  const std::vector<uint8_t> black(24);
  Session model = bright_session();
  Explainer explainer = bright_explainer();
  const Faithfulness whole = measure_faithfulness(model, explainer, data, black, {});
  const Faithfulness parts = measure_faithfulness(model, explainer, data, black, {.most_steps = 2});
  EXPECT_EQ(parts.steps, 2);
  for (size_t r = 0; r < 3; ++r)
    for (size_t k = 0; k < 3; ++k)
      EXPECT_NEAR(parts.rankings[r].highest_first.probability[k].mean,
                  whole.rankings[r].highest_first.probability[3 * k].mean, 1e-6);
}

TEST(Faithfulness, TheMeanImageIsTheMeanOfEachPlace) {
  ImageDataset data{"two", 1, 2, 1, {10, 0, 20, 1, 31, 1}, {0, 0, 0}, {"a"}};
  EXPECT_EQ(mean_image(data), (std::vector<uint8_t>{20, 1}));
}

TEST(Faithfulness, WhatCannotBeMeasuredIsAnError) {
  Session model = bright_session();
  Explainer explainer = bright_explainer();
  const std::vector<uint8_t> black(24);
  const auto code = [&](const ImageDataset& data, std::span<const uint8_t> removed,
                        const FaithfulnessOptions& options) {
    try {
      measure_faithfulness(model, explainer, data, removed, options);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::interrupted;
  };
  const auto invalid = ErrorCode::invalid_argument;
  EXPECT_EQ(code(bright_images(0), black, {}), invalid);
  EXPECT_EQ(code(bright_images(2), std::vector<uint8_t>(7), {}), invalid);
  EXPECT_EQ(code(bright_images(2), black, {.random_orders = 0}), invalid);
  ImageDataset other = bright_images(2);
  other.height = 6;
  other.width = 4;
  EXPECT_EQ(code(other, black, {}), invalid);
}

}  // namespace
}  // namespace fovea
