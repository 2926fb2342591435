#include "fovea/kernels/avx512_bf16.h"

#include <cstring>

#if FOVEA_AVX512_BF16
#include <cpuid.h>
#endif

namespace fovea::avx512_bf16 {
namespace {

bool ask() {
#if FOVEA_AVX512_BF16
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return false;
  if (!(c & bit_OSXSAVE) || !(c & bit_FMA)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kVectors = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  if ((b & kVectors) != kVectors) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  if (!(a & 1u << 5)) return false;  // AVX512-BF16
  // The system saves the registers: AVX (2), AVX-512 (5 to 7).
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = 1u << 2 | 7u << 5;
  return (low & kSaved) == kSaved;
#else
  return false;
#endif
}

bool ask_for_amd() {
#if FOVEA_AVX512_BF16
  unsigned a = 0, vendor[3] = {};
  if (!__get_cpuid(0, &a, &vendor[0], &vendor[2], &vendor[1])) return false;
  return std::memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0;
#else
  return false;
#endif
}

}  // namespace

bool available() {
  static const bool answer = ask();
  return answer;
}

bool pays() {
  static const bool answer = available() && ask_for_amd();
  return answer;
}

}  // namespace fovea::avx512_bf16
