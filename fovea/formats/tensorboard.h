// TensorBoard's event files: what a training tells by step, as its pages show it. A file is a
// sequence of records (length, checksum, protobuf message Event, checksum).
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "fovea/formats/image.h"
#include "fovea/graph/graph.h"

namespace fovea {

// What is said about one step. A tag names a series; slashes in it make groups.
class EventSummary {
 public:
  void scalar(std::string_view tag, double value);
  // In 64 buckets of equal width between the least and the largest value; what is not finite is
  // left out.
  void histogram(std::string_view tag, std::span<const float> values);
  // As PNG.
  void image(std::string_view tag, const Image& image);
  // Markdown.
  void text(std::string_view tag, std::string_view markdown);

  bool empty() const { return bytes_.empty(); }

 private:
  friend class EventWriter;
  void add(std::string_view value);
  std::string bytes_;  // message Summary
};

class EventWriter {
 public:
  // Begins a file "events.out.tfevents..." in the folder, which is made. Throws Error (io).
  static EventWriter begin(const std::filesystem::path& folder);
  // Goes on with the newest file there, or begins one: events of later steps than `last_step`, and
  // a record that was cut off, are removed first, from all event files of the folder. Throws Error
  // (io, or corrupt where such a file is none).
  static EventWriter resume(const std::filesystem::path& folder, int64_t last_step);

  EventWriter(EventWriter&&) noexcept = default;
  EventWriter& operator=(EventWriter&&) noexcept = default;

  const std::filesystem::path& path() const { return path_; }

  // Buffered. Throws Error (io).
  void write(int64_t step, const EventSummary& summary);
  // The page "Graphs": nodes with their ops, inputs, attributes and shapes. A dot in a name becomes
  // a slash, which TensorBoard folds.
  void write_graph(const Graph& graph);
  void flush();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  EventWriter(std::filesystem::path path, const char* mode);
  void record(int64_t step, int field, std::string_view message);
  [[noreturn]] void fail() const;

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// Removes the event files of the folder, and the folder where nothing else is in it.
void remove_event_files(const std::filesystem::path& folder);

}  // namespace fovea
