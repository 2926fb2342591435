#include "fovea/kernels/fovea_kernels.h"

#include <string>

#include "fovea/base/build_info.h"
#include "fovea/kernels/c_interface.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/norm.h"
#include "fovea/kernels/softmax.h"

namespace {

using namespace fovea::c_interface;

thread_local std::string last_message;

}  // namespace

namespace fovea::c_interface {

fovea_status failed(fovea_status status, const char* what) noexcept {
  try {
    last_message = what;
  } catch (...) {
    last_message.clear();
  }
  return status;
}

fovea_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::unsupported:
      return FOVEA_UNSUPPORTED;
    case ErrorCode::out_of_memory:
      return FOVEA_OUT_OF_MEMORY;
    default:
      return FOVEA_INVALID_ARGUMENT;
  }
}

}  // namespace fovea::c_interface

namespace {

fovea::SoftmaxProblem softmax_of(const fovea_softmax_problem& p) {
  at_least(p.rows, 0, "rows");
  at_least(p.cols, 1, "cols");
  return {p.log ? fovea::SoftmaxOp::log_softmax : fovea::SoftmaxOp::softmax, type_of(p.type),
          p.rows, p.cols};
}

fovea::NormProblem norm_of(const fovea_norm_problem& p) {
  at_least(p.rows, 0, "rows");
  at_least(p.cols, 1, "cols");
  if (!(p.epsilon >= 0)) wrong("expected an epsilon of at least 0");
  const fovea::DType type = type_of(p.type);
  return {p.rms ? fovea::NormOp::rms_norm : fovea::NormOp::layer_norm,
          type,
          p.rows,
          p.cols,
          p.epsilon,
          type};
}

fovea::LinearProblem linear_of(const fovea_linear_problem& p) {
  fovea::LinearProblem l;
  l.x = type_of(p.x_type);
  l.w = type_of(p.w_type);
  l.y = l.residual_type = type_of(p.y_type);
  l.rows = p.rows;
  l.n = p.n;
  l.k = p.k;
  l.transposed = p.transposed != 0;
  l.bias = p.bias != 0;
  l.residual = p.residual != 0;
  l.activation =
      p.activation == FOVEA_NONE ? fovea::LinearActivation::none : fovea::LinearActivation::forward;
  switch (p.activation) {
    case FOVEA_NONE:
      break;
    case FOVEA_RELU:
      l.function = fovea::UnaryOp::relu;
      break;
    case FOVEA_SILU:
      l.function = fovea::UnaryOp::silu;
      break;
    case FOVEA_GELU:
      l.function = fovea::UnaryOp::gelu;
      break;
    default:
      wrong("expected a fovea_activation, got " + std::to_string(static_cast<int>(p.activation)));
  }
  return l;
}

}  // namespace

struct fovea_softmax : CPlan<fovea::SoftmaxArgs> {};
struct fovea_softmax_backward : CPlan<fovea::SoftmaxGradArgs> {};
struct fovea_norm : CPlan<fovea::NormArgs> {};
struct fovea_norm_backward : CPlan<fovea::NormGradArgs> {
  bool rms = false;
};
struct fovea_linear : CPlan<fovea::LinearArgs> {
  bool bias = false, residual = false;
};
struct fovea_linear_grad_weight : CPlan<fovea::LinearGradWeightArgs> {
  bool bias = false;
};

extern "C" {

const char* fovea_kernels_version(void) {
  static const std::string text = fovea::version();
  return text.c_str();
}
int fovea_kernels_api(void) { return FOVEA_KERNELS_API; }
const char* fovea_message(void) { return last_message.c_str(); }

fovea_status fovea_pool_create(int threads, fovea_pool** pool) {
  return guarded([&] {
    need(pool, "a place for the pool");
    *pool = nullptr;
    at_least(threads, 0, "threads");
    *pool = new fovea_pool(threads);
  });
}
void fovea_pool_destroy(fovea_pool* pool) { delete pool; }
int fovea_pool_threads(const fovea_pool* pool) { return pool ? pool->pool.threads() : 0; }

fovea_status fovea_softmax_plan(const fovea_softmax_problem* problem, fovea_pool* pool,
                                fovea_softmax** out) {
  return plan(problem, pool, out, softmax_of, fovea::softmax_kernels, "softmax");
}
fovea_status fovea_softmax_run(fovea_softmax* plan, const void* x, void* y) {
  return guarded([&] {
    need(plan, "a plan");
    need(x, "x");
    need(y, "y");
    plan->run({x, y});
  });
}
void fovea_softmax_destroy(fovea_softmax* plan) { delete plan; }

fovea_status fovea_softmax_backward_plan(const fovea_softmax_problem* problem, fovea_pool* pool,
                                         fovea_softmax_backward** out) {
  return plan(problem, pool, out, softmax_of, fovea::softmax_grad_kernels, "softmax_grad");
}
fovea_status fovea_softmax_backward_run(fovea_softmax_backward* plan, const void* y, const void* dy,
                                        void* dx) {
  return guarded([&] {
    need(plan, "a plan");
    need(y, "y");
    need(dy, "dy");
    need(dx, "dx");
    plan->run({y, dy, dx});
  });
}
void fovea_softmax_backward_destroy(fovea_softmax_backward* plan) { delete plan; }

fovea_status fovea_norm_plan(const fovea_norm_problem* problem, fovea_pool* pool,
                             fovea_norm** out) {
  return plan(problem, pool, out, norm_of, fovea::norm_kernels, "norm");
}
fovea_status fovea_norm_run(fovea_norm* plan, const fovea_norm_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    need(a->x, "x");
    need(a->y, "y");
    fovea::NormArgs args;
    args.x = a->x;
    args.weight = a->weight;
    args.bias = a->bias;
    args.y = a->y;
    args.mean = a->mean;
    args.rstd = a->rstd;
    plan->run(args);
  });
}
void fovea_norm_destroy(fovea_norm* plan) { delete plan; }

