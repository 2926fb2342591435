#include "fovea/models/attention.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "fovea/graph/ops.h"

namespace fovea {

namespace {

[[noreturn]] void wrong(const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "[model.attention] " + what);
}

std::string_view name_of(AttentionScore score) {
  return enum_names(score)[static_cast<size_t>(score)];
}

// Attributes that only the softmax of scaled products knows.
void check_score(const AttentionOptions& o) {
  if (o.score == AttentionScore::dot) return;
  const auto refuse = [&](std::string_view key, bool given) {
    if (given)
      wrong(fmt::format("{}: score=\"{}\" does not take it; only score=\"dot\" does", key,
                        name_of(o.score)));
  };
  refuse("dilation", o.dilation != 1);
  refuse("global_tokens", o.global_tokens != 0);
  refuse("prefix", o.prefix != 0);
  refuse("block_mass", o.block_mass != 0);
  refuse("soft_cap", o.soft_cap != 0);
  refuse("sink", o.sink);
  refuse("cosine", o.cosine);
  refuse("temperature", o.temperature);
  refuse("rotary", o.rotary != 0);
  refuse("relative_keys", o.relative_keys);
  refuse("normaliser", o.normaliser != Normaliser::softmax);
  refuse("top_k", o.top_k != 0);
  refuse("softmax_temperature", o.softmax_temperature != 1);
  refuse("span", o.span);
  refuse("dropout", o.dropout != 0);
  refuse("distance_bias", o.distance_bias != DistanceBias::none);
  if (o.score != AttentionScore::linear) return;
  refuse("window_left", o.window_left >= 0);
  refuse("window_right", o.window_right >= 0);
}

void check_span(const AttentionOptions& o) {
  const auto expect = [](bool right, const char* key, const char* what, double got) {
    if (!right) wrong(fmt::format("{}: expected {}, got {}", key, what, got));
  };
  constexpr double kMost = 1 << 24;  // tokens
  expect(o.span_most >= 0 && o.span_most <= kMost, "span_most",
         "a number of tokens, or 0 for all of a sequence", o.span_most);
  expect(o.span_ramp > 0 && o.span_ramp <= kMost, "span_ramp", "a number of tokens above 0",
         o.span_ramp);
  expect(o.span_start > 0 && o.span_start < 1, "span_start", "a share of span_most between 0 and 1",
         o.span_start);
  expect(o.span_penalty >= 0 && o.span_penalty <= 1e6, "span_penalty", "a number of at least 0",
         o.span_penalty);
  // The ramp would be another one without noise, whose temperature divides all scores.
  if (is_random(o.normaliser))
    wrong(
        fmt::format("span: expected a normaliser that draws no noise beside it, got "
                    "normaliser=\"{}\"",
                    enum_name(o.normaliser)));
}

// The estimate of masses sees scaled products alone.
void check_blocks(const AttentionOptions& o) {
  if (!(o.block_mass > 0 && o.block_mass <= 1))
    wrong(
        fmt::format("block_mass: expected a share above 0 and at most 1, or 0 for all blocks, "
                    "got {}",
                    o.block_mass));
  if (o.block < 16 || o.block > 1 << 20 || o.block % 16 != 0)
    wrong(fmt::format("block: expected a multiple of 16, got {}", o.block));
  const auto refuse = [&](std::string_view key, bool given) {
    if (given)
      wrong(
          fmt::format("{}: block_mass={} does not go with it, as its estimate does not know of it",
                      key, o.block_mass));
  };
  refuse("dilation", o.dilation != 1);
  refuse("soft_cap", o.soft_cap != 0);
  refuse("cosine", o.cosine);
  refuse("temperature", o.temperature);
  refuse("rotary", o.rotary != 0);
  refuse("relative_keys", o.relative_keys);
  refuse("distance_bias", o.distance_bias != DistanceBias::none);
  refuse("normaliser", o.normaliser != Normaliser::softmax);
  refuse("span", o.span);
}

void check(const AttentionOptions& o, int64_t heads) {
  if (o.kv_heads < 0 || (o.kv_heads > 0 && heads % o.kv_heads != 0))
    wrong(fmt::format("kv_heads: expected a divisor of heads={}, or 0 for as many, got {}", heads,
                      o.kv_heads));
  for (const auto& [key, value] :
       {std::pair("window_left", o.window_left), std::pair("window_right", o.window_right)})
    if (value < -1)
      wrong(fmt::format("{}: expected a number of tokens, or -1 for no limit, got {}", key, value));
  if (!(o.dropout >= 0 && o.dropout < 1))
    wrong(
        fmt::format("dropout: expected a share from 0 up to, not including, 1, got {}", o.dropout));
  check_score(o);
  if (is_random(o.normaliser))
    if (const auto fault = fault_of(o.normaliser, o.top_k, o.softmax_temperature)) wrong(*fault);
  if (o.span) check_span(o);
  if (o.block_mass != 0) check_blocks(o);
  if (o.distance_bias != DistanceBias::buckets) return;
  if (o.buckets < 4 || o.buckets > 4096 || o.buckets % 4 != 0)
    wrong(fmt::format("buckets: expected a multiple of 4 up to 4096, got {}", o.buckets));
  if (o.bucket_distance < o.buckets || o.bucket_distance > 1 << 20)
    wrong(fmt::format("bucket_distance: expected buckets={} to 1048576, got {}", o.buckets,
                      o.bucket_distance));
}

// j - i for the elements of a table of distances, f32 [2T-1].
Value distances(Graph& g, const Size& tokens) {
  const Size count = tokens + tokens - Size(1);
  const Value place = ops::cast(g, ops::iota(g, DType::i32, {count}, 0), DType::f32);
  if (tokens.is_constant())
    return ops::sub(g, place, ops::constant(g, static_cast<double>(tokens.constant() - 1)));
  // The middle of the table is the distance 0, whatever T is.
  const Value last = g.add("reduce_max", {place}, ReduceAttrs{{0}, true});
  return ops::sub(g, place, ops::scaled(g, last, 0.5));
}

// Keys of distances [Hkv,2T-1,D], of as many sinusoids as the model is wide.
Value relative_keys(Graph& g, const Shape& q, int64_t heads, const AttentionOptions& o) {
  const int64_t width = q[2].constant(), kv_heads = o.kv_heads ? o.kv_heads : heads;
  if (width % 2 != 0) wrong(fmt::format("relative_keys: expected an even width, got {}", width));
  const int64_t size = width / heads;
  const Value sinusoids = distance_sinusoids(g, q[1], width);
  Value r = ops::linear(g, "relative", sinusoids, kv_heads * size, /*bias=*/false);
  r = ops::reshape(g, r, {g.shape(sinusoids)[0], kv_heads, size});
  return ops::transpose(g, r, {1, 0, 2});
}

// The spans of the heads, f32 [H], and their penalty.
Value spans(Graph& g, const Size& tokens, int64_t heads, const AttentionOptions& o,
            std::vector<Value>* penalties) {
  const double most = o.span_most > 0 ? o.span_most : static_cast<double>(tokens.constant());
  const Graph::Scope scope(g, "span");
  // At the start sigmoid has the slope of the identity, so that a span is learned as fast as a
  // share of its own would be.
  const double start = std::log(o.span_start / (1 - o.span_start)) / 4;
  const Value w =
      ops::variable(g, "weight", {.type = {DType::f32, {heads}}, .scale = start, .source = {}});
  const Value z = ops::scaled(g, ops::unary(g, "sigmoid", ops::scaled(g, w, 4)), most);
  if (penalties && o.span_penalty > 0)
    penalties->push_back(
        ops::scaled(g, ops::reduce_sum(g, z, {0}), o.span_penalty / static_cast<double>(heads)));
  return z;
}

// What predictions have in place of a normaliser that draws noise: the same without noise.
struct Noiseless {
  Normaliser normaliser;
  double factor = 1;  // of scores, biases included
};
Noiseless noiseless(const AttentionOptions& o) {
  if (o.normaliser == Normaliser::gumbel_hard) return {Normaliser::hard};
  return {Normaliser::softmax, 1 / o.softmax_temperature};
}

Value dot_attention(Graph& g, Value q, Value k, Value v, int64_t heads, const AttentionOptions& o,
                    const SelfAttentionInputs& in) {
  const Size tokens = g.shape(q)[1];
  ops::AttentionLinkValues links;
  links.lengths = in.lengths;
  const bool random = is_random(o.normaliser);
  if (o.dropout > 0 || random) links.rng = in.rng;
  AttentionAttrs attrs{.heads = heads,
                       .kv_heads = o.kv_heads,
                       .causal = o.causal,
                       .window_left = o.window_left,
                       .window_right = o.window_right,
                       .dilation = o.dilation,
                       .global_tokens = o.global_tokens,
                       .prefix = o.prefix,
                       .soft_cap = o.soft_cap,
                       .normaliser = o.normaliser,
                       .top_k = o.top_k,
                       .softmax_temperature = o.softmax_temperature,
                       .cosine = o.cosine,
                       .rotary = o.rotary,
                       .rotary_base = o.rotary_base,
                       .rotary_layout = o.rotary_layout,
                       .span_ramp = o.span ? o.span_ramp : 0,
                       .dropout = in.rng ? o.dropout : 0};
  double bias_factor = 1;
  if (random && !in.rng) {
    const Noiseless other = noiseless(o);
    attrs.normaliser = other.normaliser;
    if (other.normaliser == Normaliser::softmax) attrs.softmax_temperature = 1;
    // (c tanh(s / c) + b) / t = (c / t) tanh((s / t) / (c / t)) + b / t
    if (other.factor != 1) {
      attrs.scale = attrs.scale_of(g.shape(q)[2].constant() / heads) * other.factor;
      attrs.soft_cap *= other.factor;
      bias_factor = other.factor;
    }
  }
  {
    const Graph::Scope scope(g, "attn");
    if (o.sink) links.sink = ops::weight(g, "sink", {heads}, 0);
    if (o.temperature)
      links.temperature = ops::variable(
          g, "temperature",
          {.type = {DType::f32, {heads}}, .scale = o.cosine ? 10.0 : 1.0, .source = {}});
    if (o.relative_keys) {
      links.relative_keys = relative_keys(g, g.shape(q), heads, o);
      const Shape of_heads = {heads, g.shape(q)[2].constant() / heads};
      links.content_bias = ops::weight(g, "content_bias", of_heads, 0);
      links.position_bias = ops::weight(g, "position_bias", of_heads, 0);
    }
    if (o.distance_bias == DistanceBias::alibi) links.distance_bias = alibi_bias(g, heads, tokens);
    if (o.distance_bias == DistanceBias::buckets)
      links.distance_bias = bucket_bias(g, heads, tokens, o.buckets, o.bucket_distance, o.causal);
    if (o.distance_bias == DistanceBias::learned && !tokens.is_constant())
      wrong("distance_bias: \"learned\" needs sequences of one length; \"buckets\" does not");
    if (o.distance_bias == DistanceBias::learned)
      links.distance_bias = ops::weight(g, "distance_bias", {heads, tokens + tokens - Size(1)}, 0);
    if (links.distance_bias && bias_factor != 1)
      links.distance_bias = ops::scaled(g, links.distance_bias, bias_factor);
    if (o.block_mass > 0) {
      links.blocks = ops::attention_blocks(g, q, k,
                                           {.heads = heads,
                                            .kv_heads = o.kv_heads,
                                            .causal = o.causal,
                                            .window_left = o.window_left,
                                            .window_right = o.window_right,
                                            .global_tokens = o.global_tokens,
                                            .prefix = o.prefix,
                                            .block = o.block,
                                            .mass = o.block_mass},
                                           in.lengths, "blocks");
      attrs.block = o.block;
    }
    if (o.span) links.span = spans(g, tokens, heads, o, in.penalties);
  }
  return ops::attention(g, q, k, v, attrs, links, "attn");
}

Value attend(Graph& g, Value q, Value k, Value v, int64_t heads, const AttentionOptions& o,
             const SelfAttentionInputs& in) {
  if (o.score == AttentionScore::dot) return dot_attention(g, q, k, v, heads, o, in);
  if (o.score == AttentionScore::linear)
    return ops::linear_attention(
        g, q, k, v, {.heads = heads, .kv_heads = o.kv_heads, .causal = o.causal}, "attn");
  const Size width = g.shape(q)[2];
  const double head_size = static_cast<double>(width.constant() / heads);
  Value w;
  {
    const Graph::Scope scope(g, "attn");
    w = ops::weight(g, "score", {width}, 1 / std::sqrt(head_size));
  }
  const PairAttentionAttrs attrs{.heads = heads,
                                 .kv_heads = o.kv_heads,
                                 .causal = o.causal,
                                 .window_left = o.window_left,
                                 .window_right = o.window_right};
  return o.score == AttentionScore::additive
             ? ops::additive_attention(g, q, k, v, w, attrs, "attn")
             : ops::subtraction_attention(g, q, k, v, w, attrs, "attn");
}

}  // namespace

