// Dropout of a block of links with the lanes over queries, included once a target: bits are drawn
// into words, a word a query for 32 keys, and read once or twice.
#if defined(FOVEA_KERNELS_ATTENTION_DROPOUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_ATTENTION_DROPOUT_INL_H_
#undef FOVEA_KERNELS_ATTENTION_DROPOUT_INL_H_
#else
#define FOVEA_KERNELS_ATTENTION_DROPOUT_INL_H_
#endif

#include <cstdint>

#include "fovea/kernels/attention-inl.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/philox-inl.h"

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace {

using attention_detail::LinkDropout;

// One bit for each number of four blocks of counters (even and odd lanes of two), the first in bit
// 31 - at: 1 where it is kept.
HWY_INLINE simd::PhiloxWords kept_bits(const LinkDropout& x, const simd::PhiloxState& even,
                                       const simd::PhiloxState& odd, int at) {
  const simd::U32 d;
  const I32 di;
  const auto least = hn::Set(di, x.threshold - 1);
  simd::PhiloxWords bits = hn::Zero(d);
  const auto add = [&](simd::PhiloxWords of_even, simd::PhiloxWords of_odd, int n) HWY_ATTR {
    const simd::PhiloxWords numbers = hn::OddEven(hn::Shuffle2301(of_odd), of_even);
    const auto keep = hn::Gt(hn::BitCast(di, hn::ShiftRight<8>(numbers)), least);
    bits = hn::Or(bits,
                  hn::IfThenElseZero(hn::RebindMask(d, keep), hn::Set(d, 0x80000000u >> (at + n))));
  };
  add(even.c0, odd.c0, 0);
  add(even.c1, odd.c1, 1);
  add(even.c2, odd.c2, 2);
  add(even.c3, odd.c3, 3);
  return bits;
}

// words[row * width]: those of the lanes of one vector of queries; row r holds the bits of the keys
// key + 32 r on, from bit 31 down.
HWY_NOINLINE void draw_vector(const LinkDropout& given, int64_t query, int64_t key, int64_t keys,
                              int64_t width, uint32_t* words) {
  const LinkDropout x = given;  // out of reach of the stores
  const simd::U32 d;
  const simd::PhiloxWide d64;
  HWY_ALIGN uint64_t even[simd::kPhiloxCounters], odd[simd::kPhiloxCounters];
  HWY_ALIGN uint32_t phases[kLanes];
  int64_t most = 0;
  for (int64_t i = 0; i < kLanes; ++i) {
    const uint64_t e = x.element_of(query + i, key);
    (i % 2 == 0 ? even : odd)[i / 2] = e / 4;
    phases[i] = static_cast<uint32_t>(e % 4);
    most = HWY_MAX(most, static_cast<int64_t>(e % 4));
  }
  const int64_t counters = (most + keys + 3) / 4;
  const simd::PhiloxWords c2 = hn::Set(d, static_cast<uint32_t>(x.stream));
  const simd::PhiloxWords c3 = hn::Set(d, static_cast<uint32_t>(x.stream >> 32));
  const auto first_even = hn::Load(d64, even), first_odd = hn::Load(d64, odd);
  const auto block = [&](hn::Vec<simd::PhiloxWide> first, int64_t n) HWY_ATTR {
    const auto c = hn::BitCast(d, hn::Add(first, hn::Set(d64, static_cast<uint64_t>(n))));
    return simd::PhiloxState{c, simd::philox_upper(c), c2, c3};
  };
  // Numbers from each lane's first counter on.
  uint32_t* row = words;
  for (int64_t n = 0; n < counters; row += width) {
    simd::PhiloxWords word = hn::Zero(d);
    for (int at = 0; at < 32 && n < counters; at += 8, n += 2) {
      simd::PhiloxState a = block(first_even, n), b = block(first_odd, n);
      simd::PhiloxState c = block(first_even, n + 1), e = block(first_odd, n + 1);
      simd::philox_rounds<10>(a, b, c, e, x.key0, x.key1);
      word = hn::Or(word, hn::Or(kept_bits(x, a, b, at), kept_bits(x, c, e, at + 4)));
    }
    hn::Store(word, d, row);
  }
  if (most == 0) return;
  uint32_t* const end = words + attention_detail::word_rows(keys) * width;
  for (; row < end; row += width) hn::Store(hn::Zero(d), d, row);
  // From the first counter to the first key.
  const auto phase = hn::Load(d, phases), rest = hn::Sub(hn::Set(d, 31), phase);
  for (row = words; row + width < end; row += width) {
    const auto next = hn::ShiftRight<1>(hn::Load(d, row + width));
    hn::Store(hn::Or(hn::Shl(hn::Load(d, row), phase), hn::Shr(next, rest)), d, row);
  }
}

// words: word_rows(keys) rows of `width`.
HWY_INLINE void draw(const LinkDropout& x, int64_t query, int64_t key, int64_t keys, int64_t width,
                     uint32_t* words) {
  for (int64_t v = 0; v < width; v += kLanes)
    draw_vector(x, query + v, key, keys, width, words + v);
}

// Sets what is dropped of a block [keys][width] to 0.
HWY_NOINLINE void drop(const uint32_t* words, int64_t keys, int64_t width, float* block) {
  const F32 d;
  const simd::U32 du;
  for (int64_t v = 0; v < width; v += kLanes) {
    float* at = block + v;
    const uint32_t* row = words + v;
    for (int64_t j = 0; j < keys; row += width) {
      simd::PhiloxWords word = hn::Load(du, row);
      const int64_t end = HWY_MIN(j + 32, keys);
      for (; j < end; ++j, at += width) {
        hn::Store(hn::IfNegativeThenElse(hn::BitCast(d, word), hn::Load(d, at), hn::Zero(d)), d,
                  at);
        word = hn::ShiftLeft<1>(word);
      }
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
