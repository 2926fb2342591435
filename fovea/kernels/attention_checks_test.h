// What every feature of attention must pass with everything else that a problem may have: each
// kernel against the reference in double precision, the reference against finite differences, and
// the same bits for any number of threads; and errors of what does not go together.
#pragma once

#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_dropout.h"
#include "fovea/kernels/attention_random_test.h"
#include "fovea/kernels/attention_seen.h"

namespace fovea::attention_test {

// A problem that a test has drawn at random, and its arrays. Tests write a function that gives one
// for a seed and for the most tokens.
template <class T>
struct Drawn {
  Drawn(uint64_t its_seed, AttentionProblem p)
      : seed(its_seed), problem((p.dtype = leaf::dtype_of<T>(), p)), arrays(problem) {
    arrays.randomise(seed);
  }
  std::string text(std::string_view kernel) const {
    return "seed " + std::to_string(seed) + " " + std::string(kernel) + text_of(problem);
  }

  uint64_t seed;
  AttentionProblem problem;
  Arrays<T> arrays;
  // [batch, heads, tq]: rows of the output of which rounding decides; their dout is 0. Empty: none.
  std::vector<bool> uncertain = {};
  // Whether backward starts from what the kernel's own forward wrote, and that it has a backward.
  bool own_forward = false;
};

// The row of each (b, h, i) for which `which` says so becomes 0.
template <class T>
void clear_rows(const AttentionProblem& p, const AttentionStrides& strides,
                const std::vector<bool>& which, std::vector<T>& rows) {
  for (size_t n = 0; n < which.size(); ++n) {
    const auto row = static_cast<int64_t>(n);
    if (which[n])
      std::fill_n(attention_detail::row(rows.data(), strides, row / p.tq / p.heads, row % p.tq,
                                        row / p.tq % p.heads),
                  p.value_dim, T(0.0f));
  }
}

struct Tolerances {
  double results = 0, gradients = 0;
};

// Runs of rounding are measured by the largest value; sums over many links by that of their terms.
template <class T>
void expect_gradients(const AttentionProblem& p, Arrays<T>& got, Arrays<double>& want,
                      double tolerance, const std::string& what) {
  for_each_pair(gradients(got), gradients(want), [&](std::string_view name, auto& x, auto& y) {
    double terms = attention_detail::kept_factor(p);  // what is kept is that much larger
    double allowed = tolerance;
    // One sum over all links of a head, whose terms cancel.
    if (name == "temperatures" && (!attention_detail::by_softmax(p) || std::is_same_v<T, bf16>))
      terms *= 10;
    // A link at the end of the ramp counts as much as 1 / what is left of it.
    if (name == "spans") terms *= 8, allowed *= 10;
    expect_near(x, y, allowed, what + " d " + std::string(name), terms);
  });
}

// Every kernel that takes the problem against the reference in double precision.
template <class T>
void expect_kernels_match(const Drawn<T>& x, const Tolerances& tolerances) {
  const AttentionProblem& p = x.problem;
  AttentionProblem in_double = p;
  in_double.dtype = DType::f64;
  Arrays<double> want(in_double);
  want.copy_inputs(x.arrays);
  forward_ref(in_double, want);
  clear_rows(p, p.out, x.uncertain, want.out);
  const double kept = attention_detail::kept_factor(p);
  for (const AttentionKernel& kernel : attention_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got(p);
    got.copy_inputs(x.arrays);
    run_plan(*plan, got.forward());
    clear_rows(p, p.out, x.uncertain, got.out);
    const std::string what = x.text(kernel.name);
    expect_near(got.out, want.out, tolerances.results, what + " out", 0.1 * kept);
    expect_near(got.lse, want.lse, tolerances.results, what + " lse", 1);
    for (auto number : got.lse) ASSERT_TRUE(attention_detail::by_softmax(p) || number == 0) << what;
    ASSERT_TRUE(!x.own_forward || plan_backward(kernel.name, p)) << what;
  }
  // From the same results as the kernels get, so that only the gradient's own errors count.
  Arrays<T> forward(p);
  forward.copy_inputs(x.arrays);
  run_plan(*attention_kernels().back().plan(p), forward.forward());
  if (!x.own_forward) {
    want.out = converted<double>(forward.out);
    want.lse.assign(forward.lse.begin(), forward.lse.end());
  }
  run_plan(*attention_detail::plan_backward_ref(in_double), backward_args(in_double, want));
  for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
    const auto plan = kernel.plan(p);
    if (!plan) continue;
    Arrays<T> got = forward;
    if (x.own_forward) {
      for (const AttentionKernel& first : attention_kernels())
        if (first.name == kernel.name && first.plan(p)) run_plan(*first.plan(p), got.forward());
      clear_rows(p, p.out, x.uncertain, got.out);
    }
    run_plan(*plan, backward_args(p, got));
    expect_gradients(p, got, want, tolerances.gradients, x.text(kernel.name));
  }
}

