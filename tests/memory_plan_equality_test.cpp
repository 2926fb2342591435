// The memory plan on random graphs: no two values that live at once overlap, by a check that knows
// nothing of how the planner works, and the numbers are those of a run that keeps every value
// apart.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "fovea/base/philox.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/memory_plan.h"
#include "tests/equality.h"

namespace fovea {

namespace {

constexpr int kGraphs = 200;

// A random graph of f32 values of a few shapes.
class RandomGraph {
 public:
  explicit RandomGraph(uint64_t seed) : random_(seed, stream_id("random graph")) {}

  Graph make() {
    for (int i = 0; i < 2; ++i)
      keep(ops::input(graph_, "x", DType::f32, i == 0 ? Shape{4, 4} : Shape{16}));
    for (int i = 0; i < 3; ++i) variables_.push_back(keep(variable(random_shape())));
    keep(ops::constant(graph_, 0.5, DType::f32, {4, 4}));
    const uint32_t nodes = 5 + random_.below(30);
    for (uint32_t i = 0; i < nodes; ++i) add_node();
    set_updates();
    const uint32_t outputs = 1 + random_.below(3);
    for (uint32_t i = 0; i < outputs; ++i) graph_.set_output("y" + std::to_string(i), any_value());
    return std::move(graph_);
  }

 private:
  Value keep(Value v) {
    values_.push_back(v);
    return v;
  }
  Value any_value() { return values_[random_.below(static_cast<uint32_t>(values_.size()))]; }
  // A value of the shape: one that is there, or any other made to fit.
  Value of_shape(const Shape& shape) {
    for (int tries = 0; tries < 8; ++tries)
      if (const Value v = any_value(); graph_.shape(v) == shape) return v;
    const Value v = any_value();
    if (element_count(graph_.shape(v)) == element_count(shape))
      return keep(ops::reshape(graph_, v, shape));
    std::vector<int64_t> axes;
    for (size_t i = 0; i < graph_.shape(v).size(); ++i) axes.push_back(static_cast<int64_t>(i));
    return keep(ops::broadcast(graph_, ops::reduce_mean(graph_, v, axes), shape));
  }
  Shape random_shape() {
    const Shape shapes[] = {{4, 4}, {16}, {2, 8}, {3}, {5, 4}};
    return shapes[random_.below(5)];
  }
  Value variable(Shape shape) {
    return ops::variable(graph_, "v",
                         {.type = {DType::f32, std::move(shape)},
                          .kind = VariableKind::state,
                          .init = Init::uniform,
                          .scale = 1,
                          .source = {}});
  }

  void add_node() {
    Graph& g = graph_;
    const Value x = any_value();
    const Shape shape = g.shape(x);
    switch (random_.below(9)) {
      case 0:
      case 1:
        keep(ops::unary(g, random_.below(2) ? "tanh" : "neg", x));
        break;
      case 2:
      case 3:
        keep(ops::binary(g, random_.below(2) ? "add" : "max", x, of_shape(shape)));
        break;
      case 4:
        if (element_count(shape) == Size(16))
          keep(ops::reshape(g, x, random_.below(2) ? Shape{2, 8} : Shape{4, 4}));
        break;
      case 5:
        if (!shape.empty()) keep(ops::reduce_sum(g, x, {0}));
        break;
      case 6:
        if (shape.size() == 2) keep(ops::transpose(g, x, {1, 0}));
        break;
      case 7:
        keep(ops::unary(g, "tanh", ops::matmul(g, of_shape({4, 4}), of_shape({4, 4}))));
        break;
      default:
        if (!shape.empty()) {
          const Value one = ops::constant(g, 1, DType::f32, {shape.back()});
          const Value y = ops::layer_norm(g, x, one, one, {.stats = true});
          keep(y);
          if (random_.below(2)) keep({y.node, 1 + static_cast<int32_t>(random_.below(2))});
        }
    }
  }

