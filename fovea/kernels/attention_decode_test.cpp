// Decoding over random shapes, caches and masks, against the reference in double precision on the
// same numbers laid out plainly.
#include <numeric>
#include <random>

#include "fovea/base/error.h"
#include "fovea/kernels/attention_decode.h"
#include "fovea/kernels/attention_test.h"

namespace fovea {
namespace {

using attention_test::Arrays;
using attention_test::Case;
using attention_test::converted;
using attention_test::expect_near;
using attention_test::forward_ref;
using attention_test::run_plan;

struct Cache {
  DType dtype = DType::f32;  // of queries
  DType kv_dtype = DType::f32;
  int64_t page_tokens = 0, spare_columns = 0;
  bool packed = true;
  bool want_lse = true;

  bool paged() const { return page_tokens > 0; }
  std::string text() const {
    return std::string(dtype_name(dtype)) + " over " + std::string(dtype_name(kv_dtype)) +
           " pages of " + std::to_string(page_tokens) + (want_lse ? " with lse" : "");
  }
};

AttentionProblem problem_of(const Case& c, const Cache& cache) {
  AttentionProblem p = c.problem(cache.packed, cache.dtype);
  p.kv_dtype = cache.kv_dtype;
  p.want_lse = cache.want_lse;
  if (cache.paged()) {
    p.page_tokens = cache.page_tokens;
    const int64_t least = (p.tk + p.page_tokens - 1) / p.page_tokens;
    p.page_columns = cache.spare_columns > 0 ? least + cache.spare_columns : 0;
    set_dense_strides(p, cache.packed);
  }
  return p;
}

// One of K and V as it stands in a cache. What must not be read is NaN, where the type has it, and
// has a scale of NaN.
struct Rows {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
};

// A problem's arrays, and the same numbers in double for the reference.
class Numbers {
 public:
  Numbers(const Case& c, const Cache& cache, uint64_t seed, float q_factor = 1)
      : problem(problem_of(c, cache)),
        plain(c.problem(true, DType::f64)),
        want(plain),
        random_(seed, stream_id("attention_decode_test")) {
    Arrays<float> a(plain);
    a.randomise(seed, q_factor);
    exact_ = a;
    if (cache.dtype == DType::bf16) a.q = converted<float>(converted<bf16>(a.q));
    want.copy_inputs(a);
    want.lengths = c.lengths;
    make_pages(c);
    fill(want.k, problem.head_dim, problem.k, problem.k_scale, k_);
    fill(want.v, problem.value_dim, problem.v, problem.v_scale, v_);
    copy_queries(a);
    if (!want.lengths.empty()) lengths_ = want.lengths;
    forward_ref(plain, want);
  }

  AttentionArgs args(void* out, float* lse) const {
    return {.q = q_.data(),
            .k = k_.bytes.data(),
            .v = v_.bytes.data(),
            .out = out,
            .lse = lse,
            .links = {.key_lengths = lengths_.empty() ? nullptr : lengths_.data()},
            .k_scale = k_.scales.data(),
            .v_scale = v_.scales.data(),
            .pages = pages_.data()};
  }

  struct Result {
    std::vector<double> out;  // [batch, tq, heads, value_dim]
    std::vector<float> lse;
  };
  Result run(const AttentionKernel& kernel, int threads = 1) const {
    return problem.dtype == DType::f32 ? run_as<float>(kernel, threads)
                                       : run_as<bf16>(kernel, threads);
  }

  // Of the numbers before they were brought into the type of the cache.
  std::vector<double> exact_out() {
    Arrays<double> a(plain);
    a.copy_inputs(exact_);
    a.lengths = want.lengths;
    forward_ref(plain, a);
    return a.out;
  }

  AttentionProblem problem;
  AttentionProblem plain;
  Arrays<double> want;

