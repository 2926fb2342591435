// NumPy's array files: .npy (format versions 1 to 3) and .npz, a ZIP archive of them.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

enum class NpyType { boolean, u8, i8, u16, i16, u32, i32, u64, i64, f32, f64 };

struct NpyArray {
  NpyType type = NpyType::u8;
  std::vector<int64_t> shape;    // empty: one number
  std::vector<std::byte> bytes;  // dense, row-major, little-endian

  int64_t elements() const;
};

// "u8", "f32" and so on.
std::string_view npy_type_name(NpyType type);

// A file in memory; name stands for it in errors. Errors: corrupt for a wrong magic number or
// header, sizes that lie, bytes missing or left over; unsupported, with the remedy, for newer
// versions, big-endian numbers, columns first (Fortran order) and elements other than those above.
NpyArray parse_npy(std::span<const std::byte> file, const std::string& name);
// The same for a file of at most 4 GiB.
NpyArray read_npy(const std::filesystem::path& path);

// The arrays of an .npz archive, stored or deflated, by their names without ".npy". An array of
// more than 4 GiB is refused before memory is taken, and so is what promises more than deflate can
// make of its bytes.
std::map<std::string, NpyArray> parse_npz(std::span<const std::byte> file, const std::string& name);
std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path);

// All elements as the type; f64 is rounded to f32. Error (corrupt), naming the array, where i32
// does not hold a number exactly.
std::vector<float> npy_to_f32(const NpyArray& array);
std::vector<int32_t> npy_to_i32(const NpyArray& array, const std::string& name);

}  // namespace fovea
