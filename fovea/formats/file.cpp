#include "fovea/formats/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <system_error>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

// One call to read or write never asks for more: the kernel cuts at 2 GiB anyway.
constexpr size_t kLargestCall = size_t{1} << 30;

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void throw_write_error(const std::string& name, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    throw Error{
        ErrorCode::io,
        fmt::format("[file] {}: the disk is full (free some space or choose another folder; "
                    "the file that was there before is unharmed)",
                    name)};
  }
  if (error == EFBIG) {
    throw Error{ErrorCode::io,
                fmt::format("[file] {}: the file grew beyond the size that the system allows (see "
                            "`ulimit -f`; the file that was there before is unharmed)",
                            name)};
  }
  const bool refused = error == EACCES || error == EPERM || error == EROFS;
  throw Error{ErrorCode::io,
              fmt::format("[file] {}: cannot write: {} ({})", name, reason(error),
                          refused ? "choose another folder, or make this one writable"
                                  : "check the disk, or choose another folder")};
}

// A descriptor that closes itself.
struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

// The names of temporary files that are being written, where a signal handler can read them: fixed
// memory, no locks. A name is ready before its file is made, and for as long as the file exists.
struct Name {
  enum State : int { kFree, kFilled, kReady };
  std::atomic<int> state{kFree};
  char path[4096];
};
Name temporaries[16];
static_assert(std::atomic<int>::is_always_lock_free);

// Holds one of these names; none where all are taken or the path is too long, which costs no more
// than a file that may stay behind.
class ListedName {
 public:
  explicit ListedName(const std::string& path) {
    if (path.size() >= sizeof temporaries[0].path) return;
    for (Name& name : temporaries) {
      int expected = Name::kFree;
      if (!name.state.compare_exchange_strong(expected, Name::kFilled)) continue;
      std::memcpy(name.path, path.c_str(), path.size() + 1);
      name.state = Name::kReady;
      name_ = &name;
      return;
    }
  }
  ~ListedName() {
    if (name_) name_->state = Name::kFree;
  }
  ListedName(const ListedName&) = delete;
  ListedName& operator=(const ListedName&) = delete;

 private:
  Name* name_ = nullptr;
};

// Removes the file unless it was renamed.
struct Temporary {
  fs::path path;
  std::optional<ListedName> listed;
  bool armed = true;
  ~Temporary() {
    if (armed) ::unlink(path.c_str());
  }
};

// O_EXCL: a file left by a killed process, or by another writer, is never opened.
int create_temporary(const fs::path& folder, const std::string& name, Temporary& temporary) {
  static std::atomic<uint64_t> counter{0};
  for (int attempt = 0; attempt < 10000; ++attempt) {
    temporary.path = folder / fmt::format(".fovea-{}-{}.tmp", ::getpid(), counter++);
    temporary.listed.emplace(temporary.path.string());
    const int descriptor =
        ::open(temporary.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) return descriptor;
    const int error = errno;
    temporary.listed.reset();
    if (error == EEXIST || error == EINTR) continue;
    if (error == ENOENT || error == ENOTDIR) {
      throw Error{ErrorCode::not_found,
                  fmt::format("[file] {}: the folder {} does not exist{} (make it, or choose "
                              "another)",
                              name, folder.string(), did_you_mean_path(folder))};
    }
    throw_write_error(name, error);
  }
  throw_write_error(name, EEXIST);
}

}  // namespace

void sync_folder(const fs::path& folder) {
  Descriptor descriptor{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  // Some file systems cannot sync a folder; the files themselves are safe by then.
  if (descriptor.value >= 0 && ::fsync(descriptor.value) != 0 && errno != EINVAL) {
    throw_write_error(folder.string(), errno);
  }
}

void remove_temporaries() noexcept {
  for (const Name& name : temporaries)
    if (name.state == Name::kReady) ::unlink(name.path);
}

fs::path nearest_path(const fs::path& path) {
  constexpr size_t kMostNames = 10000;  // each costs a distance, and nobody reads more
  std::error_code error;
  fs::path found;
  bool changed = false;
  for (const fs::path& part : path) {
    if (part.empty() || fs::exists(found / part, error)) {
      found /= part;
      continue;
    }
    std::vector<std::string> names;
    const fs::path folder = found.empty() ? fs::path(".") : found;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      if (names.size() == kMostNames) return {};
      std::error_code gone;
      if (!it->exists(gone)) continue;  // a link to nowhere
      names.push_back(it->path().filename().string());
    }
    // The order in which a folder lists its names is the system's.
    std::sort(names.begin(), names.end());
    const std::string name = nearest(part.string(), names);
    if (name.empty()) return {};
    found /= name;
    changed = true;
  }
  return changed ? found : fs::path();
}

