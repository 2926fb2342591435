#include "fovea/passes/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

namespace {

constexpr int kEnd = std::numeric_limits<int>::max();

// A piece of arena that one value, or several that alias each other, use from `first` to `last`.
struct Buffer {
  size_t bytes = 0;
  int first = 0;
  int last = 0;
  size_t offset = 0;
};

class Planner {
 public:
  explicit Planner(const Graph& graph) : graph_(graph), plan_() {}

  MemoryPlan run() {
    find_last_uses();
    plan_.slots.resize(static_cast<size_t>(graph_.size()));
    buffer_of_.resize(static_cast<size_t>(graph_.size()));
    choose_updates_in_place();
    for (int id = 0; id < graph_.size(); ++id) place(id);
    for (auto& [variable, value] : graph_.updates())
      if (!in_place(variable, value)) commit_later(variable, value);
    for (auto& output : graph_.outputs()) keep_output(output.second);
    pack();
    return std::move(plan_);
  }

 private:
  void commit_later(Value variable, Value value) {
    const Node& n = graph_.node(variable);
    if (n.attrs.get<VariableAttrs>().kind == VariableKind::cache)
      throw Error(
          ErrorCode::unsupported,
          fmt::format("[plan {}] this cache cannot be updated in place: somebody reads it after "
                      "{} has written it",
                      n.name, graph_.node(value).name));
    Commit commit{variable.node, value, plan_.slot(value).place == Place::variable, 0};
    if (commit.staged) {
      staging_.push_back({plan_.commits.size(), buffers_.size()});
      buffers_.push_back({plan_.slot(value).bytes, 0, kEnd, 0});
    }
    plan_.commits.push_back(commit);
  }

  void keep_output(Value output) {
    Value owner = output;
    while (graph_.node(owner).op->view) owner = graph_.node(owner).inputs[0];
    const bool updated = std::any_of(graph_.updates().begin(), graph_.updates().end(),
                                     [&](auto& u) { return u.first == owner; });
    const bool known = std::any_of(plan_.kept.begin(), plan_.kept.end(),
                                   [&](auto& k) { return k.value == output; });
    if (!updated || known) return;
    keeping_.push_back(buffers_.size());
    buffers_.push_back({plan_.slot(output).bytes, 0, kEnd, 0});
    plan_.kept.push_back({output, 0});
  }

  size_t bytes_of(const ValueType& t) const {
    const int64_t n = element_count(t.shape).constant();
    const auto size = static_cast<int64_t>(dtype_size(t.dtype));
    // A terabyte each: the sum over a graph of any length that can be read then fits 63 bits.
    if (n < 0 || n > (int64_t{1} << 40) / size)
      throw Error(ErrorCode::out_of_memory,
                  fmt::format("[plan] {} is over a terabyte; a smaller batch or shorter sequences "
                              "need less",
                              to_text(t)));
    return static_cast<size_t>(n * size);
  }

