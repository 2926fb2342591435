// For tests only: arrays as .npy files, format version 1.
#pragma once

#include <cstring>
#include <string>
#include <vector>

namespace fovea {

// shape: "(2, 3)"; values of f32 or i32, row by row.
template <class T>
std::string npy_text(const std::string& shape, const std::vector<T>& values) {
  static_assert(sizeof(T) == 4);
  const std::string type = static_cast<T>(0.5) == 0 ? "<i4" : "<f4";
  std::string header =
      "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
  std::string text = "\x93NUMPY";
  text += '\x01';
  text += '\0';
  text += static_cast<char>(header.size() & 255);
  text += static_cast<char>(header.size() >> 8);
  text += header;
  text.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return text;
}

}  // namespace fovea
