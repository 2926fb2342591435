// The sizes and strides of a node whose first inputs are q [B,Tq,H*D], k [B,Tk,Hkv*D] and
// v [B,Tk,Hkv*Dv].
#pragma once

#include "fovea/kernels/head_arrays.h"
#include "fovea/runtime/binding.h"

namespace fovea {

inline void fill_heads(const NodeProblem& n, int64_t heads, int64_t kv_heads, HeadArrays& arrays) {
  const auto q = n.input_dims(0), k = n.input_dims(1), v = n.input_dims(2);
  arrays.dtype = n.input(0).dtype;
  arrays.batch = q[0];
  arrays.tq = q[1];
  arrays.tk = k[1];
  arrays.heads = heads;
  arrays.kv_heads = kv_heads;
  arrays.head_dim = q[2] / heads;
  arrays.value_dim = v[2] / kv_heads;
  set_dense_strides(arrays, /*packed=*/true);
}

}  // namespace fovea
