// Fields of protobuf messages, written one after another; the classes that protoc would make are
// not needed for a format that is only written.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "fovea/graph/graph.h"

namespace fovea {

class ProtobufMessage {
 public:
  void number(int field, double value);
  void real(int field, float value);
  void integer(int field, int64_t value);
  // A string, bytes or a message within this one.
  void bytes(int field, std::string_view value);
  void message(int field, const ProtobufMessage& value) { bytes(field, value.text()); }
  // repeated, packed
  void numbers(int field, std::span<const double> values);

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// The message GraphDef of a graph.
ProtobufMessage graph_message(const Graph& graph);

}  // namespace fovea
