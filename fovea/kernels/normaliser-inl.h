// The normalisers on sixteen rows of scores at once, included once a target. The lanes run over the
// rows (over queries, in attention), so that maxima, sums and thresholds need no horizontal step:
// a strip [places][16] holds the scores of one place (one key) of all rows side by side.
//
// Thresholds are found without sorting: for sparsemax and 1.5-entmax by Newton's method from below
// (of sparsemax that is Michelot's algorithm, and exact after finitely many steps), for top-k by
// bisection over the bits of the numbers; all but the first sweep read only the places that may
// matter, which are few.
#if defined(FOVEA_KERNELS_NORMALISER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FOVEA_KERNELS_NORMALISER_INL_H_
#undef FOVEA_KERNELS_NORMALISER_INL_H_
#else
#define FOVEA_KERNELS_NORMALISER_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "fovea/kernels/normalise.h"
#include "fovea/kernels/philox-inl.h"

#ifndef FOVEA_NORMALISER_ONCE
#define FOVEA_NORMALISER_ONCE
namespace fovea::normaliser_detail {

constexpr int64_t kColumns = 16;  // of a strip

// Places whose largest scores top-k looks at first go in groups of so many.
inline int64_t top_k_group(int64_t top_k, int64_t places) {
  return std::clamp<int64_t>(places / (4 * top_k), 1, 64);
}
// Floats of room that weights of a strip of so many places need.
inline int64_t normaliser_room(const NormaliserOptions& o, int64_t places) {
  return o.kind == Normaliser::top_k ? kColumns * (places / 2 + 2) : 0;
}

}  // namespace fovea::normaliser_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {
namespace simd {

using normaliser_detail::kColumns;
constexpr int kStripVecs = static_cast<int>(kColumns / kLanes);

// 2^x for x <= 0, relative error below 3e-7.
HWY_INLINE Vec power_of_two(Vec x) {
  const F32 d;
  const Vec held = at_least(x, -150.0f);
  const Vec shifted = hn::Add(held, hn::Set(d, kRound));
  const Vec n = hn::Sub(shifted, hn::Set(d, kRound));
  const Vec f = hn::Sub(held, n);
  Vec e = hn::Set(d, 1.540353039e-4f);
  e = hn::MulAdd(e, f, hn::Set(d, 1.333355815e-3f));
  e = hn::MulAdd(e, f, hn::Set(d, 9.618129108e-3f));
  e = hn::MulAdd(e, f, hn::Set(d, 5.550410866e-2f));
  e = hn::MulAdd(e, f, hn::Set(d, 2.402265070e-1f));
  e = hn::MulAdd(e, f, hn::Set(d, 6.931471806e-1f));
  e = hn::MulAdd(e, f, hn::Set(d, 1.0f));
  return times_power(e, n, shifted);
}

// A number for each column.
struct Column {
  Vec v[kStripVecs];
};
template <class F>
HWY_INLINE void each_vec(const F& f) {
  FOVEA_UNROLL
  for (int i = 0; i < kStripVecs; ++i) f(i);
}
HWY_INLINE Column column_of(float x) {
  Column c;
  each_vec([&](int i) HWY_ATTR { c.v[i] = hn::Set(F32(), x); });
  return c;
}

// Places of a strip, in rising order.
struct Places {
  int32_t* at;
  int64_t count = 0;

  // Adds a place if it counts; there must be room in any case.
  HWY_INLINE void add(int64_t place, bool counts) {
    at[count] = static_cast<int32_t>(place);
    count += counts;
  }
};

class StripNormaliser {
 public:
  // natural: what one unit of the scores is, 1, or ln 2 for scores times log2(e).
  // room: as normaliser_room() says. sink: one more score of each column, beside those that top-k
  // keeps; -infinity: none.
  StripNormaliser(const NormaliserOptions& o, double natural, float* room, float sink = -HUGE_VALF)
      : o_(o),
        sink_(sink),
        natural_(static_cast<float>(natural)),
        exponent_(static_cast<float>(natural * 1.4426950408889634 / o.softmax_temperature)),
        room_(room) {}

