#include "fovea/data/image_files.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "fovea/data/prepare_image.h"
#include "fovea/formats/file.h"
#include "fovea/formats/image.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

Image plain(int64_t height, int64_t width, int64_t channels, uint8_t value) {
  return {height, width, channels,
          std::vector<uint8_t>(static_cast<size_t>(height * width * channels), value)};
}

void write_image(const fs::path& path, const Image& image) {
  fs::create_directories(path.parent_path());
  const std::vector<std::byte> png = encode_png(image);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
}

// n grey images of 4 x 4 in each class; the value of their pixels tells them apart.
void write_classes(const fs::path& folder, const std::vector<std::string>& classes, int n,
                   int first = 0) {
  int value = first;
  for (const std::string& name : classes)
    for (int i = 0; i < n; ++i, ++value)
      write_image(folder / name / (std::to_string(i) + ".png"),
                  plain(4, 4, 1, static_cast<uint8_t>(value)));
}

DataOptions folder_options(const TemporaryFolder& folder) {
  DataOptions options;
  options.kind = DataKind::image_folder;
  options.dir = folder.path().string();
  return options;
}

std::set<int> values(const ImageDataset& data) {
  std::set<int> result;
  for (int64_t i = 0; i < data.size(); ++i) result.insert(data.image(i)[0]);
  return result;
}

template <class F>
void refuses(std::string_view what, F&& call) {
  expect_error(ErrorCode::invalid_argument, what, call);
}

TEST(ImageFolder, OneFolderIsCutByTheSeedEachClassInProportion) {
  const TemporaryFolder folder;
  write_classes(folder.path(), {"b", "a"}, 40);
  DataOptions options = folder_options(folder);
  std::set<int> all;
  std::map<Split, ImageDataset> parts;
  for (Split split : {Split::train, Split::validation, Split::test}) {
    ASSERT_TRUE(has_split(options, split));
    const ImageDataset data = parts[split] = load_images(options, split);
    EXPECT_EQ(data.class_names, (std::vector<std::string>{"a", "b"}));
    const int64_t each = split == Split::train ? 30 : split == Split::test ? 6 : 4;
    EXPECT_EQ(std::count(data.labels.begin(), data.labels.end(), 0), each);
    EXPECT_EQ(std::count(data.labels.begin(), data.labels.end(), 1), each);
    for (int64_t i = 0; i < data.size(); ++i) {
      EXPECT_EQ(data.image(i)[0] < 40, data.labels[static_cast<size_t>(i)] == 1);
      EXPECT_EQ(read_image(data.name(i)).pixels[0], data.image(i)[0]);
      EXPECT_TRUE(all.insert(data.image(i)[0]).second);
    }
  }
  EXPECT_EQ(all.size(), 80u);
  EXPECT_EQ(values(load_images(options, Split::test)), values(parts[Split::test]));
  options.validation_seed = 1;
  EXPECT_NE(values(load_images(options, Split::test)), values(parts[Split::test]));
  options.test = 20;  // samples, not a share
  options.validation = 0;
  EXPECT_EQ(load_images(options, Split::test).size(), 20);
  EXPECT_FALSE(has_split(options, Split::validation));
  refuses("no validation split", [&] { load_images(options, Split::validation); });
  options.test = 0.6;
  options.validation = 0.4;
  refuses("expected less than the whole", [&] { load_images(options, Split::train); });
}

TEST(ImageFolder, ANewImageOfOneClassLeavesTheOthersWhereTheyAre) {
  const TemporaryFolder folder;
  write_classes(folder.path(), {"a", "b"}, 20);
  const DataOptions options = folder_options(folder);
  const auto of_a = [&] {
    std::set<int> result;
    for (int v : values(load_images(options, Split::test)))
      if (v < 20) result.insert(v);
    return result;
  };
  const std::set<int> before = of_a();
  write_image(folder / "b" / "new.png", plain(4, 4, 1, 200));
  EXPECT_EQ(of_a(), before);
}

