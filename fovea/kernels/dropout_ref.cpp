#include "fovea/kernels/dropout.h"

#include <algorithm>
#include <memory>

#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/lanes.h"

namespace fovea {
namespace {

constexpr int kGroups = lanes::kLanes;  // of four numbers, made at a time

// philox4x32 for the counters {group, stream} of kGroups groups from `first` on: the same numbers,
// with the groups in vector lanes.
void philox_groups(uint64_t first, uint64_t stream, uint32_t key0, uint32_t key1,
                   uint32_t (&numbers)[4 * kGroups]) {
  uint32_t c0[kGroups], c1[kGroups], c2[kGroups], c3[kGroups];
  for (int j = 0; j < kGroups; ++j) {
    const uint64_t group = first + static_cast<uint64_t>(j);
    c0[j] = static_cast<uint32_t>(group);
    c1[j] = static_cast<uint32_t>(group >> 32);
    c2[j] = static_cast<uint32_t>(stream);
    c3[j] = static_cast<uint32_t>(stream >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < kGroups; ++j) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[j];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2[j];
      c0[j] = static_cast<uint32_t>(p1 >> 32) ^ c1[j] ^ key0;
      c1[j] = static_cast<uint32_t>(p1);
      c2[j] = static_cast<uint32_t>(p0 >> 32) ^ c3[j] ^ key1;
      c3[j] = static_cast<uint32_t>(p0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int j = 0; j < kGroups; ++j) {
    numbers[4 * j] = c0[j];
    numbers[4 * j + 1] = c1[j];
    numbers[4 * j + 2] = c2[j];
    numbers[4 * j + 3] = c3[j];
  }
}

template <class T>
class DropoutPlan final : public KernelPlan<DropoutArgs> {
 public:
  explicit DropoutPlan(const DropoutProblem& p)
      : p_(p),
        threshold_(dropout_threshold(p.rate)),
        scale_(p.rate < 1 ? static_cast<T>(1 / (1 - p.rate)) : T{0}) {}

  void run(const DropoutArgs& args, const KernelContext& context) const noexcept override {
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    const auto seed = static_cast<uint32_t>(args.rng[0]), step = static_cast<uint32_t>(args.rng[1]);
    const int64_t origin = int64_t{args.rng[2]} * p_.per_sample;
    lanes::for_flat(*context.pool, p_.samples * p_.per_sample, [&](int64_t start, int64_t n) {
      uint32_t numbers[4 * kGroups];
      for (int64_t i = start; i < start + n;) {
        const auto element = static_cast<uint64_t>(origin + i);
        philox_groups(element / 4, p_.stream, seed, step, numbers);
        const auto skipped = static_cast<int64_t>(element % 4);
        const int64_t count = std::min(4 * kGroups - skipped, start + n - i);
        const T scale = scale_;
        const int32_t threshold = threshold_;
        lanes::map(
            count, y + i,
            [scale, threshold](T v, uint32_t r) {
              return (static_cast<int32_t>(r >> 8) >= threshold ? v : T{0}) * scale;
            },
            x + i, numbers + skipped);
        i += count;
      }
    });
  }

 private:
  DropoutProblem p_;
  int32_t threshold_;
  T scale_;
};

std::unique_ptr<KernelPlan<DropoutArgs>> plan_dropout(const DropoutProblem& p) {
  if (p.samples < 0 || p.per_sample < 0 || !(p.rate >= 0 && p.rate <= 1)) return nullptr;
  if (p.dtype == DType::f32) return std::make_unique<DropoutPlan<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<DropoutPlan<double>>(p);
  return nullptr;
}

}  // namespace

std::span<const Kernel<DropoutProblem, DropoutArgs>> dropout_kernels() {
  static const auto list = with_hwy<DropoutProblem, DropoutArgs>(plan_dropout);
  return list;
}

}  // namespace fovea
