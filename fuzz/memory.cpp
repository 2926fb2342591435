// Counts what an input allocates: through the sanitizers' hooks where there are any, else by
// operator new of its own.
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "fuzz/property.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FOVEA_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOVEA_SANITIZED 1
#endif

namespace {

std::atomic<int64_t> live{0};
std::atomic<int64_t> peak{0};
std::atomic<int64_t> start{0};

void took(size_t bytes) {
  const int64_t now = live.fetch_add(static_cast<int64_t>(bytes)) + static_cast<int64_t>(bytes);
  int64_t before = peak.load();
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
}
void gave(size_t bytes) { live.fetch_sub(static_cast<int64_t>(bytes)); }

}  // namespace

namespace fovea::fuzz {

size_t peak_bytes() { return static_cast<size_t>(peak.load() - start.load()); }

}  // namespace fovea::fuzz

#if defined(FOVEA_SANITIZED)

#include <sanitizer/allocator_interface.h>

namespace fovea::fuzz {

void start_peak() {
  // Blocks from before the hooks are counted as they go, hence the difference.
  [[maybe_unused]] static const int installed = __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, size_t bytes) { took(bytes); },
      [](const volatile void* block) { gave(__sanitizer_get_allocated_size(block)); });
  start = live.load();
  peak = live.load();
}

}  // namespace fovea::fuzz

#else

namespace fovea::fuzz {

void start_peak() {
  start = live.load();
  peak = live.load();
}

}  // namespace fovea::fuzz

namespace {

void* allocate(size_t bytes, size_t alignment) {
  void* block = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  if (posix_memalign(&block, alignment, bytes == 0 ? 1 : bytes) != 0) return nullptr;
  took(malloc_usable_size(block));
  return block;
}
void* allocate_or_throw(size_t bytes, size_t alignment) {
  if (void* block = allocate(bytes, alignment)) return block;
  throw std::bad_alloc();
}
void release(void* block) {
  if (block == nullptr) return;
  gave(malloc_usable_size(block));
  std::free(block);
}
constexpr size_t kUsual = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace

// NOLINTBEGIN: one line each
void* operator new(size_t n) { return allocate_or_throw(n, kUsual); }
void* operator new[](size_t n) { return allocate_or_throw(n, kUsual); }
void* operator new(size_t n, std::align_val_t a) { return allocate_or_throw(n, size_t(a)); }
void* operator new[](size_t n, std::align_val_t a) { return allocate_or_throw(n, size_t(a)); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return allocate(n, kUsual); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return allocate(n, kUsual); }
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, size_t(a));
}
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return allocate(n, size_t(a));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete[](void* p, size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { release(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { release(p); }
// NOLINTEND

#endif
