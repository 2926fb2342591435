#include "fovea/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

// Images of 4 x 3 x 1; the first pixel is the index.
Dataset small_dataset(int64_t n) {
  ImageDataset dataset = {"small", 4, 3, 1, {}, {}, {"even", "odd"}};
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < 12; ++k) {
      dataset.images.push_back(static_cast<uint8_t>(k == 0 ? i : 100 + k));
    }
    dataset.labels.push_back(static_cast<int32_t>(i % 2));
  }
  return dataset;
}

std::vector<Batch> rest_of_epoch(BatchLoader& loader) {
  std::vector<Batch> batches;
  Batch batch;
  while (loader.next(batch)) batches.push_back(batch);
  return batches;
}

bool same(const std::vector<Batch>& a, const std::vector<Batch>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Batch& x, const Batch& y) {
    return x.size == y.size && x.inputs == y.inputs && x.labels == y.labels && x.ids == y.ids;
  });
}

LoaderOptions busy_options() {
  LoaderOptions options;
  options.batch = 8;
  options.seed = 5;
  options.augment.shift = 1;
  options.augment.flip = true;
  options.augment.erase = 0.5;
  return options;
}

TEST(Loader, AnEpochHoldsEachSampleOnceWithItsImageAndLabel) {
  const Dataset dataset = small_dataset(50);
  for (bool shuffle : {false, true}) {
    LoaderOptions options;
    options.batch = 8;
    options.shuffle = shuffle;
    BatchLoader loader(dataset, options);
    EXPECT_EQ(loader.batches(), 7);
    loader.start(0);
    const std::vector<Batch> batches = rest_of_epoch(loader);
    ASSERT_EQ(batches.size(), 7u);
    std::vector<int64_t> ids;
    for (const Batch& batch : batches) {
      ASSERT_EQ(batch.ids.size(), static_cast<size_t>(batch.size));
      ASSERT_EQ(batch.inputs[0].size(), static_cast<size_t>(batch.size * 12));
      for (size_t i = 0; i < batch.ids.size(); ++i) {
        EXPECT_EQ(batch.inputs[0][12 * i], batch.ids[i]);
        EXPECT_EQ(batch.labels[i], batch.ids[i] % 2);
      }
      ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
    }
    EXPECT_EQ(batches.back().size, 2);
    EXPECT_EQ(std::is_sorted(ids.begin(), ids.end()), !shuffle);
    EXPECT_EQ(std::set<int64_t>(ids.begin(), ids.end()).size(), 50u);
    EXPECT_EQ(ids.size(), 50u);
  }
}

TEST(Loader, DropLastLeavesOutTheShortBatch) {
  const Dataset dataset = small_dataset(50);
  LoaderOptions options;
  options.batch = 8;
  options.drop_last = true;
  BatchLoader loader(dataset, options);
  EXPECT_EQ(loader.batches(), 6);
  loader.start(0);
  EXPECT_EQ(rest_of_epoch(loader).size(), 6u);
}

TEST(Loader, GivesTheSameBatchesForAnyNumberOfThreadsAndAnyPrefetch) {
  const Dataset dataset = small_dataset(200);
  LoaderOptions options = busy_options();
  options.threads = 0;
  BatchLoader reference(dataset, options);
  for (int threads : {1, 2, 4}) {
    for (int64_t prefetch : {1, 3, 50}) {
      options.threads = threads;
      options.prefetch = prefetch;
      BatchLoader loader(dataset, options);
      for (int64_t epoch : {0, 1, 7}) {
        reference.start(epoch);
        loader.start(epoch);
        EXPECT_TRUE(same(rest_of_epoch(loader), rest_of_epoch(reference)));
      }
    }
  }
}

TEST(Loader, EpochsAndSeedsDiffer) {
  const Dataset dataset = small_dataset(200);
  LoaderOptions options = busy_options();
  BatchLoader loader(dataset, options);
  loader.start(0);
  const auto first = rest_of_epoch(loader);
  loader.start(1);
  EXPECT_FALSE(same(rest_of_epoch(loader), first));
  options.seed = 6;
  BatchLoader other(dataset, options);
  other.start(0);
  EXPECT_FALSE(same(rest_of_epoch(other), first));
}

TEST(Loader, ResumingInMidEpochGivesTheSameBatches) {
  const Dataset dataset = small_dataset(101);
  LoaderOptions options = busy_options();
  options.threads = 2;
  BatchLoader whole(dataset, options);
  whole.start(3);
  const std::vector<Batch> all = rest_of_epoch(whole);
  for (int64_t first = 0; first <= whole.batches(); ++first) {
    options.threads = static_cast<int>(first % 4);
    BatchLoader resumed(dataset, options);
    resumed.start(3, first);
    EXPECT_TRUE(same(rest_of_epoch(resumed), {all.begin() + first, all.end()})) << first;
  }
}

