// The text form of a graph, which round-trips: parse_graph(print_graph(g)) prints the same again.
//
//   fovea.graph 1
//   ops attention=1 linear=1
//   x = input(type=f32[B,49,64])
//   enc.0.q = linear(%x, %enc.0.q.weight) : f32[B,49,64]
//   output y = %enc.0.q
//   update %step = %step.next
#pragma once

#include <string>
#include <string_view>

#include "fovea/graph/graph.h"

namespace fovea {

constexpr int kGraphFormat = 1;

std::string print_graph(const Graph& graph);

// `where` names the file in messages. Constants of over 64 elements are left to the caller's store.
// Throws Error naming the line: unknown op or attribute, a value used before it is defined, types
// that are not what the shape rule gives, a newer format or op version, text of over 256 MB.
Graph parse_graph(std::string_view text, std::string_view where = "graph text");

// Equal up to the constant store.
bool operator==(const Graph& a, const Graph& b);

}  // namespace fovea
