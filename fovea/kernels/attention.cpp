#include "fovea/kernels/attention.h"

#include <limits>
#include <string>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/attention_backward_tiled.h"
#include "fovea/kernels/attention_decode.h"
#include "fovea/kernels/attention_short.h"
#include "fovea/kernels/attention_short_avx512bf16.h"
#include "fovea/kernels/attention_strip.h"
#include "fovea/kernels/attention_tiled.h"

namespace fovea {
namespace {

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error{ErrorCode::invalid_argument, "[attention] expected " + expected + ", got " + got};
}

void check_size(const char* name, int64_t value) {
  // Lanes count queries and keys in 32 bits.
  if (value < 1 || value >= (int64_t{1} << 31))
    wrong(std::string(name) + " between 1 and 2^31 - 1", std::to_string(value));
}

// Rows of one array must not overlap; inputs may be shared between tokens, heads or samples.
void check_strides(const char* name, const AttentionStrides& s, int64_t dim, bool output,
                   int64_t batch, int64_t tokens, int64_t heads) {
  const auto bad = [&](int64_t stride, int64_t count) {
    return stride < 0 || (output && count > 1 && stride < dim);
  };
  if (bad(s.batch, batch) || bad(s.token, tokens) || bad(s.head, heads)) {
    wrong(std::string("strides of ") + name +
              (output ? " of at least " + std::to_string(dim) + " elements" : " not below 0"),
          "batch " + std::to_string(s.batch) + ", token " + std::to_string(s.token) + ", head " +
              std::to_string(s.head));
  }
}

void check_plane(const char* name, bool given, const AttentionPlane& plane, int64_t keys) {
  if (!given) return;
  if (plane.batch < 0 || plane.head < 0 || plane.query < 0 ||
      (plane.query > 0 && plane.query < keys))
    wrong(std::string("strides of ") + name + " of 0, or of at least " + std::to_string(keys) +
              " from query to query",
          "batch " + std::to_string(plane.batch) + ", head " + std::to_string(plane.head) +
              ", query " + std::to_string(plane.query));
}

using attention_detail::by_softmax;

void check_links(const AttentionProblem& p) {
  const bool windowed = p.window_left >= 0 || p.window_right >= 0;
  if (p.dilation < 1) wrong("dilation of at least 1", std::to_string(p.dilation));
  if (p.dilation > 1 && !windowed)
    wrong("a window (window_left or window_right) with dilation=" + std::to_string(p.dilation),
          "none");
  if (p.global_tokens < 0 || p.prefix < 0 || p.documents < 0)
    wrong("global_tokens, prefix and documents of at least 0",
          std::to_string(p.global_tokens) + ", " + std::to_string(p.prefix) + " and " +
              std::to_string(p.documents));
  if (p.global_tokens > 0 && !windowed)
    wrong("a window (window_left or window_right) with global_tokens=" +
              std::to_string(p.global_tokens),
          "none");
  if (p.prefix > 0 && !p.causal && !windowed)
    wrong("causal or a window with prefix=" + std::to_string(p.prefix), "neither");
  if (p.documents > 0 && p.tq != p.tk)
    wrong("as many queries as keys with documents=" + std::to_string(p.documents),
          "tq=" + std::to_string(p.tq) + " and tk=" + std::to_string(p.tk));
  if (p.block < 0 || p.block % 16 != 0)
    wrong("block to be a multiple of 16, or 0", std::to_string(p.block));
  if (!(p.soft_cap >= 0 && p.soft_cap < std::numeric_limits<float>::max()))
    wrong("a finite soft_cap of at least 0", std::to_string(p.soft_cap));
  if (const auto fault = p.normaliser.fault())
    throw Error{ErrorCode::invalid_argument, "[attention] " + *fault};
  if (p.span != (p.span_ramp != 0))
    wrong("span and span_ramp together", "span=" + std::string(p.span ? "true" : "false") +
                                             " and span_ramp=" + std::to_string(p.span_ramp));
  if (p.span && !(p.span_ramp > 0 && p.span_ramp < std::numeric_limits<float>::max()))
    wrong("a finite span_ramp above 0 with span", std::to_string(p.span_ramp));
  if (!(p.dropout >= 0 && p.dropout < 1))
    wrong("dropout from 0 up to, not including, 1", std::to_string(p.dropout));
  if (p.top_links < 0 || p.top_links > 1024)
    wrong("top_links between 0 and 1024", std::to_string(p.top_links));
  if (const std::string with = " with normaliser=" + std::string(enum_name(p.normaliser.kind));
      !by_softmax(p)) {
    if (p.sink && p.normaliser.kind != Normaliser::top_k) wrong("no sink" + with, "sink");
    if (p.dropout > 0) wrong("no dropout" + with, std::to_string(p.dropout));
    if (p.want_entropy || p.want_mass || p.top_links > 0)
      wrong("no statistics" + with, "want_entropy, want_mass or top_links");
  }
  check_plane("mask", p.mask, p.mask_plane, p.tk);
  check_plane("bias", p.bias, p.bias_plane, p.tk);
  if (p.block > 0) check_plane("blocks", true, p.block_plane, (p.tk + p.block - 1) / p.block);
}

void check_rows(const AttentionProblem& p) {
  if (p.rotary < 0 || p.rotary % 2 != 0 || p.rotary > p.head_dim)
    wrong("rotary to be even, and at most head_dim=" + std::to_string(p.head_dim),
          "rotary=" + std::to_string(p.rotary));
  const auto without_relative_keys = [&](const char* name, bool given) {
    if (given && !p.relative_keys) wrong(std::string("relative_keys with ") + name, "none");
  };
  without_relative_keys("content_bias", p.content_bias);
  without_relative_keys("position_bias", p.position_bias);
  if (p.relative_keys && p.cosine) wrong("no cosine with relative_keys", "both");
  if (p.relative_keys && p.rotary > 0)
    wrong("rotary=0 with relative_keys", "rotary=" + std::to_string(p.rotary));
  if (!(p.rotary_base > 0 && p.rotary_base < std::numeric_limits<float>::max()))
    wrong("a finite rotary_base above 0", std::to_string(p.rotary_base));
  if (!(p.cosine_eps >= 1e-30 && p.cosine_eps < std::numeric_limits<float>::max()))
    wrong("a finite cosine_eps of at least 1e-30", std::to_string(p.cosine_eps));
}

std::string type_text(DType t) { return std::string(dtype_name(t)); }

void check_cache(const AttentionProblem& p, bool backward) {
  const DType kv = p.kv_dtype.value_or(p.dtype);
  if (kv != p.dtype) {
    const auto real = [](DType t) { return t == DType::f32 || t == DType::bf16; };
    if (!(real(kv) || kv == DType::i8)) wrong("kv_dtype of f32, bf16 or i8", type_text(kv));
    if (!real(p.dtype))
      wrong("dtype of f32 or bf16 where kv_dtype is " + type_text(kv), type_text(p.dtype));
  } else if (kv == DType::i8) {
    wrong("dtype of f32 or bf16 where kv_dtype is i8", "i8");
  }
  if (p.int8_products && kv != DType::i8) wrong("kv_dtype of i8 with int8_products", type_text(kv));
  if (kv == DType::i8) {
    check_strides("k_scale", p.k_scale, 1, false, p.batch, p.tk, p.kv_heads);
    check_strides("v_scale", p.v_scale, 1, false, p.batch, p.tk, p.kv_heads);
  }
  if (p.page_tokens < 0 || p.page_tokens >= (int64_t{1} << 31))
    wrong("page_tokens between 0 (no pages) and 2^31 - 1", std::to_string(p.page_tokens));
  if (p.page_tokens == 0 && p.page_columns != 0)
    wrong("page_tokens above 0 where page_columns is " + std::to_string(p.page_columns), "0");
  if (p.page_tokens > 0 && p.page_columns != 0) {
    const int64_t least = (p.tk + p.page_tokens - 1) / p.page_tokens;
    if (p.page_columns < least) {
      wrong("page_columns of at least " + std::to_string(least) + ", for tk = " +
                std::to_string(p.tk) + " and page_tokens = " + std::to_string(p.page_tokens),
            std::to_string(p.page_columns));
    }
  }
  if (backward && kv != p.dtype)
    wrong("kv_dtype as dtype in backward, " + type_text(p.dtype), type_text(kv));
  if (backward && p.page_tokens > 0)
    wrong("page_tokens of 0 in backward", std::to_string(p.page_tokens));
}

}  // namespace

