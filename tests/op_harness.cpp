#include "tests/op_harness.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "fovea/base/philox.h"
#include "fovea/graph/gradient.h"
#include "fovea/passes/lower.h"
#include "fovea/runtime/session.h"

namespace fovea::harness {

namespace {

constexpr double kDifference = 1e-5;  // step of the finite differences

// FOVEA_FORCE_KERNEL for as long as it lives; sessions read it when they are made.
class Forced {
 public:
  explicit Forced(const std::string& choice) {
    if (!choice.empty()) setenv("FOVEA_FORCE_KERNEL", choice.c_str(), 1);
  }
  ~Forced() { unsetenv("FOVEA_FORCE_KERNEL"); }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;
};

std::shared_ptr<ThreadPool> pool_of(int threads) {
  static std::map<int, std::shared_ptr<ThreadPool>> pools;
  auto& pool = pools[threads];
  if (!pool) pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

// Calls f with a null pointer to the C++ type of the elements.
template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(static_cast<float*>(nullptr));
    case DType::f64:
      return f(static_cast<double*>(nullptr));
    case DType::i32:
      return f(static_cast<int32_t*>(nullptr));
    case DType::i8:
      return f(static_cast<int8_t*>(nullptr));
    case DType::u8:
    case DType::boolean:
      return f(static_cast<uint8_t*>(nullptr));
    case DType::bf16:
    case DType::f16:
      break;
  }
  FAIL() << "the harness does not read " << dtype_name(dtype) << "; cast to f32 in the row";
}

Numbers read(std::span<const std::byte> bytes, DType dtype) {
  Numbers numbers(bytes.size() / dtype_size(dtype));
  with_type(dtype, [&]<class T>(T*) {
    const auto* p = reinterpret_cast<const T*>(bytes.data());
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(p[i]);
  });
  return numbers;
}

void write(std::span<std::byte> bytes, DType dtype, const Numbers& numbers) {
  ASSERT_EQ(bytes.size(), numbers.size() * dtype_size(dtype));
  with_type(dtype, [&]<class T>(T*) {
    auto* p = reinterpret_cast<T*>(bytes.data());
    for (size_t i = 0; i < numbers.size(); ++i) p[i] = static_cast<T>(numbers[i]);
  });
}

bool has_kernel(const Op& op) { return op.source || op.view || find_binding(op.name) != nullptr; }

// The graph of a row with only ops that have kernels; its outputs are named "0", "1", ...
struct Built {
  Graph graph;
  size_t outputs = 0;
};

Graph lowered(const Graph& graph, std::string_view without = {}) {
  PassContext context;
  context.has_kernel = [without](const Op& op) { return op.name != without && has_kernel(op); };
  return lower(graph, context);
}

Built build(const OpRow& row, DType dtype) {
  Built built;
  const std::vector<Value> outputs = row.build(built.graph, dtype);
  built.outputs = outputs.size();
  for (size_t i = 0; i < outputs.size(); ++i) built.graph.set_output(std::to_string(i), outputs[i]);
  return built;
}

// The numbers depend on row and input name alone; they are floats, so that f32 and f64 see the
// same.
NumbersByName numbers_for(const OpRow& row, const Graph& graph) {
  NumbersByName all;
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    if (n.op->name != "input") continue;
    Range range;
    if (n.types[0].dtype == DType::boolean) range = {0, 1, 1};
    if (n.types[0].dtype == DType::i32) range = {0, 2, 1};
    if (n.types[0].dtype == DType::u8) range = {0, 255, 1};
    if (n.types[0].dtype == DType::i8) range = {-128, 127, 1};
    if (const auto it = row.ranges.find(n.name); it != row.ranges.end()) range = it->second;
    if (!is_floating(n.types[0].dtype)) range.step = 1;
    PhiloxStream random(stream_id(row.op + row.label), stream_id(n.name));
    Numbers numbers(static_cast<size_t>(element_count(n.types[0].shape).constant()));
    for (double& v : numbers) {
      if (range.step > 0) {
        const auto places = static_cast<uint32_t>((range.high - range.low) / range.step) + 1;
        v = range.low + range.step * static_cast<double>(random.below(places));
      } else {
        v = static_cast<float>(range.low + (range.high - range.low) * double{random.unit()});
      }
    }
    all[n.name] = std::move(numbers);
  }
  return all;
}

// A graph in a session of its own, with its inputs written.
class Runner {
 public:
  Runner(const Graph& graph, const NumbersByName& inputs, const std::string& force = {},
         int threads = 1) {
    const Forced forced(force);
    session_ = std::make_unique<Session>(graph, std::make_shared<VariableStore>(), pool_of(threads),
                                         SessionOptions{.microseconds_worth_sharing = 0});
    execution_ = &session_->prepare({});
    for (auto& [name, numbers] : inputs)
      if (execution_->has_input(name)) set(name, numbers);
  }

