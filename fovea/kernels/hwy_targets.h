// The instruction sets that the Highway kernels are compiled for, in one list, best first. To be
// included before hwy/foreach_target.h. After HWY_ONCE a file walks the list:
//   #define ADD(bit, target, name) if (supported & bit) list.push_back({name, plan<target::f>});
//   FOVEA_FOR_EACH_TARGET(ADD)
// Highway's baseline without SIMD gets no kernel (FOVEA_SIMD is 0): there "ref" serves.
#pragma once

// SSSE3 gains nothing over "ref" that anybody runs; AVX3_DL adds nothing that fp32 uses. A build
// may leave out more (the CMake option FOVEA_ONLY_TARGET).
#ifndef FOVEA_LEFT_OUT_TARGETS
#define FOVEA_LEFT_OUT_TARGETS 0
#endif
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | FOVEA_LEFT_OUT_TARGETS)
#include "hwy/detect_targets.h"

// Before a loop of at most 32 steps, a number known to the compiler: no loop is left of it.
#if defined(__clang__)
#define FOVEA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FOVEA_UNROLL _Pragma("GCC unroll 32")
#endif

#define FOVEA_SIMD (HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128)

#define FOVEA_FOR_EACH_TARGET(F) FOVEA_IF_AVX3(F) FOVEA_IF_AVX2(F) FOVEA_IF_SSE4(F)

#if HWY_TARGETS & HWY_AVX3
#define FOVEA_IF_AVX3(F) F(HWY_AVX3, N_AVX3, "hwy_avx3")
#else
#define FOVEA_IF_AVX3(F)
#endif
#if HWY_TARGETS & HWY_AVX2
#define FOVEA_IF_AVX2(F) F(HWY_AVX2, N_AVX2, "hwy_avx2")
#else
#define FOVEA_IF_AVX2(F)
#endif
#if HWY_TARGETS & HWY_SSE4
#define FOVEA_IF_SSE4(F) F(HWY_SSE4, N_SSE4, "hwy_sse4")
#else
#define FOVEA_IF_SSE4(F)
#endif
