// Attention with every input and attribute that describes its links, and its gradient.
#include "tests/op_rows_attention.h"

namespace fovea::harness {

namespace {

const std::vector<AttentionCase>& cases() {
  static const std::vector<AttentionCase> all = {
      {"upper_left", 1, 4, 6, {.heads = 2, .causal = true, .upper_left = true}},
      {"dilated", 1, 9, 9, {.heads = 2, .window_left = 6, .window_right = 4, .dilation = 3}},
      {"dilated_causal", 1, 5, 9, {.causal = true, .window_left = 6, .dilation = 2}},
      {"global", 2, 9, 9, {.heads = 2, .window_left = 1, .window_right = 1, .global_tokens = 2}},
      {"global_causal",
       1,
       8,
       8,
       {.causal = true, .window_left = 1, .window_right = -1, .global_tokens = 3}},
      {"prefix", 1, 7, 7, {.heads = 2, .causal = true, .prefix = 3}},
      {"prefix_window", 1, 7, 7, {.window_left = 1, .window_right = 0, .prefix = 2}},
      {.label = "lengths", .batch = 3, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .lengths = true},
      {.label = "documents",
       .batch = 2,
       .tq = 8,
       .tk = 8,
       .attrs = {.heads = 2, .causal = true},
       .documents = true},
      {.label = "mask", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .mask = true},
      {.label = "mask_of_keys",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .mask = true,
       .heads = false,
       .queries = false},
      {.label = "bias", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .bias = true},
      {.label = "bias_of_heads",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 4, .kv_heads = 2},
       .bias = true,
       .batches = false},
      {.label = "bias_for_all",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .bias = true,
       .batches = false,
       .heads = false},
      {.label = "bias_of_keys",
       .batch = 2,
       .tq = 4,
       .tk = 5,
       .attrs = {.heads = 2},
       .bias = true,
       .heads = false,
       .queries = false},
      {.label = "distances",
       .batch = 2,
       .tq = 4,
       .tk = 6,
       .attrs = {.heads = 2, .causal = true},
       .distances = true},
      {.label = "distances_of_one_query",
       .batch = 1,
       .tq = 1,
       .tk = 6,
       .attrs = {.heads = 2},
       .distances = true},
      {.label = "sink", .batch = 2, .tq = 4, .tk = 5, .attrs = {.heads = 2}, .sink = true},
      {.label = "sink_of_blind_queries",
       .batch = 1,
       .tq = 5,
       .tk = 3,
       .attrs = {.heads = 2, .causal = true},
       .sink = true},
      {"soft_cap", 2, 4, 5, {.heads = 2, .soft_cap = 1.5}},
      {.label = "all_together",
       .batch = 2,
       .tq = 8,
       .tk = 8,
       .attrs = {.heads = 4,
                 .kv_heads = 2,
                 .causal = true,
                 .window_left = 3,
                 .global_tokens = 1,
                 .prefix = 2,
                 .soft_cap = 2},
       .lengths = true,
       .documents = true,
       .mask = true,
       .bias = true,
       .distances = true,
       .sink = true},
      {.label = "blocks_of_links",
       .batch = 2,
       .tq = 40,
       .tk = 70,
       .attrs = {.heads = 2, .block = 16},
       .gradient = false},
      {.label = "long_together",
       .batch = 1,
       .tq = 150,
       .tk = 150,
       .attrs = {.heads = 2, .window_left = 40, .window_right = 9, .prefix = 20, .block = 32},
       .lengths = true,
       .mask = true,
       .bias = true,
       .distances = true,
       .sink = true,
       .batches = false,
       .gradient = false},
  };
  return all;
}

}  // namespace

namespace {

// Lists of blocks made from data; 1 and 0 are as good as numbers.
OpRow blocks_row(std::string label, int64_t tq, int64_t tk, AttentionBlocksAttrs attrs,
                 bool lengths = false) {
  return {.op = "attention_blocks",
          .label = std::move(label),
          .build = [=](Graph& g, DType dtype) -> std::vector<Value> {
            const Value q = ops::input(g, "q", dtype, {2, tq, attrs.heads * 8});
            const Value k = ops::input(g, "k", dtype, {2, tk, attrs.kv() * 8});
            const Value length = lengths ? ops::input(g, "lengths", DType::i32, {2}) : Value{};
            return {ops::attention_blocks(g, q, k, attrs, length)};
          },
          .ranges = {{"q", {-9, 9}}, {"k", {-9, 9}}, {"lengths", {0, static_cast<double>(tk), 1}}}};
}

}  // namespace

std::vector<OpRow> attention_link_rows() {
  std::vector<OpRow> rows;
  for (const AttentionCase& c : cases()) add_with_gradient(rows, c);
  rows.push_back(blocks_row("list", 70, 100, {.heads = 2, .block = 16, .mass = 0.7}));
  rows.push_back(blocks_row(
      "list_causal", 90, 90,
      {.heads = 4, .kv_heads = 2, .causal = true, .prefix = 9, .block = 32, .mass = 0.8}));
  rows.push_back(blocks_row(
      "list_window", 64, 80,
      {.window_left = 30, .window_right = 9, .global_tokens = 3, .block = 16, .mass = 0.5}, true));
  return rows;
}

}  // namespace fovea::harness
