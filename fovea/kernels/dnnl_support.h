// oneDNN as the kernels use it: single-threaded calls from our own pool, primitives found in one
// cache, and executions that need no new objects. Private to the *_dnnl.cpp files: it includes
// oneDNN.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "fovea/kernels/lanes.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace fovea::dnnl_support {

const dnnl::engine& engine();

// One OpenMP thread for the calls of this thread in this scope; then the number that was set
// before.
class OneThread {
 public:
  OneThread() noexcept;
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

// The argument of an execution: DNNL_ARG_SRC and the like, with the sizes of what is passed.
struct Operand {
  int index = 0;
  dnnl::memory::desc desc;
};

// A primitive with everything that its executions need. run() may be called by any number of
// threads at once: each takes one of a few slots (a stream and memory objects), of which there are
// about as many as processors.
class Primitive {
 public:
  // pd must have been made with user_scratchpad().
  Primitive(const dnnl::primitive& primitive, const dnnl::memory::desc& scratchpad,
            std::vector<Operand> operands);
  ~Primitive();
  Primitive(const Primitive&) = delete;
  Primitive& operator=(const Primitive&) = delete;

  // The layout of an operand, by its place in the constructor's list.
  const dnnl::memory::desc& desc(size_t operand) const { return operands_[operand].desc; }

  // What run() must be given besides the operands; 64-byte aligned.
  size_t scratchpad_bytes() const { return scratchpad_bytes_; }

  // data: one pointer an operand, in the order of the constructor. Allocates nothing of ours;
  // oneDNN itself builds a small table of its arguments at each execution.
  void run(std::initializer_list<const void*> data, void* scratchpad) const noexcept;

 private:
  struct Slot;

  dnnl::primitive primitive_;
  std::vector<Operand> operands_;  // the scratchpad is the last
  size_t scratchpad_bytes_ = 0;
  std::unique_ptr<Slot[]> slots_;
  mutable std::atomic<uint64_t> free_{0};  // a bit for each slot
};

using PrimitivePtr = std::shared_ptr<const Primitive>;

// Attributes under which a primitive allocates nothing of its own.
dnnl::primitive_attr user_scratchpad();

enum class Op : int64_t { matmul, conv_forward, conv_grad_input, conv_grad_weight, repack };

// The primitive for (op, key) from the cache of the process, or made by make and kept. The key
// holds all that make depends on. nullptr: oneDNN has no implementation, or only its slow
// reference; make says so by returning nullptr or by throwing dnnl::error.
PrimitivePtr cached(Op op, std::span<const int64_t> key, const std::function<PrimitivePtr()>& make);

// oneDNN's plain C++ fallbacks are a thousand times slower than its generated code.
template <class PrimitiveDesc>
bool is_fast(const PrimitiveDesc& pd) {
  const char* name = pd.impl_info_str();
  return !(name[0] == 'r' && name[1] == 'e' && name[2] == 'f');
}

// Room for bytes at a 64-byte boundary.
constexpr size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

using lanes::ceil_div;

// One dimension in pieces of the same size, the last one smaller.
struct Cut {
  int64_t size = 0, piece = 0, count = 0;

  Cut() = default;
  Cut(int64_t size_, int64_t piece_)
      : size(size_), piece(std::min(size_, piece_)), count(ceil_div(size_, piece)) {}
  int64_t length(int64_t i) const { return std::min(piece, size - i * piece); }
  bool last(int64_t i) const { return i + 1 == count; }
};

}  // namespace fovea::dnnl_support
