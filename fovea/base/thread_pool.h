// The one thread pool. The caller takes part in the work, and every block of work runs with
// denormals flushed to zero: oneDNN's fp32 products are fifty times slower with them.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace fovea {

// Sets flush-to-zero and denormals-are-zero, and restores what was there.
class FloatMode {
 public:
  FloatMode() noexcept;
  ~FloatMode();
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  uint32_t saved_;
};

class ThreadPool {
 public:
  // threads counts the caller, so ThreadPool(1) starts none. 0: as many as the process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(int64_t block, int worker) once for each block in [0, blocks), in any order, on up
  // to threads() workers (0 <= worker < threads()); returns when all are done. body must not throw.
  // A call from inside a block, or while another caller uses the pool, runs on the calling thread;
  // from inside, as the worker that it is: a body must not use its worker's scratch across a nested
  // call.
  template <class F>
  void parallel_for(int64_t blocks, F&& body) noexcept {
    using Body = std::remove_reference_t<F>;
    run(blocks, const_cast<void*>(static_cast<const void*>(&body)),
        [](void* b, int64_t block, int worker) { (*static_cast<Body*>(b))(block, worker); });
  }

  // Processors that this process may use.
  static int hardware_threads();

 private:
  using Invoke = void (*)(void* body, int64_t block, int worker);
  void run(int64_t blocks, void* body, Invoke invoke) noexcept;

  struct State;
  int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace fovea