  void set_updates() {
    for (Value v : variables_) {
      if (random_.below(4) == 0) continue;
      Value value = of_shape(graph_.shape(v));
      // Often one that reads the variable itself, as optimisers do.
      if (random_.below(2)) value = keep(ops::binary(graph_, "min", v, value));
      graph_.update(v, value);
    }
  }

  PhiloxStream random_;
  Graph graph_;
  std::vector<Value> values_, variables_;
};

// Follows views back to the value that owns the bytes.
Value owner(const Graph& g, Value v) {
  while (g.node(v).op->view) v = g.node(v).inputs[0];
  return v;
}

// The last node that reads the bytes of each owner; graph.size() for what outlives the step.
std::map<Value, int> last_reads(const Graph& g) {
  std::map<Value, int> last;
  for (int id = 0; id < g.size(); ++id) {
    for (size_t i = 0; i < g.node(id).types.size(); ++i)
      if (const Value v{id, static_cast<int32_t>(i)}; owner(g, v) == v) last[v] = id;
    if (!g.node(id).op->view)
      for (Value v : g.node(id).inputs) last[owner(g, v)] = id;
  }
  for (auto& output : g.outputs()) last[owner(g, output.second)] = g.size();
  for (auto& update : g.updates()) last[owner(g, update.second)] = g.size();
  return last;
}

// Whether node `id`, an elementwise one, writes over an input that it reads for the last time.
bool written_in_place(const Graph& g, Value written, Value read) {
  const Node& n = g.node(written);
  if (!n.op->in_place || written.output != 0) return false;
  for (Value v : n.inputs)
    if (owner(g, v) == read && g.type(v) != n.types[0]) return false;
  return true;
}

void expect_no_overlap(const Graph& g, const MemoryPlan& plan) {
  const auto last = last_reads(g);
  struct Live {
    Value value;
    size_t begin, end;
    int first, last;
  };
  std::vector<Live> all;
  for (auto& [value, read] : last) {
    const Slot& s = plan.slot(value);
    if (s.place != Place::arena || s.bytes == 0) continue;
    EXPECT_EQ(s.offset % kAlignment, 0u) << value_text(g, value);
    EXPECT_LE(s.offset + s.bytes, plan.arena_bytes) << value_text(g, value);
    all.push_back({value, s.offset, s.offset + s.bytes, value.node, read});
  }
  for (auto& commit : plan.commits)
    if (commit.staged)
      all.push_back({{},
                     commit.staging_offset,
                     commit.staging_offset + plan.slot(commit.value).bytes,
                     g.size(),
                     g.size()});
  for (auto& kept : plan.kept)
    all.push_back({{}, kept.offset, kept.offset + plan.slot(kept.value).bytes, g.size(), g.size()});
  for (const Live& a : all)
    for (const Live& b : all) {
      if (&a == &b || b.first < a.first || a.last < b.first) continue;  // b begins while a lives
      if (a.end <= b.begin || b.end <= a.begin) continue;
      const bool in_place = b.value && a.last == b.first && a.begin == b.begin &&
                            a.value != b.value && a.first < b.first &&
                            written_in_place(g, b.value, a.value);
      EXPECT_TRUE(in_place) << (a.value ? value_text(g, a.value) : "staging") << " and "
                            << (b.value ? value_text(g, b.value) : "staging") << " overlap";
    }
}

// Views stand where their owner stands, and a value in a variable's memory is that variable's
// update, written after the last other reader.
void expect_sound_places(const Graph& g, const MemoryPlan& plan) {
  const auto last = last_reads(g);
  for (int id = 0; id < g.size(); ++id) {
    const Node& n = g.node(id);
    if (n.op->view) {
      const Slot &view = plan.slot({id, 0}), &own = plan.slot(owner(g, {id, 0}));
      EXPECT_TRUE(view.place == own.place && view.offset == own.offset && view.node == own.node)
          << n.name;
    }
    if (n.op->source || n.op->view) continue;
    for (size_t i = 0; i < n.types.size(); ++i) {
      const Value value{id, static_cast<int32_t>(i)};
      const Slot& s = plan.slot(value);
      if (s.place != Place::variable) continue;
      const Value variable{s.node, 0};
      bool own_update = false;
      for (auto& u : g.updates()) own_update = own_update || u == std::pair(variable, value);
      EXPECT_TRUE(own_update) << n.name;
      for (auto& u : g.updates()) EXPECT_NE(owner(g, u.second), variable) << n.name;
      const int read = last.at(variable);
      EXPECT_TRUE(read < id || (read == id && written_in_place(g, value, variable)) ||
                  (read == variable.node))
          << n.name;
    }
  }
}

Graph with_every_value_as_output(const Graph& graph) {
  Graph all = graph;
  for (int id = 0; id < graph.size(); ++id)
    for (size_t i = 0; i < graph.node(id).types.size(); ++i)
      all.set_output("value" + std::to_string(id) + "." + std::to_string(i),
                     {id, static_cast<int32_t>(i)});
  return all;
}

TEST(MemoryPlanEquality, NoLiveValuesOverlapInRandomGraphs) {
  for (uint64_t seed = 0; seed < kGraphs; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Graph g = RandomGraph(seed).make();
    const MemoryPlan plan = plan_memory(g);
    expect_no_overlap(g, plan);
    expect_sound_places(g, plan);
    EXPECT_LE(plan.arena_bytes, plan.values_bytes + 64 * plan.commits.size() * kAlignment);
  }
}

TEST(MemoryPlanEquality, SharedMemoryGivesTheNumbersOfValuesKeptApart) {
  for (uint64_t seed = 0; seed < kGraphs; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Graph g = RandomGraph(seed).make();
    const equality::Options options{.seed = seed, .steps = 3};
    const auto apart = equality::run(with_every_value_as_output(g), options);
    const auto shared = equality::run(g, options);
    for (auto& [name, tensor] : shared.outputs)
      EXPECT_TRUE(apart.outputs.at(name).bytes == tensor.bytes) << "output " << name;
    for (auto& [name, bytes] : shared.variables)
      EXPECT_TRUE(apart.variables.at(name) == bytes) << "variable " << name;
  }
}

TEST(MemoryPlanEquality, RandomGraphsShareMemoryAndUpdateInPlace) {
  size_t shared = 0, in_place = 0, copied = 0, staged = 0;
  for (uint64_t seed = 0; seed < kGraphs; ++seed) {
    const Graph g = RandomGraph(seed).make();
    const MemoryPlan plan = plan_memory(g);
    shared += plan.arena_bytes < plan.values_bytes;
    in_place += g.updates().size() - plan.commits.size();
    for (auto& commit : plan.commits) (commit.staged ? staged : copied) += 1;
  }
  // The tests above would say little if these did not occur.
  EXPECT_GT(shared, 100u);
  EXPECT_GT(in_place, 20u);
  EXPECT_GT(copied, 20u);
  EXPECT_GT(staged, 5u);
}

// A check that cannot fail proves nothing: shift one value onto another that lives with it.
TEST(MemoryPlanEquality, TheCheckFindsAnOverlap) {
  Graph g;
  const Value x = ops::input(g, "x", DType::f32, {64});
  const Value a = ops::unary(g, "exp", x), b = ops::unary(g, "neg", x);
  g.set_output("y", ops::add(g, a, b));
  MemoryPlan plan = plan_memory(g);
  expect_no_overlap(g, plan);
  plan.slots[static_cast<size_t>(b.node)][0].offset =
      plan.slots[static_cast<size_t>(a.node)][0].offset;
  testing::TestPartResultArray found;
  {
    testing::ScopedFakeTestPartResultReporter reporter(&found);
    expect_no_overlap(g, plan);
  }
  EXPECT_GT(found.size(), 0);
}

}  // namespace

}  // namespace fovea
