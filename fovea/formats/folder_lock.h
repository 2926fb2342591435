// One writer at a time in a folder: whoever holds its lock may write there, and a second is
// refused.
#pragma once

#include <filesystem>
#include <string>

namespace fovea {

class FolderLock {
 public:
  // The file that is locked; it stands in the folder while the lock is held, and holds the number
  // of the process.
  static constexpr const char* kFile = ".fovea.lock";

  FolderLock() = default;  // of nothing
  // Takes the lock of a folder that exists. Throws Error: invalid_argument where another process,
  // or another lock of this one, holds it, naming the process; io where the folder cannot be
  // written. The system frees it when the process ends, however it ends. Where the file system
  // knows no locks, there is none. `who` begins the messages: "train".
  FolderLock(const std::filesystem::path& folder, const std::string& who);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

 private:
  void release();

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace fovea