 private:
  void make_pages(const Case& c) {
    if (problem.page_tokens == 0) return;
    const int64_t used = (c.tk + problem.page_tokens - 1) / problem.page_tokens;
    const int64_t columns = problem.page_columns > 0 ? problem.page_columns : used;
    pool_ = c.batch * used + 3;
    std::vector<int32_t> order(static_cast<size_t>(pool_));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size() - 1; i > 0; --i)
      std::swap(order[i], order[random_.below(static_cast<uint32_t>(i + 1))]);
    // Entries that no key needs lead nowhere.
    pages_.assign(static_cast<size_t>(c.batch * columns), -1000000);
    for (int64_t b = 0; b < c.batch; ++b) {
      const int64_t length = c.lengths.empty()
                                 ? c.tk
                                 : std::clamp<int64_t>(c.lengths[static_cast<size_t>(b)], 0, c.tk);
      for (int64_t i = 0; i * problem.page_tokens < length; ++i)
        pages_[static_cast<size_t>(b * columns + i)] = order[static_cast<size_t>(b * used + i)];
    }
    columns_ = columns;
  }

  void copy_queries(const Arrays<float>& a) {
    const auto size = dtype_size(problem.dtype);
    q_.resize(a.q.size() * size);
    for (int64_t b = 0; b < problem.batch; ++b)
      for (int64_t i = 0; i < problem.tq; ++i)
        for (int64_t h = 0; h < problem.heads; ++h)
          for (int64_t d = 0; d < problem.head_dim; ++d) {
            const float x = a.q[static_cast<size_t>(
                ((b * problem.tq + i) * problem.heads + h) * problem.head_dim + d)];
            const auto at = static_cast<size_t>(b * problem.q.batch + i * problem.q.token +
                                                h * problem.q.head + d);
            put(q_, problem.dtype, at, x);
          }
  }

  static void put(std::vector<std::byte>& bytes, DType type, size_t at, float x) {
    if (type == DType::f32) std::memcpy(bytes.data() + 4 * at, &x, 4);
    const bf16 narrow(x);
    if (type == DType::bf16) std::memcpy(bytes.data() + 2 * at, &narrow, 2);
  }

  // Brings the rows into the type and the place of the cache, and into `rows` what they became.
  void fill(std::vector<double>& rows, int64_t dim, const AttentionStrides& s,
            const AttentionStrides& scale_strides, Rows& to) {
    const DType type = *problem.kv_dtype;
    const int64_t places =
        problem.page_tokens > 0 ? pool_ * problem.page_tokens : problem.batch * problem.tk;
    // 0xff is NaN in f32 and bf16, and -1 in i8.
    to.bytes.assign(static_cast<size_t>(places * problem.kv_heads * dim) * dtype_size(type),
                    std::byte{0xff});
    to.scales.assign(static_cast<size_t>(places * problem.kv_heads), NAN);
    for (int64_t b = 0; b < problem.batch; ++b) {
      const int64_t length = attention_detail::key_length(
          problem, want.lengths.empty() ? nullptr : want.lengths.data(), b);
      for (int64_t j = 0; j < length; ++j) {
        int64_t first = b, token = j;
        if (problem.page_tokens > 0) {
          first = pages_[static_cast<size_t>(b * columns_ + j / problem.page_tokens)];
          token = j % problem.page_tokens;
        }
        for (int64_t g = 0; g < problem.kv_heads; ++g) {
          double* row = rows.data() + ((b * problem.tk + j) * problem.kv_heads + g) * dim;
          const auto at = static_cast<size_t>(first * s.batch + token * s.token + g * s.head);
          if (type == DType::i8) {
            float& scale = to.scales[static_cast<size_t>(first * scale_strides.batch +
                                                         token * scale_strides.token +
                                                         g * scale_strides.head)];
            quantise(row, dim, scale, reinterpret_cast<int8_t*>(to.bytes.data()) + at);
            continue;
          }
          for (int64_t d = 0; d < dim; ++d) {
            const auto x = static_cast<float>(row[d]);
            put(to.bytes, type, at + static_cast<size_t>(d), x);
            if (type == DType::bf16) row[d] = static_cast<double>(static_cast<float>(bf16(x)));
          }
        }
      }
    }
  }

  static void quantise(double* row, int64_t dim, float& scale, int8_t* to) {
    double largest = 0;
    for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::abs(row[d]));
    scale = static_cast<float>(largest / 127);
    for (int64_t d = 0; d < dim; ++d) {
      to[d] = static_cast<int8_t>(std::lround(row[d] / static_cast<double>(scale)));
      row[d] = static_cast<double>(scale) * to[d];
    }
  }

