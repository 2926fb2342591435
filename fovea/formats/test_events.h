// For tests only: reads event files with none of the writer's code. Records are checked with a
// checksum computed bit by bit, messages are read by protobuf's library from a schema written here.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fovea/formats/file.h"

namespace fovea {

class EventReader {
 public:
  using Message = google::protobuf::Message;

  EventReader() {
    google::protobuf::FileDescriptorProto file;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(schema(), &file));
    event_ = pool_.BuildFile(file)->FindMessageTypeByName("Event");
  }

  // The events of a file; a failure where a record is broken or holds a field that the schema
  // lacks.
  std::vector<std::unique_ptr<Message>> read(const std::filesystem::path& path) {
    const std::string bytes = read_text_file(path, uint64_t{1} << 30);
    std::vector<std::unique_ptr<Message>> events;
    size_t at = 0;
    while (at < bytes.size()) {
      uint64_t length = 0;
      uint32_t length_sum = 0, data_sum = 0;
      if (bytes.size() - at < 16) break;
      std::memcpy(&length, bytes.data() + at, 8);
      std::memcpy(&length_sum, bytes.data() + at + 8, 4);
      if (length_sum != masked(bytes.substr(at, 8)) || length > bytes.size() - at - 16) break;
      const std::string data = bytes.substr(at + 12, length);
      std::memcpy(&data_sum, bytes.data() + at + 12 + length, 4);
      if (data_sum != masked(data)) break;
      events.emplace_back(factory_.GetPrototype(event_)->New());
      EXPECT_TRUE(events.back()->ParseFromString(data));
      expect_known(*events.back());
      at += 16 + length;
    }
    EXPECT_EQ(at, bytes.size()) << path << ": a record is broken";
    return events;
  }
  // All events of the only file in the folder.
  std::vector<std::unique_ptr<Message>> read_folder(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> files;
    for (auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
    EXPECT_EQ(files.size(), 1u);
    if (files.size() != 1) return {};
    EXPECT_NE(files[0].filename().string().find("tfevents"), std::string::npos);
    return read(files[0]);
  }

  // A series of one tag: step and the field of Summary.Value that holds it.
  struct Point {
    int64_t step = 0;
    const Message* value = nullptr;
  };
  static std::vector<Point> series(const std::vector<std::unique_ptr<Message>>& events,
                                   const std::string& tag) {
    std::vector<Point> points;
    for (auto& e : events) {
      if (!has(*e, "summary")) continue;
      const Message& summary = message(*e, "summary");
      for (int i = 0; i < size(summary, "value"); ++i)
        if (const Message& v = element(summary, "value", i); text(v, "tag") == tag)
          points.push_back({integer(*e, "step"), &v});
    }
    return points;
  }

  static bool has(const Message& m, const char* name) {
    return m.GetReflection()->HasField(m, field(m, name));
  }
  static const Message& message(const Message& m, const char* name) {
    return m.GetReflection()->GetMessage(m, field(m, name));
  }
  static std::string text(const Message& m, const char* name) {
    return m.GetReflection()->GetString(m, field(m, name));
  }
  static double number(const Message& m, const char* name) {
    return m.GetReflection()->GetDouble(m, field(m, name));
  }
  static float real(const Message& m, const char* name) {
    return m.GetReflection()->GetFloat(m, field(m, name));
  }
  static int64_t integer(const Message& m, const char* name) {
    return m.GetReflection()->GetInt64(m, field(m, name));
  }
  static int size(const Message& m, const char* name) {
    return m.GetReflection()->FieldSize(m, field(m, name));
  }
  static const Message& element(const Message& m, const char* name, int i) {
    return m.GetReflection()->GetRepeatedMessage(m, field(m, name), i);
  }
  static double number(const Message& m, const char* name, int i) {
    return m.GetReflection()->GetRepeatedDouble(m, field(m, name), i);
  }
  static std::string text(const Message& m, const char* name, int i) {
    return m.GetReflection()->GetRepeatedString(m, field(m, name), i);
  }

 private:
  static const google::protobuf::FieldDescriptor* field(const Message& m, const char* name) {
    return m.GetDescriptor()->FindFieldByName(name);
  }

  // CRC-32C by its definition: the remainder of a division of polynomials, bit by bit.
  static uint32_t masked(const std::string& bytes) {
    uint32_t crc = 0xffffffffu;
    for (const char c : bytes)
      for (int bit = 0; bit < 8; ++bit) {
        const bool out = ((crc ^ (static_cast<uint8_t>(c) >> bit)) & 1) != 0;
        crc = (crc >> 1) ^ (out ? 0x82f63b78u : 0);
      }
    crc ^= 0xffffffffu;
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  }

  static void expect_known(const Message& m) {
    const auto* reflection = m.GetReflection();
    EXPECT_TRUE(reflection->GetUnknownFields(m).empty()) << m.DebugString();
    std::vector<const google::protobuf::FieldDescriptor*> fields;
    reflection->ListFields(m, &fields);
    for (const auto* f : fields) {
      if (f->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
      if (f->is_repeated())
        for (int i = 0; i < reflection->FieldSize(m, f); ++i)
          expect_known(reflection->GetRepeatedMessage(m, f, i));
      else
        expect_known(reflection->GetMessage(m, f));
    }
  }

  // What TensorFlow's event.proto, summary.proto, tensor.proto and graph.proto say of our fields.
  static std::string schema() {
    const auto field = [](const char* name, int number, const char* type, bool repeated = false) {
      const std::string kind = type;
      const bool message = kind.starts_with(".");
      return std::string("field { name: '") + name + "' number: " + std::to_string(number) +
             (repeated ? " label: LABEL_REPEATED" : " label: LABEL_OPTIONAL") +
             (message ? " type: TYPE_MESSAGE type_name: '" + kind + "'" : " type: TYPE_" + kind) +
             " } ";
    };
    const auto message = [](const char* name, const std::string& fields) {
      return std::string("message_type { name: '") + name + "' " + fields + "} ";
    };
    return "name: 'events.proto' syntax: 'proto3' " +
           message("Event", field("wall_time", 1, "DOUBLE") + field("step", 2, "INT64") +
                                field("file_version", 3, "STRING") +
                                field("graph_def", 4, "BYTES") + field("summary", 5, ".Summary") +
                                field("session_log", 7, ".SessionLog")) +
           message("SessionLog", field("status", 1, "INT64")) +
           message("Summary", field("value", 1, ".Value", true)) +
           message("Value", field("tag", 1, "STRING") + field("simple_value", 2, "FLOAT") +
                                field("image", 4, ".Image") + field("histo", 5, ".Histogram") +
                                field("tensor", 8, ".Tensor") + field("metadata", 9, ".Metadata")) +
           message("Image", field("height", 1, "INT64") + field("width", 2, "INT64") +
                                field("colorspace", 3, "INT64") +
                                field("encoded_image_string", 4, "BYTES")) +
           message("Histogram", field("min", 1, "DOUBLE") + field("max", 2, "DOUBLE") +
                                    field("num", 3, "DOUBLE") + field("sum", 4, "DOUBLE") +
                                    field("sum_squares", 5, "DOUBLE") +
                                    field("bucket_limit", 6, "DOUBLE", true) +
                                    field("bucket", 7, "DOUBLE", true)) +
           message("Metadata",
                   field("plugin_data", 1, ".Plugin") + field("data_class", 4, "INT64")) +
           message("Plugin", field("plugin_name", 1, "STRING")) +
           message("Tensor", field("dtype", 1, "INT64") + field("tensor_shape", 2, ".Shape") +
                                 field("string_val", 8, "BYTES", true)) +
           message("Shape", field("dim", 2, ".Dim", true)) +
           message("Dim", field("size", 1, "INT64") + field("name", 2, "STRING")) +
           message("GraphDef",
                   field("node", 1, ".Node", true) + field("versions", 4, ".Versions")) +
           message("Versions", field("producer", 1, "INT64")) +
           message("Node", field("name", 1, "STRING") + field("op", 2, "STRING") +
                               field("input", 3, "STRING", true) +
                               field("attr", 5, ".Entry", true)) +
           message("Entry", field("key", 1, "STRING") + field("value", 2, ".AttrValue")) +
           message("AttrValue",
                   field("list", 1, ".List") + field("s", 2, "BYTES") + field("type", 6, "INT64")) +
           message("List", field("shape", 7, ".Shape", true));
  }

 public:
  // The message GraphDef in the bytes of an event.
  std::unique_ptr<Message> graph(const std::string& bytes) {
    std::unique_ptr<Message> m(
        factory_.GetPrototype(event_->file()->FindMessageTypeByName("GraphDef"))->New());
    EXPECT_TRUE(m->ParseFromString(bytes));
    expect_known(*m);
    return m;
  }

 private:
  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory factory_;
  const google::protobuf::Descriptor* event_ = nullptr;
};

}  // namespace fovea