std::string did_you_mean_path(const fs::path& path) {
  const fs::path near = nearest_path(path);
  return near.empty() ? std::string() : fmt::format("; did you mean '{}'?", near.string());
}

FileReader::FileReader(const fs::path& path) : name_(path.string()) {
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) {
      std::string remedy = did_you_mean_path(path);
      std::error_code ignored;
      if (remedy.empty())
        remedy = path.is_relative() ? fmt::format(" (looked for from {}; give another path)",
                                                  fs::current_path(ignored).string())
                                    : " (give another path)";
      throw Error{ErrorCode::not_found, fmt::format("[file] {}: no such file{}", name_, remedy)};
    }
    const bool files = error == EMFILE || error == ENFILE;
    throw Error{ErrorCode::io,
                fmt::format("[file] {}: cannot open: {} ({})", name_, reason(error),
                            files ? "see `ulimit -n`" : "make it readable, or copy it")};
  }
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw Error{ErrorCode::io,
                fmt::format("[file] {}: expected a regular file, got {}", name_,
                            S_ISDIR(status.st_mode) ? "a folder (name a file in it)"
                                                    : "something else (copy it into a file)")};
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

FileReader::~FileReader() { ::close(descriptor_); }

size_t FileReader::read_some(std::span<std::byte> target) {
  size_t done = 0;
  while (done < target.size()) {
    const ssize_t got =
        ::read(descriptor_, target.data() + done, std::min(target.size() - done, kLargestCall));
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error{ErrorCode::io, fmt::format("[file] {}: cannot read: {} (check the disk, or copy "
                                             "the file from where it came)",
                                             name_, reason(errno))};
    }
    done += static_cast<size_t>(got);
  }
  return done;
}

void FileReader::read(std::span<std::byte> target) {
  const size_t got = read_some(target);
  if (got < target.size()) {
    throw Error{
        ErrorCode::corrupt,
        fmt::format("[file] {}: truncated: expected {} more bytes, got {} (copy it again; another "
                    "process may have cut it just now)",
                    name_, target.size(), got)};
  }
}

namespace {

template <class Bytes>
Bytes read_whole(const fs::path& path, uint64_t limit) {
  FileReader file(path);
  if (file.size() > limit) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[file] {}: expected at most {} bytes, got {} (is it the right file?)",
                            path.string(), limit, file.size())};
  }
  Bytes bytes;
  try {
    bytes.resize(static_cast<size_t>(file.size()));
  } catch (const std::bad_alloc&) {
    throw Error{
        ErrorCode::out_of_memory,
        fmt::format("[file] {}: not enough memory for its {} bytes (end other programs, or take a "
                    "smaller file)",
                    path.string(), file.size())};
  }
  // Less than size(): another process cut the file just now; its parser will notice.
  bytes.resize(file.read_some(std::as_writable_bytes(std::span(bytes.data(), bytes.size()))));
  return bytes;
}

}  // namespace

std::vector<std::byte> read_file(const fs::path& path, uint64_t limit) {
  return read_whole<std::vector<std::byte>>(path, limit);
}
std::string read_text_file(const fs::path& path, uint64_t limit) {
  return read_whole<std::string>(path, limit);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kLargestCall));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_write_error(name_, errno);
    if (put == 0) throw_write_error(name_, ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
}

void write_file_atomically(const fs::path& path, const std::function<void(FileWriter&)>& write) {
  const std::string name = path.string();
  // A rename would put a file in the place of a device, which root may do.
  std::error_code ignored;
  if (const auto kind = fs::status(path, ignored).type(); kind != fs::file_type::not_found &&
                                                          kind != fs::file_type::none &&
                                                          kind != fs::file_type::regular) {
    throw Error{
        ErrorCode::io,
        fmt::format(
            "[file] {}: cannot write: expected a regular file to replace, got {} (choose another "
            "name)",
            name, kind == fs::file_type::directory ? "a folder" : "something else")};
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  // The temporary outlives the descriptor, which may throw before it is known to exist.
  Temporary temporary{{}, {}, false};
  Descriptor descriptor{create_temporary(folder, name, temporary)};
  temporary.armed = true;

  FileWriter writer(descriptor.value, name);
  write(writer);
  if (::fsync(descriptor.value) != 0) throw_write_error(name, errno);
  const int closing = descriptor.value;
  descriptor.value = -1;
  if (::close(closing) != 0 && errno != EINTR) throw_write_error(name, errno);
  if (::rename(temporary.path.c_str(), path.c_str()) != 0) throw_write_error(name, errno);
  temporary.armed = false;
  sync_folder(folder);
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  write_file_atomically(path, [&](FileWriter& writer) { writer.write(bytes); });
}
void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, [&](FileWriter& writer) { writer.write(text); });
}

}  // namespace fovea
