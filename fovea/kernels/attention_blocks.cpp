// What all kernels of block lists share, the plain reference, and the list of the kernels.
#include "fovea/kernels/attention_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/convert.h"
#include "fovea/kernels/planned.h"

namespace fovea {
namespace attention_blocks_detail {

namespace {

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error{ErrorCode::invalid_argument,
              "[attention_blocks] expected " + expected + ", got " + got};
}

}  // namespace

int64_t SeenMeans::first() const {
  if (end[0] <= begin[0]) return begin[1];
  return end[1] <= begin[1] ? begin[0] : std::min(begin[0], begin[1]);
}
int64_t SeenMeans::last() const {
  if (end[0] <= begin[0]) return end[1];
  return end[1] <= begin[1] ? end[0] : std::max(end[0], end[1]);
}

SeenMeans seen_means(const AttentionProblem& p, const AttentionLinks& links, int64_t batch,
                     int64_t query_mean) {
  using attention_detail::both;
  using attention_detail::KeyRange;
  const attention_detail::Seen seen(p, links, batch);
  const int64_t none = std::numeric_limits<int64_t>::max();
  KeyRange all[2] = {{none, 0}, {none, 0}}, of_queries[kMean][2];
  const int64_t first = query_mean * kMean, count = std::min(kMean, p.tq - first);
  for (int64_t i = 0; i < count; ++i) {
    const attention_detail::SeenKeys keys = seen.of(first + i);
    of_queries[i][0] = both(keys.hard, keys.near);
    of_queries[i][1] = both(keys.hard, {0, keys.low_end});
    for (int n = 0; n < 2; ++n)
      if (const KeyRange& of = of_queries[i][n]; !of.empty())
        all[n] = {std::min(all[n].begin, of.begin), std::max(all[n].end, of.end)};
  }
  SeenMeans means;
  for (int n = 0; n < 2; ++n)
    if (!all[n].empty()) {
      means.begin[n] = all[n].begin / kMean;
      means.end[n] = ceil_div(all[n].end, kMean);
    }
  const auto size = [](KeyRange range) { return std::max<int64_t>(0, range.end - range.begin); };
  for (int n = 0; n < 2; ++n)
    for (const int64_t c :
         {means.begin[n], means.begin[n] + 1, means.end[n] - 2, means.end[n] - 1}) {
      const SeenMeans::Edge *known = means.edges, *known_end = known + means.edge_count;
      if (c < means.begin[n] || c >= means.end[n] ||
          std::any_of(known, known_end, [&](auto& e) { return e.mean == c; }))
        continue;
      int64_t there = 0;
      const KeyRange mean{c * kMean, (c + 1) * kMean};
      for (int64_t i = 0; i < count; ++i) {
        const KeyRange near = both(of_queries[i][0], mean), low = both(of_queries[i][1], mean);
        there += size(near) + size(low) - size(both(near, low));
      }
      means.edges[means.edge_count++] = {
          c, std::log(static_cast<double>(there) / static_cast<double>(count * kMean))};
    }
  return means;
}

OwnBlocks own_blocks(const AttentionProblem& p, int64_t length, int64_t row) {
  if (length == 0) return {};
  const int64_t offset = p.align == AttentionAlign::lower_right ? p.tk - p.tq : 0;
  const auto block_of = [&](int64_t query) {
    // Queries before the first key or behind the last one see that one, if any.
    return std::clamp<int64_t>(query + offset, 0, length - 1) / p.block;
  };
  return {block_of(row * p.block), block_of(std::min(p.tq, (row + 1) * p.block) - 1)};
}

void check(const AttentionBlocksProblem& problem) {
  const AttentionProblem& p = problem.attention;
  if (!(problem.mass > 0 && problem.mass <= 1))
    wrong("a mass above 0 and at most 1", std::to_string(problem.mass));
  if (p.block == 0) wrong("the size of blocks in block, a multiple of 16", "block=0");
  const auto refuse = [&](const char* name, bool given) {
    if (given)
      wrong(std::string("no ") + name + " with a list of blocks made from data",
            "both; the estimate of masses does not know of it");
  };
  refuse("rotary", p.rotary != 0);
  refuse("cosine", p.cosine);
  refuse("temperature", p.temperature);
  refuse("soft_cap", p.soft_cap != 0);
  refuse("relative_keys", p.relative_keys);
  refuse("bias", p.bias);
  refuse("distance_bias", p.distance_bias);
  refuse("span", p.span);
  refuse("mask", p.mask);
  refuse("dilation", p.dilation != 1);
  refuse("normaliser", !attention_detail::by_softmax(p));
  refuse("kv_dtype", p.kv_dtype && *p.kv_dtype != p.dtype);
  refuse("page_tokens", p.page_tokens != 0);
  attention_detail::check(p, /*backward=*/false);
  const AttentionPlane& plane = p.block_plane;
  const int64_t rows = ceil_div(p.tq, p.block);
  if ((rows > 1 && plane.query == 0) || (p.heads > 1 && plane.head == 0) ||
      (p.batch > 1 && plane.batch == 0))
    wrong("strides of blocks above 0, as each sample, head and row of blocks has a list of its own",
          "batch " + std::to_string(plane.batch) + ", head " + std::to_string(plane.head) +
              ", query " + std::to_string(plane.query));
}

void check_memory(const AttentionBlocksProblem& problem, const AttentionBlocksArgs& args) {
  const auto need = [](const char* name, const void* memory) {
    if (!memory) wrong(std::string("memory for ") + name, "none");
  };
  need("q", args.q);
  need("k", args.k);
  need("blocks", args.blocks);
  if (problem.attention.documents > 0) need("document_starts", args.links.document_starts);
}

namespace {

// In double, one mean after the other.
template <class T>
class Reference final : public KernelPlan<AttentionBlocksArgs> {
 public:
  explicit Reference(const AttentionBlocksProblem& problem)
      : problem_(problem),
        p_(problem_.attention),
        means_(ceil_div(p_.tk, kMean)),
        blocks_(ceil_div(p_.tk, p_.block)) {
    scratch_bytes = static_cast<size_t>(p_.batch * p_.kv_heads * means_ * p_.head_dim) * 8;
    worker_scratch_bytes =
        static_cast<size_t>(p_.head_dim + means_ + blocks_) * 8 + static_cast<size_t>(blocks_) * 8;
  }