  void set(const std::string& name, const Numbers& numbers) {
    const Graph& g = session_->graph();
    write(execution_->input(name), g.node(g.find(name)).types[0].dtype, numbers);
  }
  Runner& run() {
    execution_->run();
    return *this;
  }
  Numbers output(const std::string& name) const {
    return read(execution_->output(name), execution_->output_type(name).dtype);
  }
  std::vector<Numbers> outputs(size_t count) const {
    std::vector<Numbers> all;
    for (size_t i = 0; i < count; ++i) all.push_back(output(std::to_string(i)));
    return all;
  }
  std::vector<std::byte> bytes(size_t count) const {
    std::vector<std::byte> all;
    for (size_t i = 0; i < count; ++i) {
      const auto b = execution_->output(std::to_string(i));
      all.insert(all.end(), b.begin(), b.end());
    }
    return all;
  }
  Execution& execution() { return *execution_; }

 private:
  std::unique_ptr<Session> session_;
  Execution* execution_ = nullptr;
};

// The families that the nodes of the row's op choose from.
std::set<std::string> families_of(const OpRow& row, const Built& built) {
  std::set<std::string> families;
  const Graph graph = lowered(built.graph);
  Runner runner(graph, {});
  for (auto& report : runner.execution().reports())
    if (report.op == row.op) families.insert(report.kernel.substr(0, report.kernel.find(':')));
  return families;
}

// "family=ref" for each family of the row's op.
std::string references(const std::set<std::string>& families) {
  std::string choice;
  for (auto& family : families)
    choice += fmt::format("{}{}=ref", choice.empty() ? "" : ",", family);
  return choice;
}

bool supports(const Graph& graph, const std::string& force) {
  try {
    Runner runner(graph, {}, force);
    return true;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::unsupported) throw;
    return false;
  }
}

// The choices that force each kernel that supports the row; one empty choice for an op without.
std::vector<std::string> choices_of(const OpRow& row) {
  std::vector<std::string> choices;
  for (const Support& s : support_of(row)) {
    std::string choice = s.kernel;
    std::replace(choice.begin(), choice.end(), ':', '=');
    if (s.supported) choices.push_back(choice);
  }
  if (choices.empty()) choices.emplace_back();
  return choices;
}

void expect_close(const std::vector<Numbers>& got, const std::vector<Numbers>& expected,
                  double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t o = 0; o < got.size(); ++o) {
    ASSERT_EQ(got[o].size(), expected[o].size()) << what << ", output " << o;
    size_t faults = 0;
    for (size_t i = 0; i < got[o].size(); ++i) {
      const double g = got[o][i], e = expected[o][i];
      const bool same = g == e || (std::isnan(g) && std::isnan(e)) ||
                        std::abs(g - e) <= tolerance * std::max(1.0, std::abs(e));
      if (!same && ++faults <= 3)
        ADD_FAILURE() << what << ", output " << o << ", element " << i << ": got " << g
                      << ", expected " << e;
    }
    EXPECT_LE(faults, 3u) << what << ", output " << o << ": so many of " << got[o].size();
  }
}

}  // namespace

const std::vector<OpRow>& all_rows() {
  static const std::vector<OpRow> rows = [] {
    std::vector<OpRow> all;
    for (auto family :
         {attention_extra_rows, attention_link_rows, attention_normaliser_rows, attention_row_rows,
          attention_rows, conv_rows, elementwise_rows, index_rows, norm_rows, normalise_rows,
          optimiser_rows, product_rows, score_rows, shape_rows}) {
      auto some = family();
      std::move(some.begin(), some.end(), std::back_inserter(all));
    }
    return all;
  }();
  return rows;
}

std::vector<Support> support_of(const OpRow& row) {
  const Built built = build(row, DType::f32);
  const Graph graph = lowered(built.graph);
  std::vector<Support> all;
  for (auto& family : families_of(row, built))
    for (auto& f : kernel_families())
      if (f.name == family)
        for (auto& kernel : f.kernels)
          all.push_back({fmt::format("{}:{}", family, kernel),
                         supports(graph, fmt::format("{}={}", family, kernel))});
  return all;
}

void expect_right(const OpRow& row) {
  const Built single = build(row, DType::f32), exact = build(row, DType::f64);
  const NumbersByName inputs = numbers_for(row, single.graph);
  const std::string reference = references(families_of(row, single));
  std::vector<Numbers> expected =
      Runner(lowered(exact.graph), inputs, reference).run().outputs(exact.outputs);
  if (find_op(row.op)->decompose && find_binding(row.op)) {
    const Graph decomposed = lowered(exact.graph, row.op);
    for (int id = 0; id < decomposed.size(); ++id) EXPECT_NE(decomposed.node(id).op->name, row.op);
    const auto simpler = Runner(decomposed, inputs).run().outputs(exact.outputs);
    expect_close(expected, simpler, 1e-10, "the reference in f64 against the decomposition");
    expected = simpler;
  }
  if (row.expected) {
    const auto own = row.expected(inputs);
    expect_close(expected, own, 1e-10, "the reference in f64 against the test's own numbers");
    expected = own;
  }
  for (const std::string& choice : choices_of(row)) {
    const auto got = Runner(lowered(single.graph), inputs, choice).run().outputs(single.outputs);
    expect_close(got, expected, row.tolerance, choice + " in f32 against f64");
  }
}

