#include "fovea/infer/predictor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"
#include "fovea/infer/test_model.h"

namespace fovea {
namespace {

Predictor make_predictor(const Bundle& bundle, int threads = 1) {
  return Predictor(bundle, std::make_shared<ThreadPool>(threads));
}

Image image_of(const ImageDataset& data, int64_t i) {
  const auto pixels = data.image(i);
  return {data.height, data.width, data.channels, {pixels.begin(), pixels.end()}};
}

bool same_scores(const std::vector<ClassScore>& a, const std::vector<ClassScore>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const ClassScore& x, const ClassScore& y) {
                      return x.label == y.label && x.probability == y.probability;
                    });
}

TEST(Predictor, GivesAllClassesTheMostProbableFirst) {
  const Bundle bundle = tiny_bundle();
  Predictor predictor = make_predictor(bundle);
  std::vector<float> w(48), b(3);
  std::memcpy(w.data(), bundle.weights.at("head.weight")->bytes.data(), 48 * sizeof(float));
  std::memcpy(b.data(), bundle.weights.at("head.bias")->bytes.data(), 3 * sizeof(float));
  const ImageDataset data = tiny_dataset(20);
  for (int64_t i = 0; i < data.size(); ++i) {
    const std::vector<ClassScore> scores = predictor.predict(image_of(data, i), "x.png");
    ASSERT_EQ(scores.size(), 3u);
    std::map<std::string, double> expected;
    double total = 0;
    for (size_t c = 0; c < 3; ++c) {
      double logit = b[c];
      for (size_t k = 0; k < 16; ++k)
        logit += static_cast<double>(w[c * 16 + k]) * data.image(i)[k];
      total += expected[bundle.labels[c]] = std::exp(logit);
    }
    for (size_t k = 0; k < 3; ++k) {
      EXPECT_NEAR(scores[k].probability, expected.at(scores[k].label) / total, 1e-5);
      EXPECT_LE(scores[k].probability, scores[k == 0 ? 0 : k - 1].probability);
    }
  }
}

TEST(Predictor, ABundleOnDiskAnswersAsTheOneInMemory) {
  TemporaryFolder folder;
  const Bundle bundle = tiny_bundle();
  save_bundle(folder / "model", bundle);
  const Image image = image_of(tiny_dataset(1), 0);
  write_file_atomically(folder / "cat.png", encode_png(image));
  Predictor loaded = make_predictor(load_bundle(folder / "model"));
  EXPECT_TRUE(same_scores(loaded.predict(read_image(folder / "cat.png"), "cat.png"),
                          make_predictor(bundle).predict(image, "cat.png")));
}

TEST(Predictor, TheNumberOfThreadsDoesNotChangeABit) {
  const Bundle bundle = tiny_bundle();
  Predictor one = make_predictor(bundle, 1), four = make_predictor(bundle, 4);
  const ImageDataset data = tiny_dataset(50);
  for (int64_t i = 0; i < data.size(); ++i) {
    const Image image = image_of(data, i);
    EXPECT_TRUE(same_scores(one.predict(image, "x"), four.predict(image, "x")));
  }
}

TEST(Predictor, GreyAndColourImagesAreConverted) {
  const Image grey = image_of(tiny_dataset(1), 0);
  const Image colour = to_rgb(grey);
  Predictor takes_grey = make_predictor(tiny_bundle(1));
  EXPECT_TRUE(same_scores(takes_grey.predict(grey, "x"), takes_grey.predict(colour, "x")));
  Predictor takes_colour = make_predictor(tiny_bundle(3));
  EXPECT_TRUE(same_scores(takes_colour.predict(grey, "x"), takes_colour.predict(colour, "x")));
}

TEST(Predictor, ClassesWithoutNamesAreNumbered) {
  Bundle bundle = tiny_bundle();
  bundle.labels.clear();
  std::string seen;
  for (const ClassScore& s :
       make_predictor(bundle).predict({4, 4, 1, std::vector<uint8_t>(16)}, ""))
    seen += s.label;
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, "012");
}

TEST(Predictor, EqualProbabilitiesStandInTheOrderOfTheLabels) {
  Bundle bundle = tiny_bundle();
  for (auto& [name, tensor] : bundle.weights) {
    auto zero = std::make_shared<HostTensor>(*tensor);
    std::fill(zero->bytes.begin(), zero->bytes.end(), std::byte{0});
    tensor = zero;
  }
  const auto scores = make_predictor(bundle).predict({4, 4, 1, std::vector<uint8_t>(16)}, "");
  EXPECT_EQ(scores[0].label, "cat");
  EXPECT_EQ(scores[1].label, "dog");
  EXPECT_EQ(scores[2].label, "mouse");
}

