// What the tests of linear and of its weight's gradient share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fovea/kernels/leaf_test.h"

namespace fovea::linear_test {

struct Sizes {
  int64_t rows, n, k;
};

// Numbers of any type, as memory.
struct Array {
  DType type = DType::f32;
  std::vector<std::byte> bytes;

  Array() = default;
  Array(DType t, int64_t count) : type(t), bytes(static_cast<size_t>(count) * dtype_size(t)) {}
  Array(DType t, const std::vector<double>& values)
      : Array(t, static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < size(); ++i) set(i, values[static_cast<size_t>(i)]);
  }
  void set(int64_t i, double v) {
    if (type == DType::f64) reinterpret_cast<double*>(data())[i] = v;
    if (type == DType::f32) reinterpret_cast<float*>(data())[i] = static_cast<float>(v);
    if (type == DType::bf16) reinterpret_cast<bf16*>(data())[i] = bf16(static_cast<float>(v));
  }
  std::byte* data() { return bytes.data(); }
  const std::byte* data() const { return bytes.data(); }
  int64_t size() const { return static_cast<int64_t>(bytes.size() / dtype_size(type)); }
  double at(int64_t i) const {
    if (type == DType::f64) return reinterpret_cast<const double*>(data())[i];
    if (type == DType::f32) return static_cast<double>(reinterpret_cast<const float*>(data())[i]);
    return static_cast<double>(static_cast<float>(reinterpret_cast<const bf16*>(data())[i]));
  }
};

inline double to_bf16(double x) {
  return static_cast<double>(static_cast<float>(bf16(static_cast<float>(x))));
}

inline void expect_close(const Array& got, const std::vector<double>& expected, double relative,
                         const std::string& what) {
  ASSERT_EQ(got.size(), static_cast<int64_t>(expected.size())) << what;
  for (int64_t i = 0; i < got.size(); ++i)
    leaf::expect_close(got.at(i), expected[static_cast<size_t>(i)], relative, what.c_str(), i);
}
inline void expect_close(const Array& got, const Array& expected, double relative,
                         const std::string& what) {
  std::vector<double> values;
  for (int64_t i = 0; i < expected.size(); ++i) values.push_back(expected.at(i));
  expect_close(got, values, relative, what);
}

}  // namespace fovea::linear_test
