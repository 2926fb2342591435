// Runs a graph on the processor: plans memory and kernels once for given sizes, then runs with no
// allocation. Plans stand in a least-recently-used cache over one arena as large as the largest.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fovea/passes/memory_plan.h"
#include "fovea/runtime/binding.h"
#include "fovea/runtime/variables.h"

namespace fovea {

class Session;

// What one node did, for reports.
struct NodeReport {
  std::string name;         // of the node
  std::string op;           // "linear"
  std::string kernel;       // "matmul:dnnl"
  int64_t flops = 0;        // by the op's own account
  int64_t bytes = 0;        // read and written
  double milliseconds = 0;  // of all timed runs
  bool alone = false;       // on the calling thread, since it is too small to wake others for
};

// A graph planned for given sizes. Fill the inputs, run, read the outputs; the executions of a
// session share one memory, so read before preparing or running another.
class Execution {
 public:
  // Throws Error when there is no such input or output.
  std::span<std::byte> input(std::string_view name);
  std::span<const std::byte> output(std::string_view name) const;
  const ValueType& output_type(std::string_view name) const;
  // f32 outputs. FOVEA_ASSERT on the type.
  std::span<const float> output_f32(std::string_view name) const;
  bool has_input(std::string_view name) const;  // without an error

  // One step: all nodes, then the updates.
  void run();
  // The same, with the time of each node added to its report.
  void run_timed();
  // The same, showing each node's results when it has run; those of views with their owner's.
  using Observer = std::function<void(const Node&, size_t output, std::span<const std::byte>)>;
  void run_observed(const Observer& observer);
  // When each node began and ended, of the last run_timed(): seconds since its start.
  struct NodeTimes {
    double begin = 0, end = 0;
  };
  const std::vector<NodeTimes>& times() const { return times_; }
  // The same, looking for the first node that made a NaN or an infinity out of finite numbers;
  // empty when there is none. For finding faults: slow.
  std::string run_looking_for_non_finite();

  std::vector<NodeReport> reports() const;                      // in the order in which nodes run
  size_t arena_bytes() const { return memory_.arena_bytes; }    // what the plan takes
  size_t values_bytes() const { return memory_.values_bytes; }  // if nothing shared memory
  size_t total_bytes() const { return total_bytes_; }           // arena, inputs and scratch
  size_t packed_bytes() const;  // constants in the order of their kernels

 private:
  friend class Session;
  struct Step {
    int node = -1;
    std::unique_ptr<NodePlan> plan;
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    AlignedBuffer packed;  // an operand that never changes, as the kernel reads it
    bool alone = false;    // not worth waking other threads
    double milliseconds = 0;
  };
  Execution(Session& session, const SizeBindings& bindings);
  void resolve();
  std::byte* address(Value v) const;
  void commit();
  void pack_constants(Step& step);
  // Calls each(step, context) for all steps in order, then commits the updates.
  template <class Each>
  void run_steps(Each each);
  bool finite(Value v, bool* nan) const;
  std::string first_non_finite_source() const;

  Session& session_;
  Graph graph_;  // all sizes are numbers
  MemoryPlan memory_;
  std::vector<size_t> input_offset_;                 // by node
  std::vector<const AlignedBuffer*> constant_data_;  // by node; null for others
  std::vector<Step> steps_;
  std::vector<NodeTimes> times_;  // by step
  size_t scratch_offset_ = 0, worker_offset_ = 0, worker_stride_ = 0, total_bytes_ = 0;
  uint64_t resolved_for_ = 0;  // the generation of the session's arena
};

// Memory that plans run in, one after another, as large as the largest needs.
class Arena {
 public:
  void grow(size_t bytes);  // to at least so many
  std::byte* data() { return buffer_.data(); }
  size_t size() const { return buffer_.size(); }
  // Grows with each move to other addresses.
  uint64_t generation() const { return generation_; }

 private:
  AlignedBuffer buffer_;
  uint64_t generation_ = 1;
};

struct SessionOptions {  // how a session runs
  uint64_t seed = 0;     // of variables that the store lacks
  // Sessions that never run at the same time may share one; what one wrote into its inputs is then
  // gone when another has run. Empty: an arena of its own.
  std::shared_ptr<Arena> arena = {};
  KernelChoice kernels = KernelChoice::from_environment();
  // A node whose work is estimated at less runs on the calling thread, whatever the pool has: to
  // wake another thread takes microseconds, and a processor that slept, tens of them. No bit of the
  // results depends on it.
  double microseconds_worth_sharing = 30;
};

class Session {  // a graph with its variables, to be run for many sizes
 public:
  // The graph as the passes left it. Makes the variables that the store lacks. The options throw
  // Error when FOVEA_FORCE_KERNEL names what does not exist.
  Session(Graph graph, std::shared_ptr<VariableStore> variables, std::shared_ptr<ThreadPool> pool,
          SessionOptions options = {});

  // The plan for these sizes, made on first use. The reference holds until 32 others have been
  // asked for. Throws Error when a size is missing or does not fit, no kernel supports a node, or
  // memory is short.
  Execution& prepare(const SizeBindings& bindings);

  const Graph& graph() const { return graph_; }
  VariableStore& variables() { return *variables_; }
  ThreadPool& pool() { return *pool_; }

 private:
  friend class Execution;
  // The bytes of a constant, which all plans share.
  const AlignedBuffer* constant(const Graph& graph, const Node& node);

  Graph graph_;
  std::shared_ptr<VariableStore> variables_;
  std::shared_ptr<ThreadPool> pool_;
  KernelChoice choice_;
  double microseconds_worth_sharing_;
  std::map<std::string, AlignedBuffer> constants_;  // by type and content
  std::shared_ptr<Arena> arena_;
  std::list<std::pair<SizeBindings, std::unique_ptr<Execution>>> plans_;  // most recent first
};

}  // namespace fovea
