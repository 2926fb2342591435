// Archives of .npy files, through libzip.
#include <fmt/format.h>
#include <zip.h>

#include <memory>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"
#include "fovea/formats/npy.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 32;
constexpr uint64_t kMaxDeflation = 1032;  // RFC 1951: what deflate can make of one byte

[[noreturn]] void broken(const std::string& name, const std::string& what) {
  throw Error{ErrorCode::corrupt, fmt::format("[npz] {}: {}", name, what)};
}

struct ZipError {
  zip_error_t error;
  ZipError() { zip_error_init(&error); }
  ~ZipError() { zip_error_fini(&error); }
  const char* text() { return zip_error_strerror(&error); }
};

using Archive = std::unique_ptr<zip_t, decltype(&zip_discard)>;
using Entry = std::unique_ptr<zip_file_t, decltype(&zip_fclose)>;

Archive open_archive(std::span<const std::byte> file, const std::string& name) {
  ZipError error;
  zip_source_t* source = zip_source_buffer_create(file.data(), file.size(), 0, &error.error);
  if (source == nullptr) throw Error{ErrorCode::out_of_memory, "[npz] " + name};
  Archive archive(zip_open_from_source(source, ZIP_RDONLY, &error.error), zip_discard);
  if (archive == nullptr) {
    zip_source_free(source);
    broken(name, fmt::format("expected a ZIP archive of .npy files: {}", error.text()));
  }
  return archive;
}

std::vector<std::byte> read_entry(zip_t* archive, zip_uint64_t index, uint64_t bytes,
                                  const std::string& name) {
  const Entry entry(zip_fopen_index(archive, index, 0), zip_fclose);
  if (entry == nullptr) broken(name, zip_strerror(archive));
  std::vector<std::byte> content(bytes);
  uint64_t done = 0;
  while (done < bytes) {
    const zip_int64_t got = zip_fread(entry.get(), content.data() + done, bytes - done);
    if (got < 0) broken(name, zip_file_strerror(entry.get()));
    if (got == 0) broken(name, "truncated");
    done += static_cast<uint64_t>(got);
  }
  std::byte more;
  // The check sum is compared where the end is read.
  if (zip_fread(entry.get(), &more, 1) != 0) broken(name, "its check sum or size is wrong");
  return content;
}

}  // namespace

std::map<std::string, NpyArray> parse_npz(std::span<const std::byte> file,
                                          const std::string& name) {
  const Archive archive = open_archive(file, name);
  std::map<std::string, NpyArray> arrays;
  uint64_t packed = 0;
  const zip_int64_t entries = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    zip_stat_t stat;
    constexpr zip_uint64_t kNeeded =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
    const auto index = static_cast<zip_uint64_t>(i);
    if (zip_stat_index(archive.get(), index, 0, &stat) != 0 || (stat.valid & kNeeded) != kNeeded) {
      broken(name, "a damaged list of files");
    }
    std::string key = stat.name;
    const std::string place = fmt::format("{}:{}", name, key);
    if (!key.ends_with(".npy")) continue;
    key.resize(key.size() - 4);
    // Files that lie over each other would promise far more than the archive holds.
    const bool lies = stat.comp_size > file.size() || (packed += stat.comp_size) > file.size() ||
                      stat.size / kMaxDeflation > stat.comp_size;
    if (lies) broken(place, "it promises more bytes than it can hold");
    if (stat.size > kMaxBytes) {
      throw Error{
          ErrorCode::invalid_argument,
          fmt::format("[npz] {}: expected at most {} bytes, got {}", place, kMaxBytes, stat.size)};
    }
    if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
      throw Error{ErrorCode::unsupported,
                  fmt::format("[npz] {}: expected stored or deflated files, got method {} of ZIP "
                              "(save it with numpy.savez_compressed)",
                              place, stat.comp_method)};
    }
    const std::vector<std::byte> content = read_entry(archive.get(), index, stat.size, place);
    if (!arrays.emplace(key, parse_npy(content, place)).second) {
      broken(name, fmt::format("two arrays are named '{}'", key));
    }
  }
  if (arrays.empty()) broken(name, "there is no .npy file in it");
  return arrays;
}

std::map<std::string, NpyArray> read_npz(const std::filesystem::path& path) {
  return parse_npz(read_file(path, kMaxBytes), path.string());
}

}  // namespace fovea
