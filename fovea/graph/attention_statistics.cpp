#include "fovea/graph/attention_statistics.h"

#include "fovea/graph/ops.h"

namespace fovea::attention_statistics {

namespace {

// [B,Hkv,G,..] -> [B,H,..], with zeros for the heads that are not kept.
Value by_heads(Graph& g, Value v, const AttentionAttrs& a) {
  Shape s = g.shape(v);
  s.erase(s.begin() + 2);
  s[1] = a.heads;
  v = ops::reshape(g, v, s);
  const int64_t dropped = a.heads - a.kept();
  return dropped > 0 ? ops::pad(g, ops::slice(g, v, 1, 0, a.kept()), 1, 0, dropped) : v;
}

// Keys and probabilities of the strongest links, by taking the strongest one so many times.
std::pair<Value, Value> top_links(Graph& g, Value probabilities, const AttentionAttrs& a) {
  Value left = by_heads(g, probabilities, a);
  const DType dtype = g.type(left).dtype;
  const Value place = ops::iota(g, DType::i32, {1, 1, 1, g.shape(left)[3]}, 3);
  const Value zero = ops::constant(g, 0, dtype), minus_one = ops::constant(g, -1, dtype);
  const Value none = ops::constant(g, -1, DType::i32);
  const Value beyond = ops::constant(g, 0x7fffffff, DType::i32);
  std::vector<Value> keys, values;
  for (int64_t n = 0; n < a.top_links; ++n) {
    const Value most = g.add("reduce_max", {left}, ReduceAttrs{{-1}, true});
    Value key = ops::select(g, ops::binary(g, "equal", left, most), place, beyond);
    key = g.add("reduce_min", {key}, ReduceAttrs{{-1}, true});
    const Value found = ops::binary(g, "greater", most, zero);
    keys.push_back(ops::select(g, found, key, none));
    values.push_back(ops::select(g, found, most, zero));
    if (n + 1 < a.top_links)
      left = ops::select(g, ops::binary(g, "equal", place, key), minus_one, left);
  }
  return {ops::concat(g, keys, 3), ops::concat(g, values, 3)};
}

}  // namespace

std::vector<Value> of(Graph& g, Value scores, Value probabilities, const AttentionAttrs& a) {
  std::vector<Value> results;
  if (a.lse || a.entropy) {
    const DType dtype = g.type(scores).dtype;
    const Value zero = ops::constant(g, 0, dtype), one = ops::constant(g, 1, dtype);
    Value most = g.add("reduce_max", {scores}, ReduceAttrs{{-1}, true});
    // A query that sees no key has -inf, not NaN.
    most = ops::select(g, ops::unary(g, "is_finite", most), most, zero);
    const Value x = ops::sub(g, scores, most);
    const Value e = ops::unary(g, "exp", x);
    const Value sum = ops::reduce_sum(g, e, {-1}, true);
    const auto flat = [&](Value v) {
      Shape s = g.shape(v);
      s.pop_back();
      return by_heads(g, ops::reshape(g, v, s), a);
    };
    if (a.lse) results.push_back(flat(ops::add(g, ops::unary(g, "log", sum), most)));
    if (a.entropy) {
      // log sum - sum of e x / sum, where hidden links and queries without keys count nothing.
      const Value some = ops::select(g, ops::binary(g, "greater", sum, zero), sum, one);
      const Value seen = ops::select(g, ops::unary(g, "is_finite", x), x, zero);
      const Value surprise = ops::reduce_sum(g, ops::mul(g, e, seen), {-1}, true);
      results.push_back(
          flat(ops::sub(g, ops::unary(g, "log", some), ops::binary(g, "div", surprise, some))));
    }
  }
  if (a.mass) results.push_back(by_heads(g, ops::reduce_sum(g, probabilities, {3}), a));
  if (a.top_links > 0) {
    const auto [keys, values] = top_links(g, probabilities, a);
    results.insert(results.end(), {keys, values});
  }
  return results;
}

}  // namespace fovea::attention_statistics
