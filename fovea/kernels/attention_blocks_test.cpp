#include "fovea/kernels/attention_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fovea/base/philox.h"
#include "fovea/base/test_errors.h"
#include "fovea/kernels/attention_call.h"
#include "fovea/kernels/attention_seen.h"
#include "fovea/kernels/planned.h"

namespace fovea {
namespace {

struct Case {
  AttentionBlocksProblem problem;
  std::vector<int32_t> lengths = {}, documents = {};

  AttentionProblem& p() { return problem.attention; }
  const AttentionProblem& p() const { return problem.attention; }
  AttentionLinks links() const {
    return {.key_lengths = lengths.empty() ? nullptr : lengths.data(),
            .document_starts = documents.empty() ? nullptr : documents.data()};
  }
  int64_t rows() const { return (p().tq + p().block - 1) / p().block; }
  int64_t columns() const { return (p().tk + p().block - 1) / p().block; }
};

Case case_of(int64_t tq, int64_t tk, int64_t block, double mass) {
  Case c;
  c.p() = {.batch = 2,
           .tq = tq,
           .tk = tk,
           .heads = 4,
           .kv_heads = 2,
           .heads_kept = 4,
           .head_dim = 24,
           .value_dim = 24,
           .scale = 1 / std::sqrt(24.0),
           .block = block};
  c.p().block_plane = {
      .batch = 4 * c.rows() * c.columns(), .head = c.rows() * c.columns(), .query = c.columns()};
  set_dense_strides(c.p(), /*packed=*/true);
  c.problem.mass = mass;
  return c;
}

// Tokens that come in runs which are like each other: each run stands at a place of its own, drawn
// from few, and its tokens lie around it.
template <class T>
std::vector<T> tokens(int64_t batch, int64_t count, int64_t heads, int64_t dim, double spread,
                      double noise, uint64_t seed) {
  constexpr int64_t kRun = 32, kPlaces = 12;
  PhiloxStream places(7, 1), random(seed, 2);
  std::vector<double> place(static_cast<size_t>(kPlaces * dim));
  for (double& x : place) x = spread * static_cast<double>(places.normal());
  std::vector<T> x;
  std::vector<int64_t> of_run(static_cast<size_t>(heads));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < count; ++t) {
      if (t % kRun == 0)
        for (int64_t& n : of_run) n = random.below(kPlaces);
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < dim; ++d) {
          const double centre =
              place[static_cast<size_t>(of_run[static_cast<size_t>(h)] * dim + d)];
          x.push_back(T(static_cast<float>(centre + noise * static_cast<double>(random.normal()))));
        }
    }
  return x;
}

template <class T>
struct Inputs {
  explicit Inputs(const Case& c, double spread = 1, double noise = 0.3)
      : q(tokens<T>(c.p().batch, c.p().tq, c.p().heads, c.p().head_dim, spread, noise, 1)),
        k(tokens<T>(c.p().batch, c.p().tk, c.p().kv_heads, c.p().head_dim, spread, noise, 2)) {}
  std::vector<T> q, k;
};

std::vector<uint8_t> list_by(const AttentionBlocksKernel& kernel, const Case& c, const void* q,
                             const void* k, int threads = 1) {
  ThreadPool pool(threads);
  std::vector<uint8_t> blocks(static_cast<size_t>(c.p().batch * c.p().block_plane.batch), 7);
  const AttentionBlocksKernel only[] = {kernel};
  make_planned<AttentionBlocksProblem, AttentionBlocksArgs>(only, c.problem, pool, "blocks")
      .run({.q = q, .k = k, .links = c.links(), .blocks = blocks.data()});
  for (const uint8_t x : blocks) EXPECT_LE(x, 1);
  return blocks;
}

bool is_on(const Case& c, const std::vector<uint8_t>& blocks, int64_t b, int64_t h, int64_t i,
           int64_t j) {
  const AttentionPlane& s = c.p().block_plane;
  return blocks[static_cast<size_t>(b * s.batch + h * s.head + i / c.p().block * s.query +
                                    j / c.p().block)] != 0;
}