void expect_gradient(const OpRow& row) {
  const Built forward = build(row, DType::f64);
  NumbersByName inputs = numbers_for(row, forward.graph);

  // The loss is a random projection of the outputs, so its gradient into them is that projection.
  Graph backward = forward.graph;
  std::vector<std::pair<Value, Value>> seeds;
  std::vector<std::pair<size_t, std::string>> projections;
  for (size_t i = 0; i < forward.outputs; ++i) {
    const Value output = forward.graph.output(std::to_string(i));
    if (!is_floating(forward.graph.type(output).dtype)) continue;
    if (!row.seeds.empty() && std::find(row.seeds.begin(), row.seeds.end(), i) == row.seeds.end())
      continue;
    const std::string name = fmt::format("projection{}", i);
    seeds.emplace_back(output, ops::input(backward, name, forward.graph.type(output).dtype,
                                          forward.graph.shape(output)));
    projections.emplace_back(i, name);
  }
  std::vector<Value> wrt;
  for (auto& name : row.differentiable) {
    ASSERT_GE(backward.find(name), 0) << "no input " << name;
    wrt.push_back({backward.find(name), 0});
  }
  const std::vector<Value> gradients = backpropagate(backward, seeds, wrt);
  for (size_t i = 0; i < wrt.size(); ++i) {
    ASSERT_TRUE(gradients[i]) << "no gradient reaches " << row.differentiable[i];
    EXPECT_EQ(backward.type(gradients[i]), backward.type(wrt[i])) << row.differentiable[i];
    backward.set_output("gradient." + row.differentiable[i], gradients[i]);
  }
  verify(backward);
  for (auto& [name, numbers] : numbers_for(row, backward)) inputs.try_emplace(name, numbers);
  Runner analytic(lowered(backward), inputs);
  analytic.run();

  Runner numeric(lowered(forward.graph), inputs);
  const auto loss = [&] {
    numeric.run();
    double sum = 0;
    for (auto& [output, name] : projections) {
      const Numbers y = numeric.output(std::to_string(output));
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * inputs[name][i];
    }
    return sum;
  };
  for (auto& name : row.differentiable) {
    Numbers x = inputs[name], differences(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double kept = x[i];
      x[i] = kept + kDifference;
      numeric.set(name, x);
      const double up = loss();
      x[i] = kept - kDifference;
      numeric.set(name, x);
      const double down = loss();
      x[i] = kept;
      differences[i] = (up - down) / (2 * kDifference);
    }
    numeric.set(name, x);
    expect_close({analytic.output("gradient." + name)}, {differences}, row.gradient_tolerance,
                 "the gradient of " + name + " against finite differences");
  }
}

void expect_equal_bits_for_any_threads(const OpRow& row) {
  const Built built = build(row, DType::f32);
  const NumbersByName inputs = numbers_for(row, built.graph);
  const Graph graph = lowered(built.graph);
  for (const std::string& choice : choices_of(row)) {
    const auto one = Runner(graph, inputs, choice, 1).run().bytes(built.outputs);
    for (int threads = 2; threads <= 4; ++threads)
      EXPECT_EQ(one, Runner(graph, inputs, choice, threads).run().bytes(built.outputs))
          << choice << " with " << threads << " threads";
  }
}

void print_speed(const OpRow& row) {
  using Clock = std::chrono::steady_clock;
  const Built built = build(row, DType::f32);
  const NumbersByName inputs = numbers_for(row, built.graph);
  const Graph graph = lowered(built.graph);
  for (const std::string& choice : choices_of(row)) {
    Runner runner(graph, inputs, choice);
    runner.run();
    int runs = 0;
    const auto start = Clock::now();
    double seconds = 0;
    for (; seconds < 0.05; ++runs) {
      runner.execution().run_timed();
      seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
    double own = 0, flops = 0, bytes = 0;
    for (auto& report : runner.execution().reports()) {
      if (report.op != row.op && find_binding(row.op)) continue;
      own += report.milliseconds * 1e-3 / runs;
      flops += static_cast<double>(report.flops);
      bytes += static_cast<double>(report.bytes);
    }
    fmt::print("{:<44} {:<28} {:>12.2f} us {:>9.2f} GFLOP/s {:>9.2f} GB/s\n",
               row.op + "/" + row.label, choice, own * 1e6, flops / own * 1e-9, bytes / own * 1e-9);
  }
}

}  // namespace fovea::harness
