// A graph from a hostile bundle goes through the passes and the memory plan.
#include "fovea/base/error.h"
#include "fovea/graph/graph_text.h"
#include "fovea/passes/memory_plan.h"
#include "fovea/passes/pipeline.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

void compile(const Graph& graph, const PassContext& context) {
  try {
    const Graph passed = run_passes(graph, context);
    plan_memory(specialise(passed, {{"B", 2}, {"T", 3}}));
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::MemoryBound bound((size_t{64} << 20) + (size_t{1} << 16) * size);
  Graph graph;
  try {
    graph = parse_graph(fuzz::as_text(data, size));
  } catch (const Error&) {
    return 0;
  }
  compile(graph, {});
  PassContext in_bf16;
  in_bf16.bf16 = true;
  compile(graph, in_bf16);
  bound.check();
  return 0;
}
