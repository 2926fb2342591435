#include "fovea/kernels/avx512_bf16.h"

#include <cstring>

#if FOVEA_AVX512_BF16
#include <cpuid.h>
#endif

namespace fovea::avx512_bf16 {
namespace {

// What leaf 7 of cpuid says of features, where AVX-512 is there and the system saves its registers:
// AVX (2), AVX-512 (5 to 7).
struct Features {
  bool vectors = false;
  unsigned ecx = 0;    // of subleaf 0
  unsigned eax_1 = 0;  // of subleaf 1

  Features() {
#if FOVEA_AVX512_BF16
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return;
    if (!(c & bit_OSXSAVE) || !(c & bit_FMA)) return;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    constexpr unsigned kVectors = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    if ((b & kVectors) != kVectors) return;
    ecx = c;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) eax_1 = a;
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr unsigned kSaved = 1u << 2 | 7u << 5;
    vectors = (low & kSaved) == kSaved;
#endif
  }
};

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
  static const bool answer = [] {
    const Features f;
    return f.vectors && (f.eax_1 & 1u << 5);  // AVX512-BF16
  }();
  return answer;
}

bool pays() {
  static const bool answer = available() && ask_for_amd();
  return answer;
}

}  // namespace fovea::avx512_bf16

bool fovea::avx512_vnni::available() {
  static const bool answer = [] {
    const avx512_bf16::Features f;
    constexpr unsigned kBoth = 1u << 6 | 1u << 11;  // VBMI2, VNNI
    return f.vectors && (f.ecx & kBoth) == kBoth;
  }();
  return answer;
}
