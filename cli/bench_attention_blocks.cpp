// A list of blocks made from q and k and attention over it, beside each of the two alone.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "cli/bench_attention.h"
#include "fovea/base/philox.h"
#include "fovea/kernels/attention_blocks.h"

namespace fovea::cli {

namespace {

constexpr int64_t kHeads = 8, kDim = 64, kBlock = 64;
// Runs of a block each stand at one of so many places, and see the runs at their own.
constexpr int64_t kPlaces = 10;

AttentionBlocksProblem problem_of(int64_t tokens) {
  AttentionBlocksProblem problem{.attention = {.tq = tokens,
                                               .tk = tokens,
                                               .heads = kHeads,
                                               .kv_heads = kHeads,
                                               .heads_kept = kHeads,
                                               .head_dim = kDim,
                                               .value_dim = kDim,
                                               .scale = 1 / std::sqrt(static_cast<double>(kDim)),
                                               .block = kBlock}};
  const int64_t blocks = tokens / kBlock;
  problem.attention.block_plane = {
      .batch = kHeads * blocks * blocks, .head = blocks * blocks, .query = blocks};
  set_dense_strides(problem.attention, /*packed=*/true);
  return problem;
}

enum class Part { both, attention, list };

class Blocks : public Competitor {
 public:
  Blocks(int64_t tokens, Part part, const std::string& wanted, std::shared_ptr<ThreadPool> pool)
      : part_(part),
        pool_(std::move(pool)),
        problem_(problem_of(tokens)),
        q_(rows(tokens, "q")),
        k_(rows(tokens, "k")),
        v_(random_values(tokens * kHeads * kDim, DType::f32, "v")),
        out_(q_.size() * sizeof(float), "output of attention"),
        blocks_(static_cast<size_t>(problem_.attention.block_plane.batch)),
        list_(plan_of<AttentionBlocksProblem, AttentionBlocksArgs>(attention_blocks_kernels(), "",
                                                                   problem_)),
        attention_(plan_of(attention_kernels(), wanted, problem_.attention)),
        list_scratch_(*list_.plan, *pool_),
        attention_scratch_(*attention_.plan, *pool_) {
    make_list();
    const auto on = std::count(blocks_.begin(), blocks_.end(), uint8_t{1});
    const double share = static_cast<double>(on) / static_cast<double>(blocks_.size());
    implementation = part == Part::both        ? "fovea"
                     : part == Part::attention ? "attention alone"
                                               : "list alone";
    kernel = part == Part::list
                 ? list_.name
                 : fmt::format("{}, {:.1f} % of blocks", attention_.name, 100 * share);
    flops = static_cast<int64_t>(share * 4 * static_cast<double>(kHeads * kDim) *
                                 static_cast<double>(tokens) * static_cast<double>(tokens));
  }

  // Nothing that the list alone has as well.
  std::vector<float> output() override { return {}; }
  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] {
      if (part_ != Part::attention) make_list();
      if (part_ != Part::list) attend();
    });
  }

 private:
  static std::vector<float> rows(int64_t tokens, const char* name) {
    PhiloxStream places(1, stream_id("places")), random(1, stream_id(name));
    std::vector<float> place(static_cast<size_t>(kPlaces * kDim)), x;
    for (float& e : place) e = 2 * static_cast<float>(places.normal());
    std::vector<int64_t> at(kHeads);
    for (int64_t t = 0; t < tokens; ++t) {
      if (t % kBlock == 0)
        for (int64_t& a : at) a = random.below(kPlaces);
      for (const int64_t a : at)
        for (int64_t d = 0; d < kDim; ++d)
          x.push_back(place[static_cast<size_t>(a * kDim + d)] + random.unit() - 0.5f);
    }
    return x;
  }
  void make_list() {
    list_.plan->run({.q = q_.data(), .k = k_.data(), .blocks = blocks_.data()},
                    list_scratch_.context);
  }
  void attend() {
    attention_.plan->run({.q = q_.data(),
                          .k = k_.data(),
                          .v = v_.data(),
                          .out = out_.data(),
                          .links = {.blocks = blocks_.data()}},
                         attention_scratch_.context);
  }

  Part part_;
  std::shared_ptr<ThreadPool> pool_;
  AttentionBlocksProblem problem_;
  std::vector<float> q_, k_;
  AlignedBuffer v_, out_;
  std::vector<uint8_t> blocks_;
  Planned<AttentionBlocksArgs> list_;
  Planned<AttentionArgs> attention_;
  Scratch<AttentionBlocksArgs> list_scratch_;
  Scratch<AttentionArgs> attention_scratch_;
};

}  // namespace

std::vector<BenchCase> attention_block_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  for (const int64_t tokens : {4096, 16384}) {
    if (!supports(problem_of(tokens).attention, /*backward=*/false, kernel)) continue;
    BenchCase c;
    c.name = fmt::format("attention forward blocks of {} from data B1 H{} N{} D{} f32", kBlock,
                         kHeads, tokens, kDim);
    c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
      std::vector<std::unique_ptr<Competitor>> own;
      for (const Part part : {Part::both, Part::attention, Part::list})
        own.push_back(std::make_unique<Blocks>(tokens, part, kernel, pool));
      return own;
    };
    c.write_files = [](const std::filesystem::path&) {};
    c.setup = [](std::string_view) { return std::string(); };
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace fovea::cli
