#include "fovea/kernels/dnnl_support.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <thread>

#include "fovea/kernels/conv2d.h"
#include "fovea/kernels/leaf_test.h"
#include "fovea/kernels/matmul.h"

extern "C" void omp_set_num_threads(int threads);
extern "C" int omp_get_max_threads();

// Counts what code of this program allocates; oneDNN's calls from its own library are not ours to
// mend. Where the program's code lies, the linker says.
extern "C" const char __executable_start;
extern "C" const char etext;

namespace {
std::atomic<int64_t> allocations{0};

void* counted(size_t bytes, size_t alignment, const void* caller) {
  if (caller >= &__executable_start && caller < &etext)
    allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = alignment <= alignof(std::max_align_t)
                     ? std::malloc(std::max<size_t>(bytes, 1))
                     : std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

[[gnu::noinline]] void* operator new(size_t bytes) {
  return counted(bytes, 1, __builtin_return_address(0));
}
[[gnu::noinline]] void* operator new[](size_t bytes) {
  return counted(bytes, 1, __builtin_return_address(0));
}
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment), __builtin_return_address(0));
}
[[gnu::noinline]] void* operator new[](size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment), __builtin_return_address(0));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace fovea {
namespace {

// Runs each kernel of a list twice, the first time to let oneDNN fill what it keeps for each
// thread.
template <class Problem, class Args>
void expect_no_allocation(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem,
                          const std::type_identity_t<Args>& args) {
  for (const auto& kernel : kernels) {
    const auto plan = kernel.plan(problem);
    ASSERT_NE(plan, nullptr);
    ThreadPool pool(2);
    const leaf::Scratch shared(plan->scratch_bytes);
    const size_t stride = (plan->worker_scratch_bytes + 63) / 64 * 64;
    const leaf::Scratch each(2 * stride);
    const KernelContext context{&pool, shared.get(), each.get(), stride};
    plan->run(args, context);
    const int64_t before = allocations.load();
    plan->run(args, context);
    EXPECT_EQ(allocations.load(), before) << kernel.name;
  }
}

TEST(DnnlSupport, TheCounterSeesAVector) {
  const int64_t before = allocations.load();
  std::vector<int> seen(100, 1);
  EXPECT_GT(allocations.load(), before);
  EXPECT_EQ(seen[99], 1);
}

TEST(DnnlSupport, RunningAProductAllocatesNothing) {
  const auto a = leaf::numbers<float>(1500 * 40, 1), b = leaf::numbers<float>(1500 * 40, 2);
  const auto bias = leaf::numbers<float>(40, 3);
  std::vector<float> c(1500 * 40);
  MatmulProblem linear{.m = 1500, .n = 40, .k = 24, .bias = true};
  set_dense_strides(linear, false, true);
  expect_no_allocation(matmul_kernels(), linear, {a.data(), b.data(), bias.data(), c.data()});
  MatmulProblem long_sum{.m = 40, .n = 24, .k = 1500};
  set_dense_strides(long_sum, true, false);
  expect_no_allocation(matmul_kernels(), long_sum, {a.data(), b.data(), nullptr, c.data()});
}

TEST(DnnlSupport, RunningAConvolutionAllocatesNothing) {
  const Conv2dProblem p{
      .batch = 18, .h = 6, .w = 6, .c = 5, .o = 7, .kh = 3, .kw = 3, .bias = true};
  const auto x = leaf::numbers<float>(18 * 6 * 6 * 5, 1),
             weight = leaf::numbers<float>(7 * 9 * 5, 2);
  const auto bias = leaf::numbers<float>(7, 3), dy = leaf::numbers<float>(18 * 4 * 4 * 7, 4);
  std::vector<float> y(dy.size()), dx(x.size()), dweight(weight.size()), dbias(7);
  expect_no_allocation(conv2d_kernels(), p, {x.data(), weight.data(), bias.data(), y.data()});
  expect_no_allocation(conv2d_grad_input_kernels(), p, {dy.data(), weight.data(), dx.data()});
  expect_no_allocation(conv2d_grad_weight_kernels(), p,
                       {dy.data(), x.data(), dweight.data(), dbias.data()});
}

TEST(DnnlSupport, TheCallersNumberOfOpenMpThreadsIsRestored) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(3);
  {
    const dnnl_support::OneThread one_thread;
    EXPECT_EQ(omp_get_max_threads(), 1);
  }
  EXPECT_EQ(omp_get_max_threads(), 3);
  const std::vector<float> a(64 * 64), b(64 * 64);
  std::vector<float> c(64 * 64);
  MatmulProblem p{.m = 64, .n = 64, .k = 64};
  set_dense_strides(p);
  leaf::run<MatmulProblem>(*matmul_kernels()[0].plan(p),
                           MatmulArgs{a.data(), b.data(), nullptr, c.data()});
  EXPECT_EQ(omp_get_max_threads(), 3);
  omp_set_num_threads(before);
}

TEST(DnnlSupport, APrimitiveIsMadeOnceAndNeverASlowOne) {
  using namespace dnnl_support;
  int made = 0;
  const auto make = [&]() -> PrimitivePtr {
    ++made;
    const dnnl::memory::desc d({8, 8}, dnnl::memory::data_type::f32, dnnl::memory::dims{8, 1});
    const dnnl::matmul::primitive_desc pd({d, d, d}, user_scratchpad(), engine());
    return std::make_shared<Primitive>(
        dnnl::matmul(pd), pd.scratchpad_desc(),
        std::vector<Operand>{{DNNL_ARG_SRC, d}, {DNNL_ARG_WEIGHTS, d}, {DNNL_ARG_DST, d}});
  };
  const int64_t key[] = {-1, 8};
  const PrimitivePtr first = cached(Op::matmul, key, make);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(cached(Op::matmul, key, make), first);
  EXPECT_EQ(made, 1);
  const int64_t refused[] = {-2, 8};
  EXPECT_EQ(cached(Op::matmul, refused, [] { return PrimitivePtr(); }), nullptr);
  EXPECT_EQ(cached(Op::matmul, refused,
                   []() -> PrimitivePtr { throw dnnl::error(dnnl_unimplemented, "no"); }),
            nullptr);
}

}  // namespace
}  // namespace fovea