fovea_status fovea_norm_backward_plan(const fovea_norm_problem* problem, fovea_pool* pool,
                                      fovea_norm_backward** out) {
  const fovea_status status =
      plan(problem, pool, out, norm_of, fovea::norm_grad_kernels, "norm_grad");
  if (status == FOVEA_OK) (*out)->rms = problem->rms != 0;
  return status;
}
fovea_status fovea_norm_backward_run(fovea_norm_backward* plan, const fovea_norm_backward_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    need(a->x, "x");
    need(a->rstd, "rstd");
    need(a->dy, "dy");
    if (!plan->rms) need(a->mean, "mean");
    fovea::NormGradArgs args;
    args.x = a->x;
    args.weight = a->weight;
    args.mean = a->mean;
    args.rstd = a->rstd;
    args.dy = a->dy;
    args.dx = a->dx;
    args.dweight = a->dweight;
    args.dbias = a->dbias;
    plan->run(args);
  });
}
void fovea_norm_backward_destroy(fovea_norm_backward* plan) { delete plan; }

fovea_status fovea_linear_plan(const fovea_linear_problem* problem, fovea_pool* pool,
                               fovea_linear** out) {
  const fovea_status status = plan(problem, pool, out, linear_of, fovea::linear_kernels, "linear");
  if (status == FOVEA_OK) {
    (*out)->bias = problem->bias != 0;
    (*out)->residual = problem->residual != 0;
  }
  return status;
}
fovea_status fovea_linear_pack(fovea_linear* plan, const void* w, const void* bias) {
  return guarded([&] {
    need(plan, "a plan");
    need(w, "w");
    if (plan->bias) need(bias, "bias");
    if (plan->plan->packed_bytes == 0) return;
    if (plan->packed.size() == 0)
      plan->packed = fovea::AlignedBuffer(plan->plan->packed_bytes, "a packed weight");
    fovea::LinearArgs args;
    args.w = w;
    args.bias = bias;
    plan->plan->pack(args, plan->packed.data());
    plan->context.packed = plan->packed.data();
  });
}
fovea_status fovea_linear_run(fovea_linear* plan, const fovea_linear_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    need(a->x, "x");
    need(a->w, "w");
    need(a->y, "y");
    if (plan->bias) need(a->bias, "bias");
    if (plan->residual) need(a->residual, "residual");
    fovea::LinearArgs args;
    args.x = a->x;
    args.w = a->w;
    args.bias = a->bias;
    args.residual = a->residual;
    args.y = a->y;
    plan->run(args);
  });
}
const char* fovea_linear_kernel(const fovea_linear* plan) {
  return plan ? plan->kernel.c_str() : "";
}
void fovea_linear_destroy(fovea_linear* plan) { delete plan; }

fovea_status fovea_linear_grad_weight_plan(const fovea_linear_grad_weight_problem* problem,
                                           fovea_pool* pool, fovea_linear_grad_weight** out) {
  const auto problem_of = +[](const fovea_linear_grad_weight_problem& p) {
    return fovea::LinearGradWeightProblem{type_of(p.dy_type), type_of(p.x_type), p.rows, p.n, p.k,
                                          p.bias != 0};
  };
  const fovea_status status =
      plan(problem, pool, out, problem_of, fovea::linear_grad_weight_kernels, "linear_grad_weight");
  if (status == FOVEA_OK) (*out)->bias = problem->bias != 0;
  return status;
}
fovea_status fovea_linear_grad_weight_run(fovea_linear_grad_weight* plan, const void* dy,
                                          const void* x, void* dw, void* db) {
  return guarded([&] {
    need(plan, "a plan");
    need(dy, "dy");
    need(x, "x");
    need(dw, "dw");
    if (plan->bias) need(db, "db");
    plan->run({dy, x, dw, db});
  });
}
void fovea_linear_grad_weight_destroy(fovea_linear_grad_weight* plan) { delete plan; }

}  // extern "C"
