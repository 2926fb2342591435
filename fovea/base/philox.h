// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The same (seed, step, stream, index) gives the same bits anywhere, so that
// recomputed clones, micro-batches and any number of threads agree.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fovea {

using Philox4 = std::array<uint32_t, 4>;

// One block of four 32-bit numbers for a 128-bit counter and a 64-bit key.
inline Philox4 philox4x32(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(p0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// A number in [0, 1) with 24 bits.
inline float philox_unit(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1.0p-24f; }

// Names a stream: 64-bit FNV-1a of a path name such as "enc.0.dropout".
inline uint64_t stream_id(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h;
}

// A sequence of numbers from one (seed, stream, substream): for shuffles, augmentation, initial
// weights.
class PhiloxStream {
 public:
  PhiloxStream(uint64_t seed, uint64_t stream, uint64_t substream = 0)
      : seed_(seed), stream_(stream), substream_(substream) {}

  uint32_t next() {
    if (used_ == 4) refill();
    return block_[used_++];
  }
  float unit() { return philox_unit(next()); }
  // Uniform in [0, n), n > 0, without modulo bias beyond 2^-32 n.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{next()} * n) >> 32); }
  // Standard normal (Box and Muller 1958).
  float normal();

 private:
  void refill() {
    block_ =
        philox4x32({static_cast<uint32_t>(index_), static_cast<uint32_t>(substream_),
                    static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                   static_cast<uint32_t>(seed_) ^ static_cast<uint32_t>(index_ >> 32),
                   static_cast<uint32_t>(seed_ >> 32) ^ static_cast<uint32_t>(substream_ >> 32));
    ++index_;
    used_ = 0;
  }

  uint64_t seed_, stream_, substream_;
  uint64_t index_ = 0;
  Philox4 block_{};
  int used_ = 4;
};

}  // namespace fovea
