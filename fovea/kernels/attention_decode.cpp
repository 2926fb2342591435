#include "fovea/kernels/attention_decode.h"

#include <cmath>

#include "fovea/kernels/convert.h"

namespace fovea::attention_detail {
namespace {

constexpr int64_t kLeastPiece = 1024;  // keys
constexpr int64_t kMostPieces = 64;
// Of keys and values of a block, of which the next one is fetched meanwhile; and elements of
// queries.
constexpr int64_t kMostBlockBytes = 256 << 10;
constexpr int64_t kMostQueries = 16 << 10;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

class DecodePlan final : public KernelPlan<AttentionArgs> {
 public:
  DecodePlan(const AttentionProblem& problem, DecodeFunction function, int64_t worker_floats)
      : p_(problem), cut_(problem), function_(function) {
    const int64_t floats = sweeps() * task_floats() * cut_.pieces;
    scratch_bytes = static_cast<size_t>(floats) * sizeof(float);
    worker_scratch_bytes = static_cast<size_t>(worker_floats) * sizeof(float);
  }

  void run(const AttentionArgs& args, const KernelContext& context) const noexcept override {
    float* const partials = reinterpret_cast<float*>(context.scratch);
    // Heads of the same keys one after the other: they may lie side by side.
    context.pool->parallel_for(sweeps() * cut_.pieces, [&](int64_t block, int worker) {
      const DecodeTask task = task_of(args, partials, block % sweeps(), block / sweeps());
      if (task.keys.begin < task.keys.end) function_(task, context.worker<float>(worker));
    });
    context.pool->parallel_for(sweeps(), [&](int64_t sweep, int) {
      if (p_.dtype == DType::f32)
        finish<float>(args, partials, sweep);
      else
        finish<bf16>(args, partials, sweep);
    });
  }

 private:
  int64_t sweeps() const { return p_.batch * cut_.head_tasks * cut_.query_tasks; }
  int64_t task_floats() const { return cut_.kv_heads * cut_.rows * cut_.partial; }

  DecodeTask task_of(const AttentionArgs& args, float* partials, int64_t sweep,
                     int64_t piece) const {
    const int64_t first = sweep % cut_.query_tasks * cut_.queries;
    const int64_t kv_head = sweep / cut_.query_tasks % cut_.head_tasks * cut_.kv_heads;
    const int64_t batch = sweep / cut_.query_tasks / cut_.head_tasks;
    DecodeTask task{.problem = p_,
                    .args = args,
                    .batch = batch,
                    .first_kv_head = kv_head,
                    .kv_heads = std::min(cut_.kv_heads, p_.kv_heads - kv_head),
                    .first_query = first,
                    .queries = std::min(cut_.queries, p_.tq - first),
                    .keys = {},
                    .end = 0,
                    .of_query = {},
                    .partial = partials + (sweep * cut_.pieces + piece) * task_floats(),
                    .room = cut_.rows,
                    .stride = cut_.partial,
                    .max_at = cut_.max_at};
    int64_t begin = p_.tk;
    for (int64_t i = 0; i < task.queries; ++i) {
      const KeyRange range = task.of_query[i] = decode_range(p_, args, batch, first + i);
      if (range.empty()) continue;
      begin = std::min(begin, range.begin);
      task.end = std::max(task.end, range.end);
    }
    task.keys = {std::max(begin, piece * cut_.piece), std::min(task.end, (piece + 1) * cut_.piece)};
    return task;
  }

  // Joins what the pieces left, in their order.
  template <class T>
  void finish(const AttentionArgs& args, float* partials, int64_t sweep) const {
    const DecodeTask whole = task_of(args, partials, sweep, 0);
    const int64_t group_rows = whole.group() * whole.queries;
    for (int64_t n = 0; n < whole.kv_heads * group_rows; ++n) {
      const int64_t kv = n / group_rows, r = n % group_rows;
      const int64_t head = whole.head(kv, r), query = whole.query(r);
      T* out = row(static_cast<T*>(args.out), p_.out, whole.batch, query, head);
      float* lse = p_.want_lse && args.lse ? static_cast<float*>(args.lse) +
                                                 (whole.batch * p_.heads + head) * p_.tq + query
                                           : nullptr;
      if (r >= whole.rows(kv)) {
        std::fill_n(out, p_.value_dim, T(0.0f));
        if (lse) *lse = 0;
      } else {
        finish_row(args, partials, sweep, kv, r, out, lse);
      }
    }
  }

