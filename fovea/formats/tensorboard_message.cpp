#include "fovea/formats/tensorboard_message.h"

#include <google/protobuf/io/coded_stream.h>

#include <bit>

#include "fovea/base/error.h"
#include "fovea/graph/op.h"

namespace fovea {

namespace {

using Coded = google::protobuf::io::CodedOutputStream;

// The kinds of fields on the wire.
enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };
constexpr size_t kLongestHead = 20;  // two varints

// Appends a tag and what `write` puts behind it.
template <class Write>
void append(std::string& text, int field, Wire wire, Write write) {
  uint8_t bytes[kLongestHead];
  uint8_t* end = Coded::WriteTagToArray(static_cast<uint32_t>(field) << 3 | wire, bytes);
  end = write(end);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
}

}  // namespace

void ProtobufMessage::number(int field, double value) {
  append(text_, field, kFixed64, [&](uint8_t* to) {
    return Coded::WriteLittleEndian64ToArray(std::bit_cast<uint64_t>(value), to);
  });
}

void ProtobufMessage::real(int field, float value) {
  append(text_, field, kFixed32, [&](uint8_t* to) {
    return Coded::WriteLittleEndian32ToArray(std::bit_cast<uint32_t>(value), to);
  });
}

void ProtobufMessage::integer(int field, int64_t value) {
  append(text_, field, kVarint, [&](uint8_t* to) {
    return Coded::WriteVarint64ToArray(static_cast<uint64_t>(value), to);
  });
}

void ProtobufMessage::bytes(int field, std::string_view value) {
  append(text_, field, kDelimited,
         [&](uint8_t* to) { return Coded::WriteVarint64ToArray(value.size(), to); });
  text_.append(value);
}

void ProtobufMessage::numbers(int field, std::span<const double> values) {
  std::string packed(values.size() * sizeof(double), '\0');
  auto* to = reinterpret_cast<uint8_t*>(packed.data());
  for (const double v : values)
    to = Coded::WriteLittleEndian64ToArray(std::bit_cast<uint64_t>(v), to);
  bytes(field, packed);
}

namespace {

// TensorFlow's DataType.
int64_t data_type(DType t) {
  switch (t) {
    case DType::f32:
      return 1;
    case DType::f64:
      return 2;
    case DType::i32:
      return 3;
    case DType::u8:
      return 4;
    case DType::i8:
      return 6;
    case DType::boolean:
      return 10;
    case DType::bf16:
      return 14;
    case DType::f16:
      return 19;
  }
  return 0;
}

// What TensorBoard draws in its own way has TensorFlow's name.
std::string_view op_name(std::string_view op) {
  if (op == "constant") return "Const";
  if (op == "input") return "Placeholder";
  if (op == "variable") return "VariableV2";
  return op;
}

std::string path_name(std::string name) {
  for (char& c : name)
    if (c == '.') c = '/';
  return name;
}

ProtobufMessage shape_message(const Shape& shape) {
  ProtobufMessage message;
  for (const Size& size : shape) {
    ProtobufMessage dimension;
    dimension.integer(1, size.is_constant() ? size.constant() : -1);
    if (!size.is_constant()) dimension.bytes(2, size.text());
    message.message(2, dimension);
  }
  return message;
}

// An entry of NodeDef's map of attributes.
void add_attribute(ProtobufMessage& node, std::string_view key, const ProtobufMessage& value) {
  ProtobufMessage entry;
  entry.bytes(1, key);
  entry.message(2, value);
  node.message(5, entry);
}

ProtobufMessage node_message(const Graph& graph, const Node& n) {
  ProtobufMessage node;
  node.bytes(1, path_name(n.name));
  node.bytes(2, op_name(n.op->name));
  for (const Value v : n.inputs) {
    std::string input = path_name(graph.node(v).name);
    if (v.output > 0) input += ":" + std::to_string(v.output);
    node.bytes(3, input);
  }
  ProtobufMessage shapes, shapes_value, type;
  for (const ValueType& t : n.types) shapes.message(7, shape_message(t.shape));
  shapes_value.message(1, shapes);
  add_attribute(node, "_output_shapes", shapes_value);
  if (!n.types.empty()) {
    type.integer(6, data_type(n.types[0].dtype));
    add_attribute(node, "dtype", type);
  }
  if (const std::string text = n.attrs.text(n.op->defaults); !text.empty()) {
    ProtobufMessage attributes;
    attributes.bytes(2, text);
    add_attribute(node, "attributes", attributes);
  }
  return node;
}

}  // namespace

ProtobufMessage graph_message(const Graph& graph) {
  ProtobufMessage message;
  for (int id = 0; id < graph.size(); ++id) message.message(1, node_message(graph, graph.node(id)));
  ProtobufMessage versions;
  versions.integer(1, 22);  // what readers of version 1 of TensorFlow and later take
  message.message(4, versions);
  return message;
}

}  // namespace fovea