  // Scores become weights at the places that `active` names, all those with a weight above 0. What
  // stands elsewhere counts for 0. soft: see normalise_row(). active: room for places + 1 numbers.
  // of_sink: if not null and there is a sink, its weight in each column.
  HWY_NOINLINE void weights(float* strip, int64_t places, bool soft, Places& active,
                            float* of_sink = nullptr) const {
    active.count = 0;
    const Normaliser kind = soft && o_.kind == Normaliser::hard          ? Normaliser::gumbel
                            : soft && o_.kind == Normaliser::gumbel_hard ? Normaliser::gumbel
                                                                         : o_.kind;
    switch (kind) {
      case Normaliser::softmax:
      case Normaliser::gumbel:
        return softmax(strip, places, active);
      case Normaliser::hard:
      case Normaliser::gumbel_hard:
        return hard(strip, places, active);
      case Normaliser::top_k:
        return top_k(strip, places, active, of_sink);
      case Normaliser::sparsemax:
        return sparsemax(strip, places, active);
      case Normaliser::entmax15:
        return entmax15(strip, places, active);
    }
  }

  // The place that hard weights choose in each column, or -1.
  HWY_NOINLINE void choose(const float* strip, int64_t places, int32_t* chosen) const {
    hn::Vec<I32> best[kStripVecs];
    Column wrong;
    find_largest(strip, places, best, wrong);
    each_vec([&](int i) HWY_ATTR { hn::StoreU(best[i], I32(), chosen + i * kLanes); });
  }

  // dp, the gradients of weights p, become those of the scores in natural units, at the active
  // places. means: if not null, for softmax and top_k, sum p dp of each column.
  HWY_NOINLINE void gradient(const float* p, float* dp, const Places& active,
                             float* means = nullptr) const {
    const F32 d;
    Column sum = column_of(0), dot = column_of(0);
    for (int64_t n = 0; n < active.count; ++n) {
      const int64_t at = active.at[n] * kColumns;
      each_vec([&](int i) HWY_ATTR {
        const Vec r = slope(hn::Load(d, p + at + i * kLanes));
        sum.v[i] = hn::Add(sum.v[i], r);
        dot.v[i] = hn::MulAdd(r, hn::Load(d, dp + at + i * kLanes), dot.v[i]);
      });
    }
    Column mean;
    const Vec factor = hn::Set(d, static_cast<float>(1 / o_.softmax_temperature));
    // Weights of a softmax add up to 1, that of a sink beside them included.
    const bool whole = o_.kind != Normaliser::sparsemax && o_.kind != Normaliser::entmax15;
    each_vec([&](int i) HWY_ATTR {
      mean.v[i] = whole ? dot.v[i] : hn::Mul(dot.v[i], inverse_or_zero(sum.v[i]));
      if (means) hn::Store(mean.v[i], d, means + i * kLanes);
    });
    for (int64_t n = 0; n < active.count; ++n) {
      const int64_t at = active.at[n] * kColumns;
      each_vec([&](int i) HWY_ATTR {
        const Vec r = hn::Mul(slope(hn::Load(d, p + at + i * kLanes)), factor);
        float* to = dp + at + i * kLanes;
        hn::Store(hn::Mul(r, hn::Sub(hn::Load(d, to), mean.v[i])), d, to);
      });
    }
  }

 private:
  static HWY_INLINE Vec get(const float* strip, int64_t place, int i) {
    return hn::Load(F32(), strip + place * kColumns + i * kLanes);
  }
  static HWY_INLINE void put(Vec v, float* strip, int64_t place, int i) {
    hn::Store(v, F32(), strip + place * kColumns + i * kLanes);
  }

  HWY_INLINE Vec slope(Vec p) const {
    const F32 d;
    if (o_.kind == Normaliser::entmax15) return hn::Sqrt(p);
    if (o_.kind != Normaliser::sparsemax) return p;
    // NaN stays.
    return hn::IfThenElse(hn::Gt(p, hn::Zero(d)), hn::Set(d, 1.0f), p);
  }

  // The largest of each column; of -infinity 0, so that differences are not NaN.
  static HWY_INLINE Column base_of_columns(const float* strip, int64_t places) {
    Column top = column_of(-HUGE_VALF);
    for (int64_t j = 0; j < places; ++j)
      each_vec([&](int i) HWY_ATTR { top.v[i] = hn::Max(top.v[i], get(strip, j, i)); });
    each_vec([&](int i) HWY_ATTR { top.v[i] = base_of(top.v[i]); });
    return top;
  }

