#include "tests/equality.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fovea/base/philox.h"
#include "fovea/runtime/compile.h"

namespace fovea::equality {

namespace {

template <class T, class F>
void fill(std::span<std::byte> bytes, F&& next) {
  auto* p = reinterpret_cast<T*>(bytes.data());
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) p[i] = static_cast<T>(next());
}

template <class T>
std::vector<double> read(const std::vector<std::byte>& bytes) {
  const auto* p = reinterpret_cast<const T*>(bytes.data());
  return std::vector<double>(p, p + bytes.size() / sizeof(T));
}

}  // namespace

void fill_inputs(Execution& execution, const Graph& graph, uint64_t seed) {
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (n.op->name != "input") continue;
    PhiloxStream random(seed, stream_id(n.name));
    const auto bytes = execution.input(n.name);
    const auto real = [&] { return 2 * random.unit() - 1; };
    const auto whole = [&] { return random.below(4); };
    switch (n.types[0].dtype) {
      case DType::f32:
        fill<float>(bytes, real);
        break;
      case DType::f64:
        fill<double>(bytes, real);
        break;
      case DType::i32:
        fill<int32_t>(bytes, whole);
        break;
      case DType::boolean:
        fill<uint8_t>(bytes, [&] { return random.below(2); });
        break;
      default:
        fill<uint8_t>(bytes, whole);
    }
  }
}

Result run(const Graph& graph, const Options& options) {
  Session session(graph, std::make_shared<VariableStore>(),
                  std::make_shared<ThreadPool>(options.threads),
                  {.seed = options.seed, .microseconds_worth_sharing = 0});
  Execution& e = session.prepare(options.sizes);
  fill_inputs(e, graph, options.seed);
  for (int i = 0; i < options.steps; ++i) e.run();
  Result result;
  for (auto& output : graph.outputs()) {
    const auto bytes = e.output(output.first);
    HostTensor& t = result.outputs[output.first];
    t.dtype = e.output_type(output.first).dtype;
    t.shape = NodeProblem::dims(e.output_type(output.first));
    t.bytes.assign(bytes.begin(), bytes.end());
  }
  for (auto& [name, variable] : session.variables().all()) {
    const auto bytes = variable.data.bytes();
    result.variables[name].assign(bytes.begin(), bytes.end());
  }
  return result;
}

Graph compile_with(const Graph& graph, const std::vector<std::string>& passes,
                   const PassContext& context) {
  std::vector<std::string> disabled;
  for (const Pass& pass : pipeline())
    if (pass.name != "lower" && std::find(passes.begin(), passes.end(), pass.name) == passes.end())
      disabled.emplace_back(pass.name);
  return compile(graph, context, disabled);
}

int count_ops(const Graph& graph, std::string_view op) {
  int count = 0;
  for (int id = 0; id < graph.size(); ++id) count += graph.node(id).op->name == op;
  return count;
}

std::vector<double> numbers(const HostTensor& t) {
  switch (t.dtype) {
    case DType::f32:
      return read<float>(t.bytes);
    case DType::f64:
      return read<double>(t.bytes);
    case DType::i32:
      return read<int32_t>(t.bytes);
    default:
      return read<uint8_t>(t.bytes);
  }
}

void expect_same_bits(const Result& got, const Result& expected) {
  for (auto& [name, tensor] : expected.outputs) {
    ASSERT_TRUE(got.outputs.contains(name)) << name;
    EXPECT_EQ(got.outputs.at(name).shape, tensor.shape) << name;
    EXPECT_TRUE(got.outputs.at(name).bytes == tensor.bytes) << "output " << name;
  }
  for (auto& [name, bytes] : expected.variables) {
    ASSERT_TRUE(got.variables.contains(name)) << name;
    EXPECT_TRUE(got.variables.at(name) == bytes) << "variable " << name;
  }
}

void expect_close(const Result& got, const Result& expected, double tolerance) {
  for (auto& [name, tensor] : expected.outputs) {
    ASSERT_TRUE(got.outputs.contains(name)) << name;
    ASSERT_EQ(got.outputs.at(name).shape, tensor.shape) << name;
    const auto g = numbers(got.outputs.at(name)), e = numbers(tensor);
    double worst = 0;
    for (size_t i = 0; i < e.size(); ++i) {
      EXPECT_TRUE(std::isfinite(e[i])) << name << " at " << i;
      worst = std::max(worst, std::abs(g[i] - e[i]) / std::max(1.0, std::abs(e[i])));
    }
    EXPECT_LE(worst, tolerance) << "output " << name;
  }
}

}  // namespace fovea::equality
