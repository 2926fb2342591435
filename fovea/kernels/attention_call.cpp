#include "fovea/kernels/attention_call.h"

#include "fovea/kernels/planned.h"

namespace fovea {
namespace {

void need(const void* pointer, const char* name, const char* because = nullptr) {
  if (pointer) return;
  throw Error{ErrorCode::invalid_argument, std::string("[attention] expected ") + name +
                                               (because ? std::string(" with ") + because : "") +
                                               ", got a null pointer"};
}

void check_links(const AttentionProblem& p, const AttentionLinks& links) {
  if (p.documents > 0) need(links.document_starts, "links.document_starts", "documents");
  if (p.mask) need(links.mask, "links.mask", "mask");
  if (p.block > 0) need(links.blocks, "links.blocks", "block");
  if (p.bias) need(links.bias, "links.bias", "bias");
  if (p.distance_bias) need(links.distance_bias, "links.distance_bias", "distance_bias");
  if (p.sink) need(links.sinks, "links.sinks", "sink");
  if (p.temperature) need(links.temperatures, "links.temperatures", "temperature");
  if (p.relative_keys) need(links.relative_keys, "links.relative_keys", "relative_keys");
  if (p.content_bias) need(links.content_biases, "links.content_biases", "content_bias");
  if (p.position_bias) need(links.position_biases, "links.position_biases", "position_bias");
  if (p.span) need(links.spans, "links.spans", "span");
  if (p.dropout > 0) need(links.rng, "links.rng", "dropout");
  if (is_random(p.normaliser.kind)) need(links.rng, "links.rng", "a random normaliser");
}

template <class Args>
void check_operands(const AttentionProblem& p, const Args& args) {
  need(args.q, "q");
  need(args.k, "k");
  need(args.v, "v");
  need(args.out, "out");
  check_links(p, args.links);
}

template <class Args>
void call(std::span<const Kernel<AttentionProblem, Args>> kernels, const AttentionProblem& problem,
          const Args& args, ThreadPool* pool, const char* family) {
  if (pool) return make_planned(kernels, problem, *pool, family).run(args);
  ThreadPool alone(1);
  make_planned(kernels, problem, alone, family).run(args);
}

}  // namespace

namespace attention_detail {

void check_memory(const AttentionProblem& p, const AttentionArgs& args) {
  check_operands(p, args);
  if (p.want_entropy) need(args.entropy, "entropy", "want_entropy");
  if (p.want_mass) need(args.mass, "mass", "want_mass");
  if (p.top_links > 0) {
    need(args.top_keys, "top_keys", "top_links");
    need(args.top_probabilities, "top_probabilities", "top_links");
  }
  if (p.page_tokens > 0) need(args.pages, "pages", "page_tokens");
  if (p.kv_dtype == DType::i8) {
    need(args.k_scale, "k_scale", "a cache of i8");
    need(args.v_scale, "v_scale", "a cache of i8");
  }
}

void check_memory(const AttentionProblem& p, const AttentionBackwardArgs& args) {
  check_operands(p, args);
  if (by_softmax(p)) need(args.lse, "lse");
  need(args.dout, "dout");
  need(args.dq, "dq");
  need(args.dk, "dk");
  need(args.dv, "dv");
}

}  // namespace attention_detail

void attention(const AttentionProblem& problem, const AttentionArgs& args, ThreadPool* pool) {
  attention_detail::check_memory(problem, args);
  if (problem.want_lse) need(args.lse, "lse", "want_lse");
  call(attention_kernels(), problem, args, pool, "attention");
}

void attention_backward(const AttentionProblem& problem, const AttentionBackwardArgs& args,
                        ThreadPool* pool) {
  attention_detail::check_memory(problem, args);
  call(attention_backward_kernels(), problem, args, pool, "attention_backward");
}

}  // namespace fovea
