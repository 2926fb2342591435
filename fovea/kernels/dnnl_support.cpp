#include "fovea/kernels/dnnl_support.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <mutex>
#include <thread>

#include "fovea/base/error.h"
#include "fovea/base/thread_pool.h"

// libgomp's; -fopenmp would make Clang load a second runtime.
extern "C" void omp_set_num_threads(int threads);
extern "C" int omp_get_max_threads();

namespace fovea::dnnl_support {
namespace {

constexpr size_t kMaxOperands = 6;
// Beyond this many, primitives that no plan holds are dropped.
constexpr size_t kCacheSize = 512;

int slot_count() {
  static const int count = std::clamp(ThreadPool::hardware_threads(), 4, 64);
  return count;
}

struct Cache {
  std::mutex mutex;
  std::map<std::vector<int64_t>, PrimitivePtr> entries;
};

// Never destroyed: oneDNN's own statics may be gone by the time that ours end.
Cache& cache() {
  static Cache& c = *new Cache;
  return c;
}

}  // namespace

const dnnl::engine& engine() {
  static const dnnl::engine& e = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return e;
}

OneThread::OneThread() noexcept : saved_(omp_get_max_threads()) {
  if (saved_ != 1) omp_set_num_threads(1);
}
OneThread::~OneThread() {
  if (saved_ != 1) omp_set_num_threads(saved_);
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

struct alignas(64) Primitive::Slot {
  dnnl::stream stream;
  std::vector<dnnl::memory> memories;  // the operands, then the scratchpad
  std::vector<const void*> handles;    // what the memories point to
};

Primitive::Primitive(const dnnl::primitive& primitive, const dnnl::memory::desc& scratchpad,
                     std::vector<Operand> operands)
    : primitive_(primitive),
      operands_(std::move(operands)),
      scratchpad_bytes_(scratchpad.get_size()) {
  operands_.push_back({DNNL_ARG_SCRATCHPAD, scratchpad});
  FOVEA_ASSERT(operands_.size() <= kMaxOperands);
  slots_ = std::make_unique<Slot[]>(static_cast<size_t>(slot_count()));
  for (int i = 0; i < slot_count(); ++i) {
    slots_[i].stream = dnnl::stream(engine());
    for (const Operand& o : operands_)
      slots_[i].memories.push_back(dnnl::memory(o.desc, engine(), DNNL_MEMORY_NONE));
    slots_[i].handles.resize(operands_.size());
  }
  free_.store(slot_count() == 64 ? ~uint64_t{0} : (uint64_t{1} << slot_count()) - 1);
}

Primitive::~Primitive() = default;

void Primitive::run(std::initializer_list<const void*> data, void* scratchpad) const noexcept {
  FOVEA_ASSERT(data.size() + 1 == operands_.size());
  uint64_t free = free_.load(std::memory_order_relaxed);
  for (;;) {
    if (free == 0) {
      std::this_thread::yield();
      free = free_.load(std::memory_order_relaxed);
    } else if (free_.compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
      break;
    }
  }
  const int taken = std::countr_zero(free);
  Slot& slot = slots_[taken];
  {
    const OneThread one_thread;
    std::array<dnnl_exec_arg_t, kMaxOperands> args;
    for (size_t i = 0; i < operands_.size(); ++i) {
      const void* handle = i < data.size() ? data.begin()[i] : scratchpad;
      const dnnl_memory_t memory = slot.memories[i].get();
      // oneDNN writes only to what the primitive declares as its output.
      if (slot.handles[i] != handle) {
        const dnnl_status_t set = dnnl_memory_set_data_handle(memory, const_cast<void*>(handle));
        FOVEA_ASSERT(set == dnnl_success);
        slot.handles[i] = handle;
      }
      args[i] = {operands_[i].index, memory};
    }
    const dnnl_status_t done = dnnl_primitive_execute(
        primitive_.get(), slot.stream.get(), static_cast<int>(operands_.size()), args.data());
    FOVEA_ASSERT(done == dnnl_success);
  }
  free_.fetch_or(uint64_t{1} << taken, std::memory_order_release);
}

PrimitivePtr cached(Op op, std::span<const int64_t> key,
                    const std::function<PrimitivePtr()>& make) {
  std::vector<int64_t> full{static_cast<int64_t>(op)};
  full.insert(full.end(), key.begin(), key.end());
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  if (const auto found = c.entries.find(full); found != c.entries.end()) return found->second;
  PrimitivePtr made;
  try {
    const OneThread one_thread;  // the number of threads is built into the primitive
    made = make();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_out_of_memory)
      throw Error{ErrorCode::out_of_memory, "[oneDNN] no memory for a primitive"};
  }
  if (!made) return nullptr;
  if (c.entries.size() >= kCacheSize)
    std::erase_if(c.entries, [](const auto& entry) { return entry.second.use_count() == 1; });
  c.entries.emplace(std::move(full), made);
  return made;
}

}  // namespace fovea::dnnl_support
