// Block lists in SIMD of each target: products of means with the lanes over keys, whose means lie
// in panels of 64, coordinate by coordinate; the threshold by bisection over the bits of masses.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "fovea/kernels/hwy_targets.h"

#define HWY_TARGET_INCLUDE "fovea/kernels/attention_blocks_hwy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// after foreach_target.h
#include "fovea/kernels/attention_blocks.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/rows-inl.h"

#ifndef FOVEA_ATTENTION_BLOCKS_ONCE
#define FOVEA_ATTENTION_BLOCKS_ONCE
namespace fovea::attention_blocks_detail {
namespace {

struct BlocksTask {
  const AttentionBlocksProblem& problem;
  const AttentionBlocksArgs& args;
  float* keys;      // [batch, kv_heads, panels, head_dim, kPanel]
  float* queries;   // times the scale, [batch, heads, query_means, head_dim]
  SeenMeans* seen;  // [batch, query_means]

  const AttentionProblem& p() const { return problem.attention; }
  int64_t panels() const { return ceil_div(p().tk, kMean * kPanel); }
  int64_t width() const { return panels() * kPanel; }
  // Of masses, whole vectors of any target.
  int64_t blocks() const { return ceil_div(p().tk, p().block); }
  int64_t padded_blocks() const { return attention_detail::padded(blocks()); }
  int64_t query_means() const { return ceil_div(p().tq, kMean); }
  float* query(int64_t batch, int64_t head, int64_t mean) const {
    return queries + ((batch * p().heads + head) * query_means() + mean) * p().head_dim;
  }
  float* panel(int64_t batch, int64_t kv_head, int64_t n) const {
    return keys + ((batch * p().kv_heads + kv_head) * panels() + n) * p().head_dim * kPanel;
  }
};

}  // namespace
}  // namespace fovea::attention_blocks_detail
#endif

