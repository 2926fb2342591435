// Graphs as text, for the tests of passes: before and after.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "fovea/graph/graph_text.h"
#include "fovea/passes/pass.h"

namespace fovea {

// Without the two lines of the header, so that a test shows only what it is about.
inline Graph graph_of(const std::string& lines) {
  return parse_graph("fovea.graph 1\nops\n" + lines, "test");
}

// The graph is sound and is the one that the lines say.
inline void expect_graph(const Graph& graph, const std::string& lines) {
  EXPECT_NO_THROW(verify(graph));
  EXPECT_EQ(print_graph(graph), print_graph(graph_of(lines)));
}

// The message of the Error that f throws.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace fovea
