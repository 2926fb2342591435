#include "fovea/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace fovea {
namespace {

TEST(ThreadPool, RunsEveryBlockOnceForAnyNumberOfThreads) {
  for (int threads : {1, 2, 3, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> seen(37);
      pool.parallel_for(37, [&](int64_t block, int worker) {
        ASSERT_LT(worker, threads);
        seen[static_cast<size_t>(block)]++;
      });
      for (auto& s : seen) ASSERT_EQ(s.load(), 1);
    }
  }
}

TEST(ThreadPool, ANestedCallRunsOnTheCallingThread) {
  ThreadPool pool(2);
  std::atomic<int> total{0};
  pool.parallel_for(8, [&](int64_t, int) { pool.parallel_for(5, [&](int64_t, int) { total++; }); });
  EXPECT_EQ(total.load(), 40);
}

TEST(ThreadPool, DenormalsAreZeroInBlocksAndRestoredAfter) {
  ThreadPool pool(2);
  volatile float tiny = 1e-38f;
  std::atomic<int> flushed{0};
  pool.parallel_for(16, [&](int64_t, int) {
    volatile float t = tiny;
    volatile float denormal = t * 1e-3f;
    if (denormal == 0.0f) flushed++;
  });
  EXPECT_EQ(flushed.load(), 16);
  volatile float denormal = tiny * 1e-3f;
  EXPECT_NE(denormal, 0.0f);
}

}  // namespace
}  // namespace fovea