  template <class T>
  void finish_row(const AttentionArgs& args, float* partials, int64_t sweep, int64_t kv, int64_t r,
                  T* out, float* lse) const {
    const int64_t max_at = cut_.max_at;
    float* first = nullptr;  // of the pieces that have keys
    float max = 0, sum = 0;
    for (int64_t piece = 0; piece < cut_.pieces; ++piece) {
      const DecodeTask task = task_of(args, partials, sweep, piece);
      if (task.keys.begin >= task.keys.end) continue;
      float* const part = task.result(kv, r);
      // A piece of whose keys this query sees none has a maximum of -infinity and a sum of 0.
      if (part[max_at + 1] == 0.0f) continue;
      if (!first) {
        first = part;
        max = part[max_at];
        sum = part[max_at + 1];
        continue;
      }
      const float larger = std::max(max, part[max_at]);
      const float a = std::exp2(max - larger), b = std::exp2(part[max_at] - larger);
      for (int64_t d = 0; d < p_.value_dim; ++d) first[d] = first[d] * a + part[d] * b;
      sum = sum * a + part[max_at + 1] * b;
      max = larger;
    }
    float inverse = first ? 1 / sum : 0.0f;
    if (p_.sink) {
      // A key that has been seen already, whose value is 0.
      const float sink = static_cast<const float*>(
                             args.links.sinks)[task_of(args, partials, sweep, 0).head(kv, r)] *
                         kDecodeLog2E;
      const float larger = first ? std::max(max, sink) : sink;
      const float factor = first ? std::exp2(max - larger) : 0.0f;
      sum = sum * factor + (larger == -HUGE_VALF ? 0.0f : std::exp2(sink - larger));
      inverse = first ? factor / sum : 0.0f;
      max = larger;
    }
    for (int64_t d = 0; d < p_.value_dim; ++d) out[d] = T(first ? first[d] * inverse : 0.0f);
    constexpr float kLn2 = 0.69314718055994531f;
    if (lse) *lse = sum > 0 || first ? max * kLn2 + std::log(sum) : -HUGE_VALF;
  }

  AttentionProblem p_;
  DecodeCut cut_;
  DecodeFunction function_;
};

}  // namespace

bool decodes(const AttentionProblem& p) {
  const bool softmax_of_rows = !p.cosine && p.rotary == 0 && !p.relative_keys && !p.span &&
                               p.dropout == 0 && by_softmax(p) && !wants_statistics(p);
  if ((p.dtype != DType::f32 && p.dtype != DType::bf16) || !softmax_of_rows) return false;
  // Blocks of a list may be much smaller than these kernels' own.
  return reads_cache(p) || (p.tq <= kDecodeQueries && p.tk >= kDecodeKeys && p.block == 0);
}

bool touches(const DecodeTask& task, KeyRange keys) {
  const AttentionProblem& p = task.problem;
  if (!has_gaps(p) && p.block == 0) return true;
  const bool of_heads = p.block > 0 && p.block_plane.head != 0;
  for (int64_t kv = 0; kv < task.kv_heads; ++kv)
    for (int64_t r = 0; r < task.rows(kv); ++r) {
      if (!of_heads && (kv > 0 || r >= task.queries)) return false;  // the same for all heads
      if (DecodeLinks(p, task.args.links, task.batch, task.head(kv, r), task.query(r))
              .touches(keys))
        return true;
    }
  return false;
}

float score_factor(const DecodeTask& task, int64_t kv, int64_t r) {
  const AttentionProblem& p = task.problem;
  const auto scale = static_cast<float>(p.scale) * kDecodeLog2E;
  if (!p.temperature) return scale;
  return scale * static_cast<const float*>(task.args.links.temperatures)[task.head(kv, r)];
}

DecodeCut::DecodeCut(const AttentionProblem& p)
    : queries(std::min(kDecodeQueries, p.tq)), query_tasks(ceil_div(p.tq, queries)) {
  // Many queries are tasks enough.
  const int64_t most = query_tasks > 1 ? 1 : kMostPieces;
  piece = std::max(kLeastPiece, ceil_div(ceil_div(p.tk, most), kDecodeBlock) * kDecodeBlock);
  pieces = ceil_div(p.tk, piece);
  rows = p.heads / p.kv_heads * queries;
  const auto element = static_cast<int64_t>(dtype_size(p.kv_dtype.value_or(p.dtype)));
  const int64_t block = kDecodeBlock * (p.head_dim + p.value_dim) * element;
  const int64_t side_by_side =
      p.k.head < p.k.token && p.v.head < p.v.token
          ? std::min(kMostBlockBytes / block, kMostQueries / (rows * p.head_dim))
          : 1;
  kv_heads = std::clamp<int64_t>(side_by_side, 1, p.kv_heads);
  head_tasks = ceil_div(p.kv_heads, kv_heads);
  max_at = ceil_div(p.value_dim, 32) * 32;
  partial = max_at + 16;
}

std::unique_ptr<KernelPlan<AttentionArgs>> plan_decode(const AttentionProblem& problem,
                                                       DecodeFunction function,
                                                       int64_t worker_floats) {
  return std::make_unique<DecodePlan>(problem, function, worker_floats);
}

}  // namespace fovea::attention_detail