TEST(ImageFolder, FoldersNamedAfterPartsAreTaken) {
  const TemporaryFolder folder;
  write_classes(folder / "training", {"a", "b"}, 3, 0);
  write_classes(folder / "val", {"a", "b"}, 2, 50);
  const DataOptions options = folder_options(folder);
  EXPECT_EQ(values(load_images(options, Split::validation)), (std::set<int>{50, 51, 52, 53}));
  // There is no test folder, and 0.15 of three are none.
  EXPECT_EQ(load_images(options, Split::train).size(), 6);
  EXPECT_FALSE(has_split(options, Split::test));
  write_classes(folder / "test", {"b"}, 1, 90);  // need not have every class
  EXPECT_EQ(values(load_images(options, Split::test)), std::set<int>{90});
  EXPECT_EQ(load_images(options, Split::test).labels, std::vector<int32_t>{1});
  write_classes(folder / "test", {"bb"}, 1);
  refuses(
      "bb is no class to train: there is no such folder beside the classes a, b; did you mean "
      "'b'?",
      [&] { load_images(options, Split::test); });
}

TEST(ImageFolder, NestedHiddenLinkedAndOddlyNamedFilesAreHandled) {
  const TemporaryFolder folder;
  write_image(folder / "a b" / "deep" / "er" / "x 1.PNG", plain(4, 4, 1, 1));
  write_image(folder / "a b" / "\xc3\xa4\xe6\xbc\xa2.png", plain(4, 4, 1, 2));
  write_image(folder / "a b" / ".hidden.png", plain(4, 4, 1, 3));
  write_file_atomically(folder / "a b" / "notes.txt", std::string_view("x"));
  write_image(folder / "elsewhere_" / "y.png", plain(4, 4, 1, 4));
  fs::create_directory(folder / "b");
  fs::create_symlink(folder / "elsewhere_" / "y.png", folder / "b" / "link.png");
  fs::create_directory_symlink(folder.path(), folder / "b" / "circle");
  DataOptions options = folder_options(folder);
  options.classes = {"b", "a b"};
  options.validation = options.test = 0;
  const ImageDataset data = load_images(options, Split::train);
  EXPECT_EQ(values(data), (std::set<int>{1, 2, 4}));
  EXPECT_EQ(data.class_names, options.classes);
  options.classes = {"b", "ab"};
  refuses("no folder 'ab' in", [&] { load_images(options, Split::train); });
}

TEST(ImageFolder, AFolderThatIsNoDataSetSaysWhatWasFound) {
  const TemporaryFolder folder;
  DataOptions options = folder_options(folder);
  const auto load = [&] { load_images(options, Split::train); };
  refuses("at least two classes in", load);
  refuses("got no folder and 0 images", load);
  write_image(folder / "x.png", plain(4, 4, 1, 1));
  refuses("got no folder and 1 image ", load);
  write_classes(folder.path(), {"cats"}, 1);
  refuses("got only 'cats'", load);
  fs::create_directory(folder / "dogs");
  refuses("dogs holds no image files", load);
  options.dir = folder / "nowhere";
  expect_error(ErrorCode::not_found, "nowhere cannot be read", load);
  options.dir = folder / "x.png";
  expect_error(ErrorCode::io, "x.png cannot be read", load);
  options.dir = "";
  refuses("'dir': expected the folder", load);
}

TEST(ImageFiles, SizesAndChannelsAreMadeAsTheOptionsSay) {
  const TemporaryFolder folder;
  write_image(folder / "a" / "1.png", plain(4, 4, 1, 100));
  write_image(folder / "b" / "1.png", plain(8, 6, 3, 50));
  DataOptions options = folder_options(folder);
  options.validation = options.test = 0;
  const auto load = [&] { return load_images(options, Split::train); };
  refuses("expected images of one size, got", load);
  refuses("1.png (6x8 colour) beside", load);
  refuses("set data.height and data.width", load);
  options.height = options.width = 5;
  refuses("of one kind, got", load);
  options.channels = 3;
  ImageDataset data = load();
  EXPECT_EQ(data.images.size(), 2u * 5 * 5 * 3);
  EXPECT_EQ(data.image(0)[0], 100);
  EXPECT_EQ(data.image(1)[74], 50);
  options.channels = 1;
  EXPECT_EQ(load().image_size(), 25);
  options.channels = 2;
  refuses("'channels': expected 1 (grey), 3 (colour) or 0", load);
  options.channels = 1;
  options.width = 0;
  refuses("'height': expected both height and width", load);
}