TEST(Predictor, AnImageOfAnotherSizeIsPreparedAsTheRecipeSays) {
  Image wide{8, 16, 1, std::vector<uint8_t>(128)};
  for (size_t i = 0; i < wide.pixels.size(); ++i) wide.pixels[i] = static_cast<uint8_t>(2 * i);
  const auto predict = [&](const std::string& recipe, const Image& image) {
    Bundle bundle = tiny_bundle();
    bundle.recipe = recipe;
    return make_predictor(bundle).predict(image, "wide.png");
  };
  Image middle{8, 8, 1, {}};
  for (size_t y = 0; y < 8; ++y)
    for (size_t x = 0; x < 8; ++x) middle.pixels.push_back(wide.pixels[y * 16 + x + 4]);
  EXPECT_TRUE(same_scores(predict("", wide), predict("", resize(middle, 4, 4))));
  EXPECT_TRUE(
      same_scores(predict("[data]\nresize = \"stretch\"", wide), predict("", resize(wide, 4, 4))));
  EXPECT_FALSE(same_scores(predict("[data]\nresize = \"pad\"", wide), predict("", wide)));
}

TEST(Predictor, AnImageThatCannotBeIsAnError) {
  Predictor predictor = make_predictor(tiny_bundle());
  expect_error(ErrorCode::invalid_argument, "[predict] cat.png: ", [&] {
    predictor.predict({4, 4, 2, std::vector<uint8_t>(32)}, "cat.png");
  });
  expect_error(ErrorCode::invalid_argument, "[predict] cat.png: ", [&] {
    predictor.predict({4, 4, 1, std::vector<uint8_t>(15)}, "cat.png");
  });
}

TEST(Predictor, ABrokenFileIsAnErrorAndTheNextOneIsAnswered) {
  TemporaryFolder folder;
  Predictor predictor = make_predictor(tiny_bundle());
  const std::vector<std::byte> png = encode_png(image_of(tiny_dataset(1), 0));
  const auto predict = [&](std::span<const std::byte> bytes) {
    write_file_atomically(folder / "cat.png", bytes);
    return predictor.predict(read_image(folder / "cat.png"), "cat.png");
  };
  expect_error(ErrorCode::corrupt, "cat.png: broken PNG file",
               [&] { predict(std::span(png).first(png.size() / 2)); });
  expect_error(ErrorCode::unsupported, "cat.png: expected a PNG or JPEG file",
               [&] { predict(to_bytes("no image at all")); });
  EXPECT_EQ(predict(png).size(), 3u);
}

TEST(Predictor, AModelThatIsNoClassifierIsAnError) {
  Bundle bundle = tiny_bundle();
  bundle.graph.remove_output(kProbabilities);
  expect_error(ErrorCode::unsupported, "[predict] the model is no classifier",
               [&] { make_predictor(bundle); });
  Bundle other;
  const Value x = ops::input(other.graph, "x", DType::f32, {Size::symbol("B"), 3});
  other.graph.set_output(kProbabilities, ops::softmax(other.graph, x));
  expect_error(ErrorCode::unsupported, "[predict] this bundle: the model takes no images",
               [&] { make_predictor(other); });
}

TEST(Predictor, LabelsThatAreNotAsManyAsTheClassesAreAnError) {
  Bundle bundle = tiny_bundle();
  bundle.labels.pop_back();
  expect_error(ErrorCode::corrupt, "[predict] the model has 3 classes, but labels.txt names 2",
               [&] { make_predictor(bundle); });
}

TEST(Predictor, AMissingOrWrongWeightIsAnError) {
  Bundle bundle = tiny_bundle();
  bundle.weights["head.bias"] = random_tensor({4}, 1);
  expect_error(ErrorCode::invalid_argument, "[variable head.bias] expected f32[3], got f32[4]",
               [&] { make_predictor(bundle); });
  bundle.weights.erase("head.bias");
  expect_error(ErrorCode::invalid_argument, "the variable 'head.bias' has no weight",
               [&] { make_predictor(bundle); });
}

TEST(Predictor, WeightsThatAreNotNumbersAreAnError) {
  Bundle bundle = tiny_bundle();
  auto broken = std::make_shared<HostTensor>(*bundle.weights["head.bias"]);
  const float nan = std::nanf("");
  std::memcpy(broken->bytes.data(), &nan, sizeof nan);
  bundle.weights["head.bias"] = broken;
  Predictor predictor = make_predictor(bundle);
  expect_error(ErrorCode::non_finite, "[predict] x.png: the model gives a probability", [&] {
    predictor.predict({4, 4, 1, std::vector<uint8_t>(16)}, "x.png");
  });
}

}  // namespace
}  // namespace fovea
