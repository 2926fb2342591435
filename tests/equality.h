// Runs graphs and compares their numbers: what tests of passes and of the memory plan share.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fovea/graph/graph.h"
#include "fovea/passes/pass.h"
#include "fovea/runtime/session.h"

namespace fovea::equality {

// The bytes of outputs and variables by name, after some steps.
struct Result {
  std::map<std::string, HostTensor> outputs;
  std::map<std::string, std::vector<std::byte>> variables;
};

struct Options {
  SizeBindings sizes = {};
  uint64_t seed = 1;  // of inputs and initial values
  int steps = 1;
  int threads = 1;
};

// Fills each input with numbers that depend on seed and name alone: floats in [-1, 1), whole
// numbers from 0 to 3.
void fill_inputs(Execution& execution, const Graph& graph, uint64_t seed);
Result run(const Graph& graph, const Options& options = {});

// compile() with these passes only, and lower, so that the graph can be run.
Graph compile_with(const Graph& graph, const std::vector<std::string>& passes,
                   const PassContext& context = {});
int count_ops(const Graph& graph, std::string_view op);

std::vector<double> numbers(const HostTensor& tensor);

// The outputs that `expected` has, and all variables: equal bytes, or for floats
// |got - expected| <= tolerance max(1, |expected|).
void expect_same_bits(const Result& got, const Result& expected);
void expect_close(const Result& got, const Result& expected, double tolerance);

}  // namespace fovea::equality
