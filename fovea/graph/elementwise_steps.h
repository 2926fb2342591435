// The steps of the op elementwise, read from their text.
#pragma once

#include <string>
#include <vector>

#include "fovea/graph/op.h"

namespace fovea {

struct ElementwiseStep {
  const Op* op = nullptr;
  std::vector<int> operands;  // registers: the inputs, then the steps
};

// Whether an op may be a step of a chain.
bool is_chain_op(const Op& op);

// Throws Error for a step that is no elementwise op, or that reads what is not there yet.
std::vector<ElementwiseStep> parse_steps(const std::vector<std::string>& texts, int inputs);

}  // namespace fovea
