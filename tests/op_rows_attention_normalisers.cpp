// Attention with each normaliser, alone and with masks, biases and sinks, and its gradient.
#include "tests/op_rows_attention.h"

namespace fovea::harness {

namespace {

std::vector<AttentionCase> cases() {
  const std::pair<std::string, AttentionAttrs> all[] = {
      {"top_k", {.heads = 2, .normaliser = Normaliser::top_k, .top_k = 3}},
      {"sparsemax", {.heads = 2, .normaliser = Normaliser::sparsemax}},
      {"entmax15", {.heads = 2, .normaliser = Normaliser::entmax15}},
      {"hard", {.heads = 2, .normaliser = Normaliser::hard, .softmax_temperature = 0.5}},
      {"gumbel", {.heads = 2, .normaliser = Normaliser::gumbel, .softmax_temperature = 0.8}},
      {"gumbel_hard", {.heads = 2, .normaliser = Normaliser::gumbel_hard}}};
  std::vector<AttentionCase> cases;
  for (const auto& [name, given] : all) {
    AttentionAttrs attrs = given;
    attrs.stream = is_random(attrs.normaliser) ? "sample" : "";
    const bool gradient = !is_hard(attrs.normaliser);
    cases.push_back(
        {.label = name, .batch = 2, .tq = 4, .tk = 7, .attrs = attrs, .gradient = gradient});
    AttentionCase linked = cases.back();
    linked.label = name + "_with_links";
    linked.tq = linked.tk = 6;
    linked.attrs.heads = 4;
    linked.attrs.kv_heads = 2;
    linked.attrs.causal = true;
    linked.attrs.window_left = 4;
    linked.attrs.prefix = 2;
    linked.attrs.soft_cap = 2;
    linked.attrs.heads_kept = 3;
    linked.lengths = linked.mask = linked.bias = linked.distances = true;
    linked.sink = attrs.normaliser == Normaliser::top_k;
    cases.push_back(linked);
    AttentionCase longer{name + "_long", 1, 150, 300, attrs};
    longer.attrs.block = 16;
    longer.attrs.window_left = 120;
    longer.attrs.window_right = 40;
    longer.bias = true;
    longer.gradient = false;
    if (longer.attrs.top_k > 0) longer.attrs.top_k = 20;
    cases.push_back(longer);
  }
  return cases;
}

}  // namespace

std::vector<OpRow> attention_normaliser_rows() {
  std::vector<OpRow> rows;
  for (const AttentionCase& c : cases()) add_with_gradient(rows, c);
  return rows;
}

}  // namespace fovea::harness
