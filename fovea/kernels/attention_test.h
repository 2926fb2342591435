// What the tests of the attention kernels share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/kernels/attention.h"
#include "fovea/kernels/convert.h"

namespace fovea::attention_test {

// Planning and running with scratch full of NaN, so that nothing unwritten is read unnoticed.
template <class Args>
void run_plan(const KernelPlan<Args>& plan, const Args& args, int threads = 1) {
  ThreadPool pool(threads);
  const auto aligned = [](size_t bytes) { return (bytes + 127) / 64 * 64; };
  const size_t stride = aligned(plan.worker_scratch_bytes);
  const size_t total = stride * static_cast<size_t>(threads) + aligned(plan.scratch_bytes);
  std::byte* memory = static_cast<std::byte*>(std::aligned_alloc(64, total));
  std::memset(memory, 0xff, total);
  plan.run(args, {.pool = &pool,
                  .scratch = memory + stride * static_cast<size_t>(threads),
                  .worker_scratch = memory,
                  .worker_stride = stride});
  std::free(memory);
}

// Of the log-sum-exp.
template <class T>
using LseType = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

template <class T, class U>
std::vector<T> converted(const std::vector<U>& from) {
  std::vector<T> to;
  for (U x : from) to.push_back(convert<T, false>(x));
  return to;
}

// The arrays of one problem in one type; what a kernel writes starts as NaN.
template <class T>
struct Arrays {
  std::vector<T> q, k, v, dout, out, dq, dk, dv;
  std::vector<LseType<T>> lse;
  std::vector<int32_t> lengths;
  // Of links, as the problem asks for them; randomise_links() fills them.
  std::vector<int32_t> documents;
  std::vector<uint8_t> mask, blocks;
  std::vector<LseType<T>> bias, distances, sinks, temperatures;
  std::vector<LseType<T>> dbias, ddistances, dsinks, dtemperatures;
  std::vector<LseType<T>> relative_keys, content, position, drelative_keys, dcontent, dposition;

  explicit Arrays(const AttentionProblem& p) {
    const auto size = [](int64_t a, int64_t b, int64_t c, int64_t d) {
      return static_cast<size_t>(a * b * c * d);
    };
    q.resize(size(p.batch, p.tq, p.heads, p.head_dim));
    k.resize(size(p.batch, p.tk, p.kv_heads, p.head_dim));
    v.resize(size(p.batch, p.tk, p.kv_heads, p.value_dim));
    dout.resize(size(p.batch, p.tq, p.heads, p.value_dim));
    out.assign(dout.size(), convert<T, false>(NAN));
    lse.assign(size(p.batch, p.heads, p.tq, 1), LseType<T>(NAN));
    dq.assign(q.size(), convert<T, false>(NAN));
    dk.assign(k.size(), convert<T, false>(NAN));
    dv.assign(v.size(), convert<T, false>(NAN));
  }
  void randomise(uint64_t seed, float factor = 1) {
    PhiloxStream random(seed, stream_id("attention_test"));
    for (auto* array : {&q, &k, &v, &dout})
      for (T& x : *array) x = convert<T, false>(random.normal());
    for (T& x : q) x = convert<T, false>(convert<float, false>(x) * factor);
  }
  template <class U>
  void copy_inputs(const Arrays<U>& from) {
    q = converted<T>(from.q);
    k = converted<T>(from.k);
    v = converted<T>(from.v);
    dout = converted<T>(from.dout);
    lengths = from.lengths;
    documents = from.documents;
    mask = from.mask;
    blocks = from.blocks;
    const auto numbers = [](const auto& x) { return std::vector<LseType<T>>(x.begin(), x.end()); };
    bias = dbias = numbers(from.bias);
    distances = ddistances = numbers(from.distances);
    sinks = dsinks = numbers(from.sinks);
    temperatures = dtemperatures = numbers(from.temperatures);
    relative_keys = drelative_keys = numbers(from.relative_keys);
    content = dcontent = numbers(from.content);
    position = dposition = numbers(from.position);
  }
  AttentionLinks links() const {
    const auto data = [](const auto& x) { return x.empty() ? nullptr : x.data(); };
    return {.key_lengths = data(lengths),
            .document_starts = data(documents),
            .mask = data(mask),
            .blocks = data(blocks),
            .bias = data(bias),
            .distance_bias = data(distances),
            .sinks = data(sinks),
            .temperatures = data(temperatures),
            .relative_keys = data(relative_keys),
            .content_biases = data(content),
            .position_biases = data(position)};
  }
  AttentionArgs forward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .out = out.data(),
            .lse = lse.data(),
            .links = links()};
  }
  AttentionBackwardArgs backward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .out = out.data(),
            .lse = lse.data(),
            .dout = dout.data(),
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data(),
            .links = links(),
            .dbias = dbias.data(),
            .ddistance_bias = ddistances.data(),
            .dsinks = dsinks.data(),
            .dtemperatures = dtemperatures.data(),
            .drelative_keys = drelative_keys.data(),
            .dcontent_biases = dcontent.data(),
            .dposition_biases = dposition.data()};
  }
};

struct Case {
  int64_t batch = 1, tq = 1, tk = 1, heads = 1, kv_heads = 1, dim = 8, value_dim = 8;
  bool causal = false;
  int64_t left = -1, right = -1, heads_kept = -1;
  std::vector<int32_t> lengths{};

  AttentionProblem problem(bool packed, DType dtype) const {
    AttentionProblem p{.dtype = dtype,
                       .batch = batch,
                       .tq = tq,
                       .tk = tk,
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .heads_kept = heads_kept < 0 ? heads : heads_kept,
                       .head_dim = dim,
                       .value_dim = value_dim,
                       .scale = 1 / std::sqrt(static_cast<double>(dim)),
                       .causal = causal,
                       .window_left = left,
                       .window_right = right,
                       .want_lse = true};
    set_dense_strides(p, packed);
    return p;
  }
  std::string text(std::string_view kernel, bool packed) const {
    std::string s(kernel);
    for (int64_t n : {batch, tq, tk, heads, kv_heads, dim, value_dim, left, right, heads_kept})
      s += " " + std::to_string(n);
    return s + (causal ? " causal" : "") + (packed ? " packed" : " head-major");
  }
};

// Within tolerance times the largest value, or `largest` if that is more.
template <class T>
void expect_near(const std::vector<T>& got, const std::vector<double>& want, double tolerance,
                 const std::string& what, double largest = 1e-30) {
  ASSERT_EQ(got.size(), want.size());
  for (double x : want)
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  for (size_t i = 0; i < want.size(); ++i) {
    const double x = convert<double, false>(got[i]);
    if (x == want[i]) continue;  // infinities too
    ASSERT_LE(std::abs(x - want[i]), tolerance * largest)
        << what << " [" << i << "]: " << x << " instead of " << want[i];
  }
}

inline void forward_ref(const AttentionProblem& p, Arrays<double>& a) {
  run_plan(*attention_detail::plan_ref(p), a.forward());
}
inline void backward_ref(const AttentionProblem& p, Arrays<double>& a) {
  run_plan(*attention_detail::plan_backward_ref(p), a.backward());
}

// Of the kernel with the name of one of forward; nullptr: it is for forward alone.
inline std::unique_ptr<KernelPlan<AttentionBackwardArgs>> plan_backward(std::string_view name,
                                                                        const AttentionProblem& p) {
  for (const AttentionBackwardKernel& kernel : attention_backward_kernels())
    if (kernel.name == name) return kernel.plan(p);
  return nullptr;
}

}  // namespace fovea::attention_test