  // strip times 1 / sum, at the places of a list.
  static HWY_INLINE void divide(float* strip, const Column& sum, const Places& list) {
    Column factor;
    each_vec([&](int i) HWY_ATTR { factor.v[i] = inverse_or_zero(sum.v[i]); });
    for (int64_t n = 0; n < list.count; ++n)
      each_vec([&](int i) HWY_ATTR {
        const int64_t j = list.at[n];
        put(hn::Mul(get(strip, j, i), factor.v[i]), strip, j, i);
      });
  }

  void softmax(float* strip, int64_t places, Places& active) const {
    const F32 d;
    const Column base = base_of_columns(strip, places);
    Column sum = column_of(0);
    const Vec exponent = hn::Set(d, exponent_);
    for (int64_t j = 0; j < places; ++j) {
      each_vec([&](int i) HWY_ATTR {
        const Vec e = power_of_two(hn::Mul(hn::Sub(get(strip, j, i), base.v[i]), exponent));
        put(e, strip, j, i);
        sum.v[i] = hn::Add(sum.v[i], e);
      });
      active.add(j, true);
    }
    divide(strip, sum, active);
  }

  // Of each column the place of the first of its largest scores, or -1; wrong: NaN where one is.
  static HWY_INLINE void find_largest(const float* strip, int64_t places, hn::Vec<I32>* best,
                                      Column& wrong) {
    const F32 d;
    const I32 di;
    Column top = column_of(-HUGE_VALF);
    wrong = column_of(0);
    each_vec([&](int i) HWY_ATTR { best[i] = hn::Set(di, -1); });
    for (int64_t j = 0; j < places; ++j) {
      const auto place = hn::Set(di, static_cast<int32_t>(j));
      each_vec([&](int i) HWY_ATTR {
        const Vec s = get(strip, j, i);
        const auto more = hn::Gt(s, top.v[i]);
        top.v[i] = hn::IfThenElse(more, s, top.v[i]);
        best[i] = hn::IfThenElse(hn::RebindMask(di, more), place, best[i]);
        const auto fine = hn::Lt(s, hn::Set(d, HUGE_VALF));
        wrong.v[i] = hn::IfThenElse(fine, wrong.v[i], hn::Set(d, NAN));
        // Where all that is there is NaN, it is chosen.
        const auto some = hn::Max(best[i], hn::Zero(di));
        best[i] = hn::IfThenElse(hn::RebindMask(di, fine), best[i], some);
      });
    }
  }

  // One place a column. A NaN stays one.
  static void hard(float* strip, int64_t places, Places& active) {
    const F32 d;
    const I32 di;
    hn::Vec<I32> best[kStripVecs];
    Column wrong;
    find_largest(strip, places, best, wrong);
    HWY_ALIGN int32_t chosen[kColumns];
    each_vec([&](int i) HWY_ATTR { hn::Store(best[i], di, chosen + i * kLanes); });
    std::sort(chosen, chosen + kColumns);
    for (int64_t c = 0; c < kColumns; ++c)
      if (chosen[c] >= 0 && (c == 0 || chosen[c] != chosen[c - 1])) active.add(chosen[c], true);
    for (int64_t n = 0; n < active.count; ++n) {
      const auto place = hn::Set(di, active.at[n]);
      each_vec([&](int i) HWY_ATTR {
        const auto here = hn::RebindMask(d, hn::Eq(best[i], place));
        const Vec one = hn::Add(hn::Set(d, 1.0f), wrong.v[i]);
        put(hn::IfThenElseZero(here, one), strip, active.at[n], i);
      });
    }
  }

  // Scores less their largest, times factor, at the places where one of them is above -1: no other
  // can lie in the support. NaN counts.
  static HWY_INLINE void candidates(float* strip, int64_t places, float factor, Places& list) {
    const F32 d;
    const Column base = base_of_columns(strip, places);
    const Vec f = hn::Set(d, factor), low = hn::Set(d, -1.0f);
    for (int64_t j = 0; j < places; ++j) {
      bool counts = false;
      each_vec([&](int i) HWY_ATTR {
        const Vec y = hn::Mul(hn::Sub(get(strip, j, i), base.v[i]), f);
        put(y, strip, j, i);
        counts = counts || !hn::AllTrue(d, hn::Le(y, low));
      });
      list.add(j, counts);
    }
  }

