#include "fovea/base/thread_pool.h"

#include <fmt/format.h>
#include <sched.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "fovea/base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fovea {

#if defined(__x86_64__)
FloatMode::FloatMode() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
FloatMode::~FloatMode() { _mm_setcsr(saved_); }
static void relax() { _mm_pause(); }
#else
FloatMode::FloatMode() noexcept : saved_(0) {}
FloatMode::~FloatMode() = default;
static void relax() {}
#endif

namespace {
// Spinning is worth it for the gaps between two nodes (microseconds), not longer: the machine is
// shared.
constexpr int kSpins = 2000;
// Where this thread is working: nested calls run there, as the same worker.
struct Place {
  const void* pool = nullptr;
  int worker = 0;
};
thread_local Place place;
}  // namespace

struct ThreadPool::State {
  // A helper enters a job while it is open, and the caller waits only for those that have entered:
  // one that the system has not woken in time is not missed.
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kActive = kOpen - 1;

  std::mutex caller;                // one job at a time
  std::atomic<uint32_t> ticket{0};  // a new value means a new job, or the end
  std::atomic<uint64_t> job{0};     // its ticket << 32, kOpen, and the helpers that are in it
  std::atomic<uint32_t> left{0};    // how often a helper has left a job
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  int64_t blocks = 0;
  void* body = nullptr;
  Invoke invoke = nullptr;
  std::vector<std::thread> helpers;

  void work(int worker) {
    const FloatMode mode;
    const Place before = std::exchange(place, Place{this, worker});
    for (;;) {
      const int64_t block = next.fetch_add(1, std::memory_order_relaxed);
      if (block >= blocks) break;
      invoke(body, block, worker);
    }
    place = before;
  }

  void helper(int worker) {
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && ticket.load(std::memory_order_acquire) == seen; ++i) relax();
      ticket.wait(seen, std::memory_order_acquire);
      seen = ticket.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (!enter(seen)) continue;
      work(worker);
      job.fetch_sub(1, std::memory_order_release);
      left.fetch_add(1, std::memory_order_release);
      left.notify_one();
    }
  }

  bool enter(uint32_t number) {
    uint64_t now = job.load(std::memory_order_acquire);
    while ((now >> 32) == number && (now & kOpen))
      if (job.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void end() {
    stop.store(true);
    ticket.fetch_add(1, std::memory_order_release);
    ticket.notify_all();
    for (auto& t : helpers) t.join();
  }

  // The caller's part: a job for all, and its end.
  void open() {
    next.store(0, std::memory_order_relaxed);
    const uint32_t number = ticket.load(std::memory_order_relaxed) + 1;
    job.store(uint64_t{number} << 32 | kOpen, std::memory_order_release);
    ticket.store(number, std::memory_order_release);
    ticket.notify_all();
  }
  void close() {
    job.fetch_and(~kOpen, std::memory_order_acq_rel);
    const auto busy = [&] { return (job.load(std::memory_order_acquire) & kActive) != 0; };
    for (int i = 0; i < kSpins && busy(); ++i) relax();
    for (;;) {
      const uint32_t before = left.load(std::memory_order_acquire);
      if (!busy()) return;
      left.wait(before, std::memory_order_acquire);
    }
  }
};

int ThreadPool::hardware_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

ThreadPool::ThreadPool(int threads)
    : threads_(threads > 0 ? threads : hardware_threads()), state_(std::make_unique<State>()) {
  int worker = 1;
  try {
    for (; worker < threads_; ++worker)
      state_->helpers.emplace_back([s = state_.get(), worker] { s->helper(worker); });
  } catch (const std::exception&) {  // std::system_error, std::bad_alloc
    state_->end();
    throw Error(ErrorCode::out_of_memory,
                fmt::format("[threads] the system gives {} of {} threads (ask for fewer with "
                            "--threads; `ulimit -u` and `ulimit -v` show its limits)",
                            worker, threads_));
  }
}

ThreadPool::~ThreadPool() { state_->end(); }

void ThreadPool::run(int64_t blocks, void* body, Invoke invoke) noexcept {
  if (blocks <= 0) return;
  State& s = *state_;
  std::unique_lock lock(s.caller, std::defer_lock);
  if (blocks == 1 || threads_ == 1 || place.pool || !lock.try_lock()) {
    const FloatMode mode;
    const int worker = place.pool == &s ? place.worker : 0;
    for (int64_t block = 0; block < blocks; ++block) invoke(body, block, worker);
    return;
  }
  s.blocks = blocks;
  s.body = body;
  s.invoke = invoke;
  s.open();
  s.work(0);
  s.close();
}

}  // namespace fovea
