#include "fovea/kernels/fovea_kernels.h"

#include <cmath>
#include <new>
#include <string>

#include "fovea/base/aligned.h"
#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/kernels/attention.h"
#include "fovea/kernels/linear.h"
#include "fovea/kernels/norm.h"
#include "fovea/kernels/planned.h"
#include "fovea/kernels/softmax.h"

struct fovea_pool {
  explicit fovea_pool(int threads) : pool(threads) {}
  fovea::ThreadPool pool;
};

namespace {

using fovea::DType;
using fovea::Error;
using fovea::ErrorCode;

thread_local std::string last_message;

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

[[noreturn]] void wrong(const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "[kernels] " + what);
}

void need(const void* pointer, const char* name) {
  if (!pointer) wrong(std::string("expected ") + name + ", got NULL");
}

void at_least(int64_t value, int64_t least, const char* name) {
  if (value < least)
    wrong(std::string("expected ") + name + " of at least " + std::to_string(least) + ", got " +
          std::to_string(value));
}

DType type_of(fovea_type type) {
  switch (type) {
    case FOVEA_F32:
      return DType::f32;
    case FOVEA_F64:
      return DType::f64;
    case FOVEA_BF16:
      return DType::bf16;
  }
  wrong("expected a fovea_type, got " + std::to_string(static_cast<int>(type)));
}

// What C holds: a plan with its memory, and what pack() wrote.
template <class Args>
struct Planned : fovea::Planned<Args> {
  fovea::AlignedBuffer packed;
};

template <class Plan, class Problem, class Args>
void make_plan(std::span<const fovea::Kernel<Problem, Args>> kernels, const Problem& problem,
               fovea_pool* pool, const char* family, Plan** out) {
  auto planned = std::make_unique<Plan>();
  static_cast<fovea::Planned<Args>&>(*planned) =
      fovea::make_planned(kernels, problem, pool->pool, family);
  *out = planned.release();
}

fovea::AttentionStrides strides_of(const fovea_strides& s) { return {s.batch, s.token, s.head}; }

fovea::AttentionProblem attention_of(const fovea_attention_problem& p) {
  fovea::AttentionProblem a;
  a.dtype = type_of(p.type);
  a.batch = p.batch;
  a.tq = p.tq;
  a.tk = p.tk;
  a.heads = p.heads;
  a.kv_heads = p.kv_heads;
  a.heads_kept = p.heads_kept;
  a.head_dim = p.head_dim;
  a.value_dim = p.value_dim;
  a.scale = p.scale;
  a.causal = p.causal != 0;
  a.window_left = p.window_left;
  a.window_right = p.window_right;
  a.want_lse = true;
  a.q = strides_of(p.q);
  a.k = strides_of(p.k);
  a.v = strides_of(p.v);
  a.out = strides_of(p.out);
  a.dq = strides_of(p.dq);
  a.dk = strides_of(p.dk);
  a.dv = strides_of(p.dv);
  a.dout = strides_of(p.dout);
  return a;
}

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
  const DType type = type_of(p.type);
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

// What every fovea_X_plan() does: `problem_of` turns a C problem into the kernels' own.
template <class Plan, class CProblem, class Problem, class Args>
fovea_status plan(const CProblem* problem, fovea_pool* pool, Plan** out,
                  Problem (*problem_of)(const CProblem&),
                  std::span<const fovea::Kernel<Problem, Args>> (*kernels)(), const char* family) {
  return guarded([&] {
    need(problem, "a problem");
    need(pool, "a pool");
    need(out, "a place for the plan");
    *out = nullptr;
    make_plan(kernels(), problem_of(*problem), pool, family, out);
  });
}

}  // namespace