  // Keeps the places where `weight(y, column)` is above 0 for a column, and writes it.
  template <class F>
  static HWY_INLINE void write(float* strip, Places& list, const F& weight) {
    const F32 d;
    const int64_t count = list.count;
    list.count = 0;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t j = list.at[n];
      bool counts = false;
      each_vec([&](int i) HWY_ATTR {
        const Vec p = weight(get(strip, j, i), i);
        put(p, strip, j, i);
        counts = counts || !hn::AllTrue(d, hn::Eq(p, hn::Zero(d)));
      });
      list.add(j, counts);
    }
  }

  void sparsemax(float* strip, int64_t places, Places& active) const {
    const F32 d;
    candidates(strip, places, natural_, active);
    // sum max(0, y - tau) = 1: from below, each step takes out those that have fallen below tau.
    Column tau = column_of(-1), count = column_of(-1);
    for (bool moved = true; moved;) {
      Column sum = column_of(0), above = column_of(0);
      for (int64_t n = 0; n < active.count; ++n)
        each_vec([&](int i) HWY_ATTR {
          const Vec r = hn::Sub(get(strip, active.at[n], i), tau.v[i]);
          sum.v[i] = hn::Add(sum.v[i], at_least(r, 0.0f));
          above.v[i] =
              hn::Add(above.v[i], hn::IfThenElseZero(hn::Gt(r, hn::Zero(d)), hn::Set(d, 1.0f)));
        });
      moved = false;
      each_vec([&](int i) HWY_ATTR {
        // A sum of 0 is that of a column without scores.
        const Vec step = hn::Mul(hn::Sub(sum.v[i], hn::Set(d, 1.0f)), inverse_or_zero(above.v[i]));
        tau.v[i] = hn::Add(tau.v[i], step);
        const auto fewer = hn::Or(hn::Lt(above.v[i], count.v[i]), hn::Lt(count.v[i], hn::Zero(d)));
        moved = moved || !hn::AllFalse(d, fewer);
        count.v[i] = above.v[i];
      });
    }
    write(strip, active,
          [&](Vec y, int i) HWY_ATTR { return at_least(hn::Sub(y, tau.v[i]), 0.0f); });
  }

  void entmax15(float* strip, int64_t places, Places& active) const {
    const F32 d;
    candidates(strip, places, natural_ / 2, active);
    // sum max(0, y - tau)^2 = 1, by Newton's method on a convex function, from below.
    Column tau = column_of(-1);
    bool moved = true;
    for (int steps = 0; moved && steps < 40; ++steps) {
      Column sum = column_of(0), squares = column_of(0);
      for (int64_t n = 0; n < active.count; ++n)
        each_vec([&](int i) HWY_ATTR {
          const Vec r = at_least(hn::Sub(get(strip, active.at[n], i), tau.v[i]), 0.0f);
          sum.v[i] = hn::Add(sum.v[i], r);
          squares.v[i] = hn::MulAdd(r, r, squares.v[i]);
        });
      moved = false;
      each_vec([&](int i) HWY_ATTR {
        const Vec above = hn::Sub(squares.v[i], hn::Set(d, 1.0f));
        const Vec step = hn::Mul(hn::Mul(above, hn::Set(d, 0.5f)), inverse_or_zero(sum.v[i]));
        tau.v[i] = hn::Add(tau.v[i], step);
        // What is left after a step is about its square times half the root of the number of
        // scores.
        moved = moved || !hn::AllFalse(d, hn::Gt(step, hn::Set(d, 1e-5f)));
      });
    }
    write(strip, active, [&](Vec y, int i) HWY_ATTR {
      const Vec r = at_least(hn::Sub(y, tau.v[i]), 0.0f);
      return hn::Mul(r, r);
    });
  }

  struct Bounds {
    hn::Vec<I32> low[kStripVecs], high[kStripVecs];
    // Numbers that are not below low: at least top_k, or all.
    Column count;
  };
  // Floats as whole numbers in the same order, and back.
  static HWY_INLINE Vec float_of(hn::Vec<I32> number) {
    const I32 di;
    const auto sign = hn::ShiftRight<31>(number);  // all bits, below 0
    return hn::BitCast(F32(), hn::Xor(number, hn::And(sign, hn::Set(di, 0x7fffffff))));
  }
  static HWY_INLINE hn::Vec<I32> number_of(Vec x) {
    const I32 di;
    const auto bits = hn::BitCast(di, x);
    return hn::Xor(bits, hn::And(hn::ShiftRight<31>(bits), hn::Set(di, 0x7fffffff)));
  }

