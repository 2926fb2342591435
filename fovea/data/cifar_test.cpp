#include "fovea/data/cifar.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

// n records whose red, green and blue planes are (i, 50 + i, 100 + i), with the labels i % classes.
std::string records(int n, int labels, int classes, int first = 0) {
  std::string text;
  for (int i = first; i < first + n; ++i) {
    if (labels == 2) text += '\7';  // the coarse label
    text += static_cast<char>(i % classes);
    for (int c = 0; c < 3; ++c) text += std::string(1024, static_cast<char>(i + 50 * c));
  }
  return text;
}

DataOptions options_for(const TemporaryFolder& folder) {
  DataOptions options;
  options.kind = DataKind::cifar;
  options.dir = folder.path().string();
  options.validation = 3;
  return options;
}

TEST(Cifar, ReadsTheTenClasses) {
  const TemporaryFolder folder;
  for (int b = 0; b < 5; ++b)
    write_file_atomically(folder / ("data_batch_" + std::to_string(b + 1) + ".bin"),
                          records(4, 1, 10, 4 * b));
  write_file_atomically(folder / "test_batch.bin", records(3, 1, 10));
  const ImageDataset test = load_images(options_for(folder), Split::test);
  EXPECT_EQ(test.size(), 3);
  EXPECT_EQ(test.class_names[9], "9");
  const auto image = test.image(2);
  EXPECT_EQ(image.size(), 3072u);
  for (size_t i = 0; i < image.size(); ++i) ASSERT_EQ(image[i], 2 + 50 * (i % 3));
  EXPECT_EQ(load_images(options_for(folder), Split::train).size(), 17);
  EXPECT_EQ(load_images(options_for(folder), Split::validation).size(), 3);
  write_file_atomically(
      folder / "batches.meta.txt",
      std::string_view(
          "airplane\r\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"));
  EXPECT_EQ(load_images(options_for(folder), Split::test).class_names[1], "automobile");
}

TEST(Cifar, ReadsTheFineLabelsOfTheHundredClasses) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "train.bin", records(120, 2, 100));
  write_file_atomically(folder / "test.bin", records(2, 2, 100, 98));
  const ImageDataset test = load_images(options_for(folder), Split::test);
  EXPECT_EQ(test.labels, (std::vector<int32_t>{98, 99}));
  EXPECT_EQ(test.class_names.size(), 100u);
}

TEST(Cifar, MissingAndWrongFilesAreErrors) {
  const TemporaryFolder folder;
  DataOptions options = options_for(folder);
  const auto load = [&] { load_images(options, Split::test); };
  expect_error(ErrorCode::not_found, "neither data_batch_1.bin (CIFAR-10) nor train.bin", load);
  write_file_atomically(folder / "test_batch.bin", records(3, 1, 10) + "x");
  expect_error(ErrorCode::corrupt, "expected records of 3073 bytes, got 9220", load);
  write_file_atomically(folder / "test_batch.bin", records(12, 1, 11));
  expect_error(ErrorCode::corrupt, "sample 10 has the label 10", load);
  write_file_atomically(folder / "batches.meta.txt", std::string_view("one\ntwo\n"));
  expect_error(ErrorCode::corrupt, "expected 10 names of classes, got 2", load);
  options.classes = {"a"};
  expect_error(ErrorCode::invalid_argument, "no 'classes' for cifar", load);
  options.dir = "";
  expect_error(ErrorCode::invalid_argument, "expected 'dir'", load);
}

TEST(NpzDataset, ReadsTheSharedMedicalImages) {
  const std::filesystem::path path = shared_data("medmnist/breastmnist.npz");
  if (path.empty()) GTEST_SKIP() << "the shared data are not here";
  DataOptions options;
  options.kind = DataKind::npz;
  options.file = path.string();
  options.classes = {"malignant", "benign"};
  const ImageDataset train = load_images(options, Split::train);
  EXPECT_EQ(train.size(), 546);
  EXPECT_EQ(train.height, 28);
  EXPECT_EQ(train.channels, 1);
  EXPECT_EQ(std::count(train.labels.begin(), train.labels.end(), 0), 147);
  EXPECT_EQ(load_images(options, Split::validation).size(), 78);
  EXPECT_EQ(load_images(options, Split::test).size(), 156);
  options.classes = {};
  EXPECT_EQ(load_images(options, Split::test).class_names, (std::vector<std::string>{"0", "1"}));
  options.classes = {"a"};
  expect_error(ErrorCode::corrupt, "has the label 1", [&] { load_images(options, Split::test); });
  options.file = "";
  expect_error(ErrorCode::invalid_argument, "'file': expected the .npz",
               [&] { load_images(options, Split::test); });
}

}  // namespace
}  // namespace fovea
