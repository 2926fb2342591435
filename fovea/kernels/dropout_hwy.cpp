// Dropout in SIMD of each target: Philox 4x32-10 with the counters in 64-bit lanes, the same
// numbers as "ref".
#include <array>
#include <cmath>
#include <memory>

#define HWY_TARGET_INCLUDE "fovea/kernels/dropout_hwy.cpp"
#include "fovea/kernels/hwy_targets.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/dropout.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"
#include "fovea/kernels/math-inl.h"

#ifndef FOVEA_DROPOUT_ONCE
#define FOVEA_DROPOUT_ONCE
namespace fovea::dropout_detail {
namespace {

// A run of elements: n of them, of which the first is number `element` of the global batch.
struct Run {
  const float* x;
  float* y;
  int64_t n;
  uint64_t element;
  uint64_t stream;
  uint32_t key0, key1;
  int32_t threshold;  // kept: random bits >> 8 >= threshold
  float scale;
};

}  // namespace
}  // namespace fovea::dropout_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using simd::F32;
using simd::I32;
using simd::kLanes;
using simd::U32;
using simd::Vec;
using U64 = hn::Repartition<uint64_t, U32>;
using Words = hn::Vec<U32>;

constexpr int64_t kCounters = kLanes / 2;     // in a vector
constexpr int64_t kNumbers = 16 * kCounters;  // made at a time, from four vectors of counters

constexpr std::array<uint64_t, kCounters> lane_order() {
  std::array<uint64_t, kCounters> order{};
  for (size_t k = 0; k < order.size(); ++k) order[k] = k / 2 + k % 2 * (order.size() / 2);
  return order;
}

// One number in the lower half of each 64-bit lane. The upper halves hold anything: the products
// do not read them, and no result crosses over from them.
struct Counters {
  Words c0, c1, c2, c3;
};

HWY_INLINE Words upper_half(Words product) { return hn::Shuffle2301(product); }
HWY_INLINE Words xor3(Words a, Words b, Words c) { return hn::Xor(a, hn::Xor(b, c)); }

HWY_INLINE void mix(Counters& c, Words key0, Words key1) {
  const U32 d;
  const Words p0 = hn::BitCast(d, hn::MulEven(c.c0, hn::Set(d, 0xD2511F53u)));
  const Words p1 = hn::BitCast(d, hn::MulEven(c.c2, hn::Set(d, 0xCD9E8D57u)));
  c.c0 = xor3(upper_half(p1), c.c1, key0);
  c.c1 = p1;
  c.c2 = xor3(upper_half(p0), c.c3, key1);
  c.c3 = p0;
}

// Hands the numbers at place `at` on, in the order of the counters. Lanes 2k and 2k + 1 hold the
// counters k and kCounters / 2 + k, so that interleaving within 128 bits brings them there.
template <class Sink>
HWY_INLINE void put(const Counters& c, int64_t at, const Sink& sink) {
  const U32 d;
  const U64 d64;
  const auto a = hn::BitCast(d64, hn::OddEven(hn::Shuffle2301(c.c1), c.c0));
  const auto b = hn::BitCast(d64, hn::OddEven(hn::Shuffle2301(c.c3), c.c2));
  sink(hn::BitCast(d, hn::InterleaveLower(d64, a, b)), at);
  sink(hn::BitCast(d, hn::InterleaveUpper(d64, a, b)), at + kLanes);
}

// Written out round after round: a loop would spend its time on moving registers. Four vectors at
// a time, since a round has to wait for the products of the one before.
template <int kLeft>
HWY_INLINE void rounds(Counters& a, Counters& b, Counters& c, Counters& e, uint32_t key0,
                       uint32_t key1) {
  if constexpr (kLeft > 0) {
    const U32 d;
    const Words k0 = hn::Set(d, key0), k1 = hn::Set(d, key1);
    mix(a, k0, k1);
    mix(b, k0, k1);
    mix(c, k0, k1);
    mix(e, k0, k1);
    rounds<kLeft - 1>(a, b, c, e, key0 + 0x9E3779B9u, key1 + 0xBB67AE85u);
  }
}

// The numbers of the counters {group + i, stream}.
template <class Sink>
HWY_INLINE void philox(uint64_t group, const dropout_detail::Run& run, const Sink& sink) {
  const U32 d;
  const U64 d64;
  HWY_ALIGN static constexpr auto kOrder = lane_order();
  const auto order = hn::Load(d64, kOrder.data());
  const Words c2 = hn::Set(d, static_cast<uint32_t>(run.stream));
  const Words c3 = hn::Set(d, static_cast<uint32_t>(run.stream >> 32));
  const auto groups = [&](uint64_t i) HWY_ATTR {
    return hn::BitCast(d, hn::Add(hn::Set(d64, group + i * kCounters), order));
  };
  const Words g0 = groups(0), g1 = groups(1), g2 = groups(2), g3 = groups(3);
  Counters a{g0, upper_half(g0), c2, c3}, b{g1, upper_half(g1), c2, c3};
  Counters c{g2, upper_half(g2), c2, c3}, e{g3, upper_half(g3), c2, c3};
  rounds<10>(a, b, c, e, run.key0, run.key1);
  put(a, 0, sink);
  put(b, 4 * kCounters, sink);
  put(c, 8 * kCounters, sink);
  put(e, 12 * kCounters, sink);
}

