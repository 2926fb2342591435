#include "fovea/kernels/amx.h"

#include <atomic>

#if FOVEA_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fovea::amx {
namespace {

std::atomic<bool> emulated = false;

bool ask() {
#if FOVEA_AMX
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // the component of XSAVE that holds the tiles
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!avx512_bf16::available() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kTiles = 1u << 24 | 1u << 22;  // AMX-TILE, AMX-BF16
  if ((d & kTiles) != kTiles) return false;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = 3u << 17;  // the system saves the tiles
  if ((low & kSaved) != kSaved) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool available() {
  static const bool answer = ask();
  return answer || emulated;
}

void set_available_for_tests(bool on) { emulated = on && avx512_bf16::available(); }

}  // namespace fovea::amx
