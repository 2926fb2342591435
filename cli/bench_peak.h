// What the processor can do at most, measured beside a kernel: products and sums that stay in
// registers (for AMX in the first cache).
#pragma once

#include <string>

#include "fovea/base/dtype.h"
#include "fovea/base/thread_pool.h"

namespace fovea::cli {

// The widest unit for sums of products of this type: f32 by FMA, bf16 by AMX, else by AVX-512.
class PeakMeter {
 public:
  explicit PeakMeter(DType dtype);

  // "fma_avx3", "amx_bf16", "avx512_bf16"; empty where the processor has none for this type.
  const std::string& name() const { return name_; }
  // Operations a second in units of 10^9, on all threads of the pool, over some milliseconds. 0
  // where there is none.
  double gflops(ThreadPool& pool) const;

 private:
  std::string name_;
  // Works for a short while; gives the number of operations.
  double (*work_)() = nullptr;
};

}  // namespace fovea::cli