Value alibi_bias(Graph& g, int64_t heads, const Size& tokens) {
  const auto whole = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<double> slopes;
  for (int64_t h = 1; h <= whole; ++h)
    slopes.push_back(-std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(whole)));
  for (int64_t h = 1; static_cast<int64_t>(slopes.size()) < heads; h += 2)
    slopes.push_back(-std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(2 * whole)));
  const Value away = ops::unary(g, "abs", distances(g, tokens));
  return ops::mul(g, ops::constant(g, slopes, DType::f32, {heads, 1}), away);
}

Value distance_buckets(Graph& g, const Size& tokens, int64_t buckets, int64_t most, bool causal) {
  const Value d = distances(g, tokens);
  // Of one side: `exact` buckets of one distance each, and as many for the larger ones.
  const int64_t side = causal ? buckets : buckets / 2, exact = side / 2;
  const auto number = [&](double x) { return ops::constant(g, x); };
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const Value away =
      causal ? ops::unary(g, "relu", ops::unary(g, "neg", d)) : ops::unary(g, "abs", d);
  const Value apart = ops::binary(g, "max", away, number(1));
  const double step = real(side - exact) / std::log(real(most) / real(exact));
  const Value grown =
      ops::scaled(g, ops::unary(g, "log", ops::scaled(g, apart, 1 / real(exact))), step);
  // The logarithm of a whole power may come out a little too small.
  Value far = ops::unary(g, "floor", ops::add(g, grown, number(1e-5)));
  far = ops::add(g, far, number(real(exact)));
  far = ops::binary(g, "min", far, number(real(side - 1)));
  Value bucket = ops::select(g, ops::binary(g, "less", away, number(real(exact))), away, far);
  if (!causal) {
    const Value right = ops::cast(g, ops::binary(g, "greater", d, number(0)), DType::f32);
    bucket = ops::add(g, bucket, ops::scaled(g, right, real(side)));
  }
  return ops::cast(g, bucket, DType::i32);
}

