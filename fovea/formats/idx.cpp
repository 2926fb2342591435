#include "fovea/formats/idx.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 33;
constexpr size_t kMaxDimensions = 8;
constexpr uint8_t kTypeU8 = 0x08;
// Deflate makes at most 1032 bytes of one (RFC 1951: 258 bytes for two bits).
constexpr uint64_t kMaxInflation = 1032;

template <class... Args>
[[noreturn]] void corrupt(const std::string& name, fmt::format_string<Args...> format,
                          Args&&... args) {
  throw Error{ErrorCode::corrupt, fmt::format("[idx] {}: {} (copy or download it again)", name,
                                              fmt::format(format, std::forward<Args>(args)...))};
}

// The bytes of the file, inflated on the way where they are compressed.
class Source {
 public:
  Source(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {
    compressed_ = file.size() >= 2 && file[0] == std::byte{0x1f} && file[1] == std::byte{0x8b};
    // 16: gzip, with its checksum; 15: the largest window.
    if (compressed_ && inflateInit2(&stream_, 16 + 15) != Z_OK) throw std::bad_alloc();
  }
  ~Source() {
    if (compressed_) inflateEnd(&stream_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // The most bytes that may still come.
  uint64_t at_most() const { return compressed_ ? file_.size() * kMaxInflation : file_.size(); }

  // Bytes read; less than asked for only at the end.
  size_t read(std::span<uint8_t> target) {
    if (compressed_) return inflate_some(target);
    const size_t n = std::min(target.size(), file_.size());
    std::copy_n(reinterpret_cast<const uint8_t*>(file_.data()), n, target.data());
    file_ = file_.subspan(n);
    return n;
  }

  // Nothing stands behind what was read; for gzip the checksum was right, too.
  bool at_end() {
    std::array<uint8_t, 1> more;
    if (read(more) != 0) return false;
    return compressed_ ? finished_ && file_.empty() : true;
  }

 private:
  size_t inflate_some(std::span<uint8_t> target) {
    constexpr size_t kPiece = size_t{1} << 30;  // zlib counts in 32 bits
    size_t done = 0;
    while (done < target.size() && !finished_) {
      const size_t in = std::min(file_.size(), kPiece);
      const size_t out = std::min(target.size() - done, kPiece);
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(file_.data()));
      stream_.avail_in = static_cast<uInt>(in);
      stream_.next_out = target.data() + done;
      stream_.avail_out = static_cast<uInt>(out);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      file_ = file_.subspan(in - stream_.avail_in);
      done += out - stream_.avail_out;
      finished_ = result == Z_STREAM_END;
      if (result == Z_BUF_ERROR || (result == Z_OK && file_.empty() && stream_.avail_out > 0)) {
        corrupt(name_, "truncated: the compressed data ends too early");
      }
      if (result == Z_MEM_ERROR) throw std::bad_alloc();
      if (result != Z_OK && result != Z_STREAM_END) {
        corrupt(name_, "damaged: {}", stream_.msg != nullptr ? stream_.msg : "bad gzip data");
      }
    }
    return done;
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  z_stream stream_{};
  bool compressed_ = false;
  bool finished_ = false;
};

void read_exactly(Source& source, std::span<uint8_t> target, const std::string& name) {
  const size_t got = source.read(target);
  if (got < target.size()) {
    corrupt(name, "truncated: expected {} more bytes, got {}", target.size(), got);
  }
}

}  // namespace

IdxArray parse_idx(std::span<const std::byte> file, const std::string& name) {
  Source source(file, name);
  std::array<uint8_t, 4> magic;
  read_exactly(source, magic, name);
  if (magic[0] != 0 || magic[1] != 0 || magic[3] == 0 || magic[3] > kMaxDimensions) {
    corrupt(name, "expected the magic number 0 0 8 and 1 to {} dimensions, got {} {} {} {}",
            kMaxDimensions, magic[0], magic[1], magic[2], magic[3]);
  }
  if (magic[2] != kTypeU8) {
    throw Error{
        ErrorCode::unsupported,
        fmt::format("[idx] {}: expected elements of type 0x08 (u8), got type {:#04x} (write "
                    "them as bytes)",
                    name, magic[2])};
  }
  IdxArray array;
  uint64_t count = 1;
  for (int i = 0; i < magic[3]; ++i) {
    std::array<uint8_t, 4> size;
    read_exactly(source, size, name);
    const uint64_t value = uint64_t{size[0]} << 24 | uint64_t{size[1]} << 16 |
                           uint64_t{size[2]} << 8 | uint64_t{size[3]};
    array.shape.push_back(static_cast<int64_t>(value));
    if (__builtin_mul_overflow(count, value, &count)) corrupt(name, "its sizes overflow");
  }
  if (count > source.at_most()) {
    corrupt(name, "truncated: its sizes promise {} bytes, more than the file can hold", count);
  }
  try {
    array.values.resize(static_cast<size_t>(count));
  } catch (const std::exception&) {
    throw Error{ErrorCode::out_of_memory,
                fmt::format("[idx] {}: not enough memory for its {} bytes (take fewer samples)",
                            name, count)};
  }
  read_exactly(source, array.values, name);
  if (!source.at_end()) corrupt(name, "there are bytes after its {} elements", count);
  return array;
}

IdxArray read_idx(const std::filesystem::path& path) {
  return parse_idx(read_file(path, kMaxFileBytes), path.string());
}

}  // namespace fovea
