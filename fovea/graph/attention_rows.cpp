#include "fovea/graph/attention_rows.h"

#include <fmt/format.h>

#include <cmath>

#include "fovea/graph/head_values.h"
#include "fovea/graph/ops.h"

namespace fovea::attention_rows {

namespace {

// f64 [T,1]: the place of each token among all; of query i, i + Tk - Tq.
Value positions(Graph& g, const Size& tokens, const Size* keys) {
  Value place = ops::iota(g, DType::i32, {tokens, 1}, 0);
  if (keys) {
    // From the last of each, since the sizes may be unknown.
    const auto last = [&](Value v) { return g.add("reduce_max", {v}, ReduceAttrs{{0}, true}); };
    place = ops::sub(g, place, last(place));
    place = ops::add(g, place, last(ops::iota(g, DType::i32, {*keys, 1}, 0)));
  }
  return ops::cast(g, place, DType::f64);
}

// x [B,T,H,D] with rows divided by sqrt(|x|^2 + eps).
Value normalised(Graph& g, Value x, double eps) {
  const Value power = ops::reduce_sum(g, ops::mul(g, x, x), {-1}, true);
  const Value small = ops::constant(g, eps, g.type(x).dtype);
  return ops::mul(g, x, ops::unary(g, "rsqrt", ops::add(g, power, small)));
}

// x [B,T,H,D] with its first coordinates turned by the positions [T,1].
Value rotated(Graph& g, Value x, Value place, const AttentionAttrs& a) {
  const Shape s = g.shape(x);
  const int64_t half = a.rotary / 2, rest = s[3].constant() - a.rotary;
  // Angles of thousands of turns keep their digits in f64 only.
  const Value places = ops::cast(g, ops::iota(g, DType::i32, {1, half}, 1), DType::f64);
  const double step = -2 * std::log(a.rotary_base) / static_cast<double>(a.rotary);
  const Value angles = ops::mul(g, place, ops::unary(g, "exp", ops::scaled(g, places, step)));
  const bool pairs = a.rotary_layout == RotaryLayout::pairs;
  const Shape each = pairs ? Shape{s[1], 1, half, 1} : Shape{s[1], 1, 1, half};
  const auto factor = [&](std::string_view op) {
    return ops::reshape(g, ops::cast(g, ops::unary(g, op, angles), g.type(x).dtype), each);
  };
  const Value cosine = factor("cos"), sine = factor("sin");
  // Pairs lie [..,R/2,2], halves [..,2,R/2].
  const int64_t axis = pairs ? 4 : 3;
  const Value turned =
      ops::reshape(g, rest == 0 ? x : ops::slice(g, x, 3, 0, a.rotary),
                   pairs ? Shape{s[0], s[1], s[2], half, 2} : Shape{s[0], s[1], s[2], 2, half});
  const Value first = ops::slice(g, turned, axis, 0, 1), second = ops::slice(g, turned, axis, 1, 1);
  const Value y = ops::concat(g,
                              {ops::sub(g, ops::mul(g, first, cosine), ops::mul(g, second, sine)),
                               ops::add(g, ops::mul(g, second, cosine), ops::mul(g, first, sine))},
                              axis);
  const Value flat = ops::reshape(g, y, {s[0], s[1], s[2], a.rotary});
  return rest == 0 ? flat : ops::concat(g, {flat, ops::slice(g, x, 3, a.rotary, rest)}, 3);
}

// W [B,Hkv,G,Tq,Tq+Tk-1] -> [B,Hkv,G,Tq,Tk], element j - i + Tq - 1 of each query. Rows one longer
// than what is read of them shift by one from query to query.
Value skewed(Graph& g, Value w, const Size& tk) {
  const Shape s = g.shape(w);
  const Size &tq = s[3], &length = s[4];
  w = ops::pad(g, w, 4, 0, 1);
  w = ops::reshape(g, w, {s[0], s[1], s[2], tq * (length + Size(1))});
  w = ops::slice(g, w, 3, tq - Size(1), tq * length);
  return ops::slice(g, ops::reshape(g, w, s), 4, 0, tk);
}

bool changes(const AttentionAttrs& a) { return a.cosine || a.rotary > 0; }

Value changed(Graph& g, Value x, Value place, const AttentionAttrs& a) {
  if (a.cosine) x = normalised(g, x, a.cosine_eps);
  return a.rotary > 0 ? rotated(g, x, place, a) : x;
}

Value by_heads(Graph& g, Value x, int64_t heads) {
  const Shape s = g.shape(x);
  return ops::reshape(g, x, {s[0], s[1], heads, s[2].constant() / heads});
}

// q [B,Tq,H*D] as it meets keys or relative keys, [B,Hkv,G,Tq,D]; bias: the input to add.
Value queries(Graph& g, Value q, std::span<const Value> in, const AttentionAttrs& a, const Size& tk,
              AttentionLink bias) {
  const int temperature = a.input(AttentionLink::temperature), added = a.input(bias);
  const Shape s = g.shape(q);
  if (changes(a) || temperature >= 0 || added >= 0) {
    const Value place = a.rotary > 0 ? positions(g, s[1], a.upper_left ? nullptr : &tk) : Value{};
    Value x = changed(g, by_heads(g, q, a.heads), place, a);
    const auto of_heads = [&](int input, const Size& size) {
      return ops::reshape(g, in[static_cast<size_t>(input)], {1, 1, a.heads, size});
    };
    if (added >= 0) x = ops::add(g, x, of_heads(added, s[2].constant() / a.heads));
    if (temperature >= 0) x = ops::mul(g, x, of_heads(temperature, 1));
    q = ops::reshape(g, x, s);
  }
  return split_heads(g, q, a.kv(), a.heads / a.kv());
}

// k [B,Tk,Hkv*D] as its products read it, [B,Hkv,1,Tk,D].
Value keys(Graph& g, Value k, const AttentionAttrs& a) {
  if (changes(a)) {
    const Shape s = g.shape(k);
    const Value place = a.rotary > 0 ? positions(g, s[1], nullptr) : Value{};
    k = ops::reshape(g, changed(g, by_heads(g, k, a.kv()), place, a), s);
  }
  return split_heads(g, k, a.kv(), 1);
}

}  // namespace

void check(const InferContext& c, const AttentionAttrs& a, int64_t head_size, const Size& tq,
           const Size& tk) {
  c.expect(a.rotary >= 0 && a.rotary % 2 == 0 && a.rotary <= head_size,
           fmt::format("expected rotary={} to be even, and at most the head size {}", a.rotary,
                       head_size));
  c.expect(a.rotary_base > 0 && std::isfinite(a.rotary_base),
           fmt::format("expected a finite rotary_base={} above 0", a.rotary_base));
  c.expect(a.cosine_eps >= 1e-30 && std::isfinite(a.cosine_eps),
           fmt::format("expected a finite cosine_eps={} of at least 1e-30", a.cosine_eps));
  c.expect(a.relative_keys || !a.content_bias, "expected relative_keys with content_bias");
  c.expect(a.relative_keys || !a.position_bias, "expected relative_keys with position_bias");
  c.expect(!a.relative_keys || !a.cosine, "expected no cosine with relative_keys");
  c.expect(!a.relative_keys || a.rotary == 0,
           fmt::format("expected no rotary={} with relative_keys", a.rotary));
  const DType floating = c.inputs[0].dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto expect = [&](AttentionLink link, std::string_view name, const Shape& shape) {
    const int at = a.input(link);
    if (at < 0) return;
    const ValueType wanted{floating, shape}, &type = c.inputs[static_cast<size_t>(at)];
    c.expect(type == wanted,
             fmt::format("expected {} to be {}, got {}", name, to_text(wanted), to_text(type)));
  };
  expect(AttentionLink::relative_keys, "relative_keys", {a.kv(), tq + tk - Size(1), head_size});
  expect(AttentionLink::content_bias, "content_bias", {a.heads, head_size});
  expect(AttentionLink::position_bias, "position_bias", {a.heads, head_size});
}

Value products(Graph& g, Value q, Value k, std::span<const Value> in, const AttentionAttrs& a) {
  const Size tk = g.shape(k)[1];
  Value s = ops::matmul(g, queries(g, q, in, a, tk, AttentionLink::content_bias), keys(g, k, a),
                        {.transpose_b = true});
  const int relative = a.input(AttentionLink::relative_keys);
  if (relative < 0) return s;
  const Value r = in[static_cast<size_t>(relative)];
  const Shape rs = g.shape(r);
  const Value by_distance =
      ops::matmul(g, queries(g, q, in, a, tk, AttentionLink::position_bias),
                  ops::reshape(g, r, {1, rs[0], 1, rs[1], rs[2]}), {.transpose_b = true});
  return ops::add(g, s, skewed(g, by_distance, tk));
}

}  // namespace fovea::attention_rows