TEST(ImageFiles, UnreadableFilesAreListedOrSkippedAndCounted) {
  const TemporaryFolder folder;
  write_classes(folder.path(), {"a", "b"}, 10);
  write_file_atomically(folder / "a" / "0.png", std::string_view("I am text"));
  std::vector<std::byte> cut = encode_png(plain(4, 4, 1, 9));
  cut.resize(cut.size() / 2);
  write_file_atomically(folder / "b" / "5.png", cut);
  fs::create_symlink("nowhere", folder / "b" / "gone.jpg");
  write_file_atomically(folder / "b" / "old.gif", std::string_view("GIF89a"));
  DataOptions options = folder_options(folder);
  options.validation = options.test = 0;
  const auto load = [&] { return load_images(options, Split::train); };
  const auto corrupt = ErrorCode::corrupt;
  expect_error(corrupt, "4 of 22 image files cannot be read", load);
  expect_error(corrupt, "0.png: expected a PNG or JPEG file, got neither (convert it to PNG); ",
               load);
  expect_error(corrupt, "5.png: broken PNG file", load);
  expect_error(corrupt, "set data.unreadable=skip", load);
  options.unreadable = Unreadable::skip;
  const ImageDataset data = load();
  EXPECT_EQ(data.size(), 18);
  EXPECT_EQ(data.skipped.size(), 4u);
  for (int64_t i = 0; i < data.size(); ++i)
    EXPECT_EQ(read_image(data.files[static_cast<size_t>(i)]).pixels[0], data.image(i)[0]);
  for (int i = 0; i < 10; ++i)
    for (const char* name : {"a", "b"})
      write_file_atomically(folder / name / (std::to_string(i) + ".png"), std::string_view("x"));
  expect_error(corrupt, "none is left", load);
}

TEST(ImageFiles, WhatDoesNotFitInMemoryIsAnErrorWithItsSize) {
  const TemporaryFolder folder;
  write_classes(folder.path(), {"a", "b"}, 2);
  DataOptions options = folder_options(folder);
  options.height = options.width = 1000;
  options.validation = options.test = 0;
  LoadContext context;
  context.memory_limit = 1 << 20;
  refuses("4 images of 1000x1000 in 1 channel take 4.00 MB, more than the 1.05 MB",
          [&] { load_images(options, Split::train, context); });
  options.height = options.width = 8000;
  refuses("256 MB", [&] { load_images(options, Split::train, context); });
}

TEST(ImageFiles, TheNumberOfThreadsDoesNotChangeTheDataAndProgressIsTold) {
  const TemporaryFolder folder;
  write_classes(folder.path(), {"a", "b"}, 100);
  DataOptions options = folder_options(folder);
  LoadContext context;
  std::vector<int64_t> told;
  context.progress = [&](int64_t done, int64_t all) {
    EXPECT_EQ(all, 150);
    told.push_back(done);
  };
  std::vector<ImageDataset> results;
  for (int threads : {1, 4}) {
    context.pool = std::make_shared<ThreadPool>(threads);
    results.push_back(load_images(options, Split::train, context));
  }
  EXPECT_EQ(results[0].images, results[1].images);
  EXPECT_EQ(results[0].files, results[1].files);
  EXPECT_EQ(told, (std::vector<int64_t>{64, 128, 150, 64, 128, 150}));
}

TEST(ImageCsv, ReadsPathsLabelsAndSplits) {
  const TemporaryFolder folder;
  write_classes(folder / "pictures", {"p"}, 6);
  std::string text = "\xef\xbb\xbfpath;Label;set\r\n";
  for (int i = 0; i < 6; ++i)
    text += fmt::format("\"pictures/p/{}.png\";{};{}\r\n", i, i % 2 ? "no" : "\"yes; sure\"",
                        i < 4 ? "Train" : "test");
  write_file_atomically(folder / "t.csv", text);
  DataOptions options;
  options.kind = DataKind::image_csv;
  options.file = folder / "t.csv";
  options.validation = 0;
  ImageDataset data = load_images(options, Split::train);
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"no", "yes; sure"}));
  EXPECT_EQ(data.labels, (std::vector<int32_t>{1, 0, 1, 0}));
  EXPECT_EQ(values(load_images(options, Split::test)), (std::set<int>{4, 5}));
  options.classes = {"yes; sure", "no"};
  EXPECT_EQ(load_images(options, Split::train).labels, (std::vector<int32_t>{0, 1, 0, 1}));
  options.dir = folder / "pictures";
  expect_error(ErrorCode::corrupt, "pictures/pictures/p/0.png",
               [&] { load_images(options, Split::train); });
}

