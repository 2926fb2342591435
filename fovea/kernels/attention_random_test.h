// Problems of attention with some of everything, drawn at random for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "fovea/base/visit.h"
#include "fovea/kernels/attention_test.h"

namespace fovea::attention_test {

// Whole numbers and choices.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed, stream_id("attention_links_test")) {}
  int64_t of(int64_t least, int64_t most) {
    const double u = (random_.normal() + 4) / 8 * 7919;
    const double fraction = u - std::floor(u);
    return least + static_cast<int64_t>(fraction * static_cast<double>(most - least + 1));
  }
  bool one_in(int64_t n) { return of(1, n) == 1; }
  float normal() { return static_cast<float>(random_.normal()); }

 private:
  PhiloxStream random_;
};

inline int64_t pick(Dice& dice, std::initializer_list<int64_t> list) {
  return list.begin()[dice.of(0, static_cast<int64_t>(list.size()) - 1)];
}

inline AttentionPlane random_plane(Dice& dice, const AttentionProblem& p, bool whole_queries) {
  AttentionPlane plane;
  plane.query = whole_queries || !dice.one_in(4) ? p.tk : 0;
  const int64_t plane_size = plane.query == 0 ? p.tk : p.tq * p.tk;
  plane.head = dice.one_in(2) ? plane_size : 0;
  plane.batch = dice.one_in(2) ? (plane.head ? p.heads : 1) * plane_size : 0;
  return plane;
}
inline int64_t plane_elements(const AttentionProblem& p, const AttentionPlane& plane) {
  return (plane.batch ? p.batch : 1) * (plane.head ? p.heads : 1) * (plane.query ? p.tq : 1) * p.tk;
}

// A problem with some of everything; most_queries: 0 if there may be as many as keys.
inline AttentionProblem random_problem(Dice& dice, int64_t most_tokens, int64_t most_queries = 0) {
  AttentionProblem p;
  p.batch = dice.of(1, 3);
  p.tk = dice.of(1, most_tokens);
  p.tq = dice.one_in(2) ? p.tk : dice.of(1, most_tokens);
  if (most_queries > 0) p.tq = dice.of(1, most_queries);
  if (most_queries > 0 && dice.one_in(6)) p.tk = p.tq;
  p.kv_heads = dice.of(1, 2);
  p.heads = p.kv_heads * dice.of(1, 2);
  p.heads_kept = dice.one_in(4) ? dice.of(0, p.heads) : p.heads;
  p.head_dim = pick(dice, {4, 8, 16, 20, 64});
  p.value_dim = dice.one_in(2) ? p.head_dim : pick(dice, {4, 12, 32});
  p.scale = dice.one_in(5) ? -0.3 : 1 / std::sqrt(static_cast<double>(p.head_dim));
  p.causal = dice.one_in(3);
  if (dice.one_in(2)) p.align = AttentionAlign::upper_left;
  if (dice.one_in(2)) {
    p.window_left = dice.one_in(4) ? -1 : dice.of(0, 60);
    p.window_right = dice.one_in(3) ? -1 : dice.of(0, 60);
  }
  const bool windowed = p.window_left >= 0 || p.window_right >= 0;
  if (windowed && dice.one_in(3)) p.dilation = dice.of(2, 5);
  if (windowed && dice.one_in(3)) p.global_tokens = dice.of(1, 20);
  if ((windowed || p.causal) && dice.one_in(3)) p.prefix = dice.of(1, 40);
  if (p.tq == p.tk && dice.one_in(4)) p.documents = dice.of(1, 5);
  if (dice.one_in(4)) {
    p.mask = true;
    p.mask_plane = random_plane(dice, p, false);
  }
  if (dice.one_in(4)) {
    p.block = pick(dice, {16, 32, 48, 64, 80, 256});
    p.block_plane.query = (p.tk + p.block - 1) / p.block;
    const int64_t plane = (p.tq + p.block - 1) / p.block * p.block_plane.query;
    if (dice.one_in(2)) p.block_plane.head = plane;
    if (dice.one_in(2)) p.block_plane.batch = (p.block_plane.head ? p.heads : 1) * plane;
  }
  if (dice.one_in(3)) {
    p.bias = true;
    p.bias_plane = random_plane(dice, p, false);
  }
  p.distance_bias = dice.one_in(4);
  p.sink = dice.one_in(4);
  if (dice.one_in(4)) p.soft_cap = 1.5;
  p.want_lse = true;
  set_dense_strides(p, dice.one_in(2));
  return p;
}