// Of each row of blocks the true mass that the list keeps, a mean over the queries that see keys.
std::vector<double> kept_mass(const Case& c, const std::vector<uint8_t>& blocks,
                              const std::vector<float>& q, const std::vector<float>& k) {
  using attention_detail::row;
  const AttentionProblem& p = c.p();
  std::vector<double> all;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t first = 0; first < p.tq; first += p.block) {
        double mass = 0, queries = 0;
        for (int64_t i = first; i < std::min(p.tq, first + p.block); ++i) {
          const attention_detail::Seen seen(p, c.links(), b);
          const auto keys = seen.of(i);
          double sum = 0, kept = 0;
          for (int64_t j = 0; j < p.tk; ++j) {
            if (!keys.sees(p, j)) continue;
            double s = 0;
            for (int64_t d = 0; d < p.head_dim; ++d)
              s += static_cast<double>(row(q.data(), p.q, b, i, h)[d]) *
                   static_cast<double>(row(k.data(), p.k, b, j, h / 2)[d]);
            const double e = std::exp(p.scale * s);
            sum += e;
            if (is_on(c, blocks, b, h, i, j)) kept += e;
          }
          if (sum == 0) continue;
          mass += kept / sum;
          ++queries;
        }
        if (queries > 0) all.push_back(mass / queries);
      }
  return all;
}

// Masks of each kind; lengths that end within a mean, keys that are more or fewer than queries.
std::vector<Case> cases() {
  std::vector<Case> all = {case_of(320, 320, 64, 0.9), case_of(200, 330, 32, 0.8),
                           case_of(330, 200, 16, 0.95), case_of(1, 300, 64, 0.9),
                           case_of(77, 5, 16, 0.5)};
  all.push_back(case_of(320, 320, 64, 0.9));
  all.back().p().causal = true;
  all.push_back(case_of(200, 330, 48, 0.7));
  all.back().p().causal = true;
  all.push_back(case_of(330, 200, 32, 0.9));
  all.back().p().causal = true;
  all.push_back(case_of(330, 200, 32, 0.9));
  all.back().p().align = AttentionAlign::upper_left;
  all.back().p().causal = true;
  all.push_back(case_of(400, 400, 32, 0.6));
  all.back().p().window_left = 70;
  all.back().p().window_right = 20;
  all.back().p().global_tokens = 5;
  all.push_back(case_of(330, 200, 16, 0.4));
  all.back().p().window_left = 0;
  all.back().p().window_right = 3;
  all.push_back(case_of(300, 300, 32, 0.5));
  all.back().p().causal = true;
  all.back().p().prefix = 40;
  all.back().p().heads_kept = 3;
  all.push_back(case_of(260, 260, 64, 0.9));
  all.back().lengths = {131, 0};
  all.push_back(case_of(260, 260, 32, 0.3));
  all.back().p().causal = true;
  all.back().p().window_left = 90;
  all.back().lengths = {119, 260};
  all.push_back(case_of(260, 260, 32, 0.6));
  all.back().p().documents = 3;
  all.back().documents = {0, 50, 51, 260, 0, 100, 200, 230};
  return all;
}

TEST(AttentionBlocks, EveryKernelGivesTheListOfTheReferenceForAnyNumberOfThreads) {
  const auto kernels = attention_blocks_kernels();
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << c.p().tq << " queries, " << c.p().tk << " keys, blocks of "
                                    << c.p().block << ", mass " << c.problem.mass);
    const Inputs<float> in(c);
    std::vector<uint8_t> expected = list_by(kernels.back(), c, in.q.data(), in.k.data());
    for (const auto& kernel : kernels)
      for (const int threads : {1, 3})
        EXPECT_EQ(list_by(kernel, c, in.q.data(), in.k.data(), threads), expected) << kernel.name;
    Case narrow = c;
    narrow.p().dtype = DType::bf16;
    const Inputs<bf16> halves(c);
    expected = list_by(kernels.back(), narrow, halves.q.data(), halves.k.data());
    for (const auto& kernel : kernels)
      EXPECT_EQ(list_by(kernel, narrow, halves.q.data(), halves.k.data()), expected) << kernel.name;
  }
}

