// Philox 4x32-10 (base/philox.h) with the counters in 64-bit lanes, included once a target.
#if defined(FOVEA_KERNELS_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_PHILOX_INL_H_
#undef FOVEA_KERNELS_PHILOX_INL_H_
#else
#define FOVEA_KERNELS_PHILOX_INL_H_
#endif

#include <array>
#include <cstdint>

#include "fovea/kernels/math-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace simd {

using PhiloxWide = hn::Repartition<uint64_t, U32>;
using PhiloxWords = hn::Vec<U32>;

constexpr int64_t kPhiloxCounters = kLanes / 2;  // in a vector
constexpr int64_t kPhiloxNumbers =
    16 * kPhiloxCounters;  // made at a time, from four vectors of counters

constexpr std::array<uint64_t, kPhiloxCounters> philox_order() {
  std::array<uint64_t, kPhiloxCounters> order{};
  for (size_t k = 0; k < order.size(); ++k) order[k] = k / 2 + k % 2 * (order.size() / 2);
  return order;
}

// One number in the lower half of each 64-bit lane. The upper halves hold anything: the products
// do not read them, and no result crosses over from them.
struct PhiloxState {
  PhiloxWords c0, c1, c2, c3;
};

HWY_INLINE PhiloxWords philox_upper(PhiloxWords product) { return hn::Shuffle2301(product); }
HWY_INLINE PhiloxWords philox_xor(PhiloxWords a, PhiloxWords b, PhiloxWords c) {
  return hn::Xor(a, hn::Xor(b, c));
}

HWY_INLINE void philox_mix(PhiloxState& c, PhiloxWords key0, PhiloxWords key1) {
  const U32 d;
  const PhiloxWords p0 = hn::BitCast(d, hn::MulEven(c.c0, hn::Set(d, 0xD2511F53u)));
  const PhiloxWords p1 = hn::BitCast(d, hn::MulEven(c.c2, hn::Set(d, 0xCD9E8D57u)));
  c.c0 = philox_xor(philox_upper(p1), c.c1, key0);
  c.c1 = p1;
  c.c2 = philox_xor(philox_upper(p0), c.c3, key1);
  c.c3 = p0;
}

// Hands the numbers at place `at` on, in the order of the counters. Lanes 2k and 2k + 1 hold the
// counters k and kPhiloxCounters / 2 + k, so that interleaving within 128 bits brings them there.
template <class Sink>
HWY_INLINE void philox_put(const PhiloxState& c, int64_t at, const Sink& sink) {
  const U32 d;
  const PhiloxWide d64;
  const auto a = hn::BitCast(d64, hn::OddEven(hn::Shuffle2301(c.c1), c.c0));
  const auto b = hn::BitCast(d64, hn::OddEven(hn::Shuffle2301(c.c3), c.c2));
  sink(hn::BitCast(d, hn::InterleaveLower(d64, a, b)), at);
  sink(hn::BitCast(d, hn::InterleaveUpper(d64, a, b)), at + kLanes);
}

// Written out round after round: a loop would spend its time on moving registers. Four vectors at
// a time, since a round has to wait for the products of the one before.
template <int kLeft>
HWY_INLINE void philox_rounds(PhiloxState& a, PhiloxState& b, PhiloxState& c, PhiloxState& e,
                              uint32_t key0, uint32_t key1) {
  if constexpr (kLeft > 0) {
    const U32 d;
    const PhiloxWords k0 = hn::Set(d, key0), k1 = hn::Set(d, key1);
    philox_mix(a, k0, k1);
    philox_mix(b, k0, k1);
    philox_mix(c, k0, k1);
    philox_mix(e, k0, k1);
    philox_rounds<kLeft - 1>(a, b, c, e, key0 + 0x9E3779B9u, key1 + 0xBB67AE85u);
  }
}

// The numbers of the counters {group + i, stream}.
template <class Sink>
HWY_INLINE void philox(uint64_t group, uint64_t stream, uint32_t key0, uint32_t key1,
                       const Sink& sink) {
  const U32 d;
  const PhiloxWide d64;
  HWY_ALIGN static constexpr auto kOrder = philox_order();
  const auto order = hn::Load(d64, kOrder.data());
  const PhiloxWords c2 = hn::Set(d, static_cast<uint32_t>(stream));
  const PhiloxWords c3 = hn::Set(d, static_cast<uint32_t>(stream >> 32));
  const auto groups = [&](uint64_t i) HWY_ATTR {
    return hn::BitCast(d, hn::Add(hn::Set(d64, group + i * kPhiloxCounters), order));
  };
  const PhiloxWords g0 = groups(0), g1 = groups(1), g2 = groups(2), g3 = groups(3);
  PhiloxState a{g0, philox_upper(g0), c2, c3}, b{g1, philox_upper(g1), c2, c3};
  PhiloxState c{g2, philox_upper(g2), c2, c3}, e{g3, philox_upper(g3), c2, c3};
  philox_rounds<10>(a, b, c, e, key0, key1);
  philox_put(a, 0, sink);
  philox_put(b, 4 * kPhiloxCounters, sink);
  philox_put(c, 8 * kPhiloxCounters, sink);
  philox_put(e, 12 * kPhiloxCounters, sink);
}

struct PhiloxToMemory {
  uint32_t* to;
  HWY_INLINE void operator()(PhiloxWords numbers, int64_t at) const {
    hn::StoreU(numbers, U32(), to + at);
  }
};

}  // namespace simd
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
