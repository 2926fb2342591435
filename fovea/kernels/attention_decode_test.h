// Decoding over caches of all kinds, beside the reference in double precision on the same numbers
// laid out plainly; for tests.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fovea/kernels/attention_decode.h"
#include "fovea/kernels/attention_test.h"

namespace fovea::attention_test {

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

inline AttentionProblem over_cache(AttentionProblem p, const Cache& cache) {
  p.dtype = cache.dtype;
  p.kv_dtype = cache.kv_dtype;
  p.want_lse = cache.want_lse;
  if (cache.paged()) {
    p.page_tokens = cache.page_tokens;
    const int64_t least = (p.tk + p.page_tokens - 1) / p.page_tokens;
    p.page_columns = cache.spare_columns > 0 ? least + cache.spare_columns : 0;
  }
  set_dense_strides(p, cache.packed);
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
      : Numbers(c.problem(true, DType::f64), arrays_of(c, seed, q_factor), cache, seed) {}
  // a: q, k, v of a packed problem, and all that its links name.
  Numbers(const AttentionProblem& any, Arrays<float> a, const Cache& cache, uint64_t seed)
      : problem(over_cache(any, cache)),
        plain(in_double(any)),
        want(plain),
        random_(seed, stream_id("attention_decode_test")),
        exact_(a) {
    if (cache.dtype == DType::bf16) a.q = converted<float>(converted<bf16>(a.q));
    want.copy_inputs(a);
    make_pages();
    fill(want.k, problem.head_dim, problem.k, problem.k_scale, k_);
    fill(want.v, problem.value_dim, problem.v, problem.v_scale, v_);
    copy_queries(a);
    forward_ref(plain, want);
  }

  AttentionArgs args(void* out, float* lse) const {
    return {.q = q_.data(),
            .k = k_.bytes.data(),
            .v = v_.bytes.data(),
            .out = out,
            .lse = lse,
            .links = exact_.links(),
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
    forward_ref(plain, a);
    return a.out;
  }

  AttentionProblem problem;
  AttentionProblem plain;
  Arrays<double> want;

 private:
  static Arrays<float> arrays_of(const Case& c, uint64_t seed, float q_factor) {
    Arrays<float> a(c.problem(true, DType::f32));
    a.randomise(seed, q_factor);
    a.lengths = c.lengths;
    return a;
  }
  static AttentionProblem in_double(AttentionProblem p) {
    p.dtype = DType::f64;
    set_dense_strides(p, true);
    return p;
  }

  void make_pages() {
    if (problem.page_tokens == 0) return;
    const int64_t used = (problem.tk + problem.page_tokens - 1) / problem.page_tokens;
    const int64_t columns = problem.page_columns > 0 ? problem.page_columns : used;
    pool_ = problem.batch * used + 3;
    std::vector<int32_t> order(static_cast<size_t>(pool_));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size() - 1; i > 0; --i)
      std::swap(order[i], order[random_.below(static_cast<uint32_t>(i + 1))]);
    // Entries that no key needs lead nowhere.
    pages_.assign(static_cast<size_t>(problem.batch * columns), -1000000);
    for (int64_t b = 0; b < problem.batch; ++b) {
      const int64_t length =
          want.lengths.empty()
              ? problem.tk
              : std::clamp<int64_t>(want.lengths[static_cast<size_t>(b)], 0, problem.tk);
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
  Arrays<float> exact_;  // before they were brought into the type of the cache, and the links
  std::vector<std::byte> q_;
  Rows k_, v_;
  std::vector<int32_t> pages_;
  int64_t pool_ = 0, columns_ = 0;
};

inline void expect_near_in_norm(const std::vector<double>& got, const std::vector<double>& want,
                                double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  double error = 0, norm = 1e-30;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm)) << what;  // not if NaN
}

inline void expect_right(const Numbers& numbers, const AttentionKernel& kernel,
                         const std::string& what) {
  const auto got = numbers.run(kernel);
  if (numbers.problem.dtype == DType::f32)
    expect_near(got.out, numbers.want.out, 3e-6, what + " out");
  else
    expect_near_in_norm(got.out, numbers.want.out, 1e-2, what + " out");
  if (numbers.problem.want_lse) expect_near(got.lse, numbers.want.lse, 3e-6, what + " lse", 1);
}

// Other numbers in each run; set FOVEA_TEST_SEED to the one printed to see a failure again.
inline uint64_t seed_of_run() {
  const char* given = std::getenv("FOVEA_TEST_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("FOVEA_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace fovea::attention_test