#if FOVEA_SIMD
HWY_BEFORE_NAMESPACE();
namespace fovea {
namespace HWY_NAMESPACE {

namespace {

using namespace simd;
using attention_blocks_detail::BlocksTask;
using attention_blocks_detail::kMean;
using attention_blocks_detail::kPanel;

template <class T>
HWY_INLINE void mean_of(const T* x, int64_t token, int64_t count, int64_t dim, float factor,
                        float* out) {
  const F32 d;
  for_columns(dim, [&](int64_t c, auto part) HWY_ATTR {
    Vec sum = get(x + c, part);
    for (int64_t t = 1; t < count; ++t) sum = hn::Add(sum, get(x + t * token + c, part));
    put(hn::Mul(sum, hn::Set(d, factor / static_cast<float>(count))), out + c, part);
  });
}

// scores [kRows][width] of the means of queries [kRows][dim] and one panel.
template <int kRows>
HWY_INLINE void products(const float* queries, const float* panel, int64_t dim, int64_t width,
                         float* scores) {
  constexpr int64_t kVecs = HWY_MIN(int64_t{4}, kPanel / kLanes);
  for (int64_t at = 0; at < kPanel; at += kVecs * kLanes) {
    Vec sum[kRows][kVecs];
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FOVEA_UNROLL
      for (int64_t v = 0; v < kVecs; ++v) sum[r][v] = hn::Zero(F32());
    }
    for (int64_t i = 0; i < dim; ++i) {
      Vec key[kVecs];
      FOVEA_UNROLL
      for (int64_t v = 0; v < kVecs; ++v) key[v] = load(panel + i * kPanel + at + v * kLanes);
      FOVEA_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Vec q = hn::Set(F32(), queries[r * dim + i]);
        FOVEA_UNROLL
        for (int64_t v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(q, key[v], sum[r][v]);
      }
    }
    FOVEA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FOVEA_UNROLL
      for (int64_t v = 0; v < kVecs; ++v) store(sum[r][v], scores + r * width + at + v * kLanes);
    }
  }
}

// Adds the softmax of scores in [first, last), multiples of kPanel, to mass.
HWY_INLINE void add_softmax(float* scores, int64_t first, int64_t last, float* mass) {
  const F32 d;
  const float lowest = -std::numeric_limits<float>::infinity();
  Vec top = hn::Set(d, lowest), bad = hn::Zero(d);
  for (int64_t c = first; c < last; c += kLanes) {
    const Vec s = load(scores + c);
    top = hn::Max(top, s);
    bad = hn::Or(bad, hn::VecFromMask(d, hn::IsNaN(s)));
  }
  const float highest = hn::GetLane(hn::MaxOfLanes(d, top));
  const bool broken = !hn::AllFalse(d, hn::MaskFromVec(bad));
  if (!broken && highest == lowest) return;
  const Vec base = hn::Set(d, highest);
  Vec sum = hn::Zero(d);
  for (int64_t c = first; c < last; c += kLanes) {
    const Vec e = exp(hn::Sub(load(scores + c), base));
    store(e, scores + c);
    sum = hn::Add(sum, e);
  }
  const float total = hn::GetLane(hn::SumOfLanes(d, sum));
  const Vec share = hn::Set(d, broken ? std::numeric_limits<float>::quiet_NaN() : 1 / total);
  for (int64_t c = first; c < last; c += kLanes)
    store(hn::MulAdd(load(scores + c), share, load(mass + c)), mass + c);
}

HWY_INLINE float sum_from(const float* mass, int64_t count, float least) {
  const F32 d;
  const Vec bound = hn::Set(d, least);
  Vec sum = hn::Zero(d);
  for (int64_t j = 0; j < count; j += kLanes) {
    const Vec m = load(mass + j);
    sum = hn::Add(sum, hn::IfThenElseZero(hn::Ge(m, bound), m));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// The largest bound whose blocks reach the share. Masses are whole vectors, zeros behind the last;
// bits of numbers from 0 up are ordered as the numbers.
HWY_INLINE float bound_of(const float* mass, int64_t count, double share) {
  const float all = sum_from(mass, count, 0);
  const float wanted = static_cast<float>(share) * all;
  const auto number = [](uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  };
  uint32_t low = 1, high = 0x7f800000;  // from the smallest number above 0: low reaches it
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (sum_from(mass, count, number(middle)) >= wanted ? low : high) = middle;
  }
  return number(low);
}

template <class T>
HWY_INLINE void keys_of(const BlocksTask& task, int64_t b, int64_t mean, float* scratch) {
  const AttentionProblem& p = task.p();
  const int64_t length = attention_detail::key_length(p, task.args.links.key_lengths, b);
  const int64_t begin = mean * kMean, count = HWY_MIN(kMean, length - begin);
  if (count <= 0) return;
  for (int64_t h = 0; h < p.kv_heads; ++h) {
    mean_of(attention_detail::row(static_cast<const T*>(task.args.k), p.k, b, begin, h), p.k.token,
            count, p.head_dim, 1.0f, scratch);
    float* panel = task.panel(b, h, mean / kPanel) + mean % kPanel;
    for (int64_t i = 0; i < p.head_dim; ++i) panel[i * kPanel] = scratch[i];
  }
}

// Of all heads, in the order in which packed rows lie.
template <class T>
HWY_INLINE void queries_of(const BlocksTask& task, int64_t b, int64_t mean) {
  const AttentionProblem& p = task.p();
  const int64_t begin = mean * kMean;
  for (int64_t h = 0; h < p.heads_kept; ++h)
    mean_of(attention_detail::row(static_cast<const T*>(task.args.q), p.q, b, begin, h), p.q.token,
            HWY_MIN(kMean, p.tq - begin), p.head_dim, static_cast<float>(p.scale),
            task.query(b, h, mean));
}

HWY_INLINE void row_of(const BlocksTask& task, int64_t b, int64_t h, int64_t row, float* scratch) {
  namespace detail = attention_blocks_detail;
  const AttentionProblem& p = task.p();
  const int64_t width = task.width(), dim = p.head_dim, kv_head = h / (p.heads / p.kv_heads);
  const int64_t length = attention_detail::key_length(p, task.args.links.key_lengths, b);
  const int64_t first_query = row * p.block, last_query = HWY_MIN(p.tq, first_query + p.block);
  float *queries = scratch, *scores = queries + 4 * dim, *of_means = scores + 4 * width;
  float* mass = of_means + width;
  std::fill_n(of_means, width, 0.0f);
  for (int64_t at = first_query; at < last_query; at += 4 * kMean) {
    // Four means of queries at a time; absent ones are computed as zeros and left out.
    const detail::SeenMeans* seen = task.seen + b * task.query_means() + at / kMean;
    int64_t first = width, last = 0, count = 0;
    for (int64_t q = at; q < HWY_MIN(last_query, at + 4 * kMean); q += kMean, ++count) {
      std::copy_n(task.query(b, h, q / kMean), dim, queries + count * dim);
      if (seen[count].last() <= seen[count].first()) continue;
      first = HWY_MIN(first, seen[count].first());
      last = HWY_MAX(last, seen[count].last());
    }
    std::fill(queries + count * dim, queries + 4 * dim, 0.0f);
    if (last <= first) continue;
    first = first / kPanel * kPanel;
    last = detail::ceil_div(last, kPanel) * kPanel;
    for (int64_t c = first; c < last; c += kPanel)
      products<4>(queries, task.panel(b, kv_head, c / kPanel), dim, width, scores + c);
    for (int64_t n = 0; n < count; ++n) {
      float* s = scores + n * width;
      // What is not seen, and what was not written for keys that are not there.
      const detail::SeenMeans& of = seen[n];
      const bool swapped = of.begin[1] < of.begin[0];
      int64_t done = first;
      for (const int part : {swapped ? 1 : 0, swapped ? 0 : 1}) {
        if (of.end[part] <= of.begin[part]) continue;
        if (of.begin[part] > done)
          std::fill(s + done, s + of.begin[part], -std::numeric_limits<float>::infinity());
        done = HWY_MAX(done, of.end[part]);
      }
      std::fill(s + done, s + last, -std::numeric_limits<float>::infinity());
      for (int64_t e = 0; e < of.edge_count; ++e)
        s[of.edges[e].mean] += static_cast<float>(of.edges[e].logarithm);
      add_softmax(s, first, last, of_means);
    }
  }
  const int64_t blocks = task.blocks(), padded = task.padded_blocks(), group = p.block / kMean;
  std::fill(mass + blocks, mass + padded, 0.0f);
  for (int64_t j = 0; j < blocks; ++j) {
    float sum = 0;
    for (int64_t c = j * group; c < HWY_MIN(width, (j + 1) * group); ++c) sum += of_means[c];
    mass[j] = sum;
  }
  uint8_t* out = detail::blocks_row(p, task.args.blocks, b, h, row);
  const float all = sum_from(mass, padded, -1.0f);
  bool broken = false;
  for (int64_t j = 0; j < blocks; ++j) broken = broken || !(mass[j] >= 0);
  if (broken) {
    std::fill_n(out, blocks, uint8_t{1});
    return;
  }
  const float bound = all > 0 ? bound_of(mass, padded, task.problem.mass) : 1.0f;
  for (int64_t j = 0; j < blocks; ++j) out[j] = mass[j] >= bound;
  const detail::OwnBlocks own = detail::own_blocks(p, length, row);
  for (int64_t j = own.first; j <= own.last; ++j) out[j] = 1;
}

}  // namespace

void attention_blocks_keys(const BlocksTask& task, int64_t b, int64_t mean, float* scratch) {
  task.p().dtype == DType::f32 ? keys_of<float>(task, b, mean, scratch)
                               : keys_of<bf16>(task, b, mean, scratch);
}
void attention_blocks_queries(const BlocksTask& task, int64_t b, int64_t mean) {
  task.p().dtype == DType::f32 ? queries_of<float>(task, b, mean) : queries_of<bf16>(task, b, mean);
}
void attention_blocks_row(const BlocksTask& task, int64_t b, int64_t h, int64_t row,
                          float* scratch) {
  row_of(task, b, h, row, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace fovea
HWY_AFTER_NAMESPACE();
#endif  // FOVEA_SIMD

#if HWY_ONCE
namespace fovea::attention_blocks_detail {
namespace {

using Keys = void (*)(const BlocksTask&, int64_t b, int64_t mean, float* scratch);
using Queries = void (*)(const BlocksTask&, int64_t b, int64_t mean);
using Row = void (*)(const BlocksTask&, int64_t b, int64_t h, int64_t row, float* scratch);

class HwyBlocks final : public KernelPlan<AttentionBlocksArgs> {
 public:
  HwyBlocks(const AttentionBlocksProblem& problem, Keys keys, Queries queries, Row row)
      : problem_(problem), keys_(keys), queries_(queries), row_(row) {
    const BlocksTask task{problem_, {}, nullptr, nullptr, nullptr};
    const AttentionProblem& p = problem_.attention;
    // The width is a multiple of 64, so that what lies behind the means of keys is aligned.
    keys_bytes_ = static_cast<size_t>(p.batch * p.kv_heads * p.head_dim * task.width()) * 4;
    const int64_t means = p.batch * task.query_means();
    seen_bytes_ = static_cast<size_t>(means) * sizeof(SeenMeans);
    scratch_bytes =
        keys_bytes_ + seen_bytes_ + static_cast<size_t>(means * p.heads * p.head_dim) * 4;
    worker_scratch_bytes =
        static_cast<size_t>(4 * p.head_dim + 5 * task.width() + task.padded_blocks()) * 4;
  }

  void run(const AttentionBlocksArgs& args, const KernelContext& context) const noexcept override {
    const AttentionProblem& p = problem_.attention;
    const BlocksTask task{problem_, args, reinterpret_cast<float*>(context.scratch),
                          reinterpret_cast<float*>(context.scratch + keys_bytes_ + seen_bytes_),
                          reinterpret_cast<SeenMeans*>(context.scratch + keys_bytes_)};
    const int64_t means = ceil_div(p.tk, kMean), rows = ceil_div(p.tq, p.block);
    const int64_t query_means = task.query_means();
    context.pool->parallel_for(p.batch * query_means, [&](int64_t n, int) {
      task.seen[n] = seen_means(p, args.links, n / query_means, n % query_means);
      queries_(task, n / query_means, n % query_means);
    });
    context.pool->parallel_for(p.batch * means, [&](int64_t n, int worker) {
      keys_(task, n / means, n % means, context.worker<float>(worker));
    });
    context.pool->parallel_for(p.batch * p.heads * rows, [&](int64_t n, int worker) {
      const int64_t b = n / (p.heads * rows), h = n / rows % p.heads;
      if (h >= p.heads_kept)
        std::fill_n(blocks_row(p, args.blocks, b, h, n % rows), task.blocks(), uint8_t{0});
      else
        row_(task, b, h, n % rows, context.worker<float>(worker));
    });
  }

 private:
  AttentionBlocksProblem problem_;
  Keys keys_;
  Queries queries_;
  Row row_;
  size_t keys_bytes_ = 0, seen_bytes_ = 0;
};

template <Keys kKeys, Queries kQueries, Row kRow>
std::unique_ptr<KernelPlan<AttentionBlocksArgs>> plan_hwy(const AttentionBlocksProblem& problem) {
  check(problem);
  const DType type = problem.attention.dtype;
  if (type != DType::f32 && type != DType::bf16) return nullptr;
  return std::make_unique<HwyBlocks>(problem, kKeys, kQueries, kRow);
}

}  // namespace

void append_hwy([[maybe_unused]] std::vector<AttentionBlocksKernel>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_APPEND(bit, target, name)                                                  \
  if (supported & bit)                                                                   \
    list.push_back(                                                                      \
        {name, plan_hwy<target::attention_blocks_keys, target::attention_blocks_queries, \
                        target::attention_blocks_row>});
  FOVEA_FOR_EACH_TARGET(FOVEA_APPEND)
#undef FOVEA_APPEND
}

}  // namespace fovea::attention_blocks_detail
#endif  // HWY_ONCE
