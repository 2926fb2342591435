// Which blocks of links carry a model's attention: the list AttentionLinks::blocks, made at run
// time from q and k. The mass of a block is estimated by means of 16 queries and of 16 keys: the
// softmax of the products of means, summed over the means of the block (MInference, Jiang et al.
// 2024, takes means of whole blocks). Of each row of blocks those of the largest mass are kept, as
// many as it takes to reach a share of the whole, and always those in which its queries stand
// themselves.
#pragma once

#include <cstdint>
#include <span>

#include "fovea/kernels/attention.h"
#include "fovea/kernels/kernel.h"

namespace fovea {

struct AttentionBlocksProblem {
  // Types, sizes, strides of q and k, scale, causal mask, window, global tokens, prefix and
  // documents as the attention has them, and `block` with a block_plane that gives each sample,
  // head and row of blocks a place of its own. What changes scores otherwise (rotary, cosine,
  // temperature, soft_cap, relative_keys, biases, span), a mask, a dilation, another normaliser
  // than softmax and a cache are errors: the estimate does not know of them. A sink is left out.
  AttentionProblem attention;
  double mass = 0.9;  // of each row of blocks, above 0, at most 1
};

// What is not finite keeps all blocks that its queries may see, so that it is seen in the result. A
// row of queries keeps the block of its own position, so that no query is left without keys that
// has some without the list.
struct AttentionBlocksArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  AttentionLinks links = {};  // lengths and documents
  uint8_t* blocks = nullptr;  // in block_plane: 1 for those that are kept
};

using AttentionBlocksKernel = Kernel<AttentionBlocksProblem, AttentionBlocksArgs>;

// Best first, "ref" last. Planning throws Error (invalid_argument), naming what does not fit.
std::span<const AttentionBlocksKernel> attention_blocks_kernels();

// In one call. Throws what planning throws, and Error (invalid_argument) for memory that is needed
// and not given. Without a pool: on the calling thread.
void attention_blocks(const AttentionBlocksProblem& problem, const AttentionBlocksArgs& args,
                      ThreadPool* pool = nullptr);

// What the kernels of this family share; not for callers.
namespace attention_blocks_detail {

constexpr int64_t kMean = 16;   // tokens of one
constexpr int64_t kPanel = 64;  // means of keys that lie together, coordinate by coordinate

constexpr int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Means of keys that the queries of one mean may see: two ranges without gaps.
struct SeenMeans {
  int64_t begin[2] = {0, 0}, end[2] = {0, 0};
  // Of means at the ends of the ranges, of whose links some are not there: the logarithm of the
  // share that is.
  struct Edge {
    int64_t mean;
    double logarithm;
  };
  Edge edges[8] = {};
  int64_t edge_count = 0;
  // Smallest range that holds both; empty if last <= first.
  int64_t first() const;
  int64_t last() const;
};
SeenMeans seen_means(const AttentionProblem& p, const AttentionLinks& links, int64_t batch,
                     int64_t query_mean);

// Blocks that row `row` of blocks always keeps, [first, last]; first > last where there is no key.
struct OwnBlocks {
  int64_t first = 0, last = -1;
};
OwnBlocks own_blocks(const AttentionProblem& p, int64_t length, int64_t row);

inline uint8_t* blocks_row(const AttentionProblem& p, uint8_t* blocks, int64_t batch, int64_t head,
                           int64_t row) {
  return blocks + batch * p.block_plane.batch + head * p.block_plane.head +
         row * p.block_plane.query;
}

void check(const AttentionBlocksProblem& problem);
void check_memory(const AttentionBlocksProblem& problem, const AttentionBlocksArgs& args);
void append_hwy(std::vector<AttentionBlocksKernel>& list);

}  // namespace attention_blocks_detail
}  // namespace fovea