  template <class T>
  Result run_as(const AttentionKernel& kernel, int threads) const {
    std::vector<T> out(want.out.size(), convert<T, false>(NAN));
    Result r{.out = std::vector<double>(out.size()),
             .lse = std::vector<float>(want.lse.size(), NAN)};
    run_plan(*kernel.plan(problem), args(out.data(), r.lse.data()), threads);
    for (int64_t b = 0; b < problem.batch; ++b)
      for (int64_t i = 0; i < problem.tq; ++i)
        for (int64_t h = 0; h < problem.heads; ++h)
          for (int64_t d = 0; d < problem.value_dim; ++d)
            r.out[static_cast<size_t>(
                ((b * problem.tq + i) * problem.heads + h) * problem.value_dim + d)] =
                convert<double, false>(out[static_cast<size_t>(
                    b * problem.out.batch + i * problem.out.token + h * problem.out.head + d)]);
    return r;
  }

  PhiloxStream random_;
  Arrays<float> exact_{plain};
  std::vector<std::byte> q_;
  Rows k_, v_;
  std::vector<int32_t> lengths_, pages_;
  int64_t pool_ = 0, columns_ = 0;
};

void expect_near_in_norm(const std::vector<double>& got, const std::vector<double>& want,
                         double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm)) << what;  // not if NaN
}

void expect_right(const Numbers& numbers, const AttentionKernel& kernel, const std::string& what) {
  const auto got = numbers.run(kernel);
  if (numbers.problem.dtype == DType::f32)
    expect_near(got.out, numbers.want.out, 3e-6, what + " out");
  else
    expect_near_in_norm(got.out, numbers.want.out, 1e-2, what + " out");
  if (numbers.problem.want_lse) expect_near(got.lse, numbers.want.lse, 3e-6, what + " lse", 1);
}