// Of the reference; of each array about a dozen numbers.
inline void expect_finite_differences(const Drawn<double>& x, double tolerance) {
  const AttentionProblem& p = x.problem;
  Arrays<double> a(p);
  a.copy_inputs(x.arrays);
  forward_ref(p, a);
  run_plan(*attention_detail::plan_backward_ref(p), backward_args(p, a));
  const auto loss = [&] {
    Arrays<double> moved(p);
    moved.copy_inputs(a);
    forward_ref(p, moved);
    return leaf::dot(moved.out, a.dout);
  };
  Arrays<double> got = a;
  for_each_pair(differentiable(a), gradients(got), [&](const char* name, auto& values, auto& d) {
    for (size_t n = 0; n < values.size(); n += 1 + values.size() / 12) {
      constexpr double kStep = 1e-5;
      const double at = values[n];
      values[n] = at + kStep;
      const double above = loss();
      values[n] = at - kStep;
      const double below = loss();
      values[n] = at;
      ASSERT_NEAR(d[n], (above - below) / (2 * kStep), tolerance) << x.text(name);
    }
  });
}

template <class T>
void expect_same_bits(const Drawn<T>& x) {
  expect_same_bits(x.problem, x.arrays, {3}, x.text(""));
}

// The blocks of keys of a run of queries of one head, of the first row of the batch.
template <class T>
void expect_touched_keys_hold_what_is_seen(const Drawn<T>& x, int64_t head, Dice& dice) {
  const AttentionProblem& p = x.problem;
  const AttentionLinks links = x.arrays.links();
  const attention_detail::Seen seen(p, links, 0, head);
  const int64_t first = dice.of(0, p.tq - 1), last = dice.of(first, p.tq - 1);
  const attention_detail::TouchedKeys touched(p, seen.of(first), seen.of(last));
  for (int64_t j = 0; j < p.tk; ++j) {
    const auto inside = [&](const attention_detail::KeyRange& r) {
      return j >= r.begin && j < r.end;
    };
    for (int64_t i = first; i <= last; ++i) {
      const attention_detail::SeenKeys keys = seen.of(i);
      const bool sees = keys.sees(p, j);
      EXPECT_TRUE(!sees || inside(touched.low) || inside(touched.high)) << x.text("");
      EXPECT_TRUE(sees || !touched.full(j, 1)) << x.text("");
      if (sees && p.span) {
        const attention_detail::HeadSpan span(p, links, head);
        EXPECT_GT(span.logarithm(std::abs(keys.position - j)), -HUGE_VAL) << x.text("");
      }
    }
  }
}

// Planning what change(problem) has made of a small one is an error that names both.
template <class Change>
void expect_both_named(const Change& change, std::string_view first, std::string_view second) {
  AttentionProblem p{.tq = 8, .tk = 8, .head_dim = 8};
  set_dense_strides(p, true);
  change(p);
  const Caught caught = error_of([&] { attention_kernels().back().plan(p); });
  EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
  EXPECT_TRUE(contains(caught.what, first) && contains(caught.what, second)) << caught.what;
}

}  // namespace fovea::attention_test
