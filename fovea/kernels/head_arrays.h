// The arrays that kernels beside scaled dot-product attention share with it: q [b,tq,h,d],
// k [b,tk,hkv,d], v [b,tk,hkv,dv] and out [b,tq,h,dv], each with strides of its own.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fovea/kernels/attention.h"

namespace fovea {

// Query head h reads key/value head h / (heads / kv_heads). Query i stands at key position
// i + tk - tq (aligned at the lower right corner).
struct HeadArrays {
  DType dtype = DType::f32;  // of every array: f32, f64 or bf16
  int64_t batch = 1;
  int64_t tq = 1;         // queries in a sequence
  int64_t tk = 1;         // keys in a sequence
  int64_t heads = 1;      // query heads
  int64_t kv_heads = 1;   // divides heads
  int64_t head_dim = 1;   // of q and k
  int64_t value_dim = 1;  // of v and out
  AttentionStrides q = {}, k = {}, v = {}, out = {};
  AttentionStrides dq = {}, dk = {}, dv = {}, dout = {};  // for backward only

  int64_t group() const { return heads / kv_heads; }
  // [batch], values beyond [0, tk] are clamped; null: all tk.
  int64_t key_length(const int32_t* lengths, int64_t b) const {
    return lengths ? std::clamp<int64_t>(lengths[b], 0, tk) : tk;
  }
};

// All strides dense: [B, T, H * D] if packed, else [B, H, T, D]; those of gradients as their
// values'.
void set_dense_strides(HeadArrays& arrays, bool packed);

// Throws Error{invalid_argument} naming what is wrong. backward: the strides of gradients count
// too.
void check(const HeadArrays& arrays, bool backward);

}  // namespace fovea