// Other numbers in each run; set FOVEA_TEST_SEED to the one printed to see a failure again.
uint64_t seed_of_run() {
  const char* given = std::getenv("FOVEA_TEST_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("FOVEA_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

template <class T, size_t N>
T one_of(PhiloxStream& random, const T (&values)[N]) {
  return values[random.below(N)];
}

std::pair<Case, Cache> random_problem(PhiloxStream& random) {
  Case c;
  c.batch = 1 + random.below(3);
  c.tq = one_of(random, {int64_t{1}, int64_t{1}, int64_t{1 + random.below(8)}});
  c.tk = one_of(random, {int64_t{1 + random.below(40)}, int64_t{1 + random.below(400)},
                         int64_t{900 + random.below(1800)}});
  c.kv_heads = one_of(random, {1, 2, 2, 3, 7});
  c.heads = c.kv_heads * one_of(random, {1, 1, 2, 3, 4, 5, 8});
  if (random.below(4) == 0) c.heads_kept = random.below(static_cast<uint32_t>(c.heads + 1));
  c.dim = one_of(random, {16, 32, 64, 64, 96, 128, 20, 7, 1, 80});
  c.value_dim = one_of(random, {0, 0, 0, 32, 40, 3, 128, 256});
  if (c.value_dim == 0) c.value_dim = c.dim;
  c.causal = random.below(3) == 0;
  if (random.below(4) == 0) c.left = random.below(static_cast<uint32_t>(c.tk));
  if (random.below(8) == 0) c.right = random.below(static_cast<uint32_t>(c.tk));
  if (random.below(2) == 0) {
    for (int64_t b = 0; b < c.batch; ++b)
      c.lengths.push_back(static_cast<int32_t>(
          one_of(random, {uint32_t{0}, uint32_t{1}, random.below(static_cast<uint32_t>(c.tk + 1)),
                          static_cast<uint32_t>(c.tk)})));
  }
  Cache cache;
  cache.dtype = one_of(random, {DType::f32, DType::bf16});
  cache.kv_dtype = one_of(random, {DType::f32, DType::bf16, DType::bf16, DType::i8});
  if (random.below(2) == 0) {
    cache.page_tokens = one_of(random, {1, 3, 16, 64, 256});
    cache.spare_columns = random.below(3);
  }
  cache.packed = random.below(2) == 0;
  cache.want_lse = random.below(2) == 0;
  return {c, cache};
}

TEST(AttentionDecode, EveryKernelMatchesDoublePrecisionOverRandomProblems) {
  const uint64_t seed = seed_of_run();
  PhiloxStream random(seed, stream_id("problems"));
  std::vector<int> runs(attention_kernels().size());
  for (uint64_t i = 0; i < 300; ++i) {
    const auto [c, cache] = random_problem(random);
    const Numbers numbers(c, cache, seed + i);
    for (size_t k = 0; k < attention_kernels().size(); ++k) {
      const AttentionKernel& kernel = attention_kernels()[k];
      if (!kernel.plan(numbers.problem)) continue;
      ++runs[k];
      expect_right(numbers, kernel,
                   c.text(kernel.name, cache.packed) + ", " + cache.text() + ", problem " +
                       std::to_string(i));
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }
  for (size_t k = 0; k < runs.size(); ++k)
    if (attention_kernels()[k].name.starts_with("decode")) {
      EXPECT_GT(runs[k], 20) << attention_kernels()[k].name;
    }
  EXPECT_EQ(runs.back(), 300);
}

constexpr Case kLong{.batch = 2,
                     .tq = 3,
                     .tk = 2100,
                     .heads = 8,
                     .kv_heads = 2,
                     .dim = 64,
                     .value_dim = 64,
                     .causal = true};

std::vector<Cache> caches() {
  std::vector<Cache> list;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType kv : {DType::f32, DType::bf16, DType::i8})
      for (const int64_t page : {0, 16})
        for (const bool lse : {true, false})
          list.push_back({.dtype = dtype, .kv_dtype = kv, .page_tokens = page, .want_lse = lse});
  return list;
}

TEST(AttentionDecode, TheBitsAreTheSameForAnyNumberOfThreads) {
  for (const Cache& cache : caches()) {
    const Numbers numbers(kLong, cache, 1);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto one = numbers.run(kernel);
      for (int threads = 2; threads <= 4; ++threads) {
        const auto more = numbers.run(kernel, threads);
        EXPECT_EQ(one.out, more.out) << kernel.name << " " << cache.text();
        if (cache.want_lse) {
          EXPECT_EQ(one.lse, more.lse) << kernel.name << " " << cache.text();
        }
      }
    }
  }
}

TEST(AttentionDecode, PagesGiveTheBitsOfARow) {
  for (Cache cache : caches()) {
    if (cache.paged()) continue;
    const Numbers row(kLong, cache, 2);
    cache.page_tokens = 48;
    const Numbers paged(kLong, cache, 2);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.name.starts_with("decode") || !kernel.plan(row.problem)) continue;
      EXPECT_EQ(row.run(kernel).out, paged.run(kernel).out) << kernel.name;
    }
  }
}

TEST(AttentionDecode, ScoresOfTenThousandStayRight) {
  for (const Cache& cache : caches()) {
    const Numbers numbers(kLong, cache, 3, 1e4f);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto got = numbers.run(kernel);
      // Scores are known to about 1e-3 in fp32 here, and so are the probabilities.
      expect_near_in_norm(got.out, numbers.want.out, 1e-2,
                          std::string(kernel.name) + " " + cache.text());
      if (cache.want_lse)
        expect_near(got.lse, numbers.want.lse, 3e-6, std::string(kernel.name) + " lse");
    }
  }
}

TEST(AttentionDecode, RowsOfEightBitsComeCloseToTheNumbersBeforeThem) {
  Numbers numbers(kLong, {.kv_dtype = DType::i8}, 4);
  const std::vector<double> exact = numbers.exact_out();
  for (const AttentionKernel& kernel : attention_kernels()) {
    if (!kernel.plan(numbers.problem)) continue;
    expect_near_in_norm(numbers.run(kernel).out, exact, 3e-2, std::string(kernel.name));
  }
}

TEST(AttentionDecode, LengthsOfZeroAndOneGiveZeroAndTheOneValue) {
  Case c = kLong;
  c.tq = 1;
  c.lengths = {0, 1};
  for (const Cache& cache : caches()) {
    const Numbers numbers(c, cache, 5);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (!kernel.plan(numbers.problem)) continue;
      const auto got = numbers.run(kernel);
      const size_t half = got.out.size() / 2;
      for (size_t i = 0; i < half; ++i) EXPECT_EQ(got.out[i], 0.0) << kernel.name;
      for (size_t h = 0; h < 8; ++h) {
        if (cache.want_lse) {
          EXPECT_EQ(got.lse[h], -HUGE_VALF) << kernel.name;
        }
        for (size_t d = 0; d < 64; ++d) {
          const double v = numbers.want.v[(2100 * 2 + h / 4) * 64 + d];
          EXPECT_NEAR(got.out[half + h * 64 + d], v, 5e-3 * std::abs(v)) << kernel.name;
        }
      }
    }
  }
}