void set_dense_strides(AttentionProblem& p, bool packed) {
  const auto dense = [packed](int64_t tokens, int64_t heads, int64_t dim) {
    return packed ? AttentionStrides::packed(tokens, heads, dim)
                  : AttentionStrides::head_major(tokens, heads, dim);
  };
  p.q = p.dq = dense(p.tq, p.heads, p.head_dim);
  const int64_t rows = p.page_tokens > 0 ? p.page_tokens : p.tk;
  p.k = p.dk = dense(rows, p.kv_heads, p.head_dim);
  p.v = p.dv = dense(rows, p.kv_heads, p.value_dim);
  p.out = p.dout = dense(p.tq, p.heads, p.value_dim);
  p.k_scale = p.v_scale = dense(rows, p.kv_heads, 1);
}

namespace attention_detail {

void check(const AttentionProblem& p, bool backward) {
  check_size("batch", p.batch);
  check_size("tq", p.tq);
  check_size("tk", p.tk);
  check_size("heads", p.heads);
  check_size("kv_heads", p.kv_heads);
  check_size("head_dim", p.head_dim);
  check_size("value_dim", p.value_dim);
  if (p.heads % p.kv_heads != 0) {
    wrong("heads to be a multiple of kv_heads",
          std::to_string(p.heads) + " and " + std::to_string(p.kv_heads));
  }
  if (p.heads_kept < 0 || p.heads_kept > p.heads)
    wrong("heads_kept between 0 and " + std::to_string(p.heads), std::to_string(p.heads_kept));
  if (p.window_left < -1 || p.window_right < -1) {
    wrong("windows of at least 0, or -1 for no limit",
          std::to_string(p.window_left) + " and " + std::to_string(p.window_right));
  }
  check_links(p);
  check_rows(p);
  if (!(p.scale > -std::numeric_limits<float>::max() &&
        p.scale < std::numeric_limits<float>::max()))
    wrong("a finite scale", std::to_string(p.scale));
  check_strides("q", p.q, p.head_dim, false, p.batch, p.tq, p.heads);
  check_strides("k", p.k, p.head_dim, false, p.batch, p.tk, p.kv_heads);
  check_strides("v", p.v, p.value_dim, false, p.batch, p.tk, p.kv_heads);
  check_strides("out", p.out, p.value_dim, !backward, p.batch, p.tq, p.heads);
  check_cache(p, backward);
  if (!backward) return;
  check_strides("dout", p.dout, p.value_dim, false, p.batch, p.tq, p.heads);
  check_strides("dq", p.dq, p.head_dim, true, p.batch, p.tq, p.heads);
  check_strides("dk", p.dk, p.head_dim, true, p.batch, p.tk, p.kv_heads);
  check_strides("dv", p.dv, p.value_dim, true, p.batch, p.tk, p.kv_heads);
}

}  // namespace attention_detail

