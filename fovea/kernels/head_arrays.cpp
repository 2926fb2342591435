#include "fovea/kernels/head_arrays.h"

namespace fovea {
namespace {

AttentionProblem as_attention(const HeadArrays& a) {
  AttentionProblem p;
  p.dtype = a.dtype;
  p.batch = a.batch;
  p.tq = a.tq;
  p.tk = a.tk;
  p.heads = p.heads_kept = a.heads;
  p.kv_heads = a.kv_heads;
  p.head_dim = a.head_dim;
  p.value_dim = a.value_dim;
  p.q = a.q;
  p.k = a.k;
  p.v = a.v;
  p.out = a.out;
  p.dq = a.dq;
  p.dk = a.dk;
  p.dv = a.dv;
  p.dout = a.dout;
  return p;
}

}  // namespace

void set_dense_strides(HeadArrays& a, bool packed) {
  AttentionProblem p = as_attention(a);
  set_dense_strides(p, packed);
  a.q = p.q;
  a.k = p.k;
  a.v = p.v;
  a.out = p.out;
  a.dq = p.dq;
  a.dk = p.dk;
  a.dv = p.dv;
  a.dout = p.dout;
}

void check(const HeadArrays& a, bool backward) {
  attention_detail::check(as_attention(a), backward);
}

}  // namespace fovea
