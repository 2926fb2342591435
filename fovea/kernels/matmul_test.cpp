#include "fovea/kernels/matmul.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>

#include "fovea/base/error.h"
#include "fovea/kernels/leaf_test.h"

namespace fovea {
namespace {

using leaf::numbers;

struct Case {
  std::string name;
  MatmulProblem problem;
  bool dnnl = true;  // whether oneDNN's kernel must take it
};

Case dense(std::string name, std::vector<int64_t> batch, int64_t m, int64_t n, int64_t k,
           bool transpose_a, bool transpose_b, bool bias = false) {
  MatmulProblem p{.m = m, .n = n, .k = k, .batch = std::move(batch), .bias = bias};
  set_dense_strides(p, transpose_a, transpose_b);
  return {std::move(name), p};
}

std::vector<Case> cases() {
  std::vector<Case> all = {
      dense("one element", {}, 1, 1, 1, false, false),
      dense("one row", {}, 1, 37, 19, false, true, true),
      dense("one column", {}, 37, 1, 19, true, false, true),
      dense("an outer product", {}, 21, 33, 1, false, false),
      dense("linear with a tail of rows", {}, 300, 40, 24, false, true, true),
      dense("the gradient of linear's input", {}, 515, 24, 40, false, false),
      dense("the gradient of linear's weight", {}, 40, 24, 1500, true, false),
      dense("a long sum with a bias and a short last part", {}, 9, 17, 1111, false, false, true),
      dense("both transposed", {}, 65, 31, 47, true, true),
      dense("columns cut", {}, 33, 700, 50, false, true, true),
      dense("columns and sum cut", {}, 30, 600, 1100, false, false, true),
      dense("a large transposed weight", {}, 270, 512, 520, false, true, true),
      dense("a batch of small products", {3, 5}, 20, 11, 13, false, true, true),
      dense("a batch that leaves a short group", {29}, 49, 49, 16, false, true),
      dense("a batch of tall products", {2}, 300, 10, 12, true, false),
      dense("a batch of long sums", {3}, 8, 8, 2000, true, false),
  };
  Case shared = dense("a weight shared by a batch", {4, 7}, 10, 12, 14, false, true, true);
  shared.problem.b_batch = {0, 0};
  all.push_back(shared);
  Case inner = dense("a weight for each outer element", {3, 4}, 10, 12, 14, false, false);
  inner.problem.b_batch = {14 * 12, 0};
  all.push_back(inner);
  Case left = dense("a shared left side", {5}, 10, 12, 14, false, false);
  left.problem.a_batch = {0};
  all.push_back(left);
  Case vectors = dense("rows that are a batch", {40}, 1, 12, 14, false, true);
  vectors.problem.b_batch = {0};
  all.push_back(vectors);
  // q [B,T,H*D] times k [B,T,H*D] transposed, B = 2, T = 6, H = 3, D = 4.
  all.push_back({"heads inside packed tokens",
                 {.m = 6,
                  .n = 6,
                  .k = 4,
                  .batch = {2, 3},
                  .a_batch = {72, 4},
                  .b_batch = {72, 4},
                  .a_row = 12,
                  .a_col = 1,
                  .b_row = 1,
                  .b_col = 12}});
  all.push_back({"no unit stride",
                 {.m = 6, .n = 5, .k = 4, .a_row = 16, .a_col = 2, .b_row = 5, .b_col = 1},
                 false});
  all.push_back({"a row repeated",
                 {.m = 6, .n = 5, .k = 4, .a_row = 0, .a_col = 1, .b_row = 5, .b_col = 1},
                 false});
  Case empty_sum = dense("an empty sum is the bias", {2}, 3, 4, 0, false, false, true);
  empty_sum.dnnl = false;
  all.push_back(empty_sum);
  Case no_rows = dense("no rows", {}, 0, 4, 5, false, false);
  no_rows.dnnl = false;
  all.push_back(no_rows);
  return all;
}

int64_t extent(const std::vector<int64_t>& batch, const std::vector<int64_t>& strides, int64_t rows,
               int64_t cols, int64_t row, int64_t col) {
  int64_t last = std::max<int64_t>(rows - 1, 0) * row + std::max<int64_t>(cols - 1, 0) * col;
  for (size_t d = 0; d < batch.size(); ++d) last += (batch[d] - 1) * strides[d];
  return last + 1;
}

struct Numbers {
  std::vector<float> a, b, bias;
  int64_t outputs;