TEST(AttentionDecode, AnyNumberOfQueriesMayReadACache) {
  Case c = kLong;
  c.tq = 21;
  c.tk = 300;
  for (const Cache& cache : caches()) {
    if (cache.dtype == cache.kv_dtype && !cache.paged()) continue;  // no cache
    const Numbers numbers(c, cache, 6);
    for (const AttentionKernel& kernel : attention_kernels()) {
      if (kernel.plan(numbers.problem))
        expect_right(numbers, kernel, std::string(kernel.name) + " " + cache.text());
    }
  }
}

TEST(AttentionDecode, FewQueriesAndManyKeysAreTakenFromTheTiledKernels) {
  const auto first = [](const AttentionProblem& p) {
    for (const AttentionKernel& kernel : attention_kernels())
      if (kernel.plan(p)) return std::string(kernel.name);
    return std::string();
  };
  if (attention_kernels().size() == 1) GTEST_SKIP() << "no SIMD";
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_TRUE(first(Case{.tq = 1, .tk = 4096}.problem(true, dtype)).starts_with("decode"));
    const std::string many = first(Case{.tq = 9, .tk = 4096}.problem(true, dtype));
    EXPECT_TRUE(many.starts_with("hwy") || many.starts_with("tiled")) << many;
    EXPECT_TRUE(first(Case{.tq = 1, .tk = 20}.problem(true, dtype)).starts_with("short"));
  }
}

TEST(AttentionDecode, AWrongCacheIsAnErrorThatNamesBothOptions) {
  const auto expect_error = [](auto change, std::vector<std::string> named) {
    AttentionProblem p = Case{.tq = 1, .tk = 100}.problem(true, DType::f32);
    change(p);
    for (const AttentionKernel& kernel : attention_kernels()) {
      try {
        kernel.plan(p);
        ADD_FAILURE() << kernel.name << ": no error for " << named[0];
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
        for (const std::string& name : named)
          EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
      }
    }
  };
  expect_error([](auto& p) { p.kv_dtype = DType::u8; }, {"kv_dtype", "u8"});
  expect_error([](auto& p) { p.kv_dtype = DType::f64; }, {"kv_dtype", "f64"});
  expect_error([](auto& p) { p.dtype = DType::f64, p.kv_dtype = DType::i8; },
               {"dtype of f32 or bf16", "kv_dtype is i8", "f64"});
  expect_error([](auto& p) { p.dtype = DType::i8; }, {"dtype", "i8"});
  expect_error([](auto& p) { p.kv_dtype = DType::i8, p.k_scale.token = -1; }, {"k_scale"});
  expect_error([](auto& p) { p.page_tokens = -16; }, {"page_tokens", "-16"});
  expect_error([](auto& p) { p.page_columns = 4; }, {"page_tokens", "page_columns is 4"});
  expect_error([](auto& p) { p.page_tokens = 16, p.page_columns = 6; },
               {"page_columns of at least 7", "tk = 100", "page_tokens = 16", "got 6"});
}

TEST(AttentionDecode, BackwardWantsNoCache) {
  const auto expect_error = [](auto change, const std::string& named) {
    AttentionProblem p = Case{.tq = 1, .tk = 100}.problem(true, DType::f32);
    change(p);
    for (const AttentionBackwardKernel& kernel : attention_backward_kernels()) {
      try {
        kernel.plan(p);
        ADD_FAILURE() << kernel.name << ": no error for " << named;
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(named), std::string::npos) << e.what();
        EXPECT_NE(std::string(e.what()).find("backward"), std::string::npos) << e.what();
      }
    }
  };
  expect_error([](auto& p) { p.kv_dtype = DType::bf16; }, "kv_dtype");
  expect_error([](auto& p) { p.page_tokens = 16; }, "page_tokens");
}

}  // namespace
}  // namespace fovea