TEST(Loader, MayStartAnewAtAnyTime) {
  const Dataset dataset = small_dataset(101);
  LoaderOptions options = busy_options();
  options.threads = 3;
  BatchLoader loader(dataset, options);
  loader.start(2);
  const std::vector<Batch> all = rest_of_epoch(loader);
  Batch batch;
  for (int64_t taken = 0; taken < 10; ++taken) {
    loader.start(9);
    for (int64_t i = 0; i < taken; ++i) ASSERT_TRUE(loader.next(batch));
    loader.start(2);
    EXPECT_TRUE(same(rest_of_epoch(loader), all));
    EXPECT_FALSE(loader.next(batch));
  }
}

TEST(Loader, EndsCleanlyAtAnyTime) {
  const Dataset dataset = small_dataset(101);
  LoaderOptions options = busy_options();
  options.threads = 3;
  for (int taken = 0; taken < 30; ++taken) {
    BatchLoader loader(dataset, options);
    Batch batch;
    EXPECT_FALSE(loader.next(batch));
    if (taken % 10 == 9) continue;  // never started
    loader.start(0);
    for (int i = 0; i < taken % 10; ++i) ASSERT_TRUE(loader.next(batch));
  }
}

TEST(Loader, ReusesItsBuffers) {
  const Dataset dataset = small_dataset(101);
  LoaderOptions options = busy_options();
  options.threads = 2;
  options.prefetch = 3;
  BatchLoader loader(dataset, options);
  Batch batch;
  std::set<const uint8_t*> buffers;
  for (int64_t epoch = 0; epoch < 10; ++epoch) {
    loader.start(epoch);
    while (loader.next(batch)) buffers.insert(batch.inputs[0].data());
  }
  EXPECT_LE(buffers.size(), 4u);
}

TEST(Loader, AnErrorInAThreadReachesTheCaller) {
  for (int threads : {0, 2}) {
    Dataset dataset = small_dataset(50);
    LoaderOptions options;
    options.batch = 8;
    options.shuffle = false;
    options.threads = threads;
    BatchLoader loader(dataset, options);
    dataset.inputs[0].bytes.resize(20 *
                                   12);  // behind the loader's back, before its threads have work
    loader.start(0);
    Batch batch;
    EXPECT_TRUE(loader.next(batch));
    EXPECT_TRUE(loader.next(batch));
    for (int i = 0; i < 2; ++i) {
      expect_error(ErrorCode::invalid_argument, "[data] 'image': expected a sample below 20",
                   [&] { loader.next(batch); });
    }
    loader.start(0);
    EXPECT_TRUE(loader.next(batch));
  }
}

TEST(Loader, ImpossibleOptionsAndDataAreErrors) {
  const Dataset dataset = small_dataset(10);
  const auto refuses = [&](std::string_view what, const LoaderOptions& options) {
    expect_error(ErrorCode::invalid_argument, what, [&] { BatchLoader(dataset, options); });
  };
  refuses("at least 1 sample, got 0", {.batch = 0});
  refuses("batches of prefetch, got 0", {.prefetch = 0});
  refuses("threads, got -1", {.threads = -1});
  refuses("at most the 10 samples, got 11", {.batch = 11, .drop_last = true});
  refuses("[augment]", {.augment = {.shift = -1}});
  Dataset wrong = dataset;
  wrong.labels[3] = 2;
  expect_error(ErrorCode::corrupt, "sample 3 has the label 2", [&] { BatchLoader(wrong, {}); });
  const Dataset empty = small_dataset(0);
  expect_error(ErrorCode::invalid_argument, "is empty", [&] { BatchLoader(empty, {}); });

  BatchLoader loader(dataset, {.batch = 4});
  EXPECT_EQ(loader.batches(), 3);
  EXPECT_NO_THROW(loader.start(0, 3));
  Batch batch;
  EXPECT_FALSE(loader.next(batch));
  for (const auto& [epoch, first] : {std::pair<int64_t, int64_t>{0, 4}, {0, -1}, {-1, 0}}) {
    expect_error(ErrorCode::invalid_argument, "batch of 0 to 3",
                 [&, e = epoch, f = first] { loader.start(e, f); });
  }
}

}  // namespace
}  // namespace fovea
