// Any number of arrays as one run of elements, cut into blocks of one size, so that many small
// arrays make no more work for the pool than a large one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fovea/kernels/lanes.h"

namespace fovea {

class TensorBlocks {
 public:
  explicit TensorBlocks(const std::vector<int64_t>& sizes, int64_t block = lanes::kFlatBlock)
      : block_(block) {
    begins_.push_back(0);
    for (int64_t size : sizes) begins_.push_back(begins_.back() + size);
    size_t tensor = 0;
    for (int64_t b = 0; b < blocks(); ++b) {
      while (begins_[tensor + 1] <= b * block_) ++tensor;
      first_.push_back(tensor);
    }
  }

  int64_t blocks() const { return lanes::ceil_div(begins_.back(), block_); }

  // Calls piece(i, start, n) for the pieces of the block: n > 0 elements of array i from `start`.
  template <class F>
  void for_block(int64_t block, F&& piece) const {
    const int64_t end = std::min((block + 1) * block_, begins_.back());
    int64_t at = block * block_;
    for (size_t i = first_[static_cast<size_t>(block)]; at < end; ++i) {
      const int64_t n = std::min(end, begins_[i + 1]) - at;
      if (n > 0) piece(i, at - begins_[i], n);
      at += n;
    }
  }

 private:
  int64_t block_;
  std::vector<int64_t> begins_;  // of each array among all elements, and their number
  std::vector<size_t> first_;    // the array in which each block begins
};

}  // namespace fovea
