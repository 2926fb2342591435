// What the tests of the attention kernels share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/kernels/attention.h"
#include "fovea/kernels/convert.h"
#include "fovea/kernels/leaf_test.h"

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
  std::vector<LseType<T>> spans, dspans;
  std::vector<int32_t> rng;

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
    rng = from.rng;
    const auto take = [](auto& x, auto& dx, const auto& numbers) {
      x.assign(numbers.begin(), numbers.end());
      dx.assign(x.size(), NAN);
    };
    take(bias, dbias, from.bias);
    take(distances, ddistances, from.distances);
    take(sinks, dsinks, from.sinks);
    take(temperatures, dtemperatures, from.temperatures);
    take(relative_keys, drelative_keys, from.relative_keys);
    take(content, dcontent, from.content);
    take(position, dposition, from.position);
    take(spans, dspans, from.spans);
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
            .position_biases = data(position),
            .spans = data(spans),
            .rng = data(rng)};
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
            .dposition_biases = dposition.data(),
            .dspans = dspans.data()};
  }
};

// What of an attention has gradients, these, and all results, in one order.
template <class A>
auto differentiable(A& a) {
  return std::tie(a.q, a.k, a.v, a.bias, a.distances, a.sinks, a.temperatures, a.relative_keys,
                  a.content, a.position, a.spans);
}
template <class A>
auto gradients(A& a) {
  return std::tie(a.dq, a.dk, a.dv, a.dbias, a.ddistances, a.dsinks, a.dtemperatures,
                  a.drelative_keys, a.dcontent, a.dposition, a.dspans);
}
template <class A>
auto results(A& a) {
  return std::tuple_cat(gradients(a), std::tie(a.out, a.lse));
}

// use(name, x, y) for the arrays that stand in the same place.
template <class X, class Y, class Use>
void for_each_pair(X x, Y y, const Use& use) {
  constexpr const char* kNames[] = {
      "q",       "k",        "v",     "bias", "distances", "sinks", "temperatures", "relative keys",
      "content", "position", "spans", "out",  "lse"};
  [&]<size_t... n>(std::index_sequence<n...>) {
    (use(kNames[n], std::get<n>(x), std::get<n>(y)), ...);
  }
  (std::make_index_sequence<std::tuple_size_v<X>>());
}

// run(arrays, threads) writes the same bits with one thread as with so many.
template <class T, class Run>
void expect_same_bits(const Arrays<T>& inputs, std::initializer_list<int> numbers_of_threads,
                      const Run& run, const std::string& what = "") {
  Arrays<T> one = inputs;
  run(one, 1);
  for (int threads : numbers_of_threads) {
    Arrays<T> more = inputs;
    run(more, threads);
    for_each_pair(results(one), results(more), [&](const char* name, auto& x, auto& y) {
      EXPECT_TRUE(leaf::same_bits(x, y)) << what << " " << name << " " << threads << " threads";
    });
  }
}

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

// Of the error, against that of what is expected.
template <class T>
double relative_norm(const std::vector<T>& got, const std::vector<double>& want) {
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = convert<double, false>(got[i]) - want[i];
    error += e * e;
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
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

// Normalisers but softmax have no log-sum-exp that backward could read.
template <class T>
AttentionBackwardArgs backward_args(const AttentionProblem& p, Arrays<T>& a) {
  AttentionBackwardArgs args = a.backward();
  if (!attention_detail::by_softmax(p)) args.lse = nullptr;
  return args;
}

// Of every kernel that takes the problem, and of its backward where it has one.
template <class T>
void expect_same_bits(const AttentionProblem& p, const Arrays<T>& inputs,
                      std::initializer_list<int> numbers_of_threads, const std::string& what = "") {
  Arrays<T> start(p);
  start.copy_inputs(inputs);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto forward = kernel.plan(p);
    if (!forward) continue;
    const auto backward = plan_backward(kernel.name, p);
    const auto run = [&](Arrays<T>& a, int threads) {
      run_plan(*forward, a.forward(), threads);
      if (backward) run_plan(*backward, backward_args(p, a), threads);
    };
    expect_same_bits(start, numbers_of_threads, run, what + " " + std::string(kernel.name));
  }
}

}  // namespace fovea::attention_test