HWY_INLINE Vec kept(Vec x, Words numbers, const dropout_detail::Run& run) {
  const I32 di;
  const auto keep =
      hn::Gt(hn::BitCast(di, hn::ShiftRight<8>(numbers)), hn::Set(di, run.threshold - 1));
  return hn::IfThenElseZero(hn::RebindMask(F32(), keep), hn::Mul(x, hn::Set(F32(), run.scale)));
}

struct ToMemory {
  uint32_t* to;
  HWY_INLINE void operator()(Words numbers, int64_t at) const {
    hn::StoreU(numbers, U32(), to + at);
  }
};
struct ToOutput {
  const dropout_detail::Run& run;
  int64_t from;
  HWY_INLINE void operator()(Words numbers, int64_t at) const {
    simd::store(kept(simd::load(run.x + from + at), numbers, run), run.y + from + at);
  }
};

// Elements from `at` on, at most as many as a set of numbers holds; returns how many.
HWY_NOINLINE int64_t run_some(const dropout_detail::Run& run, int64_t at) {
  uint32_t numbers[kNumbers + kLanes] = {};  // room to load whole vectors
  const uint64_t element = run.element + static_cast<uint64_t>(at);
  philox(element / 4, run, ToMemory{numbers});
  const auto skipped = static_cast<int64_t>(element % 4);
  const int64_t n = HWY_MIN(kNumbers - skipped, run.n - at);
  const float* x = run.x + at;
  float* y = run.y + at;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Words own = hn::LoadU(U32(), numbers + skipped + i);
    if (i + kLanes <= n)
      simd::store(kept(simd::load(x + i), own, run), y + i);
    else
      simd::store_some(kept(simd::load_some(x + i, n - i), own, run), y + i, n - i);
  }
  return n;
}

}  // namespace

void dropout_run(const dropout_detail::Run& given) {
  const dropout_detail::Run run = given;  // out of reach of the stores
  int64_t at = run.element % 4 == 0 ? 0 : run_some(run, 0);
  for (; at + kNumbers <= run.n; at += kNumbers)
    philox((run.element + static_cast<uint64_t>(at)) / 4, run, ToOutput{run, at});
  while (at < run.n) at += run_some(run, at);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea {
namespace {

using RunFunction = void (*)(const dropout_detail::Run&);

class DropoutHwy final : public KernelPlan<DropoutArgs> {
 public:
  DropoutHwy(const DropoutProblem& p, RunFunction function)
      : p_(p),
        function_(function),
        threshold_(static_cast<int32_t>(std::ceil(double{static_cast<float>(p.rate)} * 0x1p24))),
        scale_(p.rate < 1 ? static_cast<float>(1 / (1 - p.rate)) : 0.0f) {}

  void run(const DropoutArgs& args, const KernelContext& context) const noexcept override {
    const int64_t origin = int64_t{args.rng[2]} * p_.per_sample;
    lanes::for_flat(*context.pool, p_.samples * p_.per_sample, [&](int64_t start, int64_t n) {
      function_({.x = static_cast<const float*>(args.x) + start,
                 .y = static_cast<float*>(args.y) + start,
                 .n = n,
                 .element = static_cast<uint64_t>(origin + start),
                 .stream = p_.stream,
                 .key0 = static_cast<uint32_t>(args.rng[0]),
                 .key1 = static_cast<uint32_t>(args.rng[1]),
                 .threshold = threshold_,
                 .scale = scale_});
    });
  }

 private:
  DropoutProblem p_;
  RunFunction function_;
  int32_t threshold_;
  float scale_;
};

template <RunFunction kFunction>
std::unique_ptr<KernelPlan<DropoutArgs>> plan_dropout(const DropoutProblem& p) {
  if (p.samples < 0 || p.per_sample < 0 || !(p.rate >= 0 && p.rate <= 1)) return nullptr;
  if (p.dtype != DType::f32) return nullptr;
  return std::make_unique<DropoutHwy>(p, kFunction);
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<DropoutProblem, DropoutArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_dropout<target::dropout_run>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

}  // namespace fovea
#endif  // HWY_ONCE