// Rows of q and k changed, temperatures, or both, into a problem without.
inline void draw_row_changes(Dice& dice, AttentionProblem& p) {
  while (!p.cosine && p.rotary == 0 && !p.temperature) {
    p.cosine = dice.one_in(2);
    if (p.cosine && dice.one_in(3)) p.cosine_eps = 0.5;
    if (dice.one_in(2)) p.rotary = 2 * dice.of(1, p.head_dim / 2);
    if (dice.one_in(3)) p.rotary_base = 100;
    if (dice.one_in(2)) p.rotary_layout = RotaryLayout::halves;
    p.temperature = dice.one_in(2);
  }
  if (p.cosine) p.scale = dice.one_in(4) ? -2 : 1;
}

template <class T>
void randomise_links(Dice& dice, const AttentionProblem& p, Arrays<T>& a) {
  using Number = LseType<T>;
  if (dice.one_in(3))
    for (int64_t b = 0; b < p.batch; ++b)
      a.lengths.push_back(static_cast<int32_t>(dice.of(0, p.tk)));
  for (int64_t b = 0; p.documents > 0 && b < p.batch; ++b) {
    std::vector<int32_t> starts = {0, static_cast<int32_t>(p.tk)};
    for (int64_t n = 1; n < p.documents; ++n)
      starts.push_back(static_cast<int32_t>(dice.of(0, p.tk)));
    std::sort(starts.begin(), starts.end());
    a.documents.insert(a.documents.end(), starts.begin(), starts.end());
  }
  if (p.mask) {
    a.mask.resize(static_cast<size_t>(plane_elements(p, p.mask_plane)));
    // Runs of one value, so that whole blocks are hidden or seen.
    for (size_t i = 0; i < a.mask.size();) {
      const uint8_t value = dice.one_in(2) ? 0 : 255;
      for (int64_t n = pick(dice, {1, 3, 40, 400}); n > 0 && i < a.mask.size(); --n)
        a.mask[i++] = value;
    }
  }
  if (p.block > 0) {
    const int64_t rows = (p.block_plane.batch ? p.batch : 1) * (p.block_plane.head ? p.heads : 1) *
                         ((p.tq + p.block - 1) / p.block);
    for (int64_t n = 0; n < rows * p.block_plane.query; ++n)
      a.blocks.push_back(dice.one_in(2) ? 0 : 1);
  }
  const auto fill = [&](std::vector<Number>& x, int64_t count, float factor) {
    x.resize(static_cast<size_t>(count));
    for (Number& v : x) v = static_cast<Number>(dice.normal() * factor);
  };
  if (p.bias) {
    fill(a.bias, plane_elements(p, p.bias_plane), 1.0f);
    if (dice.one_in(3))
      for (Number& v : a.bias)
        if (dice.one_in(5)) v = -std::numeric_limits<Number>::infinity();
  }
  if (p.distance_bias) fill(a.distances, p.heads * (p.tq + p.tk - 1), 1.0f);
  if (p.sink) fill(a.sinks, p.heads, 2.0f);
}

inline std::string text_of(const AttentionProblem& p) {
  std::string s;
  for (int64_t n :
       {p.batch, p.tq, p.tk, p.heads, p.kv_heads, p.heads_kept, p.head_dim, p.value_dim,
        p.window_left, p.window_right, p.dilation, p.global_tokens, p.prefix, p.documents, p.block})
    s += " " + std::to_string(n);
  const auto add = [&](bool has, const char* name) {
    if (has) s += std::string(" ") + name;
  };
  add(p.causal, "causal");
  add(p.align == AttentionAlign::upper_left, "upper-left");
  add(p.mask, "mask");
  add(p.bias, "bias");
  add(p.distance_bias, "distance-bias");
  add(p.sink, "sink");
  add(p.soft_cap > 0, "soft-cap");
  add(p.cosine, "cosine");
  add(p.temperature, "temperature");
  add(p.relative_keys, "relative-keys");
  add(p.content_bias, "content-bias");
  add(p.position_bias, "position-bias");
  if (p.rotary > 0)
    s += " rotary " + std::to_string(p.rotary) + " " + std::string(enum_name(p.rotary_layout));
  if (p.span) s += " ramp " + std::to_string(p.span_ramp);
  if (p.dropout > 0) s += " dropout " + std::to_string(p.dropout);
  if (!attention_detail::by_softmax(p))
    s += " " + std::string(enum_name(p.normaliser.kind)) + " " + std::to_string(p.normaliser.top_k);
  return s;
}

}  // namespace fovea::attention_test
