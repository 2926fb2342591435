// Whole files: read with a limit, and replaced atomically so that a crash or a full disk leaves
// either the old file or the new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

// The path nearest to one that does not exist: each part that is not there is replaced by the
// nearest name beside it. Empty where the path exists, where no name is near, or where a folder
// holds too many.
std::filesystem::path nearest_path(const std::filesystem::path& path);
// "; did you mean 'x'?" for it, or nothing.
std::string did_you_mean_path(const std::filesystem::path& path);

// A regular file open for reading. Every error is an Error that names the path.
class FileReader {
 public:
  // not_found where nothing is there, io where it is no regular file or may not be read.
  explicit FileReader(const std::filesystem::path& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Bytes when it was opened.
  uint64_t size() const { return size_; }
  // Reads up to target.size() bytes; less only at the end of the file.
  size_t read_some(std::span<std::byte> target);
  // Fills the target, or throws corrupt: "truncated".
  void read(std::span<std::byte> target);

 private:
  std::string name_;
  int descriptor_;
  uint64_t size_ = 0;
};

// The whole file, or an Error (invalid_argument) where it is larger than limit bytes; no more
// memory is taken than the file has bytes.
std::vector<std::byte> read_file(const std::filesystem::path& path, uint64_t limit);
std::string read_text_file(const std::filesystem::path& path, uint64_t limit);

// What write_file_atomically gives to the one who writes.
class FileWriter {
 public:
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

 private:
  friend void write_file_atomically(const std::filesystem::path& path,
                                    const std::function<void(FileWriter&)>& write);
  FileWriter(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}

  int descriptor_;
  std::string name_;
};

// Writes a temporary file in the same folder, syncs it, renames it over path and syncs the folder.
// On any failure, an exception of the callback too, the temporary is removed, the old file stays as
// it was, and the exception goes on; a full disk is an Error (io) that says so. A process that is
// killed in the middle leaves a file named ".fovea-*.tmp". A symbolic link at path is replaced, not
// followed; a folder or a device there, or behind the link, is an Error (io).
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(FileWriter&)>& write);
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// Removes the temporary files that this process is writing, for a signal handler that ends it:
// calls nothing that such a handler may not.
void remove_temporaries() noexcept;

// Brings renames and removals in a folder to the disk. Throws Error (io).
void sync_folder(const std::filesystem::path& folder);

}  // namespace fovea
