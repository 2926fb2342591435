// Whatever is read as a graph prints the same again, and its sizes can be computed.
#include "fovea/graph/graph_text.h"

#include "fovea/base/error.h"
#include "fovea/graph/op.h"
#include "fuzz/property.h"

using namespace fovea;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A node takes a line of ten bytes and a few hundred bytes of memory; a size has up to 1024
  // terms.
  const fuzz::MemoryBound bound((size_t{4} << 20) + 4096 * size);
  Graph graph;
  try {
    graph = parse_graph(fuzz::as_text(data, size));
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  bound.check();
  verify(graph);
  const std::string printed = print_graph(graph);
  fuzz::expect(print_graph(parse_graph(printed)) == printed, "a graph prints as it was read");
  try {
    graph_cost(graph);
  } catch (const Error&) {
  }
  try {
    verify(specialise(graph, {{"B", 2}, {"T", 3}}));
  } catch (const Error&) {
  }
  return 0;
}
