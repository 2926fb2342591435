// What the machine can do at most, measured beside a kernel: products and sums that stay in
// registers (for AMX in the first cache), or reading memory.
#pragma once

#include <string>

#include "fovea/base/aligned.h"
#include "fovea/base/dtype.h"
#include "fovea/base/thread_pool.h"

namespace fovea::cli {

class PeakMeter {
 public:
  // The widest unit for sums of products of this type: f32 by FMA, bf16 by AMX, else by AVX-512.
  explicit PeakMeter(DType dtype);
  // Sweeps over a buffer of so many bytes, which has become as warm as sweeping makes it.
  static PeakMeter of_reading(int64_t bytes);

  // "fma_avx3", "amx_bf16", "avx512_bf16", "read_avx3"; empty where the processor has none for this
  // type.
  const std::string& name() const { return name_; }
  // Operations or bytes a second in units of 10^9, on all threads of the pool, over some
  // milliseconds. 0 where there is none.
  double rate(ThreadPool& pool) const;

 private:
  PeakMeter() = default;
  double operations_rate(ThreadPool& pool) const;
  double reading_rate(ThreadPool& pool) const;

  std::string name_;
  // Works for a short while; gives the number of operations.
  double (*work_)() = nullptr;
  AlignedBuffer buffer_;  // to be read
};

}  // namespace fovea::cli