TEST(AttentionBlocks, TheMassThatIsKeptIsAtLeastWhatWasAsked) {
  int64_t on = 0, all = 0;
  for (const double mass : {0.5, 0.8, 0.95})
    for (const bool causal : {false, true}) {
      Case c = case_of(512, 512, 32, mass);
      c.p().causal = causal;
      // Runs of tokens begin where means do; their noise is a tenth of what tells them apart.
      const Inputs<float> in(c, 1.5, 0.15);
      const auto blocks = list_by(attention_blocks_kernels().back(), c, in.q.data(), in.k.data());
      for (const auto& kernel : attention_blocks_kernels())
        EXPECT_EQ(list_by(kernel, c, in.q.data(), in.k.data()), blocks) << kernel.name;
      double mean = 0;
      const std::vector<double> kept = kept_mass(c, blocks, in.q, in.k);
      for (const double x : kept) {
        EXPECT_GE(x, mass - 0.03);
        mean += x / static_cast<double>(kept.size());
      }
      EXPECT_GE(mean, mass) << (causal ? "causal" : "");
      if (!causal)
        for (const uint8_t x : blocks) on += x, ++all;
    }
  EXPECT_LT(on, all / 2) << "what is left out";
}

TEST(AttentionBlocks, NoQueryIsLeftWithoutKeysThatHasSomeWithoutTheList) {
  for (Case c : cases()) {
    c.problem.mass = 1e-3;
    const Inputs<float> in(c, 3);
    for (const auto& kernel : attention_blocks_kernels()) {
      const auto blocks = list_by(kernel, c, in.q.data(), in.k.data());
      for (int64_t b = 0; b < c.p().batch; ++b)
        for (int64_t i = 0; i < c.p().tq; ++i) {
          const AttentionLinks links = c.links();
          const auto keys = attention_detail::Seen(c.p(), links, b).of(i);
          std::vector<int64_t> seen;
          for (int64_t j = 0; j < c.p().tk; ++j)
            if (keys.sees(c.p(), j)) seen.push_back(j);
          for (int64_t h = 0; h < c.p().heads_kept && !seen.empty(); ++h)
            EXPECT_TRUE(std::any_of(seen.begin(), seen.end(),
                                    [&](int64_t j) { return is_on(c, blocks, b, h, i, j); }))
                << kernel.name << ", query " << i;
        }
    }
  }
}

TEST(AttentionBlocks, AWholeMassKeepsEveryBlockThatIsSeen) {
  Case c = case_of(256, 256, 32, 1);
  c.p().causal = true;
  const Inputs<float> in(c, 0.1, 0.1);
  for (const auto& kernel : attention_blocks_kernels()) {
    const auto blocks = list_by(kernel, c, in.q.data(), in.k.data());
    for (int64_t i = 0; i < 256; i += 32)
      for (int64_t j = 0; j < 256; j += 32)
        EXPECT_EQ(is_on(c, blocks, 1, 2, i, j), j <= i) << kernel.name << ' ' << i << ' ' << j;
  }
}

TEST(AttentionBlocks, WhatIsNotFiniteKeepsItsBlocks) {
  const Case c = case_of(128, 128, 32, 0.1);
  for (const float broken : {NAN, INFINITY}) {
    Inputs<float> in(c);
    in.q[40 * 96] = broken;  // the query 40 of the first head
    for (const auto& kernel : attention_blocks_kernels()) {
      const auto blocks = list_by(kernel, c, in.q.data(), in.k.data());
      for (int64_t j = 0; j < 128; j += 32)
        EXPECT_TRUE(is_on(c, blocks, 0, 0, 40, j)) << kernel.name << ' ' << broken << ' ' << j;
    }
  }
}