  // Narrows the bounds of the top_k-th largest number among those that at(n, i) gives: those not
  // below `low` are at least top_k, those not below `high` fewer. It ends for a column whose count
  // is top_k, or for all after so many steps. NaN counts as large.
  template <class At>
  HWY_INLINE void bisect(Bounds& b, int64_t count, int most, const At& at) const {
    const F32 d;
    const I32 di;
    const Vec k = hn::Set(d, static_cast<float>(o_.top_k));
    for (int step = 0; step < most; ++step) {
      bool open = false;
      hn::Vec<I32> middle[kStripVecs];
      Column threshold, found = column_of(0);
      each_vec([&](int i) HWY_ATTR {
        // Rounded down, without leaving 32 bits.
        middle[i] =
            hn::Add(hn::And(b.low[i], b.high[i]), hn::ShiftRight<1>(hn::Xor(b.low[i], b.high[i])));
        threshold.v[i] = float_of(middle[i]);
        const auto narrow = hn::RebindMask(d, hn::Eq(middle[i], b.low[i]));
        open = open || !hn::AllTrue(d, hn::Or(narrow, hn::Le(b.count.v[i], k)));
      });
      if (!open) return;
      for (int64_t n = 0; n < count; ++n)
        each_vec([&](int i) HWY_ATTR {
          found.v[i] = hn::Add(
              found.v[i], hn::IfThenZeroElse(hn::Lt(at(n, i), threshold.v[i]), hn::Set(d, 1.0f)));
        });
      each_vec([&](int i) HWY_ATTR {
        const auto done = hn::Le(b.count.v[i], k);
        const auto enough = hn::AndNot(done, hn::Ge(found.v[i], k));
        const auto few = hn::AndNot(done, hn::Lt(found.v[i], k));
        b.count.v[i] = hn::IfThenElse(enough, found.v[i], b.count.v[i]);
        b.low[i] = hn::IfThenElse(hn::RebindMask(di, enough), middle[i], b.low[i]);
        b.high[i] = hn::IfThenElse(hn::RebindMask(di, few), middle[i], b.high[i]);
      });
    }
  }

  void top_k(float* strip, int64_t places, Places& active, float* of_sink) const {
    const F32 d;
    const int64_t group = normaliser_detail::top_k_group(o_.top_k, places);
    const int64_t groups = (places + group - 1) / group;
    const float* tops = strip;
    if (group > 1) {
      tops = room_;
      for (int64_t g = 0; g < groups; ++g) {
        Column top = column_of(-HUGE_VALF);
        for (int64_t j = g * group; j < std::min(places, (g + 1) * group); ++j)
          each_vec([&](int i) HWY_ATTR { top.v[i] = hn::Max(top.v[i], get(strip, j, i)); });
        each_vec([&](int i) HWY_ATTR { put(top.v[i], room_, g, i); });
      }
    }
    // From just above -infinity, which is no score, to above the largest, by more than a denormal
    // number.
    const Column base = base_of_columns(tops, groups);
    const Vec least = hn::Set(d, -std::numeric_limits<float>::max());
    Bounds b;
    const auto set_high = [&](int i) HWY_ATTR {
      const Vec more = hn::MulAdd(hn::Abs(base.v[i]), hn::Set(d, 1e-6f), hn::Set(d, 1e-30f));
      b.high[i] = number_of(hn::Add(base.v[i], more));
    };
    each_vec([&](int i) HWY_ATTR {
      b.low[i] = number_of(least);
      set_high(i);
    });
    b.count = column_of(HUGE_VALF);
    // Every group that reaches a number has one that does, so this bounds the threshold from below.
    if (group > 1) {
      bisect(b, groups, 14, [&](int64_t n, int i) HWY_ATTR { return get(room_, n, i); });
      each_vec(set_high);
    }
    Column low, all = column_of(0);
    each_vec([&](int i) HWY_ATTR { low.v[i] = float_of(b.low[i]); });
    for (int64_t j = 0; j < places; ++j) {
      bool counts = false;
      each_vec([&](int i) HWY_ATTR {
        const auto below = hn::Lt(get(strip, j, i), low.v[i]);
        all.v[i] = hn::Add(all.v[i], hn::IfThenZeroElse(below, hn::Set(d, 1.0f)));
        counts = counts || !hn::AllTrue(d, below);
      });
      active.add(j, counts);
    }
    b.count = all;
    bisect(b, active.count, 64,
           [&](int64_t n, int i) HWY_ATTR { return get(strip, active.at[n], i); });
    keep_first(strip, b, base, active, of_sink);
  }

