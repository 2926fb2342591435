// Running a graph for its cost: what profile shows, and the latency that train reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/json.h"
#include "fovea/runtime/session.h"

namespace fovea::cli {

// Gives numbers that differ to images and series, whole lengths to sequences, and 0 to all other
// inputs: labels of the first class, and a learning rate that leaves the weights as they are.
void fill_inputs(Execution& execution, const Graph& graph);

struct Profile {
  std::vector<NodeReport> nodes;  // in the order of running; milliseconds is the median of the runs
  double node_milliseconds = 0;   // their sum
  double run_milliseconds = 0;    // median of a whole run, without the clocks between the nodes
  int64_t flops = 0;
  int64_t bytes = 0;
};

// After two runs to warm up.
Profile profile(Execution& execution, int64_t runs);

// The nodes of one run as the events of a Chrome trace (the "Trace Event Format", phase X; open it
// with a trace viewer such as Perfetto). `thread` tells parts of a step apart, `start` is where the
// run begins, in seconds; gives where it ended.
double add_trace(Execution& execution, const std::string& part, int64_t thread, double start,
                 Json& events);

// Median of a run in milliseconds, after 20 to warm up.
double latency_milliseconds(Execution& execution, int64_t runs);

// The largest resident size of this process so far (VmHWM), 0 where the system does not tell.
int64_t peak_memory_bytes();

}  // namespace fovea::cli