struct fovea_attention : Planned<fovea::AttentionArgs> {};
struct fovea_attention_backward : Planned<fovea::AttentionBackwardArgs> {};
struct fovea_softmax : Planned<fovea::SoftmaxArgs> {};
struct fovea_softmax_backward : Planned<fovea::SoftmaxGradArgs> {};
struct fovea_norm : Planned<fovea::NormArgs> {};
struct fovea_norm_backward : Planned<fovea::NormGradArgs> {
  bool rms = false;
};
struct fovea_linear : Planned<fovea::LinearArgs> {
  bool bias = false, residual = false;
};
struct fovea_linear_grad_weight : Planned<fovea::LinearGradWeightArgs> {
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

void fovea_attention_dense(fovea_attention_problem* problem, fovea_layout layout) {
  if (!problem) return;
  fovea_attention_problem sizes = *problem;
  sizes.type = FOVEA_F32;  // strides know no type, and a wrong one is for the plan to refuse
  fovea::AttentionProblem a = attention_of(sizes);
  fovea::set_dense_strides(a, layout == FOVEA_PACKED);
  const auto copy = [](const fovea::AttentionStrides& s) {
    return fovea_strides{s.batch, s.token, s.head};
  };
  problem->q = copy(a.q);
  problem->k = copy(a.k);
  problem->v = copy(a.v);
  problem->out = copy(a.out);
  problem->dq = copy(a.dq);
  problem->dk = copy(a.dk);
  problem->dv = copy(a.dv);
  problem->dout = copy(a.dout);
}

fovea_attention_problem fovea_attention_problem_of(int64_t batch, int64_t tokens, int64_t heads,
                                                   int64_t head_dim, fovea_layout layout) {
  fovea_attention_problem p = {};
  p.type = FOVEA_F32;
  p.batch = batch;
  p.tq = p.tk = tokens;
  p.heads = p.kv_heads = p.heads_kept = heads;
  p.head_dim = p.value_dim = head_dim;
  p.scale = head_dim > 0 ? 1 / std::sqrt(static_cast<double>(head_dim)) : 0;
  p.window_left = p.window_right = -1;
  fovea_attention_dense(&p, layout);
  return p;
}

fovea_status fovea_attention_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                  fovea_attention** out) {
  return plan(problem, pool, out, attention_of, fovea::attention_kernels, "attention");
}
fovea_status fovea_attention_run(fovea_attention* plan, const fovea_attention_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    need(a->q, "q");
    need(a->k, "k");
    need(a->v, "v");
    need(a->out, "out");
    fovea::AttentionArgs args;
    args.q = a->q;
    args.k = a->k;
    args.v = a->v;
    args.out = a->out;
    args.lse = a->lse;
    args.links.key_lengths = a->key_lengths;
    plan->run(args);
  });
}
const char* fovea_attention_kernel(const fovea_attention* plan) {
  return plan ? plan->kernel.c_str() : "";
}
void fovea_attention_destroy(fovea_attention* plan) { delete plan; }

fovea_status fovea_attention_backward_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                           fovea_attention_backward** out) {
  return plan(problem, pool, out, attention_of, fovea::attention_backward_kernels,
              "attention_backward");
}
fovea_status fovea_attention_backward_run(fovea_attention_backward* plan,
                                          const fovea_attention_backward_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    need(a->q, "q");
    need(a->k, "k");
    need(a->v, "v");
    need(a->out, "out");
    need(a->lse, "lse");
    need(a->dout, "dout");
    need(a->dq, "dq");
    need(a->dk, "dk");
    need(a->dv, "dv");
    fovea::AttentionBackwardArgs args;
    args.q = a->q;
    args.k = a->k;
    args.v = a->v;
    args.out = a->out;
    args.lse = a->lse;
    args.dout = a->dout;
    args.dq = a->dq;
    args.dk = a->dk;
    args.dv = a->dv;
    args.links.key_lengths = a->key_lengths;
    plan->run(args);
  });
}
const char* fovea_attention_backward_kernel(const fovea_attention_backward* plan) {
  return plan ? plan->kernel.c_str() : "";
}
void fovea_attention_backward_destroy(fovea_attention_backward* plan) { delete plan; }

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
