// Linear, additive and subtraction attention in a graph of their own, beside their decompositions:
// the same results from simpler ops, each with its kernel.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "cli/bench_case.h"
#include "fovea/base/philox.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/dead_nodes.h"
#include "fovea/passes/lower.h"
#include "fovea/runtime/session.h"

namespace fovea::cli {

namespace {

struct Problem {
  std::string op;      // "linear_attention"
  std::string family;  // of its kernels
  int64_t heads, tokens, dim;
  bool causal = false;
  bool backward = false;

  bool pairs() const { return op != "linear_attention"; }
  std::string name() const {
    return fmt::format("{} {} H{} N{} D{} f32", op + (causal ? " causal" : ""),
                       backward ? "backward" : "forward", heads, tokens, dim);
  }
  std::string node() const { return backward ? op + "_grad" : op; }
};

Attrs attrs_of(const Problem& p) {
  // Training asks forward for the log-sum-exp, which backward reads.
  if (p.pairs()) return PairAttentionAttrs{.heads = p.heads, .causal = p.causal, .lse = p.backward};
  return LinearAttentionAttrs{.heads = p.heads, .causal = p.causal};
}

// With kernels for all ops, or for all but the problem's own.
Graph lowered(const Problem& p, const Graph& graph, bool written_out) {
  PassContext context;
  context.has_kernel = [&](const Op& op) {
    if (written_out && (op.name == p.op || op.name == p.op + "_grad")) return false;
    return op.source || op.view || find_binding(op.name) != nullptr;
  };
  return lower(graph, context);
}

// The outputs are the result, or the gradients of the operands. written_out: with the ops that the
// decomposition is made of, and their gradients.
Graph graph_of(const Problem& p, bool written_out) {
  Graph forward;
  std::vector<Value> in;
  const Shape rows = {1, p.tokens, p.heads * p.dim};
  for (const char* name : {"q", "k", "v"})
    in.push_back(ops::input(forward, name, DType::f32, rows));
  if (p.pairs()) in.push_back(ops::input(forward, "w", DType::f32, {p.heads * p.dim}));
  forward.set_output("0", forward.add(p.op, in, attrs_of(p)));
  Graph g = lowered(p, forward, written_out);
  if (!p.backward) return g;
  for (Value& v : in) v = {g.find(forward.node(v).name), 0};
  const std::pair<Value, Value> seeds[] = {
      {g.output("0"), ops::input(g, "dout", DType::f32, rows)}};
  const std::vector<Value> gradients = backpropagate(g, seeds, in);
  for (size_t i = 0; i < gradients.size(); ++i) g.set_output(std::to_string(i), gradients[i]);
  // Linear attention does not need its result for the gradient.
  return dead_nodes(lowered(p, g, written_out), {});
}

class InGraph : public Competitor {
 public:
  // written_out: with the ops that the decomposition is made of.
  InGraph(const Problem& p, const std::string& wanted, bool written_out,
          const std::shared_ptr<ThreadPool>& pool)
      : session_(graph_of(p, written_out), std::make_shared<VariableStore>(), pool,
                 {.kernels = choice_of(p, written_out ? "" : wanted)}),
        execution_(&session_.prepare({})) {
    implementation = written_out ? "decomposition" : "fovea";
    kernel = written_out ? "of each op" : "";
    for (const NodeReport& report : execution_->reports())
      if (!written_out && report.op == p.node()) kernel = report.kernel;
    // Of the op alone, also for the decomposition: the same work is asked for.
    const Graph graph = graph_of(p, false);
    for (int id = 0; id < graph.size(); ++id)
      if (graph.node(id).op->name == p.op || graph.node(id).op->name == p.node())
        flops += node_cost(graph, graph.node(id)).flops.constant();
    for (const char* name : {"q", "k", "v", "w", "dout"}) {
      if (!execution_->has_input(name)) continue;
      const auto bytes = execution_->input(name);
      PhiloxStream random(1, stream_id(name));
      for (size_t i = 0; i < bytes.size(); i += sizeof(float)) {
        const float x = 2 * random.unit() - 1;
        std::memcpy(bytes.data() + i, &x, sizeof(x));
      }
    }
    outputs_ = p.backward ? (p.pairs() ? 4 : 3) : 1;
  }

  std::vector<float> output() override {
    execution_->run();
    std::vector<float> all;
    for (int i = 0; i < outputs_; ++i) {
      const auto values = execution_->output_f32(std::to_string(i));
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  std::vector<double> run(int64_t runs) override {
    return time_runs(runs, [this] { execution_->run(); });
  }

 private:
  static KernelChoice choice_of(const Problem& p, const std::string& wanted) {
    if (wanted.empty()) return {};
    return KernelChoice::parse(
        fmt::format("{}={}", p.backward ? p.family + "_backward" : p.family, wanted));
  }

  Session session_;
  Execution* execution_;
  int outputs_ = 1;
};

bool has_kernel(const Problem& p, const std::string& name) {
  for (const KernelFamily& family : kernel_families())
    if (family.name == p.family)
      return name.empty() ||
             std::find(family.kernels.begin(), family.kernels.end(), name) != family.kernels.end();
  return false;
}

BenchCase case_of(const Problem& p, const std::string& kernel) {
  BenchCase c;
  c.name = p.name();
  c.tolerance = 1e-4;
  c.own = [=](const std::shared_ptr<ThreadPool>& pool) {
    std::vector<std::unique_ptr<Competitor>> own;
    own.push_back(std::make_unique<InGraph>(p, kernel, false, pool));
    own.push_back(std::make_unique<InGraph>(p, kernel, true, pool));
    return own;
  };
  c.write_files = [](const std::filesystem::path&) {};
  c.setup = [](std::string_view) { return std::string(); };  // no rival has these
  return c;
}

}  // namespace

std::vector<BenchCase> score_cases(const std::string& kernel) {
  std::vector<BenchCase> cases;
  for (const bool backward : {false, true})
    for (Problem p : {Problem{"linear_attention", "linear_attention", 8, 4096, 64},
                      Problem{"linear_attention", "linear_attention", 8, 4096, 64, true},
                      Problem{"additive_attention", "pair_attention", 4, 512, 32},
                      Problem{"subtraction_attention", "pair_attention", 4, 512, 32}}) {
      p.backward = backward;
      if (has_kernel(p, kernel)) cases.push_back(case_of(p, kernel));
    }
  return cases;
}

}  // namespace fovea::cli
