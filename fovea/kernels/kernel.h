// The two phases of every kernel: planned once for a problem, run often on raw memory.
// Each family x has x.h with XProblem (sizes, strides, types, options), XArgs (pointers) and
// `std::span<const Kernel<XProblem, XArgs>> x_kernels()`: best first, the plain reference last.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "fovea/base/thread_pool.h"

namespace fovea {

// What a kernel gets besides its arguments. Scratch is aligned to 64 bytes and holds anything.
struct KernelContext {
  ThreadPool* pool = nullptr;
  std::byte* scratch = nullptr;         // scratch_bytes, shared by all workers
  std::byte* worker_scratch = nullptr;  // threads() pieces of worker_stride bytes
  size_t worker_stride = 0;             // >= worker_scratch_bytes
  const std::byte* packed = nullptr;    // what pack() wrote; null: nothing was packed ahead

  template <class T>
  T* worker(int w) const {
    return reinterpret_cast<T*>(worker_scratch + static_cast<size_t>(w) * worker_stride);
  }
};

// Made by a kernel for one problem; owns primitives and tables. run() allocates nothing, does not
// throw, may be called by several threads at once, and gives the same bits for any number of
// threads: blocks of work depend on the problem alone, partial sums are added in index order.
template <class Args>
class KernelPlan {
 public:
  virtual ~KernelPlan() = default;
  virtual void run(const Args& args, const KernelContext& context) const noexcept = 0;

  // Writes packed_bytes: the operand that stays the same from run to run (the weight of a product),
  // in the order in which the kernel reads it. Who calls it once passes the result in
  // KernelContext::packed; where that is null, run() packs for itself, into its scratch.
  virtual void pack(const Args&, std::byte*) const noexcept {}

  size_t scratch_bytes = 0;
  size_t worker_scratch_bytes = 0;  // for each worker
  size_t packed_bytes = 0;          // 0: there is nothing to pack
};

template <class Problem, class Args>
struct Kernel {
  std::string_view name;  // how FOVEA_FORCE_KERNEL and reports call it
  // nullptr: this kernel does not support the problem; the next in the list is asked.
  std::unique_ptr<KernelPlan<Args>> (*plan)(const Problem&);
};

}  // namespace fovea
