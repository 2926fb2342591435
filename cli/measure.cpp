#include "cli/measure.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>

#include "fovea/base/error.h"
#include "fovea/data/dataset.h"
#include "fovea/graph/op.h"

namespace fovea::cli {

namespace {

double milliseconds_of_run(Execution& execution) {
  const auto start = std::chrono::steady_clock::now();
  execution.run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> values) {
  FOVEA_ASSERT(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double median_run(Execution& execution, int64_t runs) {
  std::vector<double> times;
  for (int64_t i = 0; i < runs; ++i) times.push_back(milliseconds_of_run(execution));
  return median(std::move(times));
}

template <class T, class F>
void fill_numbers(std::span<std::byte> bytes, F&& value) {
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    const T v = value(i);
    std::memcpy(bytes.data() + i * sizeof(T), &v, sizeof v);
  }
}

}  // namespace

void fill_inputs(Execution& execution, const Graph& graph) {
  for (int id = 0; id < graph.size(); ++id) {
    const Node& node = graph.node(id);
    if (node.op->name != "input") continue;
    const std::span<std::byte> bytes = execution.input(node.name);
    const bool image = node.types[0].dtype == DType::u8;
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>(image ? i * 37 % 251 : 0);
    if (node.name == kSeriesInput)
      fill_numbers<float>(bytes, [](size_t i) { return static_cast<float>(i * 37 % 251) / 64; });
    if (node.name == kLengthInput) {
      const auto steps =
          static_cast<int32_t>(graph.shape({graph.find(kSeriesInput), 0})[1].constant());
      fill_numbers<int32_t>(bytes, [&](size_t) { return steps; });
    }
  }
}

Profile profile(Execution& execution, int64_t runs) {
  for (int i = 0; i < 2; ++i) execution.run();
  Profile result;
  result.run_milliseconds = median_run(execution, runs);

  // The reports add up, so a run is the difference of two.
  result.nodes = execution.reports();
  std::vector<std::vector<double>> times(result.nodes.size());
  std::vector<double> before(result.nodes.size());
  for (size_t n = 0; n < before.size(); ++n) before[n] = result.nodes[n].milliseconds;
  for (int64_t run = 0; run < runs; ++run) {
    execution.run_timed();
    const std::vector<NodeReport> now = execution.reports();
    for (size_t n = 0; n < now.size(); ++n) {
      times[n].push_back(now[n].milliseconds - before[n]);
      before[n] = now[n].milliseconds;
    }
  }
  for (size_t n = 0; n < result.nodes.size(); ++n) {
    NodeReport& node = result.nodes[n];
    node.milliseconds = median(times[n]);
    result.node_milliseconds += node.milliseconds;
    result.flops += node.flops;
    result.bytes += node.bytes;
  }
  return result;
}

double add_trace(Execution& execution, const std::string& part, int64_t thread, double start,
                 Json& events) {
  execution.run_timed();
  const std::vector<NodeReport> nodes = execution.reports();
  double end = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Execution::NodeTimes& t = execution.times()[i];
    const double seconds = t.end - t.begin;
    Json details = Json::object();
    details.set("kernel", nodes[i].kernel)
        .set("flops", nodes[i].flops)
        .set("bytes", nodes[i].bytes)
        .set("gflops_per_second",
             seconds > 0 ? static_cast<double>(nodes[i].flops) / seconds / 1e9 : 0.0);
    Json event = Json::object();
    event.set("name", nodes[i].name)
        .set("cat", nodes[i].op)
        .set("ph", "X")
        .set("ts", 1e6 * (start + t.begin))
        .set("dur", 1e6 * seconds)
        .set("pid", int64_t{1})
        .set("tid", thread)
        .set("args", std::move(details));
    events.push(std::move(event));
    end = t.end;
  }
  Json label = Json::object();
  label.set("name", part);
  Json name = Json::object();
  name.set("name", "thread_name")
      .set("ph", "M")
      .set("pid", int64_t{1})
      .set("tid", thread)
      .set("args", std::move(label));
  events.push(std::move(name));
  return start + end;
}

double latency_milliseconds(Execution& execution, int64_t runs) {
  for (int i = 0; i < 20; ++i) execution.run();
  return median_run(execution, runs);
}

int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

}  // namespace fovea::cli
