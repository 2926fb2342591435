// Attention and its gradient for C.
#include <cmath>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/attention_blocks.h"
#include "fovea/kernels/c_interface.h"

namespace {

using namespace fovea::c_interface;

fovea::AttentionStrides strides_of(const fovea_strides& s) { return {s.batch, s.token, s.head}; }
fovea::AttentionPlane plane_of(const fovea_plane& s) { return {s.batch, s.head, s.query}; }

fovea::AttentionAlign align_of(fovea_align align) {
  switch (align) {
    case FOVEA_LOWER_RIGHT:
      return fovea::AttentionAlign::lower_right;
    case FOVEA_UPPER_LEFT:
      return fovea::AttentionAlign::upper_left;
  }
  wrong("expected a fovea_align, got " + std::to_string(static_cast<int>(align)));
}

fovea::RotaryLayout layout_of(fovea_rotary_layout layout) {
  switch (layout) {
    case FOVEA_ROTARY_PAIRS:
      return fovea::RotaryLayout::pairs;
    case FOVEA_ROTARY_HALVES:
      return fovea::RotaryLayout::halves;
  }
  wrong("expected a fovea_rotary_layout, got " + std::to_string(static_cast<int>(layout)));
}

fovea::Normaliser normaliser_of(fovea_normaliser normaliser) {
  const auto n = static_cast<int>(normaliser);
  if (n < 0 || n >= static_cast<int>(fovea::enum_names(fovea::Normaliser{}).size()))
    wrong("expected a fovea_normaliser, got " + std::to_string(n));
  return static_cast<fovea::Normaliser>(n);
}
static_assert(static_cast<int>(fovea::Normaliser::gumbel_hard) == FOVEA_GUMBEL_HARD);

std::optional<fovea::DType> cache_type_of(fovea_type type) {
  if (type == FOVEA_SAME) return {};
  return type == FOVEA_I8 ? fovea::DType::i8 : type_of(type);
}

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
  a.align = align_of(p.align);
  a.dilation = p.dilation;
  a.global_tokens = p.global_tokens;
  a.prefix = p.prefix;
  a.documents = p.documents;
  a.mask = p.mask != 0;
  a.mask_plane = plane_of(p.mask_plane);
  a.block = p.block;
  a.block_plane = plane_of(p.block_plane);
  a.bias = p.bias != 0;
  a.bias_plane = plane_of(p.bias_plane);
  a.distance_bias = p.distance_bias != 0;
  a.sink = p.sink != 0;
  a.soft_cap = p.soft_cap;
  a.cosine = p.cosine != 0;
  a.cosine_eps = p.cosine_eps;
  a.rotary = p.rotary;
  a.rotary_base = p.rotary_base;
  a.rotary_layout = layout_of(p.rotary_layout);
  a.temperature = p.temperature != 0;
  a.relative_keys = p.relative_keys != 0;
  a.content_bias = p.content_bias != 0;
  a.position_bias = p.position_bias != 0;
  a.span = p.span != 0;
  a.span_ramp = p.span_ramp;
  a.dropout = p.dropout;
  a.stream = p.stream;
  a.normaliser = {.kind = normaliser_of(p.normaliser),
                  .top_k = p.top_k,
                  .softmax_temperature = p.softmax_temperature,
                  .stream = p.stream};
  a.want_entropy = p.want_entropy != 0;
  a.want_mass = p.want_mass != 0;
  a.top_links = p.top_links;
  a.want_lse = true;
  a.q = strides_of(p.q);
  a.k = strides_of(p.k);
  a.v = strides_of(p.v);
  a.out = strides_of(p.out);
  a.dq = strides_of(p.dq);
  a.dk = strides_of(p.dk);
  a.dv = strides_of(p.dv);
  a.dout = strides_of(p.dout);
  a.kv_dtype = cache_type_of(p.kv_type);
  a.k_scale = strides_of(p.k_scale);
  a.v_scale = strides_of(p.v_scale);
  a.int8_products = p.int8_products != 0;
  a.page_tokens = p.page_tokens;
  a.page_columns = p.page_columns;
  return a;
}

fovea::AttentionLinks links_of(const fovea_attention_links& l) {
  return {.key_lengths = l.key_lengths,
          .document_starts = l.document_starts,
          .mask = l.mask,
          .blocks = l.blocks,
          .bias = l.bias,
          .distance_bias = l.distance_bias,
          .sinks = l.sinks,
          .temperatures = l.temperatures,
          .relative_keys = l.relative_keys,
          .content_biases = l.content_biases,
          .position_biases = l.position_biases,
          .spans = l.spans,
          .rng = l.rng};
}

// A plan that remembers what memory its runs need.
template <class Args>
struct AttentionPlan : CPlan<Args> {
  fovea::AttentionProblem problem;
};

template <class Plan, class Args>
fovea_status plan_attention(
    const fovea_attention_problem* problem, fovea_pool* pool, Plan** out,
    std::span<const fovea::Kernel<fovea::AttentionProblem, Args>> (*kernels)(),
    const char* family) {
  const fovea_status status = plan(problem, pool, out, attention_of, kernels, family);
  if (status == FOVEA_OK) (*out)->problem = attention_of(*problem);
  return status;
}

}  // namespace

struct fovea_attention : AttentionPlan<fovea::AttentionArgs> {};
struct fovea_attention_backward : AttentionPlan<fovea::AttentionBackwardArgs> {};
struct fovea_attention_blocks : CPlan<fovea::AttentionBlocksArgs> {
  fovea::AttentionBlocksProblem problem;
};

