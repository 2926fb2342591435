#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cli/bench_peak.cpp"
#include "fovea/kernels/hwy_targets.h"
//
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "cli/bench_peak.h"

HWY_BEFORE_NAMESPACE();
namespace fovea::cli::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Twelve chains: latency times units of all processors that we know, and no register too many for
// AVX2.
double fma_work() {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V scale = hn::Set(d, 0.9999f), shift = hn::Set(d, 1e-4f);
  V a = hn::Set(d, 0.1f), b = hn::Set(d, 0.2f), c = hn::Set(d, 0.3f), e = hn::Set(d, 0.4f);
  V f = hn::Set(d, 0.5f), g = hn::Set(d, 0.6f), h = hn::Set(d, 0.7f), i = hn::Set(d, 0.8f);
  V j = hn::Set(d, 0.9f), k = hn::Set(d, 1.1f), l = hn::Set(d, 1.2f), m = hn::Set(d, 1.3f);
  constexpr int kTurns = 40000;
  for (int turn = 0; turn < kTurns; ++turn) {
    a = hn::MulAdd(a, scale, shift), b = hn::MulAdd(b, scale, shift);
    c = hn::MulAdd(c, scale, shift), e = hn::MulAdd(e, scale, shift);
    f = hn::MulAdd(f, scale, shift), g = hn::MulAdd(g, scale, shift);
    h = hn::MulAdd(h, scale, shift), i = hn::MulAdd(i, scale, shift);
    j = hn::MulAdd(j, scale, shift), k = hn::MulAdd(k, scale, shift);
    l = hn::MulAdd(l, scale, shift), m = hn::MulAdd(m, scale, shift);
  }
  const V sum = ((a + b) + (c + e)) + ((f + g) + (h + i)) + ((j + k) + (l + m));
  volatile float seen = hn::GetLane(sum);
  static_cast<void>(seen);
  return 2.0 * 12 * kTurns * static_cast<double>(hn::Lanes(d));
}

// Every byte is used, so that none is left unread.
void read_work(const std::byte* from, int64_t bytes) {
  const hn::ScalableTag<uint8_t> d;
  using V = hn::Vec<decltype(d)>;
  const auto* p = reinterpret_cast<const uint8_t*>(from);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V a = hn::Zero(d), b = a, c = a, e = a;
  int64_t i = 0;
  for (; i + 4 * lanes <= bytes; i += 4 * lanes) {
    a = hn::Or(a, hn::LoadU(d, p + i));
    b = hn::Or(b, hn::LoadU(d, p + i + lanes));
    c = hn::Or(c, hn::LoadU(d, p + i + 2 * lanes));
    e = hn::Or(e, hn::LoadU(d, p + i + 3 * lanes));
  }
  for (; i + lanes <= bytes; i += lanes) a = hn::Or(a, hn::LoadU(d, p + i));
  volatile uint8_t seen = hn::GetLane(hn::Or(hn::Or(a, b), hn::Or(c, e)));
  static_cast<void>(seen);
}

}  // namespace
}  // namespace fovea::cli::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "cli/bench_case.h"
#include "fovea/base/build_info.h"
#include "fovea/kernels/amx.h"

#if FOVEA_AMX
FOVEA_AMX_BEGIN
namespace fovea::cli {
namespace {

// Two by two tiles: four results, each operand read once for two products, as in the inner loop of
// a good kernel.
double amx_work() {
  alignas(64) std::byte left[2 * amx::kTileBytes], right[2 * amx::kTileBytes];
  std::memset(left, 0x3c, sizeof left);  // about 2^-6 each: zeros might be cheaper
  std::memset(right, 0x3c, sizeof right);
  const amx::Tiles tiles;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  constexpr int kTurns = 4000;
  for (int turn = 0; turn < kTurns; ++turn) {
    _tile_loadd(4, left, 64);
    _tile_loadd(6, right, 64);
    _tile_loadd(5, left + amx::kTileBytes, 64);
    _tile_loadd(7, right + amx::kTileBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return 2.0 * 4 * kTurns * amx::kTileRows * 16 * amx::kDepth;
}

// Sums of pairs of products.
double avx512_bf16_work() {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);  // 2^-7, twice
  __m512 sums[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sums[i] = _mm512_set1_ps(0.1f * static_cast<float>(i + 1));
  constexpr int kTurns = 20000;
  for (int turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
  }
  float total = 0;
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) total += _mm512_cvtss_f32(sums[i]);
  volatile float seen = total;
  static_cast<void>(seen);
  return 2.0 * 12 * kTurns * 32;
}

}  // namespace
}  // namespace fovea::cli
FOVEA_AMX_END
#endif

namespace fovea::cli {

namespace {
HWY_EXPORT(fma_work);
HWY_EXPORT(read_work);
double best_fma_work() { return HWY_DYNAMIC_DISPATCH(fma_work)(); }

// With the instruction set that the loops were compiled for and the processor has.
std::string name_of(const std::string& what) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_NAME(bit, target, name) \
  if (supported & (bit)) return what + "_" + std::string(name).substr(std::strlen("hwy_"));
  FOVEA_FOR_EACH_TARGET(FOVEA_NAME)
#undef FOVEA_NAME
  return what;
}
}  // namespace

PeakMeter::PeakMeter(DType dtype) {
  if (dtype == DType::f32) {
    name_ = name_of("fma");
    work_ = best_fma_work;
  }
#if FOVEA_AMX
  if (dtype == DType::bf16) {
    const std::vector<std::string> features = processor_features();
    if (amx::available()) {
      name_ = "amx_bf16";
      work_ = amx_work;
    } else if (std::find(features.begin(), features.end(), "avx512_bf16") != features.end()) {
      name_ = "avx512_bf16";
      work_ = avx512_bf16_work;
    }
  }
#endif
}

PeakMeter PeakMeter::of_reading(int64_t bytes) {
  PeakMeter meter;
  meter.name_ = name_of("read");
  meter.buffer_ = AlignedBuffer(static_cast<size_t>(bytes), "buffer to be read");
  // Pages that were never written to are all the same one.
  std::memset(meter.buffer_.data(), 1, meter.buffer_.size());
  return meter;
}

double PeakMeter::rate(ThreadPool& pool) const {
  return buffer_.size() > 0 ? reading_rate(pool) : operations_rate(pool);
}

double PeakMeter::reading_rate(ThreadPool& pool) const {
  constexpr int64_t kPiece = 256 * 1024;
  constexpr int64_t kSweeps = 9;
  const auto bytes = static_cast<int64_t>(buffer_.size());
  const auto sweep = [&] {
    pool.parallel_for((bytes + kPiece - 1) / kPiece, [&](int64_t piece, int) {
      HWY_DYNAMIC_DISPATCH(read_work)
      (buffer_.data() + piece * kPiece, std::min(kPiece, bytes - piece * kPiece));
    });
  };
  sweep();  // the caches were full of what others did
  return static_cast<double>(bytes) / median(time_runs(kSweeps, sweep)) / 1e6;
}

double PeakMeter::operations_rate(ThreadPool& pool) const {
  if (!work_) return 0;
  // Pieces of a fraction of a millisecond: a thread that wakes late leaves more to the others.
  const int64_t pieces = 16 * pool.threads();
  const double operations = work_() * static_cast<double>(pieces);  // to warm up
  const auto start = std::chrono::steady_clock::now();
  pool.parallel_for(pieces, [&](int64_t, int) { work_(); });
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return operations / time.count() / 1e9;
}

}  // namespace fovea::cli
#endif
