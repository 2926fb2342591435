#include "fovea/formats/file.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>

#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

// The largest file that this process may write, until the end of the scope; as a full disk, it
// makes write() fail in the middle.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &saved_);
    rlimit limit = saved_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &saved_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit saved_{};
  void (*handler_)(int);
};

TEST(ReadFile, GivesBackWhatWasWritten) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a", "hello");
  EXPECT_EQ(read_text_file(folder / "a", 5), "hello");
  EXPECT_EQ(read_file(folder / "a", 100), to_bytes("hello"));
  write_file_atomically(folder / "a", "");
  EXPECT_EQ(read_text_file(folder / "a", 5), "");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(ReadFile, AFileBeyondTheLimitIsAnError) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a", "hello");
  expect_error(ErrorCode::invalid_argument, "expected at most 4 bytes, got 5",
               [&] { read_file(folder / "a", 4); });
}

TEST(ReadFile, AMissingFileAndAFolderAreErrorsThatNameThem) {
  TemporaryFolder folder;
  expect_error(ErrorCode::not_found, (folder / "none").string(),
               [&] { read_file(folder / "none", 4); });
  expect_error(ErrorCode::io, "got a folder", [&] { read_file(folder.path(), 4); });
}

TEST(ReadFile, AMissingFileIsNamedWithTheNearest) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "recipes");
  write_file_atomically(folder / "recipes/fashion.toml", "x");
  const auto expect_near = [&](const char* path, const char* near) {
    expect_error(ErrorCode::not_found, "; did you mean '" + (folder / near).string() + "'?",
                 [&] { read_file(folder / path, 4); });
  };
  expect_near("recipes/fashon.toml", "recipes/fashion.toml");
  expect_near("recipe/fashion.toml", "recipes/fashion.toml");
  expect_near("recipe/fasion.toml", "recipes/fashion.toml");
  expect_error(ErrorCode::not_found, "the folder " + (folder / "recipe").string(),
               [&] { write_file_atomically(folder / "recipe/x", "y"); });
  EXPECT_EQ(nearest_path(folder / "nothing/like/it"), "");
  EXPECT_EQ(nearest_path(folder / "recipes"), "");
  EXPECT_EQ(did_you_mean_path(folder / "recipes/unlike.png"), "");
}

TEST(ReadFile, APipeIsAnErrorAndDoesNotBlock) {
  TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, "regular file", [&] { read_file(folder / "pipe", 4); });
}

TEST(FileReader, SaysThatAFileIsTruncated) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a", "hello");
  FileReader file(folder / "a");
  EXPECT_EQ(file.size(), 5u);
  std::vector<std::byte> bytes(6);
  expect_error(ErrorCode::corrupt, "truncated", [&] { file.read(bytes); });
}

TEST(WriteFileAtomically, ReplacesTheOldFileAndKeepsThePermissionsOfTheUser) {
  TemporaryFolder folder;
  const mode_t mask = ::umask(022);
  write_file_atomically(folder / "a", "old");
  write_file_atomically(folder / "a", [](FileWriter& writer) {
    writer.write("n");
    writer.write("ew");
  });
  ::umask(mask);
  EXPECT_EQ(read_text_file(folder / "a", 5), "new");
  struct stat status {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0644u);
}

TEST(WriteFileAtomically, AnExceptionOfTheWriterLeavesTheOldFile) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a", "old");
  EXPECT_THROW(write_file_atomically(folder / "a",
                                     [](FileWriter& writer) {
                                       writer.write("half");
                                       throw std::runtime_error("stop");
                                     }),
               std::runtime_error);
  EXPECT_EQ(read_text_file(folder / "a", 5), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(WriteFileAtomically, AWriteThatTheSystemCutsShortLeavesTheOldFile) {
  TemporaryFolder folder;
  write_file_atomically(folder / "a", "old");
  const std::string large(100000, 'x');
  {
    FileSizeLimit limit(4096);
    expect_error(ErrorCode::io, "unharmed", [&] { write_file_atomically(folder / "a", large); });
  }
  EXPECT_EQ(read_text_file(folder / "a", 5), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

// Exit codes of the child: 0 right, 1 wrong, 2 no permission to mount.
int write_on_a_full_disk(const std::filesystem::path& folder) {
  if (::unshare(CLONE_NEWNS | (::getuid() == 0 ? 0 : CLONE_NEWUSER)) != 0) return 2;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 2;
  if (::mount("none", folder.c_str(), "tmpfs", 0, "size=64k") != 0) return 2;
  write_file_atomically(folder / "a", "old");
  try {
    write_file_atomically(folder / "a", std::string(200000, 'x'));
  } catch (const Error& error) {
    const bool said = std::string_view(error.what()).find("disk is full") != std::string_view::npos;
    size_t entries = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(folder)) ++entries;
    return said && read_text_file(folder / "a", 5) == "old" && entries == 1 ? 0 : 1;
  }
  return 1;
}

TEST(WriteFileAtomically, AFullDiskIsAnErrorThatSaysSoAndLeavesTheOldFile) {
  TemporaryFolder folder;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(write_on_a_full_disk(folder.path()));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "a small disk cannot be mounted here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(WriteFileAtomically, AMissingFolderIsAnError) {
  TemporaryFolder folder;
  expect_error(ErrorCode::not_found, "does not exist",
               [&] { write_file_atomically(folder / "none/a", "x"); });
}

TEST(WriteFileAtomically, AFolderInTheWayIsAnError) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "a");
  expect_error(ErrorCode::io, "cannot write", [&] { write_file_atomically(folder / "a", "x"); });
  EXPECT_EQ(folder.entries(), 1u);
}

}  // namespace
}  // namespace fovea