TEST(AttentionBlocks, AttentionOverTheListIsCloseToAttentionOverAll) {
  Case c = case_of(384, 384, 64, 0.999);
  const Inputs<float> in(c, 2, 0.2);
  const std::vector<float> v = tokens<float>(2, 384, 2, 24, 1, 1, 3);
  const size_t count = in.q.size();
  std::vector<float> full(count), some(count);
  std::vector<uint8_t> blocks(static_cast<size_t>(2 * c.p().block_plane.batch));
  attention_blocks(c.problem, {.q = in.q.data(), .k = in.k.data(), .blocks = blocks.data()});
  EXPECT_LT(std::count(blocks.begin(), blocks.end(), 1),
            static_cast<int64_t>(blocks.size()) * 3 / 4);
  attention(c.p(), {.q = in.q.data(),
                    .k = in.k.data(),
                    .v = v.data(),
                    .out = some.data(),
                    .links = {.blocks = blocks.data()}});
  AttentionProblem all = c.p();
  all.block = 0;
  attention(all, {.q = in.q.data(), .k = in.k.data(), .v = v.data(), .out = full.data()});
  double difference = 0, size = 0;
  for (size_t i = 0; i < count; ++i) {
    difference += std::pow(static_cast<double>(full[i] - some[i]), 2);
    size += std::pow(static_cast<double>(full[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / size), 0.02);
}

TEST(AttentionBlocks, WhatTheEstimateDoesNotKnowIsAnErrorThatNamesIt) {
  const auto refused = [](const char* what, const std::function<void(Case&)>& change) {
    Case c = case_of(64, 64, 32, 0.9);
    change(c);
    for (const auto& kernel : attention_blocks_kernels()) {
      const Caught caught = error_of([&] { kernel.plan(c.problem); });
      EXPECT_EQ(caught.code, ErrorCode::invalid_argument);
      EXPECT_TRUE(contains(caught.what, what)) << caught.what;
    }
  };
  refused("a mass above 0 and at most 1, got 0", [](Case& c) { c.problem.mass = 0; });
  refused("a mass above 0", [](Case& c) { c.problem.mass = NAN; });
  refused("the size of blocks in block", [](Case& c) { c.p().block = 0; });
  refused("block to be a multiple of 16", [](Case& c) { c.p().block = 24; });
  refused("no rotary with a list of blocks", [](Case& c) { c.p().rotary = 4; });
  refused("no cosine", [](Case& c) { c.p().cosine = true; });
  refused("no temperature", [](Case& c) { c.p().temperature = true; });
  refused("no soft_cap", [](Case& c) { c.p().soft_cap = 3; });
  refused("no relative_keys", [](Case& c) { c.p().relative_keys = true; });
  refused("no distance_bias", [](Case& c) { c.p().distance_bias = true; });
  refused("no bias", [](Case& c) { c.p().bias = true; });
  refused("no mask", [](Case& c) { c.p().mask = true; });
  refused("no normaliser", [](Case& c) { c.p().normaliser.kind = Normaliser::sparsemax; });
  refused("no dilation", [](Case& c) {
    c.p().window_left = 4;
    c.p().dilation = 2;
  });
  refused("no span", [](Case& c) {
    c.p().span = true;
    c.p().span_ramp = 1;
  });
  refused("each sample, head and row of blocks has a list of its own",
          [](Case& c) { c.p().block_plane.head = 0; });
  const Case c = case_of(64, 64, 32, 0.9);
  const Caught caught = error_of([&] { attention_blocks(c.problem, {}); });
  EXPECT_TRUE(contains(caught.what, "memory for q")) << caught.what;
}

}  // namespace
}  // namespace fovea