  // A view's bytes live as long as the last reader of any view of them.
  void find_last_uses() {
    last_use_.resize(static_cast<size_t>(graph_.size()));
    for (int id = 0; id < graph_.size(); ++id)
      last_use_[static_cast<size_t>(id)].assign(graph_.node(id).types.size(), id);
    const auto keep = [&](Value v) { use(v) = kEnd; };
    for (auto& output : graph_.outputs()) keep(output.second);
    for (auto& [variable, value] : graph_.updates()) {
      keep(variable);
      keep(value);
    }
    for (int id = graph_.size() - 1; id >= 0; --id) {
      const Node& n = graph_.node(id);
      for (Value v : n.inputs) use(v) = std::max(use(v), n.op->view ? use({id, 0}) : id);
    }
  }
  int& use(Value v) {
    return last_use_[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
  }

  // Whether this output may stand where `input` stands, although the node reads it.
  static bool reads_in_place(const Node& n, int output, Value input) {
    if (n.op->in_place) return true;
    const int over = n.op->writes_over ? n.op->writes_over(n, output) : -1;
    return over >= 0 && n.inputs[static_cast<size_t>(over)] == input &&
           std::count(n.inputs.begin(), n.inputs.end(), input) == 1;
  }

  // An update may be written over its variable when each reader of the variable (through views,
  // too) runs before the update's node, or is that node and reads element by element.
  void choose_updates_in_place() {
    for (auto& [variable, value] : graph_.updates()) {
      const Node& producer = graph_.node(value);
      if (producer.op->source || producer.op->view) continue;
      bool safe = true;
      std::vector<Value> aliases = {variable};
      for (int id = variable.node + 1; id < graph_.size() && safe; ++id) {
        const Node& n = graph_.node(id);
        for (Value v : n.inputs) {
          if (std::find(aliases.begin(), aliases.end(), v) == aliases.end()) continue;
          if (n.op->view)
            aliases.push_back({id, 0});
          else if (id > value.node ||
                   (id == value.node &&
                    !(v == variable && reads_in_place(n, value.output, variable))))
            safe = false;
        }
      }
      // Outputs that show the variable as it was must not be overwritten, and one value may not be
      // written into two variables.
      for (auto& output : graph_.outputs())
        if (std::find(aliases.begin(), aliases.end(), output.second) != aliases.end()) safe = false;
      for (auto& [other, v] : graph_.updates()) {
        if (!(other == variable) && v == value && in_place(other, v)) safe = false;
        if (std::find(aliases.begin(), aliases.end(), v) != aliases.end()) safe = false;
      }
      if (safe) updates_in_place_.emplace_back(variable, value);
    }
  }
  bool in_place(Value variable, Value value) const {
    return std::find(updates_in_place_.begin(), updates_in_place_.end(),
                     std::pair(variable, value)) != updates_in_place_.end();
  }

  void place(int id) {
    const Node& n = graph_.node(id);
    auto& slots = plan_.slots[static_cast<size_t>(id)];
    auto& buffers = buffer_of_[static_cast<size_t>(id)];
    slots.resize(n.types.size());
    buffers.assign(n.types.size(), -1);
    if (n.op->source) {
      const Place place = n.op->name == "input"      ? Place::input
                          : n.op->name == "variable" ? Place::variable
                                                     : Place::constant;
      slots[0] = {place, id, 0, bytes_of(n.types[0])};
      return;
    }
    if (n.op->view) {
      slots[0] = plan_.slot(n.inputs[0]);
      buffers[0] = buffer({n.inputs[0]});
      return;
    }
    for (size_t i = 0; i < n.types.size(); ++i) {
      const Value value{id, static_cast<int32_t>(i)};
      const size_t bytes = bytes_of(n.types[i]);
      const auto update = std::find_if(updates_in_place_.begin(), updates_in_place_.end(),
                                       [&](auto& u) { return u.second == value; });
      if (update != updates_in_place_.end()) {
        slots[i] = {Place::variable, update->first.node, 0, bytes};
        continue;
      }
      plan_.values_bytes += aligned(bytes);
      buffers[i] = i == 0 ? dying_input(id, bytes) : -1;
      if (buffers[i] < 0) {
        buffers[i] = static_cast<int>(buffers_.size());
        buffers_.push_back({bytes, id, id, 0});
      }
      auto& b = buffers_[static_cast<size_t>(buffers[i])];
      b.last = std::max(b.last, use(value));
      slots[i] = {Place::arena, -1, 0, bytes};
    }
  }
  int buffer(Value v) const {
    return buffer_of_[static_cast<size_t>(v.node)][static_cast<size_t>(v.output)];
  }

  // The arena buffer of an input of the same type and size that nobody reads after this node, or
  // -1. An input of the same shape only: a broadcast one is read more than once for each element.
  int dying_input(int id, size_t bytes) const {
    const Node& n = graph_.node(id);
    for (Value v : n.inputs) {
      const int b = buffer(v);
      if (b < 0 || graph_.type(v) != n.types[0] || !reads_in_place(n, 0, v)) continue;
      const Buffer& candidate = buffers_[static_cast<size_t>(b)];
      if (candidate.bytes == bytes && candidate.last == id) return b;
    }
    return -1;
  }

  // Greedy by size: the largest buffer first, each into the lowest gap among those that live with
  // it (Pisarchyk and Lee 2020, "greedy by size").
  void pack() {
    std::vector<int> order(buffers_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return buffers_[static_cast<size_t>(a)].bytes > buffers_[static_cast<size_t>(b)].bytes;
    });
    std::vector<int> placed;  // sorted by offset
    for (int index : order) {
      Buffer& b = buffers_[static_cast<size_t>(index)];
      const size_t bytes = aligned(b.bytes);
      size_t offset = 0;
      for (int other : placed) {
        const Buffer& o = buffers_[static_cast<size_t>(other)];
        if (o.last < b.first || b.last < o.first) continue;
        if (o.offset >= offset + bytes) break;
        offset = std::max(offset, o.offset + aligned(o.bytes));
      }
      b.offset = offset;
      plan_.arena_bytes = std::max(plan_.arena_bytes, offset + bytes);
      placed.insert(std::upper_bound(placed.begin(), placed.end(), index,
                                     [&](int x, int y) {
                                       return buffers_[static_cast<size_t>(x)].offset <
                                              buffers_[static_cast<size_t>(y)].offset;
                                     }),
                    index);
    }
    for (auto& [commit, index] : staging_)
      plan_.commits[commit].staging_offset = buffers_[index].offset;
    for (size_t i = 0; i < keeping_.size(); ++i)
      plan_.kept[i].offset = buffers_[keeping_[i]].offset;
    for (size_t id = 0; id < plan_.slots.size(); ++id)
      for (size_t i = 0; i < plan_.slots[id].size(); ++i)
        if (buffer_of_[id][i] >= 0 && plan_.slots[id][i].place == Place::arena)
          plan_.slots[id][i].offset = buffers_[static_cast<size_t>(buffer_of_[id][i])].offset;
  }

  const Graph& graph_;
  MemoryPlan plan_;
  std::vector<std::vector<int>> last_use_;
  std::vector<std::vector<int>> buffer_of_;
  std::vector<Buffer> buffers_;
  std::vector<std::pair<Value, Value>> updates_in_place_;
  std::vector<std::pair<size_t, size_t>> staging_;  // commit, buffer
  std::vector<size_t> keeping_;                     // the buffer of each kept output
};

}  // namespace

MemoryPlan plan_memory(const Graph& graph) { return Planner(graph).run(); }

}  // namespace fovea