  // Of the numbers from `low` up to, not including, `high`, which are equal where there are too
  // many, the first ones; all above; then the softmax of what is kept.
  HWY_INLINE void keep_first(float* strip, const Bounds& b, Column base, Places& active,
                             float* of_sink) const {
    const F32 d;
    const Vec k = hn::Set(d, static_cast<float>(o_.top_k));
    const Vec exponent = hn::Set(d, exponent_), one = hn::Set(d, 1.0f);
    Column low, high, room = column_of(0), sum = column_of(0);
    each_vec([&](int i) HWY_ATTR {
      low.v[i] = float_of(b.low[i]);
      high.v[i] = float_of(b.high[i]);
    });
    Column above = column_of(0);
    for (int64_t n = 0; n < active.count; ++n)
      each_vec([&](int i) HWY_ATTR {
        above.v[i] = hn::Add(
            above.v[i], hn::IfThenZeroElse(hn::Lt(get(strip, active.at[n], i), high.v[i]), one));
      });
    const Vec sink = hn::Set(d, sink_);
    each_vec([&](int i) HWY_ATTR {
      room.v[i] = hn::Sub(k, above.v[i]);
      base.v[i] = hn::Max(base.v[i], sink);
      // 0 where there is none.
      sum.v[i] = power_of_two(hn::Mul(hn::Sub(sink, base.v[i]), exponent));
    });
    const Column sink_power = sum;
    write(strip, active, [&](Vec s, int i) HWY_ATTR {
      const auto large = hn::Not(hn::Lt(s, high.v[i]));  // NaN too
      const auto equal = hn::AndNot(hn::Lt(s, low.v[i]), hn::Lt(s, high.v[i]));
      const auto kept = hn::Or(large, hn::And(equal, hn::Gt(room.v[i], hn::Zero(d))));
      room.v[i] = hn::Sub(room.v[i], hn::IfThenElseZero(equal, one));
      const Vec e = power_of_two(hn::Mul(hn::Sub(s, base.v[i]), exponent));
      const Vec p = hn::IfThenElseZero(kept, e);
      sum.v[i] = hn::Add(sum.v[i], p);
      return p;
    });
    divide(strip, sum, active);
    if (of_sink)
      each_vec([&](int i) HWY_ATTR {
        hn::Store(hn::Mul(sink_power.v[i], inverse_or_zero(sum.v[i])), d, of_sink + i * kLanes);
      });
  }

  const NormaliserOptions& o_;
  const float sink_, natural_, exponent_;
  float* const room_;
};

// Gumbel noise of the elements from the first on, times factor, written to [n] and, in part of a
// vector, up to kNoiseRoom floats behind.
[[maybe_unused]] static HWY_NOINLINE void gumbel_noise(uint64_t element, int64_t n, uint64_t stream,
                                                       const int32_t* rng, float factor,
                                                       float* to) {
  const F32 d;
  uint32_t numbers[kPhiloxNumbers + kLanes] = {};  // room to load whole vectors
  const auto key0 = static_cast<uint32_t>(rng[0]), key1 = static_cast<uint32_t>(rng[1]);
  const Vec minus = hn::Set(d, -factor);
  for (int64_t at = 0; at < n;) {
    philox(element / 4, stream, key0, key1, PhiloxToMemory{numbers});
    const auto skipped = static_cast<int64_t>(element % 4);
    const int64_t count = HWY_MIN(kPhiloxNumbers - skipped, n - at);
    for (int64_t i = 0; i < count; i += kLanes) {
      const auto bits = hn::ShiftRight<9>(hn::LoadU(U32(), numbers + skipped + i));
      const Vec whole = hn::ConvertTo(d, hn::BitCast(I32(), bits));
      const Vec u = hn::Mul(hn::Add(whole, hn::Set(d, 0.5f)), hn::Set(d, 0x1p-23f));
      hn::StoreU(hn::Mul(minus, log(hn::Neg(log(u)))), d, to + at + i);
    }
    at += count;
    element += static_cast<uint64_t>(count);
  }
}
constexpr int64_t kNoiseRoom = 16;  // floats behind the last one that gumbel_noise() may write

}  // namespace simd
}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#endif
