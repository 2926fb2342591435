// What the parts of the C interface share; not for callers.
#pragma once

#include <memory>
#include <new>
#include <span>
#include <string>

#include "fovea/base/aligned.h"
#include "fovea/base/dtype.h"
#include "fovea/base/error.h"
#include "fovea/kernels/fovea_kernels.h"
#include "fovea/kernels/planned.h"

struct fovea_pool {
  explicit fovea_pool(int threads) : pool(threads) {}
  fovea::ThreadPool pool;
};

namespace fovea::c_interface {

// Keeps the message for fovea_message(), and gives the status back.
fovea_status failed(fovea_status status, const char* what) noexcept;
fovea_status status_of(ErrorCode code);

// No exception passes into C.
template <class F>
fovea_status guarded(F&& body) noexcept {
  try {
    body();
    return FOVEA_OK;
  } catch (const Error& e) {
    return failed(status_of(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return failed(FOVEA_OUT_OF_MEMORY, "[kernels] out of memory; a smaller problem needs less");
  } catch (const std::exception& e) {
    return failed(FOVEA_INTERNAL, e.what());
  } catch (...) {
    return failed(FOVEA_INTERNAL, "[kernels] an unknown exception");
  }
}

[[noreturn]] inline void wrong(const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "[kernels] " + what);
}

inline void need(const void* pointer, const char* name) {
  if (!pointer) wrong(std::string("expected ") + name + ", got NULL");
}

inline void at_least(int64_t value, int64_t least, const char* name) {
  if (value < least)
    wrong(std::string("expected ") + name + " of at least " + std::to_string(least) + ", got " +
          std::to_string(value));
}

inline DType type_of(fovea_type type) {
  switch (type) {
    case FOVEA_F32:
      return DType::f32;
    case FOVEA_F64:
      return DType::f64;
    case FOVEA_BF16:
      return DType::bf16;
    case FOVEA_I8:
    case FOVEA_SAME:
      break;
  }
  wrong("expected f32, f64 or bf16 as fovea_type, got " + std::to_string(static_cast<int>(type)));
}

// What C holds: a plan with its memory, and what pack() wrote.
template <class Args>
struct CPlan : Planned<Args> {
  AlignedBuffer packed;
};

template <class Plan, class Problem, class Args>
void make_plan(std::span<const Kernel<Problem, Args>> kernels, const Problem& problem,
               fovea_pool* pool, const char* family, Plan** out) {
  auto planned = std::make_unique<Plan>();
  static_cast<Planned<Args>&>(*planned) = make_planned(kernels, problem, pool->pool, family);
  *out = planned.release();
}

// What every fovea_X_plan() does: `problem_of` turns a C problem into the kernels' own.
template <class Plan, class CProblem, class Problem, class Args>
fovea_status plan(const CProblem* problem, fovea_pool* pool, Plan** out,
                  Problem (*problem_of)(const CProblem&),
                  std::span<const Kernel<Problem, Args>> (*kernels)(), const char* family) {
  return guarded([&] {
    need(problem, "a problem");
    need(pool, "a pool");
    need(out, "a place for the plan");
    *out = nullptr;
    make_plan(kernels(), problem_of(*problem), pool, family, out);
  });
}

}  // namespace fovea::c_interface