extern "C" {

void fovea_attention_dense(fovea_attention_problem* problem, fovea_layout layout) {
  if (!problem) return;
  fovea_attention_problem sizes = *problem;
  // Strides know no type, and a wrong one is for the plan to refuse.
  sizes.type = FOVEA_F32;
  sizes.kv_type = FOVEA_SAME;
  sizes.align = FOVEA_LOWER_RIGHT;
  sizes.normaliser = FOVEA_SOFTMAX;
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
  problem->k_scale = copy(a.k_scale);
  problem->v_scale = copy(a.v_scale);
}

fovea_attention_problem fovea_attention_problem_of(int64_t batch, int64_t tokens, int64_t heads,
                                                   int64_t head_dim, fovea_layout layout) {
  fovea_attention_problem p = {};
  p.type = FOVEA_F32;
  p.kv_type = FOVEA_SAME;
  p.batch = batch;
  p.tq = p.tk = tokens;
  p.heads = p.kv_heads = p.heads_kept = heads;
  p.head_dim = p.value_dim = head_dim;
  p.scale = head_dim > 0 ? 1 / std::sqrt(static_cast<double>(head_dim)) : 0;
  p.window_left = p.window_right = -1;
  p.dilation = 1;
  p.softmax_temperature = 1;
  p.cosine_eps = fovea::AttentionProblem{}.cosine_eps;
  p.rotary_base = fovea::AttentionProblem{}.rotary_base;
  fovea_attention_dense(&p, layout);
  return p;
}

fovea_status fovea_attention_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                  fovea_attention** out) {
  return plan_attention(problem, pool, out, fovea::attention_kernels, "attention");
}
fovea_status fovea_attention_run(fovea_attention* plan, const fovea_attention_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    const fovea::AttentionArgs args{.q = a->q,
                                    .k = a->k,
                                    .v = a->v,
                                    .out = a->out,
                                    .lse = a->lse,
                                    .entropy = a->entropy,
                                    .mass = a->mass,
                                    .top_keys = a->top_keys,
                                    .top_probabilities = a->top_probabilities,
                                    .links = links_of(a->links),
                                    .k_scale = a->k_scale,
                                    .v_scale = a->v_scale,
                                    .pages = a->pages};
    fovea::attention_detail::check_memory(plan->problem, args);
    plan->run(args);
  });
}
const char* fovea_attention_kernel(const fovea_attention* plan) {
  return plan ? plan->kernel.c_str() : "";
}
void fovea_attention_destroy(fovea_attention* plan) { delete plan; }

fovea_status fovea_attention_backward_plan(const fovea_attention_problem* problem, fovea_pool* pool,
                                           fovea_attention_backward** out) {
  return plan_attention(problem, pool, out, fovea::attention_backward_kernels,
                        "attention_backward");
}
fovea_status fovea_attention_backward_run(fovea_attention_backward* plan,
                                          const fovea_attention_backward_args* a) {
  return guarded([&] {
    need(plan, "a plan");
    need(a, "args");
    const fovea::AttentionBackwardArgs args{.q = a->q,
                                            .k = a->k,
                                            .v = a->v,
                                            .out = a->out,
                                            .lse = a->lse,
                                            .dout = a->dout,
                                            .dq = a->dq,
                                            .dk = a->dk,
                                            .dv = a->dv,
                                            .links = links_of(a->links),
                                            .dbias = a->dbias,
                                            .ddistance_bias = a->ddistance_bias,
                                            .dsinks = a->dsinks,
                                            .dtemperatures = a->dtemperatures,
                                            .drelative_keys = a->drelative_keys,
                                            .dcontent_biases = a->dcontent_biases,
                                            .dposition_biases = a->dposition_biases,
                                            .dspans = a->dspans};
    fovea::attention_detail::check_memory(plan->problem, args);
    plan->run(args);
  });
}
const char* fovea_attention_backward_kernel(const fovea_attention_backward* plan) {
  return plan ? plan->kernel.c_str() : "";
}
void fovea_attention_backward_destroy(fovea_attention_backward* plan) { delete plan; }

fovea_status fovea_attention_blocks_plan(const fovea_attention_problem* problem, double mass,
                                         fovea_pool* pool, fovea_attention_blocks** out) {
  return guarded([&] {
    need(problem, "a problem");
    need(pool, "a pool");
    need(out, "a place for the plan");
    *out = nullptr;
    const fovea::AttentionBlocksProblem blocks{.attention = attention_of(*problem), .mass = mass};
    make_plan(fovea::attention_blocks_kernels(), blocks, pool, "attention_blocks", out);
    (*out)->problem = blocks;
  });
}
fovea_status fovea_attention_blocks_run(fovea_attention_blocks* plan, const void* q, const void* k,
                                        const fovea_attention_links* links, uint8_t* blocks) {
  return guarded([&] {
    need(plan, "a plan");
    const fovea::AttentionBlocksArgs args{
        .q = q,
        .k = k,
        .links = links ? links_of(*links) : fovea::AttentionLinks{},
        .blocks = blocks};
    fovea::attention_blocks_detail::check_memory(plan->problem, args);
    plan->run(args);
  });
}
void fovea_attention_blocks_destroy(fovea_attention_blocks* plan) { delete plan; }

}  // extern "C"
