#include "fovea/kernels/versions.h"

#include <algorithm>

#include "fovea/kernels/linear.h"
#include "hwy/highway.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace fovea {

namespace {

std::string joined(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

const char* isa_name(dnnl::cpu_isa isa) {
  switch (isa) {
    case dnnl::cpu_isa::sse41:
      return "SSE4.1";
    case dnnl::cpu_isa::avx:
      return "AVX";
    case dnnl::cpu_isa::avx2:
      return "AVX2";
    case dnnl::cpu_isa::avx2_vnni:
      return "AVX2 with VNNI";
    case dnnl::cpu_isa::avx512_core:
      return "AVX-512";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "AVX-512 with VNNI";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "AVX-512 with VNNI and bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "AVX-512 with AMX";
    default:
      return "";
  }
}

// "AVX3 AVX2 SSE4": compiled by Highway's choice and supported here, best first.
std::string simd_targets() {
  std::string names;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (!names.empty()) names += " ";
    names += hwy::TargetName(target);
  }
  return names;
}

}  // namespace

std::vector<LibraryVersion> kernel_libraries() {
  const dnnl_version_t* dnnl = dnnl_version();
  return {{"oneDNN", joined(dnnl->major, dnnl->minor, dnnl->patch),
           isa_name(dnnl::get_effective_cpu_isa())},
          {"Highway", joined(HWY_MAJOR, HWY_MINOR, HWY_PATCH), simd_targets()}};
}

bool has_fast_bf16() {
  const std::string_view best = linear_kernels().front().name;
  return best == "amx" || best == "avx512bf16";
}

}  // namespace fovea
