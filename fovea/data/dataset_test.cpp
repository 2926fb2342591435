#include "fovea/data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "fovea/data/fashion_mnist.h"
#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

std::string idx_file(const std::vector<int>& shape, const std::vector<int>& values) {
  std::string text = {0, 0, 8, static_cast<char>(shape.size())};
  for (int size : shape) {
    for (int shift : {24, 16, 8, 0}) text += static_cast<char>(size >> shift);
  }
  for (int v : values) text += static_cast<char>(v);
  return text;
}

// n images of 1 x 2 pixels, (i, 2 i), with the label i % 10.
void write_idx(const TemporaryFolder& folder, const std::string& prefix, int n) {
  std::vector<int> pixels, labels;
  for (int i = 0; i < n; ++i) {
    pixels.insert(pixels.end(), {i, 2 * i});
    labels.push_back(i % 10);
  }
  write_file_atomically(folder / (prefix + "-images-idx3-ubyte"), idx_file({n, 1, 2}, pixels));
  write_file_atomically(folder / (prefix + "-labels-idx1-ubyte"), idx_file({n}, labels));
}

DataOptions options_for(const TemporaryFolder& folder) {
  DataOptions options;
  options.kind = DataKind::idx;
  options.dir = folder.path().string();
  options.validation = 8;
  return options;
}

TEST(Dataset, ReadsIdxFilesAndCutsTheValidationSplitFromTrain) {
  TemporaryFolder folder;
  write_idx(folder, "train", 30);
  write_idx(folder, "t10k", 7);
  DataOptions options = options_for(folder);
  const ImageDataset train = load_images(options, Split::train);
  const ImageDataset validation = load_images(options, Split::validation);
  EXPECT_EQ(load_images(options, Split::test).size(), 7);
  ASSERT_EQ(train.size(), 22);
  ASSERT_EQ(validation.size(), 8);
  EXPECT_EQ(train.class_names.size(), 10u);

  std::set<int> seen;
  for (const ImageDataset* part : {&train, &validation}) {
    int last = -1;
    for (int64_t i = 0; i < part->size(); ++i) {
      const auto image = part->image(i);
      ASSERT_EQ(image.size(), 2u);
      EXPECT_EQ(image[1], 2 * image[0]);
      EXPECT_EQ(part->labels[static_cast<size_t>(i)], image[0] % 10);
      EXPECT_GT(image[0], last);
      last = image[0];
      seen.insert(last);
    }
  }
  EXPECT_EQ(seen.size(), 30u);

  EXPECT_EQ(load_images(options, Split::validation).images, validation.images);
  options.validation_seed = 1;
  EXPECT_NE(load_images(options, Split::validation).images, validation.images);
  options.validation = 0;
  EXPECT_EQ(load_images(options, Split::train).size(), 30);
}

TEST(Dataset, ImpossibleSplitsAreErrors) {
  TemporaryFolder folder;
  write_idx(folder, "train", 30);
  DataOptions options = options_for(folder);
  const auto refuses = [&](std::string_view what, Split split) {
    expect_error(ErrorCode::invalid_argument, what, [&] { load_images(options, split); });
  };
  options.validation = 30;
  refuses("expected less than the 30 training samples, got 30", Split::train);
  options.validation = -2;
  refuses("expected a share below 1 or a number of samples, got -2", Split::train);
  options.validation = 2.5;
  refuses("expected a share below 1 or a number of samples, got 2.5", Split::train);
  options.validation = 0;
  refuses("there is no validation split", Split::validation);
  EXPECT_FALSE(has_split(options, Split::validation));
  EXPECT_TRUE(has_split(options, Split::test));
  options.dir = "";
  refuses("expected 'dir'", Split::train);
  options.kind = DataKind::fashion_mnist;
  options.classes = {"a"};
  refuses("expected no 'classes'", Split::train);
}

TEST(Dataset, FilesThatContradictEachOtherAreErrors) {
  TemporaryFolder folder;
  write_idx(folder, "train", 30);
  DataOptions options = options_for(folder);
  const auto labels = folder / "train-labels-idx1-ubyte";
  const auto images = folder / "train-images-idx3-ubyte";
  const auto refuses = [&](std::string_view what) {
    expect_error(ErrorCode::corrupt, what, [&] { load_images(options, Split::train); });
  };
  options.classes = {"a", "b", "c"};
  refuses("sample 3 has the label 3, expected 0 to 2");
  write_file_atomically(labels, idx_file({2}, {0, 1}));
  refuses("got 2 labels for 30 images");
  write_file_atomically(labels, idx_file({1, 2}, {0, 1}));
  refuses("expected labels of 1 dimension, got 2");
  write_file_atomically(images, idx_file({2}, {0, 1}));
  refuses("expected images of 3 or 4 dimensions, got 1");
  write_file_atomically(labels, idx_file({0}, {}));
  write_file_atomically(images, idx_file({0, 0, 5}, {}));
  refuses("are no images");
}

TEST(Dataset, ASampleOutOfRangeIsAnError) {
  const ImageDataset dataset = {"x", 1, 2, 1, {1, 2, 3, 4}, {0, 0}, {"a"}};
  EXPECT_EQ(dataset.image(1)[0], 3);
  expect_error(ErrorCode::invalid_argument, "below 2, got 2", [&] { dataset.image(2); });
  expect_error(ErrorCode::invalid_argument, "got -1",
               [&] { select(dataset, std::vector<int64_t>{-1}); });
}

TEST(FashionMnist, HasTheSamplesAndClassesOfThePaper) {
  if (!std::filesystem::exists(kFashionMnistFolder)) GTEST_SKIP() << "it is not installed";
  const DataOptions options;
  const ImageDataset train = load_images(options, Split::train);
  const ImageDataset test = load_images(options, Split::test);
  EXPECT_EQ(train.size(), 55000);
  ASSERT_EQ(test.size(), 10000);
  EXPECT_EQ(test.height, 28);
  EXPECT_EQ(test.width, 28);
  EXPECT_EQ(test.channels, 1);
  std::map<int, int> counts;
  for (int32_t label : test.labels) ++counts[label];
  for (int label = 0; label < 10; ++label) EXPECT_EQ(counts[label], 1000);
  EXPECT_EQ(test.class_names[9], "Ankle boot");
  EXPECT_EQ(test.labels[0], 9);  // the first test image is an ankle boot
}

TEST(FashionMnist, IfMissingSaysWhatToInstall) {
  TemporaryFolder folder;
  DataOptions options;
  options.dir = (folder / "none").string();
  expect_error(ErrorCode::not_found, options.dir, [&] { load_images(options, Split::train); });
  expect_error(ErrorCode::not_found, "install it: apt-get install dataset-fashion-mnist",
               [&] { load_images(options, Split::test); });
}

}  // namespace
}  // namespace fovea
