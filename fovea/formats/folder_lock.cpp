#include "fovea/formats/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "fovea/base/error.h"

namespace fovea {
namespace {

// The number that the holder wrote, or nothing.
std::string holder(int descriptor) {
  std::array<char, 16> text;
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  const std::string_view all(text.data(), size > 0 ? static_cast<size_t>(size) : 0);
  const std::string_view number = all.substr(0, all.find_first_not_of("0123456789"));
  return number.empty() ? "" : fmt::format(" (process {})", number);
}

// The one who held the lock may have removed the file between our opening and our locking it.
bool still_there(int descriptor, const std::filesystem::path& path) {
  struct stat mine {
  }, now{};
  return ::fstat(descriptor, &mine) == 0 && ::stat(path.c_str(), &now) == 0 &&
         mine.st_ino == now.st_ino && mine.st_dev == now.st_dev;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder, const std::string& who)
    : path_(folder / kFile) {
  for (;;) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor_ < 0) {
      const int error = errno;
      if (error == EINTR) continue;
      const bool full = error == ENOSPC || error == EDQUOT;
      throw Error{
          ErrorCode::io,
          fmt::format("[{}] nothing can be written to {}: {} ({}, or choose another folder)", who,
                      folder.string(), std::generic_category().message(error),
                      full ? "free some space" : "make it writable")};
    }
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return;  // no locks here
      const std::string other = holder(descriptor_);
      ::close(std::exchange(descriptor_, -1));
      throw Error{
          ErrorCode::invalid_argument,
          fmt::format("[{}] another fovea{} is writing to {} (wait for it, stop it, or choose "
                      "another folder)",
                      who, other, folder.string())};
    }
    if (still_there(descriptor_, path_)) break;
    ::close(std::exchange(descriptor_, -1));
  }
  const std::string number = fmt::format("{}\n", ::getpid());
  // Only for the message to others: a full disk does not matter.
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, number.data(), number.size(), 0) < 0) {
    return;
  }
}

void FolderLock::release() {
  if (descriptor_ < 0) return;
  // Removed while it is locked, so that nobody else's file is meant. A child of ours that holds the
  // descriptor as well must not keep the lock.
  if (still_there(descriptor_, path_)) ::unlink(path_.c_str());
  ::flock(descriptor_, LOCK_UN);
  ::close(std::exchange(descriptor_, -1));
}

FolderLock::~FolderLock() { release(); }

FolderLock::FolderLock(FolderLock&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  if (this == &other) return *this;
  release();
  path_ = std::move(other.path_);
  descriptor_ = std::exchange(other.descriptor_, -1);
  return *this;
}

}  // namespace fovea