  explicit Numbers(const MatmulProblem& p)
      : a(numbers<float>(extent(p.batch, p.a_batch, p.m, p.k, p.a_row, p.a_col), 1)),
        b(numbers<float>(extent(p.batch, p.b_batch, p.k, p.n, p.b_row, p.b_col), 2)),
        bias(numbers<float>(p.n, 3)),
        outputs(p.m * p.n) {
    for (int64_t d : p.batch) outputs *= d;
  }
};

template <class T>
std::vector<T> product(const Kernel<MatmulProblem, MatmulArgs>& kernel, MatmulProblem problem,
                       const Numbers& in, int threads = 1) {
  problem.dtype = leaf::dtype_of<T>();
  const std::vector<T> a(in.a.begin(), in.a.end()), b(in.b.begin(), in.b.end()),
      bias(in.bias.begin(), in.bias.end());
  std::vector<T> c(static_cast<size_t>(in.outputs), T(-99));
  const auto plan = kernel.plan(problem);
  EXPECT_NE(plan, nullptr);
  if (plan)
    leaf::run<MatmulProblem>(
        *plan, MatmulArgs{a.data(), b.data(), problem.bias ? bias.data() : nullptr, c.data()},
        threads);
  return c;
}

TEST(Matmul, TheListIsOneDnnThenTheReference) {
  ASSERT_EQ(matmul_kernels().size(), 2u);
  EXPECT_EQ(matmul_kernels()[0].name, "dnnl");
  EXPECT_EQ(matmul_kernels()[1].name, "ref");
}

TEST(Matmul, TheReferenceGivesAProductByHand) {
  // [1 2; 3 4; 5 6] [1 0 -1; 2 1 0] + [10 20 30], the right side stored transposed.
  MatmulProblem p{.dtype = DType::f64, .m = 3, .n = 3, .k = 2, .bias = true};
  set_dense_strides(p, false, true);
  const std::vector<double> a = {1, 2, 3, 4, 5, 6}, b = {1, 2, 0, 1, -1, 0}, bias = {10, 20, 30};
  std::vector<double> c(9);
  leaf::run(matmul_kernels(), p, {a.data(), b.data(), bias.data(), c.data()});
  EXPECT_EQ(c, (std::vector<double>{15, 22, 29, 21, 24, 27, 27, 26, 25}));
}

TEST(Matmul, EveryKernelAgreesWithDoublePrecision) {
  for (const Case& test : cases()) {
    SCOPED_TRACE(test.name);
    const Numbers in(test.problem);
    const auto expected = product<double>(matmul_kernels().back(), test.problem, in);
    // Products of up to 4 whose sum may be near zero.
    const double relative = 6e-6 * std::max(4.0, std::sqrt(static_cast<double>(test.problem.k)));
    for (const auto& kernel : matmul_kernels()) {
      if (!kernel.plan(test.problem)) {
        EXPECT_FALSE(test.dnnl) << kernel.name;
        continue;
      }
      EXPECT_TRUE(kernel.name == "ref" || test.dnnl) << kernel.name;
      leaf::expect_close(product<float>(kernel, test.problem, in), expected, relative,
                         std::string(kernel.name).c_str());
    }
  }
}

TEST(Matmul, AnyNumberOfThreadsGivesTheSameBits) {
  for (const Case& test : cases()) {
    SCOPED_TRACE(test.name);
    const Numbers in(test.problem);
    if (in.outputs == 0) continue;
    for (const auto& kernel : matmul_kernels()) {
      if (!kernel.plan(test.problem)) continue;
      leaf::expect_same_bits_for_any_threads(
          [&](int threads) { return product<float>(kernel, test.problem, in, threads); });
    }
  }
}

TEST(Matmul, OnePlanServesSeveralCallersAtOnce) {
  const Case test = dense("linear", {}, 700, 40, 24, false, true, true);
  const Numbers in(test.problem);
  for (const auto& kernel : matmul_kernels()) {
    const auto expected = product<float>(kernel, test.problem, in);
    const auto plan = kernel.plan(test.problem);
    std::vector<std::vector<float>> results(6, std::vector<float>(expected.size()));
    std::vector<std::thread> callers;
    for (auto& c : results) {
      callers.emplace_back([&in, &plan, &c] {
        for (int i = 0; i < 10; ++i) {
          leaf::run<MatmulProblem>(
              *plan, MatmulArgs{in.a.data(), in.b.data(), in.bias.data(), c.data()}, 2);
        }
      });
    }
    for (auto& caller : callers) caller.join();
    for (const auto& c : results) EXPECT_TRUE(leaf::same_bits(c, expected)) << kernel.name;
  }
}

TEST(Matmul, OneDnnLeavesDoublesAndHalvesToOthers) {
  Case test = dense("linear", {}, 3, 4, 5, false, true);
  test.problem.dtype = DType::f64;
  EXPECT_EQ(matmul_kernels()[0].plan(test.problem), nullptr);
  EXPECT_NE(matmul_kernels()[1].plan(test.problem), nullptr);
  test.problem.dtype = DType::bf16;
  EXPECT_FALSE(leaf::supported(matmul_kernels(), test.problem));
}

TEST(Matmul, ANegativeSizeOrStrideIsAnError) {
  const MatmulProblem good = dense("", {2}, 3, 4, 5, false, false).problem;
  std::vector<MatmulProblem> bad(6, good);
  bad[0].m = -1;
  bad[1].k = -1;
  bad[2].a_row = -5;
  bad[3].b_col = -1;
  bad[4].batch[0] = -2;
  bad[5].b_batch[0] = -20;
  for (const auto& kernel : matmul_kernels())
    for (const auto& problem : bad) EXPECT_THROW(kernel.plan(problem), Error);
}

TEST(Matmul, BatchStridesOfAnotherRankAreAnError) {
  MatmulProblem p = dense("", {2}, 3, 4, 5, false, false).problem;
  p.a_batch = {};
  for (const auto& kernel : matmul_kernels()) {
    try {
      kernel.plan(p);
      ADD_FAILURE() << kernel.name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      EXPECT_EQ(std::string(e.what()),
                "[matmul] expected a stride for each of 1 batch dimensions, got 0 of a and 1 of b");
    }
  }
}

}  // namespace
}  // namespace fovea