TEST(ImageCsv, TablesThatDoNotFitAreErrors) {
  const TemporaryFolder folder;
  DataOptions options;
  options.kind = DataKind::image_csv;
  const auto load = [&](const std::string& text) {
    write_file_atomically(folder / "t.csv", text);
    options.file = folder / "t.csv";
    load_images(options, Split::train);
  };
  refuses("'file': expected the CSV file", [&] { load_images(options, Split::train); });
  refuses("expected rows in", [&] { load(""); });
  refuses("'image_column': expected a first line that names", [&] { load("1.png,a\n2.png,b\n"); });
  refuses("'label_column': expected a first line", [&] { load("path,kind\n1.png,a\n"); });
  refuses("got no rows", [&] { load("path,label\n"); });
  refuses("got only 'a'", [&] { load("path,label\n1.png,a\n2.png,a\n"); });
  const auto corrupt = ErrorCode::corrupt;
  expect_error(corrupt, "t.csv:3: a row without a label",
               [&] { load("path,label\n1.png,a\n2.png,\n3.png,b\n"); });
  expect_error(corrupt, "t.csv:2: a row without a path",
               [&] { load("path,label\n,a\n2.png,b\n"); });
  expect_error(corrupt, "t.csv:2: expected train, validation or test, got 'x'",
               [&] { load("path,label,split\n1.png,a,x\n2.png,b,train\n"); });
  expect_error(corrupt, "2 of 2 image files cannot be read",
               [&] { load("path,label\n1.png,a\n2.png,b\n"); });
  options.label_column = "labels";
  refuses("there is no column 'labels' in", [&] { load("path,label\n1.png,a\n2.png,b\n"); });
}

TEST(PrepareImage, CropsPadsAndStretches) {
  // Columns 10, 20, 30, 40 of two rows.
  const Image wide = {2, 4, 1, {10, 20, 30, 40, 10, 20, 30, 40}};
  EXPECT_EQ(prepare_image(wide, {2, 2, 1}, ResizeMode::crop).pixels,
            (std::vector<uint8_t>{20, 30, 20, 30}));
  EXPECT_EQ(prepare_image(wide, {4, 4, 1}, ResizeMode::pad).pixels,
            (std::vector<uint8_t>{0, 0, 0, 0, 10, 20, 30, 40, 10, 20, 30, 40, 0, 0, 0, 0}));
  EXPECT_EQ(prepare_image(wide, {2, 2, 1}, ResizeMode::stretch).pixels, resize(wide, 2, 2).pixels);
  const Image tall = {4, 2, 1, {1, 1, 2, 2, 3, 3, 4, 4}};
  EXPECT_EQ(prepare_image(tall, {2, 2, 3}, ResizeMode::crop).pixels,
            (std::vector<uint8_t>{2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3}));
  EXPECT_EQ(prepare_image(tall, {4, 6, 1}, ResizeMode::pad).pixels[2], 1);
  EXPECT_EQ(prepare_image(tall, {4, 6, 1}, ResizeMode::pad).pixels[1], 0);
  for (ResizeMode mode : {ResizeMode::crop, ResizeMode::pad, ResizeMode::stretch}) {
    EXPECT_EQ(prepare_image(wide, {2, 4, 1}, mode).pixels, wide.pixels);
    // A line of one pixel has a place in any shape.
    const Image line = plain(1, 1000, 1, 7);
    EXPECT_EQ(prepare_image(line, {9, 9, 1}, mode).pixels.size(), 81u);
    EXPECT_EQ(prepare_image(line, {9, 9, 1}, mode).pixels[40], 7);
  }
  refuses("1 or 3 channels", [&] { prepare_image(wide, {2, 2, 2}, ResizeMode::crop); });
  refuses("samples of 1 to", [&] { prepare_image(wide, {0, 2, 1}, ResizeMode::crop); });
}

}  // namespace
}  // namespace fovea
