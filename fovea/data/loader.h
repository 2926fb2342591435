// Batches of a data set, made ahead by threads. The batches depend on (data set, options,
// epoch) alone: any number of threads, and a run that is resumed in mid-epoch, get the same ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fovea/data/augment.h"
#include "fovea/data/dataset.h"

namespace fovea {

struct LoaderOptions {
  int64_t batch = 128;          // samples
  uint64_t seed = 0;            // of order and augmentation
  bool shuffle = true;          // a new order each epoch, else that of the data set
  bool drop_last = false;       // leave out the last batch where it is not full
  AugmentOptions augment = {};  // of images; by default, nothing
  int64_t prefetch = 4;         // batches made ahead
  int threads = 1;              // that make them; 0: next() makes each itself
};

struct Batch {
  int64_t size = 0;                          // samples, N
  std::vector<std::vector<uint8_t>> inputs;  // of the data set, in its order: [N, shape...]
  std::vector<int32_t> labels;               // [N]
  std::vector<int64_t> ids;                  // [N], indices in the data set
};

// One thread calls start() and next().
class BatchLoader {
 public:
  // The data set is kept by reference, unchanged, for as long as the loader lives. Error
  // (invalid_argument) for options that cannot be, or (corrupt) for a data set that contradicts
  // itself.
  BatchLoader(const Dataset& dataset, const LoaderOptions& options);
  BatchLoader(const ImageDataset&, const LoaderOptions&) = delete;  // a copy would be gone at once
  // Stops the threads, at any time.
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // Batches in an epoch.
  int64_t batches() const;

  // Goes to a batch of an epoch; what was made ahead is thrown away. first_batch = batches() gives
  // an epoch that is over.
  void start(int64_t epoch, int64_t first_batch = 0);

  // Replaces the batch by the next one; false at the end of the epoch, and before the first
  // start(). Vectors change hands with the loader's own, so nothing is allocated after the first
  // prefetch + 2 calls. Throws what went wrong in the making of this batch.
  bool next(Batch& batch);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fovea
