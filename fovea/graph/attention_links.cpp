#include "fovea/graph/attention_links.h"

#include <fmt/format.h>

#include <cmath>

#include "fovea/base/visit.h"
#include "fovea/graph/ops.h"

namespace fovea::attention_links {

namespace {

Value input_of(std::span<const Value> in, const AttentionAttrs& a, AttentionLink link) {
  const int at = a.input(link);
  return at < 0 ? Value{} : in[static_cast<size_t>(at)];
}

Value whole(Graph& g, int64_t n) { return ops::constant(g, static_cast<double>(n), DType::i32); }
Value both(Graph& g, Value a, Value b) {
  return !a ? b : !b ? a : ops::binary(g, "logical_and", a, b);
}
Value either(Graph& g, Value a, Value b) {
  return !a ? b : !b ? a : ops::binary(g, "logical_or", a, b);
}
Value at_most(Graph& g, Value a, Value b) { return ops::binary(g, "less_equal", a, b); }
Value below(Graph& g, Value a, Value b) { return ops::binary(g, "less", a, b); }

// [B|1,H|1,X,Y] -> [B|1,Hkv|1,G|1,X,Y]
Value by_groups(Graph& g, Value v, const AttentionAttrs& a) {
  const Shape s = g.shape(v);
  const bool each = s[1] == Size(a.heads) && a.heads > 1;
  return ops::reshape(
      g, v,
      {s[0], each ? Size(a.kv()) : Size(1), each ? Size(a.heads / a.kv()) : Size(1), s[2], s[3]});
}

// Positions of queries, i32 [Tq,1].
Value query_positions(Graph& g, const AttentionAttrs& a, const Size& tq, Value key) {
  Value query = ops::iota(g, DType::i32, {tq, 1}, 0);
  if (!a.upper_left) {
    // i + Tk - Tq, from the last of each, since the sizes may be unknown.
    query = ops::sub(g, query, g.add("reduce_max", {query}, ReduceAttrs{{0}, true}));
    query = ops::add(g, query, g.add("reduce_max", {key}, ReduceAttrs{{1}, true}));
  }
  return query;
}
// i32 [Tq,Tk]: how far the key stands to the right of the query.
Value keys_ahead(Graph& g, const AttentionAttrs& a, const Size& tq, const Size& tk) {
  const Value key = ops::iota(g, DType::i32, {1, tk}, 1);
  return ops::sub(g, key, query_positions(g, a, tq, key));
}

}  // namespace

Value by_position(Graph& g, const AttentionAttrs& a, const Size& tq, const Size& tk) {
  const bool windowed = a.window_left >= 0 || a.window_right >= 0;
  if (!a.causal && !windowed) return {};
  const Value key = ops::iota(g, DType::i32, {1, tk}, 1);
  const Value query = query_positions(g, a, tq, key);
  const Value ahead = ops::sub(g, key, query);
  const int64_t right = a.causal ? 0 : a.window_right;
  Value seen;
  if (right >= 0) seen = at_most(g, ahead, whole(g, right));
  if (a.window_left >= 0)
    seen = both(g, seen, ops::binary(g, "greater_equal", ahead, whole(g, -a.window_left)));
  if (a.dilation > 1) {
    // d floor(|x| / d) = |x|; half a step keeps the quotient clear of rounding.
    const Value distance = ops::unary(g, "abs", ops::cast(g, ahead, DType::f32));
    const double d = static_cast<double>(a.dilation);
    const Value half = ops::constant(g, 0.5 / d, DType::f32);
    const Value times = ops::unary(g, "floor", ops::add(g, ops::scaled(g, distance, 1 / d), half));
    seen = both(g, seen, ops::binary(g, "equal", ops::scaled(g, times, d), distance));
  }
  if (a.global_tokens > 0) {
    seen = either(g, seen, below(g, key, whole(g, a.global_tokens)));
    seen = either(g, seen, below(g, query, whole(g, a.global_tokens)));
    if (a.causal) seen = both(g, seen, at_most(g, ahead, whole(g, 0)));
  }
  if (a.prefix > 0) seen = either(g, seen, below(g, key, whole(g, a.prefix)));
  return seen;
}

namespace {

// [1,Hkv,G,Tq,Tk]: z + R - |p - j| for the span z of each head and its ramp R.
Value span_left(Graph& g, Value span, const AttentionAttrs& a, const Size& tq, const Size& tk) {
  const DType dtype = g.type(span).dtype;
  const Value distance =
      ops::cast(g, ops::unary(g, "abs", ops::cast(g, keys_ahead(g, a, tq, tk), DType::f32)), dtype);
  const Value ends = ops::add(g, span, ops::constant(g, a.span_ramp, dtype));
  return ops::sub(g, ops::reshape(g, ends, {1, a.kv(), a.heads / a.kv(), 1, 1}), distance);
}

// bool [B,1,1,Tq,Tk]: the links within a document.
Value by_document(Graph& g, Value starts, const Size& tokens) {
  const Shape s = g.shape(starts);
  const Value place = ops::iota(g, DType::i32, {1, 1, tokens}, 2);
  const Value begun = at_most(g, ops::reshape(g, starts, {s[0], s[1], 1}), place);
  const Value document = ops::reduce_sum(g, ops::cast(g, begun, DType::f32), {1});  // [B,T]
  return ops::binary(g, "equal", ops::reshape(g, document, {s[0], 1, 1, tokens, 1}),
                     ops::reshape(g, document, {s[0], 1, 1, 1, tokens}));
}

// Each row and column `times` times, cut to [..,rows,columns]; one row stays one.
Value repeated(Graph& g, Value blocks, int64_t times, const Size& rows, const Size& columns) {
  const auto along = [&](Value v, int64_t axis, const Size& length) {
    const Shape s = g.shape(v);
    Shape wide = s, flat = s;
    const auto at = static_cast<size_t>(axis);
    wide.insert(wide.begin() + axis + 1, Size(times));
    Shape thin = wide;
    thin[at + 1] = 1;
    flat[at] = s[at] * Size(times);
    v = ops::broadcast(g, ops::reshape(g, v, thin), wide);
    return ops::slice(g, ops::reshape(g, v, flat), axis, 0, length);
  };
  if (g.shape(blocks)[3] != Size(1)) blocks = along(blocks, 3, rows);
  return along(blocks, 4, columns);
}

// [H,Tq+Tk-1] -> [1,Hkv,G,Tq,Tk], element j - i + Tq - 1 of each head. Rows one longer than what is
// read of them shift by one from query to query.
Value by_distance(Graph& g, Value table, const AttentionAttrs& a, const Size& tq, const Size& tk) {
  const Size length = tq + tk - Size(1);
  Value v = ops::pad(g, table, 1, 0, 1);
  v = ops::broadcast(g, ops::reshape(g, v, {a.heads, 1, length + Size(1)}),
                     {a.heads, tq, length + Size(1)});
  v = ops::reshape(g, v, {a.heads, tq * (length + Size(1))});
  v = ops::slice(g, v, 1, tq - Size(1), tq * length);
  v = ops::slice(g, ops::reshape(g, v, {a.heads, tq, length}), 2, 0, tk);
  return ops::reshape(g, v, {1, a.kv(), a.heads / a.kv(), tq, tk});
}

void check_plane(const InferContext& c, const AttentionAttrs& a, AttentionLink link,
                 std::string_view name, DType dtype, const Shape& whole) {
  const int at = a.input(link);
  if (at < 0) return;
  const ValueType& type = c.inputs[static_cast<size_t>(at)];
  bool fits = type.dtype == dtype && type.rank() == 4 && type.shape[3] == whole[3];
  for (size_t axis = 0; axis < 3 && fits; ++axis)
    fits = type.shape[axis] == Size(1) || type.shape[axis] == whole[axis];
  c.expect(fits, fmt::format("expected {} to be {} {} with sizes of 1 where it is repeated, got {}",
                             name, dtype_name(dtype), to_text(whole), to_text(type)));
}

}  // namespace

void check(const InferContext& c, const AttentionAttrs& a, const Size& batch, const Size& tq,
           const Size& tk) {
  const bool windowed = a.window_left >= 0 || a.window_right >= 0;
  c.expect(a.dilation >= 1, fmt::format("expected dilation={} to be at least 1", a.dilation));
  c.expect(
      a.dilation == 1 || windowed,
      fmt::format("expected a window (window_left or window_right) with dilation={}", a.dilation));
  c.expect(a.global_tokens >= 0 && a.prefix >= 0,
           fmt::format("expected global_tokens={} and prefix={} of at least 0", a.global_tokens,
                       a.prefix));
  c.expect(a.global_tokens == 0 || windowed,
           fmt::format("expected a window (window_left or window_right) with global_tokens={}",
                       a.global_tokens));
  c.expect(a.prefix == 0 || a.causal || windowed,
           fmt::format("expected causal or a window with prefix={}", a.prefix));
  c.expect(a.block >= 0 && a.block % 16 == 0,
           fmt::format("expected block={} to be a multiple of 16, or 0", a.block));
  c.expect(a.soft_cap >= 0 && std::isfinite(a.soft_cap),
           fmt::format("expected a soft_cap={} of at least 0", a.soft_cap));
  if (const auto fault = fault_of(a.normaliser, a.top_k, a.softmax_temperature)) c.fail(*fault);
  const bool softmax = a.normaliser == Normaliser::softmax;
  c.expect(!a.sink || softmax || a.normaliser == Normaliser::top_k,
           fmt::format("expected no sink with normaliser={}", enum_name(a.normaliser)));
  c.expect(a.top_links >= 0 && a.top_links <= 1024,
           fmt::format("expected top_links={} between 0 and 1024", a.top_links));
  c.expect(softmax || (!a.entropy && !a.mass && a.top_links == 0),
           fmt::format("expected no entropy, mass or top_links with normaliser={}",
                       enum_name(a.normaliser)));
  c.expect(a.span == (a.span_ramp != 0) && a.span_ramp >= 0 && std::isfinite(a.span_ramp),
           fmt::format("expected the input span with a span_ramp above 0, and only there, got "
                       "span={} and span_ramp={}",
                       a.span, a.span_ramp));
  c.expect(a.dropout >= 0 && a.dropout < 1,
           fmt::format("expected dropout={} from 0 up to, not including, 1", a.dropout));
  c.expect(a.dropout == 0 || softmax, fmt::format("expected no dropout={} with normaliser={}",
                                                  a.dropout, enum_name(a.normaliser)));
  c.expect(a.is_random() == !a.stream.empty(),
           fmt::format("expected the name of a random stream with dropout or a random normaliser, "
                       "and only there, got dropout={}, normaliser={} and stream='{}'",
                       a.dropout, enum_name(a.normaliser), a.stream));
  const auto expect = [&](AttentionLink link, std::string_view name, const ValueType& wanted) {
    const int at = a.input(link);
    if (at < 0) return;
    const ValueType& type = c.inputs[static_cast<size_t>(at)];
    c.expect(type == wanted,
             fmt::format("expected {} to be {}, got {}", name, to_text(wanted), to_text(type)));
  };
  const DType floating = c.inputs[0].dtype == DType::f64 ? DType::f64 : DType::f32;
  expect(AttentionLink::lengths, "lengths", {DType::i32, {batch}});
  if (const int at = a.input(AttentionLink::documents); at >= 0) {
    const ValueType& type = c.inputs[static_cast<size_t>(at)];
    c.expect(type.dtype == DType::i32 && type.rank() == 2 && type.shape[0] == batch &&
                 type.shape[1].is_constant() && type.shape[1].constant() >= 2,
             fmt::format("expected documents to be i32 [B,N+1], got {}", to_text(type)));
    c.same(tq, tk, "the lengths of q and k, with documents");
  }
  check_plane(c, a, AttentionLink::mask, "mask", DType::boolean, {batch, a.heads, tq, tk});
  if (a.block > 0)
    check_plane(c, a, AttentionLink::blocks, "blocks", DType::boolean,
                {batch, a.heads, ceildiv(tq, a.block), ceildiv(tk, a.block)});
  check_plane(c, a, AttentionLink::bias, "bias", floating, {batch, a.heads, tq, tk});
  expect(AttentionLink::distance_bias, "distance_bias", {floating, {a.heads, tq + tk - Size(1)}});
  expect(AttentionLink::sink, "sink", {floating, {a.heads}});
  expect(AttentionLink::temperature, "temperature", {floating, {a.heads}});
  expect(AttentionLink::rng, "rng", {DType::i32, {3}});
  expect(AttentionLink::span, "span", {floating, {a.heads}});
}

Value scores(Graph& g, Value s, std::span<const Value> in, const AttentionAttrs& a, const Size& tq,
             const Size& tk) {
  if (a.soft_cap > 0)
    s = ops::scaled(g, ops::unary(g, "tanh", ops::scaled(g, s, 1 / a.soft_cap)), a.soft_cap);
  if (const Value bias = input_of(in, a, AttentionLink::bias))
    s = ops::add(g, s, by_groups(g, bias, a));
  if (const Value table = input_of(in, a, AttentionLink::distance_bias))
    s = ops::add(g, s, by_distance(g, table, a, tq, tk));
  Value seen = by_position(g, a, tq, tk);
  if (const Value span = input_of(in, a, AttentionLink::span)) {
    const Value left = span_left(g, span, a, tq, tk);
    const Value ramp = ops::constant(g, a.span_ramp, g.type(s).dtype);
    const Value zero = ops::constant(g, 0, g.type(s).dtype);
    const Value one = ops::constant(g, 1, g.type(s).dtype);
    const Value there = ops::binary(g, "greater", left, zero);
    const Value fades = both(g, there, below(g, left, ramp));
    const Value share = ops::select(g, fades, ops::scaled(g, left, 1 / a.span_ramp), one);
    s = ops::add(g, s, ops::unary(g, "log", share));
    seen = both(g, seen, there);
  }
  if (const Value lengths = input_of(in, a, AttentionLink::lengths)) {
    const Value length = ops::reshape(g, lengths, {g.shape(lengths)[0], 1, 1, 1, 1});
    seen = both(g, seen, below(g, ops::iota(g, DType::i32, {1, 1, 1, 1, tk}, 4), length));
  }
  if (const Value starts = input_of(in, a, AttentionLink::documents))
    seen = both(g, seen, by_document(g, starts, tk));
  if (const Value mask = input_of(in, a, AttentionLink::mask))
    seen = both(g, seen, by_groups(g, mask, a));
  if (const Value blocks = input_of(in, a, AttentionLink::blocks))
    seen = both(g, seen, repeated(g, by_groups(g, blocks, a), a.block, tq, tk));
  if (!seen) return s;
  return ops::select(g, seen, s, ops::constant(g, -INFINITY, g.type(s).dtype));
}

Value with_sink(Graph& g, Value s, std::span<const Value> in, const AttentionAttrs& a) {
  const Value sink = input_of(in, a, AttentionLink::sink);
  if (!sink) return s;
  Shape shape = g.shape(s);
  shape[4] = 1;
  const Value column = ops::reshape(g, sink, {1, a.kv(), a.heads / a.kv(), 1, 1});
  return ops::concat(g, {s, ops::broadcast(g, column, shape)}, 4);
}

Value weights(Graph& g, Value s, std::span<const Value> in, const AttentionAttrs& a) {
  const Size keys = g.shape(s)[4];
  if (a.normaliser != Normaliser::softmax) {
    const Value kept = ops::normalise(g, s,
                                      {.normaliser = a.normaliser,
                                       .top_k = a.top_k,
                                       .softmax_temperature = a.softmax_temperature,
                                       .stream = a.noise_stream()},
                                      input_of(in, a, AttentionLink::rng));
    if (!a.sink) return kept;
    // A sink stands beside the keys that top-k keeps.
    const DType t = g.type(s).dtype;
    s = ops::select(g, ops::binary(g, "greater", kept, ops::constant(g, 0, t)), s,
                    ops::constant(g, -INFINITY, t));
  }
  const Value p = ops::softmax(g, with_sink(g, s, in, a));
  return a.sink ? ops::slice(g, p, 4, 0, keys) : p;
}

Value dropped(Graph& g, Value probabilities, std::span<const Value> in, const AttentionAttrs& a) {
  if (a.dropout == 0) return probabilities;
  const Value rng = input_of(in, a, AttentionLink::rng);
  return g.add("dropout", {probabilities, rng}, DropoutAttrs{a.dropout, a.stream});
}

std::vector<size_t> differentiable(const AttentionAttrs& a) {
  std::vector<size_t> places;
  for (AttentionLink link :
       {AttentionLink::bias, AttentionLink::distance_bias, AttentionLink::sink,
        AttentionLink::temperature, AttentionLink::relative_keys, AttentionLink::content_bias,
        AttentionLink::position_bias, AttentionLink::span})
    if (const int at = a.input(link); at >= 0) places.push_back(static_cast<size_t>(at));
  return places;
}

}  // namespace fovea::attention_links