Value distance_sinusoids(Graph& g, const Size& tokens, int64_t width) {
  const int64_t half = width / 2;
  const Value back =
      ops::reshape(g, ops::unary(g, "neg", distances(g, tokens)), {tokens + tokens - Size(1), 1});
  const Value n = ops::cast(g, ops::iota(g, DType::i32, {1, half}, 1), DType::f32);
  const double step = -2 * std::log(10000.0) / static_cast<double>(width);
  const Value angles = ops::mul(g, back, ops::unary(g, "exp", ops::scaled(g, n, step)));
  return ops::concat(g, {ops::unary(g, "sin", angles), ops::unary(g, "cos", angles)}, 1);
}

Value bucket_bias(Graph& g, int64_t heads, const Size& tokens, int64_t buckets, int64_t most,
                  bool causal) {
  const Value table = ops::weight(g, "distance_bias", {buckets, heads}, 0);
  const Value places = distance_buckets(g, tokens, buckets, most, causal);
  return ops::transpose(g, ops::gather(g, table, places), {1, 0});
}

Value self_attention(Graph& g, Value x, int64_t heads, const AttentionOptions& o,
                     const SelfAttentionInputs& in) {
  check(o, heads);
  if (in.lengths && o.score != AttentionScore::dot)
    wrong(fmt::format("score: expected \"dot\" for sequences that differ in length, got \"{}\"",
                      enum_names(o.score)[static_cast<size_t>(o.score)]));
  if (o.span && o.span_most == 0 && !g.shape(x)[1].is_constant())
    wrong("span: expected span_most for sequences of no fixed length, got span_most=0");
  const int64_t width = g.shape(x)[2].constant();
  const int64_t kv_width = width / heads * (o.kv_heads ? o.kv_heads : heads);
  const Value q = ops::linear(g, "q", x, width);
  const Value k = ops::linear(g, "k", x, kv_width, /*bias=*/o.score == AttentionScore::linear);
  const Value v = ops::linear(g, "v", x, kv_width);
  Value a;
  try {
    a = attend(g, q, k, v, heads, o, in);
  } catch (const Error& e) {
    // What the op refuses, as a complaint about the recipe.
    const std::string_view message = e.what();
    const size_t start = message.find("expected");
    if (start == std::string_view::npos) throw;
    const size_t end = std::min(message.find(" (inputs:"), message.size());
    throw Error(e.code(), "[model.attention] " + std::string(message.substr(start, end - start)));
  }
  return ops::linear(g, "out", a, width);
}

}  // namespace fovea
