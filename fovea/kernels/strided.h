// Walks N operands with strides over one shape: adjacent dimensions are joined where all operands
// allow it, and the work is cut into blocks of about lanes::kFlatBlock elements by the shape alone.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "fovea/kernels/lanes.h"

namespace fovea {

// Strides, in elements, of a dense row-major array.
inline std::vector<int64_t> dense_strides(const std::vector<int64_t>& dims) {
  std::vector<int64_t> strides(dims.size());
  int64_t step = 1;
  for (size_t i = dims.size(); i-- > 0; step *= dims[i]) strides[i] = step;
  return strides;
}

inline int64_t count_of(const std::vector<int64_t>& dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  return n;
}

template <size_t N>
class StridedLoop {
 public:
  static constexpr size_t kMaxRank = 8;  // after joining
  using Offsets = std::array<int64_t, N>;

  // Empty strides mean dense. nullopt: a negative size, strides of another rank, or too many
  // dimensions that cannot be joined.
  static std::optional<StridedLoop> make(const std::vector<int64_t>& dims,
                                         std::array<std::vector<int64_t>, N> strides) {
    for (int64_t d : dims)
      if (d < 0) return std::nullopt;
    for (auto& s : strides) {
      if (s.empty()) s = dense_strides(dims);
      if (s.size() != dims.size()) return std::nullopt;
    }
    StridedLoop loop;
    // Joined dimensions, outermost first.
    std::vector<std::pair<int64_t, Offsets>> joined;
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == 1) continue;
      Offsets s;
      for (size_t k = 0; k < N; ++k) s[k] = strides[k][i];
      bool join = !joined.empty();
      for (size_t k = 0; join && k < N; ++k) join = joined.back().second[k] == s[k] * dims[i];
      if (join)
        joined.back() = {joined.back().first * dims[i], s};
      else
        joined.push_back({dims[i], s});
    }
    if (joined.empty()) {
      Offsets ones;
      ones.fill(1);
      joined.push_back({1, ones});
    }
    if (joined.size() > kMaxRank) return std::nullopt;
    loop.inner_ = joined.back().first;
    loop.inner_strides_ = joined.back().second;
    loop.outer_rank_ = joined.size() - 1;
    for (size_t i = 0; i < loop.outer_rank_; ++i) {
      loop.outer_[i] = joined[i].first;
      loop.outer_strides_[i] = joined[i].second;
      loop.rows_ *= joined[i].first;
    }
    loop.chunk_ = std::min(loop.inner_, lanes::kFlatBlock);
    if (loop.inner_ == 0 || loop.rows_ == 0) return loop;
    loop.chunks_ = lanes::ceil_div(loop.inner_, loop.chunk_);
    loop.rows_in_block_ =
        loop.chunks_ > 1 ? 1 : std::max<int64_t>(lanes::kFlatBlock / loop.inner_, 1);
    loop.blocks_ = lanes::ceil_div(loop.rows_, loop.rows_in_block_) * loop.chunks_;
    return loop;
  }

  int64_t blocks() const { return blocks_; }
  const Offsets& inner_strides() const { return inner_strides_; }

  // Calls row(offsets, n) for each row of the block: n elements of the innermost dimension, which
  // start at these element offsets and lie inner_strides() apart.
  template <class F>
  void for_block(int64_t block, F&& row) const {
    const int64_t first = block / chunks_ * rows_in_block_;
    const int64_t last = std::min(first + rows_in_block_, rows_);
    const int64_t start = block % chunks_ * chunk_;
    const int64_t n = std::min(chunk_, inner_ - start);
    std::array<int64_t, kMaxRank> index{};
    Offsets at;
    for (size_t k = 0; k < N; ++k) at[k] = start * inner_strides_[k];
    int64_t rest = first;
    for (size_t i = outer_rank_; i-- > 0;) {
      index[i] = rest % outer_[i];
      rest /= outer_[i];
      for (size_t k = 0; k < N; ++k) at[k] += index[i] * outer_strides_[i][k];
    }
    for (int64_t r = first; r < last; ++r) {
      row(at, n);
      for (size_t i = outer_rank_; i-- > 0;) {
        for (size_t k = 0; k < N; ++k) at[k] += outer_strides_[i][k];
        if (++index[i] < outer_[i]) break;
        index[i] = 0;
        for (size_t k = 0; k < N; ++k) at[k] -= outer_[i] * outer_strides_[i][k];
      }
    }
  }

 private:
  int64_t inner_ = 1, rows_ = 1, chunk_ = 1, chunks_ = 1, rows_in_block_ = 1, blocks_ = 0;
  size_t outer_rank_ = 0;
  Offsets inner_strides_{};
  std::array<int64_t, kMaxRank> outer_{};
  std::array<Offsets, kMaxRank> outer_strides_{};
};

}  // namespace fovea