std::span<const AttentionKernel> attention_kernels() {
  static const std::vector<AttentionKernel> list = [] {
    std::vector<AttentionKernel> kernels;
    if (avx512_bf16::pays()) {
      kernels.push_back({"short_avx512bf16", attention_detail::plan_short_avx512bf16});
      kernels.push_back({"tiled_avx512bf16", attention_detail::plan_tiled_avx512bf16});
    }
    if (avx512_vnni::available())
      kernels.push_back({"tiled_avx512vnni", attention_detail::plan_tiled_avx512vnni});
    // Behind the tiled ones, which leave few queries to it: it takes any number over a cache.
    if (avx512_bf16::pays())
      kernels.push_back({"decode_avx512bf16", attention_detail::plan_decode_avx512bf16});
    attention_detail::append_short(kernels);
    attention_detail::append_decode(kernels);
    attention_detail::append_hwy(kernels);
    attention_detail::append_strip(kernels);
    kernels.push_back({"ref", attention_detail::plan_ref});
    return kernels;
  }();
  return list;
}

std::span<const AttentionBackwardKernel> attention_backward_kernels() {
  static const std::vector<AttentionBackwardKernel> list = [] {
    std::vector<AttentionBackwardKernel> kernels;
    if (avx512_bf16::pays()) {
      kernels.push_back({"short_avx512bf16", attention_detail::plan_backward_short_avx512bf16});
      kernels.push_back({"tiled_avx512bf16", attention_detail::plan_backward_tiled_avx512bf16});
    }
    attention_detail::append_backward_short(kernels);
    attention_detail::append_backward_hwy(kernels);
    attention_detail::append_backward_strip(kernels);
    kernels.push_back({"ref", attention_detail::plan_backward_ref});
    return kernels;
  }();
  return list;
}

}  // namespace fovea
