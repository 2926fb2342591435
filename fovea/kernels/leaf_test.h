// What the tests of the small kernels share: running a family's kernels on vectors, and numbers to
// run them on.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "fovea/base/dtype.h"
#include "fovea/base/philox.h"
#include "fovea/kernels/kernel.h"

namespace fovea::leaf {

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, int8_t>) return DType::i8;
  return DType::u8;
}

// Scratch that starts as NaN, aligned as the runtime does it.
class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : memory_(static_cast<std::byte*>(std::aligned_alloc(64, (bytes / 64 + 1) * 64))) {
    std::memset(memory_, 0xff, bytes);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::byte* get() const { return memory_; }

 private:
  std::byte* memory_;
};

template <class Problem, class Args>
void run(const KernelPlan<Args>& plan, const Args& args, int threads = 1) {
  ThreadPool pool(threads);
  const Scratch shared(plan.scratch_bytes);
  const size_t stride = (plan.worker_scratch_bytes + 63) / 64 * 64;
  const Scratch each(stride * static_cast<size_t>(threads));
  plan.run(args, {&pool, shared.get(), each.get(), stride});
}

// Runs the reference, the last of the list; the problem must be supported.
template <class Problem, class Args>
void run(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem,
         const std::type_identity_t<Args>& args, int threads = 1) {
  ASSERT_FALSE(kernels.empty());
  EXPECT_EQ(kernels.back().name, "ref");
  const auto plan = kernels.back().plan(problem);
  ASSERT_NE(plan, nullptr);
  run<Problem, Args>(*plan, args, threads);
}

template <class Problem, class Args>
bool supported(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem) {
  for (const auto& kernel : kernels)
    if (kernel.plan(problem)) return true;
  return false;
}

// n numbers, uniform in [low, high).
template <class T>
std::vector<T> numbers(int64_t n, uint64_t seed, double low = -2, double high = 2) {
  PhiloxStream stream(seed, 99);
  std::vector<T> v(static_cast<size_t>(n));
  for (T& x : v) x = static_cast<T>(low + (high - low) * static_cast<double>(stream.unit()));
  return v;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// f(threads) gives the results, which must be the same bits for 1 to 4 threads.
template <class F>
void expect_same_bits_for_any_threads(F f) {
  const auto one = f(1);
  for (int threads = 2; threads <= 4; ++threads)
    EXPECT_TRUE(same_bits(one, f(threads))) << threads << " threads";
}

// The result lies within `relative` of the expectation, measured against max(1, |expected|).
inline void expect_close(double got, double expected, double relative, const char* what,
                         int64_t i) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(got)) << what << " at " << i << ": " << got;
  } else if (std::isinf(expected)) {
    EXPECT_EQ(got, expected) << what << " at " << i;
  } else {
    EXPECT_NEAR(got, expected, relative * std::max(1.0, std::abs(expected))) << what << " at " << i;
  }
}
template <class T>
void expect_close(const std::vector<T>& got, const std::vector<double>& expected, double relative,
                  const char* what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    expect_close(static_cast<double>(got[i]), expected[i], relative, what, static_cast<int64_t>(i));
}

// What rounding allows after a few operations.
template <class T>
constexpr double tolerance() {
  return std::is_same_v<T, double> ? 1e-12 : 2e-5;
}

// d loss(x) / d x[i] by central differences, for double; loss reads x.
template <class F>
std::vector<double> finite_differences(std::vector<double>& x, F loss, double h = 1e-5) {
  std::vector<double> d(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + h;
    const double up = loss();
    x[i] = kept - h;
    const double down = loss();
    x[i] = kept;
    d[i] = (up - down) / (2 * h);
  }
  return d;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace fovea::leaf