  void run(const AttentionBlocksArgs& args, const KernelContext& context) const noexcept override {
    auto* keys = reinterpret_cast<double*>(context.scratch);
    context.pool->parallel_for(p_.batch * p_.kv_heads, [&](int64_t n, int) {
      const int64_t b = n / p_.kv_heads, h = n % p_.kv_heads;
      const int64_t length = attention_detail::key_length(p_, args.links.key_lengths, b);
      for (int64_t c = 0; c * kMean < length; ++c)
        mean(static_cast<const T*>(args.k), p_.k, b, h, c * kMean,
             std::min(length, (c + 1) * kMean), keys + (n * means_ + c) * p_.head_dim);
    });
    const int64_t rows = ceil_div(p_.tq, p_.block);
    context.pool->parallel_for(p_.batch * p_.heads * rows, [&](int64_t n, int worker) {
      const int64_t b = n / (p_.heads * rows), h = n / rows % p_.heads;
      if (h >= p_.heads_kept)
        std::fill_n(blocks_row(p_, args.blocks, b, h, n % rows), blocks_, uint8_t{0});
      else
        row(args, keys, context.worker<double>(worker), b, h, n % rows);
    });
  }

 private:
  void mean(const T* x, const AttentionStrides& s, int64_t b, int64_t h, int64_t begin, int64_t end,
            double* out) const {
    std::fill_n(out, p_.head_dim, 0.0);
    for (int64_t t = begin; t < end; ++t) {
      const T* row = attention_detail::row(x, s, b, t, h);
      for (int64_t d = 0; d < p_.head_dim; ++d) out[d] += convert<double, false>(row[d]);
    }
    for (int64_t d = 0; d < p_.head_dim; ++d) out[d] /= static_cast<double>(end - begin);
  }

