// The ordered list of passes, and how it is run.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "fovea/passes/pass.h"

namespace fovea {

// All passes in the order in which they run. Nothing merges nodes after the memory plan is made.
std::span<const Pass> pipeline();

struct PassReport {
  std::string name;
  double milliseconds = 0;
  int nodes_before = 0;
  int nodes_after = 0;
  bool disabled = false;
};

// Runs the pipeline; verifies after each pass. Throws Error when `disabled` names a pass that does
// not exist (with the nearest name), and what the passes throw.
Graph run_passes(const Graph& graph, const PassContext& context,
                 std::span<const std::string> disabled = {},
                 std::vector<PassReport>* reports = nullptr);

}  // namespace fovea
