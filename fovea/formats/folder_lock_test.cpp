#include "fovea/formats/folder_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "fovea/formats/file.h"
#include "fovea/formats/test_data.h"

namespace fovea {
namespace {

TEST(FolderLock, ASecondIsRefusedUntilTheFirstIsGone) {
  const TemporaryFolder folder;
  {
    const FolderLock first(folder.path(), "train");
    expect_error(ErrorCode::invalid_argument, "another fovea (process " + std::to_string(getpid()),
                 [&] { FolderLock(folder.path(), "train"); });
    expect_error(ErrorCode::invalid_argument, "choose another folder",
                 [&] { FolderLock(folder.path(), "train"); });
  }
  EXPECT_EQ(folder.entries(), 0u);
  const FolderLock again(folder.path(), "train");
}

TEST(FolderLock, MovesWithItsOwner) {
  const TemporaryFolder folder;
  FolderLock kept;
  {
    FolderLock first(folder.path(), "train");
    kept = std::move(first);
  }
  expect_error(ErrorCode::invalid_argument, "another", [&] { FolderLock(folder.path(), "train"); });
  kept = FolderLock();
  FolderLock(folder.path(), "train");
}

TEST(FolderLock, AProcessThatWasKilledHoldsNothing) {
  const TemporaryFolder folder;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const FolderLock lock(folder.path(), "train");
    if (write(ready[1], "x", 1) != 1) _exit(1);
    for (;;) pause();
  }
  char x = 0;
  ASSERT_EQ(read(ready[0], &x, 1), 1);
  expect_error(ErrorCode::invalid_argument, "(process " + std::to_string(child) + ")",
               [&] { FolderLock(folder.path(), "train"); });
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(folder.entries(), 1u);  // its file, which nobody locks
  FolderLock(folder.path(), "train");
  EXPECT_EQ(folder.entries(), 0u);
  close(ready[0]);
  close(ready[1]);
}

TEST(FolderLock, AFileOfTheSameNameFromElsewhereIsNoHolder) {
  const TemporaryFolder folder;
  write_file_atomically(folder / FolderLock::kFile, "no number\n");
  FolderLock(folder.path(), "train");
}

TEST(FolderLock, AFolderThatIsNotThereIsAnError) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::io, "nothing can be written", [&] { FolderLock(folder / "x", "train"); });
}

}  // namespace
}  // namespace fovea