  void row(const AttentionBlocksArgs& args, const double* keys, double* scratch, int64_t b,
           int64_t h, int64_t row) const {
    double *query = scratch, *scores = query + p_.head_dim, *mass = scores + means_;
    auto* order = reinterpret_cast<int64_t*>(mass + blocks_);
    const double* of_head =
        keys + (b * p_.kv_heads + h / (p_.heads / p_.kv_heads)) * means_ * p_.head_dim;
    const int64_t length = attention_detail::key_length(p_, args.links.key_lengths, b);
    std::fill_n(mass, blocks_, 0.0);
    for (int64_t a = row * p_.block / kMean; a * kMean < std::min(p_.tq, (row + 1) * p_.block);
         ++a) {
      mean(static_cast<const T*>(args.q), p_.q, b, h, a * kMean, std::min({p_.tq, (a + 1) * kMean}),
           query);
      const SeenMeans seen = seen_means(p_, args.links, b, a);
      std::fill_n(scores, means_, -HUGE_VAL);
      for (int n = 0; n < 2; ++n)
        for (int64_t c = seen.begin[n]; c < seen.end[n]; ++c) {
          double product = 0;
          for (int64_t d = 0; d < p_.head_dim; ++d)
            product += query[d] * of_head[c * p_.head_dim + d];
          scores[c] = p_.scale * product;
        }
      for (int64_t n = 0; n < seen.edge_count; ++n)
        scores[seen.edges[n].mean] += seen.edges[n].logarithm;
      double top = -HUGE_VAL, sum = 0;
      for (int64_t c = 0; c < means_; ++c)
        top = std::isnan(scores[c]) ? scores[c] : std::max(top, scores[c]);
      if (top == -HUGE_VAL) continue;
      for (int64_t c = 0; c < means_; ++c) sum += scores[c] = std::exp(scores[c] - top);
      for (int64_t c = 0; c < means_; ++c) mass[c * kMean / p_.block] += scores[c] / sum;
    }
    uint8_t* out = blocks_row(p_, args.blocks, b, h, row);
    choose(mass, order, out);
    const OwnBlocks own = own_blocks(p_, length, row);
    for (int64_t j = own.first; j <= own.last; ++j) out[j] = 1;
  }

  void choose(const double* mass, int64_t* order, uint8_t* out) const {
    const double all = std::accumulate(mass, mass + blocks_, 0.0);
    std::fill_n(out, blocks_, std::isfinite(all) ? uint8_t{0} : uint8_t{1});
    if (!std::isfinite(all)) return;
    std::iota(order, order + blocks_, 0);
    std::sort(order, order + blocks_,
              [&](int64_t i, int64_t j) { return mass[i] != mass[j] ? mass[i] > mass[j] : i < j; });
    double kept = 0;
    for (int64_t n = 0; n < blocks_ && kept < problem_.mass * all && mass[order[n]] > 0; ++n) {
      out[order[n]] = 1;
      kept += mass[order[n]];
    }
  }

  AttentionBlocksProblem problem_;
  const AttentionProblem& p_ = problem_.attention;
  int64_t means_, blocks_;
};

std::unique_ptr<KernelPlan<AttentionBlocksArgs>> plan_ref(const AttentionBlocksProblem& problem) {
  check(problem);
  switch (problem.attention.dtype) {
    case DType::f32:
      return std::make_unique<Reference<float>>(problem);
    case DType::f64:
      return std::make_unique<Reference<double>>(problem);
    case DType::bf16:
      return std::make_unique<Reference<bf16>>(problem);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace attention_blocks_detail

std::span<const AttentionBlocksKernel> attention_blocks_kernels() {
  static const auto list = [] {
    std::vector<AttentionBlocksKernel> all;
    attention_blocks_detail::append_hwy(all);
    all.push_back({"ref", attention_blocks_detail::plan_ref});
    return all;
  }();
  return list;
}

void attention_blocks(const AttentionBlocksProblem& problem, const AttentionBlocksArgs& args,
                      ThreadPool* pool) {
  attention_blocks_detail::check_memory(problem, args);
  std::optional<ThreadPool> own;
  if (!pool) pool = &own.emplace(1);
  make_planned(attention_blocks_kernels(), problem, *pool, "attention_blocks").run(args);
}

}  // namespace fovea
