// The plain product, its checks and the list of its kernels.
#include <string>

#include "fovea/base/error.h"
#include "fovea/kernels/matmul.h"

namespace fovea {
namespace {

constexpr int64_t kRows = 16;  // rows of c in a block of work

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error{ErrorCode::invalid_argument, "[matmul] expected " + expected + ", got " + got};
}

template <class T>
class MatmulRef : public KernelPlan<MatmulArgs> {
 public:
  explicit MatmulRef(const MatmulProblem& problem) : p_(problem), batches_(1) {
    for (int64_t d : p_.batch) batches_ *= d;
  }

  void run(const MatmulArgs& args, const KernelContext& context) const noexcept override {
    const int64_t blocks_each = (p_.m + kRows - 1) / kRows;
    context.pool->parallel_for(batches_ * blocks_each, [&](int64_t block, int) {
      const int64_t element = block / blocks_each;
      const int64_t first = block % blocks_each * kRows;
      const T* a = static_cast<const T*>(args.a) + offset(element, p_.a_batch);
      const T* b = static_cast<const T*>(args.b) + offset(element, p_.b_batch);
      T* c = static_cast<T*>(args.c) + element * p_.m * p_.n;
      for (int64_t i = first; i < p_.m && i < first + kRows; ++i) {
        for (int64_t j = 0; j < p_.n; ++j) {
          double sum = p_.bias ? static_cast<double>(static_cast<const T*>(args.bias)[j]) : 0.0;
          for (int64_t l = 0; l < p_.k; ++l) {
            sum += static_cast<double>(a[i * p_.a_row + l * p_.a_col]) *
                   static_cast<double>(b[l * p_.b_row + j * p_.b_col]);
          }
          c[i * p_.n + j] = static_cast<T>(sum);
        }
      }
    });
  }

 private:
  int64_t offset(int64_t element, const std::vector<int64_t>& strides) const {
    int64_t at = 0;
    for (size_t d = p_.batch.size(); d-- > 0; element /= p_.batch[d])
      at += element % p_.batch[d] * strides[d];
    return at;
  }

  MatmulProblem p_;
  int64_t batches_;
};

}  // namespace

void set_dense_strides(MatmulProblem& p, bool transpose_a, bool transpose_b) {
  p.a_row = transpose_a ? 1 : p.k;
  p.a_col = transpose_a ? p.m : 1;
  p.b_row = transpose_b ? 1 : p.n;
  p.b_col = transpose_b ? p.k : 1;
  p.a_batch.assign(p.batch.size(), 0);
  p.b_batch.assign(p.batch.size(), 0);
  int64_t elements = 1;
  for (size_t d = p.batch.size(); d-- > 0; elements *= p.batch[d]) {
    p.a_batch[d] = elements * p.m * p.k;
    p.b_batch[d] = elements * p.k * p.n;
  }
}

namespace matmul_detail {

void check(const MatmulProblem& p) {
  const auto not_negative = [](const char* name, int64_t value) {
    if (value < 0) wrong(std::string(name) + " of at least 0", std::to_string(value));
  };
  not_negative("m", p.m);
  not_negative("n", p.n);
  not_negative("k", p.k);
  not_negative("a_row", p.a_row);
  not_negative("a_col", p.a_col);
  not_negative("b_row", p.b_row);
  not_negative("b_col", p.b_col);
  if (p.a_batch.size() != p.batch.size() || p.b_batch.size() != p.batch.size()) {
    wrong("a stride for each of " + std::to_string(p.batch.size()) + " batch dimensions",
          std::to_string(p.a_batch.size()) + " of a and " + std::to_string(p.b_batch.size()) +
              " of b");
  }
  for (size_t d = 0; d < p.batch.size(); ++d) {
    not_negative("batch", p.batch[d]);
    not_negative("a_batch", p.a_batch[d]);
    not_negative("b_batch", p.b_batch[d]);
  }
}

std::unique_ptr<KernelPlan<MatmulArgs>> plan_ref(const MatmulProblem& p) {
  check(p);
  if (p.dtype == DType::f32) return std::make_unique<MatmulRef<float>>(p);
  if (p.dtype == DType::f64) return std::make_unique<MatmulRef<double>>(p);
  return nullptr;
}

}  // namespace matmul_detail

std::span<const Kernel<MatmulProblem, MatmulArgs>> matmul_kernels() {
  static constexpr Kernel<MatmulProblem, MatmulArgs> kList[] = {
      {"dnnl", matmul_detail::plan_dnnl},
      {"ref", matmul_detail::plan_ref},
  };
  return kList;
}

}  // namespace fovea
