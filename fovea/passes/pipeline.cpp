#include "fovea/passes/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/passes/apply_level.h"
#include "fovea/passes/common_subexpressions.h"
#include "fovea/passes/dead_nodes.h"
#include "fovea/passes/differentiate.h"
#include "fovea/passes/fold.h"
#include "fovea/passes/freeze.h"
#include "fovea/passes/fuse_attention.h"
#include "fovea/passes/fuse_cross_entropy.h"
#include "fovea/passes/fuse_elementwise.h"
#include "fovea/passes/fuse_linear.h"
#include "fovea/passes/fuse_norm.h"
#include "fovea/passes/join_projections.h"
#include "fovea/passes/lower.h"
#include "fovea/passes/mixed_precision.h"
#include "fovea/passes/narrow_heads.h"
#include "fovea/passes/recompute.h"

namespace fovea {

namespace {
Graph optimise(const Graph& graph, const PassContext& context) {
  return context.optimiser ? context.optimiser(graph) : graph;
}
}  // namespace

std::span<const Pass> pipeline() {
  static constexpr Pass kPasses[] = {
      {"apply_level", apply_level},
      {"freeze", freeze},
      {"narrow_heads", narrow_heads},
      {"fuse_attention", fuse_attention},
      {"fuse_cross_entropy", fuse_cross_entropy},
      {"join_projections", join_projections},
      {"fuse_linear", fuse_linear},
      {"differentiate", differentiate},
      {"optimiser", optimise},
      {"fuse_gradients", fuse_gradients},
      {"mixed_precision", mixed_precision},
      {"lower", lower},
      {"fold", fold},
      {"common_subexpressions", common_subexpressions},
      {"dead_nodes", dead_nodes},
      {"fuse_norm", fuse_norm},
      {"fuse_elementwise", fuse_elementwise},
      {"recompute", recompute},
  };
  return kPasses;
}

Graph run_passes(const Graph& graph, const PassContext& context,
                 std::span<const std::string> disabled, std::vector<PassReport>* reports) {
  std::vector<std::string_view> names;
  for (const Pass& pass : pipeline()) names.push_back(pass.name);
  for (const std::string& name : disabled)
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Error(ErrorCode::not_found,
                  fmt::format("[passes] there is no pass '{}'{} (passes: {})", name,
                              did_you_mean(name, names), fmt::join(names, ", ")));
  Graph current = graph;
  for (const Pass& pass : pipeline()) {
    PassReport report{.name = std::string(pass.name), .nodes_before = current.size()};
    report.disabled = std::find(disabled.begin(), disabled.end(), pass.name) != disabled.end();
    const auto start = std::chrono::steady_clock::now();
    if (!report.disabled) {
      current = pass.run(current, context);
      verify(current);
    }
    report.milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    report.nodes_after = current.size();
    if (reports) reports->push_back(std::move(report));
  }
  return current;
}

}  // namespace fovea
