// What holds for every array of NumPy that was read.
#pragma once

#include <string>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/formats/npy.h"
#include "fuzz/property.h"

namespace fovea::fuzz {

// The array as a file of format version 1.
inline std::vector<std::byte> written(const NpyArray& array) {
  static constexpr const char* kDescriptions[] = {"|b1", "|u1", "|i1", "<u2", "<i2", "<u4",
                                                  "<i4", "<u8", "<i8", "<f4", "<f8"};
  std::string shape;
  for (const int64_t size : array.shape) shape += std::to_string(size) + ",";
  std::string header = std::string("{'descr': '") + kDescriptions[static_cast<size_t>(array.type)] +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }\n";
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 0xff);
  start += static_cast<char>(header.size() >> 8);
  start += header;
  const auto text = std::as_bytes(std::span(start));
  std::vector<std::byte> file(text.begin(), text.end());
  file.insert(file.end(), array.bytes.begin(), array.bytes.end());
  return file;
}

inline void check(const NpyArray& array) {
  const NpyArray again = parse_npy(written(array), "written");
  expect(again.type == array.type && again.shape == array.shape && again.bytes == array.bytes,
         "an array is read as it was written");
  const auto elements = static_cast<size_t>(array.elements());
  expect(npy_to_f32(array).size() == elements, "an array has as many numbers as elements");
  try {
    expect(npy_to_i32(array, "input").size() == elements,
           "an array has as many numbers as elements");
  } catch (const Error&) {
  }
}

}  // namespace fovea::fuzz
