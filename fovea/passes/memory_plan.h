// Where each value stands: a pure function of a graph whose sizes are numbers. Values whose
// lifetimes do not overlap share memory; updates of variables are written in place where every
// reader has read.
#pragma once

#include <cstdint>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

enum class Place { arena, input, variable, constant, unused };

// The memory of one value.
struct Slot {
  Place place = Place::unused;
  int node = -1;      // of the input, variable or constant that owns the bytes
  size_t offset = 0;  // into the arena
  size_t bytes = 0;
};

// An update that could not be written in place: copied when all nodes have run. A value that is
// itself a variable is copied aside first, so that all updates read what was there before the step.
struct Commit {
  int variable = -1;  // node
  Value value;
  bool staged = false;
  size_t staging_offset = 0;  // into the arena
};

// An output that is a variable, or a view of one, which this step updates: copied aside before the
// updates, so that it shows what was there before the step.
struct KeptOutput {
  Value value;
  size_t offset = 0;  // into the arena
};

struct MemoryPlan {
  std::vector<std::vector<Slot>> slots;  // by node id, then output
  std::vector<Commit> commits;
  std::vector<KeptOutput> kept;
  size_t arena_bytes = 0;
  size_t values_bytes = 0;  // what the arena would be if nothing shared memory

  const Slot& slot(Value v) const {
    return slots[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
  }
};

// Every value starts at a multiple of this.
inline constexpr size_t kAlignment = 64;
inline size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Nodes run in the graph's order. Outputs and inputs keep their memory to the end. All sizes must
// be constants (specialise). Throws Error for a value of over a terabyte.
MemoryPlan plan_memory(const Graph& graph);

}  // namespace fovea
