#include "fovea/runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace fovea {

namespace {

constexpr size_t kPlans = 32;

template <class T>
void write_all(std::byte* to, size_t count, const std::vector<double>& values) {
  auto* p = reinterpret_cast<T*>(to);
  for (size_t i = 0; i < count; ++i)
    p[i] = static_cast<T>(values.size() == 1 ? values[0] : values[i]);
}

// The bytes of a constant whose size is known.
AlignedBuffer constant_bytes(const Graph& graph, const Node& n) {
  const auto& a = n.attrs.get<ConstantAttrs>();
  const auto count = static_cast<size_t>(element_count(a.type.shape).constant());
  AlignedBuffer data(count * dtype_size(a.type.dtype), "constants");
  if (!a.hash.empty()) {
    const auto it = graph.constants().find(a.hash);
    if (it == graph.constants().end() || it->second->bytes.size() != data.size())
      throw Error(ErrorCode::not_found,
                  fmt::format("[constant {}] the store does not hold {}", n.name, a.hash));
    std::memcpy(data.data(), it->second->bytes.data(), data.size());
    return data;
  }
  switch (a.type.dtype) {
    case DType::f32:
      write_all<float>(data.data(), count, a.values);
      break;
    case DType::f64:
      write_all<double>(data.data(), count, a.values);
      break;
    case DType::i32:
      write_all<int32_t>(data.data(), count, a.values);
      break;
    case DType::i8:
      write_all<int8_t>(data.data(), count, a.values);
      break;
    case DType::u8:
    case DType::boolean:
      write_all<uint8_t>(data.data(), count, a.values);
      break;
    case DType::bf16: {
      auto* p = reinterpret_cast<bf16*>(data.data());
      for (size_t i = 0; i < count; ++i)
        p[i] = bf16(static_cast<float>(a.values.size() == 1 ? a.values[0] : a.values[i]));
      break;
    }
    case DType::f16:
      throw Error(ErrorCode::unsupported, fmt::format("[constant {}] f16 is storage only", n.name));
  }
  return data;
}

// What one thread needs for a node, roughly: products reach 100 GFLOP/s, and what lies in the
// caches moves at 50 GB/s. Within a factor of two on a processor with 512-bit vectors.
double estimated_microseconds(const Cost& cost) {
  constexpr double kFlopsOfMicrosecond = 1e5, kBytesOfMicrosecond = 5e4;
  return static_cast<double>(cost.flops.constant()) / kFlopsOfMicrosecond +
         static_cast<double>(cost.bytes.constant()) / kBytesOfMicrosecond;
}

ThreadPool& calling_thread_alone() {
  static ThreadPool pool(1);
  return pool;
}

template <class T>
bool all_finite(const std::byte* bytes, size_t count, bool* nan) {
  const auto* p = reinterpret_cast<const T*>(bytes);
  bool good = true;
  for (size_t i = 0; i < count; ++i) {
    const auto x = static_cast<std::conditional_t<std::is_same_v<T, bf16>, float, T>>(p[i]);
    if (std::isnan(x)) *nan = true;
    if (!std::isfinite(x)) good = false;
  }
  return good;
}

}  // namespace

Session::Session(Graph graph, std::shared_ptr<VariableStore> variables,
                 std::shared_ptr<ThreadPool> pool, SessionOptions options)
    : graph_(std::move(graph)),
      variables_(std::move(variables)),
      pool_(std::move(pool)),
      choice_(std::move(options.kernels)),
      microseconds_worth_sharing_(options.microseconds_worth_sharing),
      arena_(options.arena ? std::move(options.arena) : std::make_shared<Arena>()) {
  variables_->create(graph_, options.seed);
}

Execution& Session::prepare(const SizeBindings& bindings) {
  for (auto it = plans_.begin(); it != plans_.end(); ++it)
    if (it->first == bindings) {
      plans_.splice(plans_.begin(), plans_, it);
      return *plans_.front().second;
    }
  std::unique_ptr<Execution> made(new Execution(*this, bindings));
  arena_->grow(made->total_bytes_);  // first: a plan without its memory must not stay in the cache
  plans_.emplace_front(bindings, std::move(made));
  if (plans_.size() > kPlans) plans_.pop_back();
  return *plans_.front().second;
}

void Arena::grow(size_t bytes) {
  if (bytes <= buffer_.size()) return;
  buffer_ = AlignedBuffer();  // first: both at once might be too much
  buffer_ = AlignedBuffer(bytes, "arena");
  ++generation_;
}

const AlignedBuffer* Session::constant(const Graph& graph, const Node& node) {
  // The text names type and values, or the hash of the values.
  const std::string key = node.attrs.text(Attrs(ConstantAttrs{}));
  const auto known = constants_.find(key);
  if (known != constants_.end()) return &known->second;
  return &constants_.emplace(key, constant_bytes(graph, node)).first->second;
}

Execution::Execution(Session& session, const SizeBindings& bindings)
    : session_(session),
      graph_(specialise(session.graph_, bindings)),
      memory_(plan_memory(graph_)) {
  size_t end = aligned(memory_.arena_bytes);
  input_offset_.resize(static_cast<size_t>(graph_.size()));
  constant_data_.resize(static_cast<size_t>(graph_.size()));
  size_t scratch = 0, worker = 0;
  for (int id = 0; id < graph_.size(); ++id) {
    const Node& n = graph_.node(id);
    if (n.op->name == "input") {
      input_offset_[static_cast<size_t>(id)] = end;
      end += aligned(memory_.slot({id, 0}).bytes);
    } else if (n.op->name == "constant") {
      constant_data_[static_cast<size_t>(id)] = session.constant(graph_, n);
    }
    if (n.op->source || n.op->view) continue;
    const Binding* binding = find_binding(n.op->name);
    if (!binding)
      throw Error(ErrorCode::unsupported,
                  fmt::format("[session] {} is a {}, which has no kernel; run the passes first",
                              n.name, n.op->name));
    Step step;
    step.node = id;
    step.plan = binding->bind({graph_, n}, session.choice_);
    step.alone = estimated_microseconds(node_cost(graph_, n)) < session.microseconds_worth_sharing_;
    scratch = std::max(scratch, step.plan->scratch_bytes);
    worker = std::max(worker, step.plan->worker_scratch_bytes);
    if (step.plan->packed_bytes > 0) pack_constants(step);
    steps_.push_back(std::move(step));
  }
  scratch_offset_ = end;
  worker_offset_ = scratch_offset_ + aligned(scratch);
  worker_stride_ = aligned(worker);
  total_bytes_ = worker_offset_ + worker_stride_ * static_cast<size_t>(session.pool_->threads());
}

void Execution::pack_constants(Step& step) {
  const Node& n = graph_.node(step.node);
  std::vector<const void*> inputs(n.inputs.size());
  for (size_t i : step.plan->packed_inputs) {
    const AlignedBuffer* data = constant_data_[static_cast<size_t>(n.inputs[i].node)];
    if (!data) return;
    inputs[i] = data->data();
  }
  step.packed = AlignedBuffer(step.plan->packed_bytes, "packed weights");
  step.plan->pack(inputs.data(), step.packed.data());
}

size_t Execution::packed_bytes() const {
  size_t bytes = 0;
  for (const Step& step : steps_) bytes += step.packed.size();
  return bytes;
}

std::byte* Execution::address(Value v) const {
  const Slot& s = memory_.slot(v);
  switch (s.place) {
    case Place::arena:
      return session_.arena_->data() + s.offset;
    case Place::input:
      return session_.arena_->data() + input_offset_[static_cast<size_t>(s.node)];
    case Place::variable:
      return session_.variables_->get(graph_.node(s.node).name).data.data();
    case Place::constant:
      return const_cast<std::byte*>(constant_data_[static_cast<size_t>(s.node)]->data());
    case Place::unused:
      break;
  }
  return nullptr;
}

void Execution::resolve() {
  if (resolved_for_ == session_.arena_->generation()) return;
  for (Step& step : steps_) {
    const Node& n = graph_.node(step.node);
    step.inputs.clear();
    step.outputs.clear();
    for (Value v : n.inputs) step.inputs.push_back(address(v));
    for (size_t i = 0; i < n.types.size(); ++i)
      step.outputs.push_back(address({step.node, static_cast<int32_t>(i)}));
  }
  resolved_for_ = session_.arena_->generation();
}

bool Execution::has_input(std::string_view name) const {
  const int id = graph_.find(name);
  return id >= 0 && graph_.node(id).op->name == "input";
}

std::span<std::byte> Execution::input(std::string_view name) {
  if (!has_input(name))
    throw Error(ErrorCode::not_found, fmt::format("[session] there is no input '{}'", name));
  const Value v{graph_.find(name), 0};
  return {address(v), memory_.slot(v).bytes};
}

std::span<const std::byte> Execution::output(std::string_view name) const {
  const Value v = graph_.output(name);
  for (const KeptOutput& k : memory_.kept)
    if (k.value == v) return {session_.arena_->data() + k.offset, memory_.slot(v).bytes};
  return {address(v), memory_.slot(v).bytes};
}

const ValueType& Execution::output_type(std::string_view name) const {
  return graph_.type(graph_.output(name));
}

std::span<const float> Execution::output_f32(std::string_view name) const {
  FOVEA_ASSERT(output_type(name).dtype == DType::f32);
  const auto bytes = output(name);
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

void Execution::commit() {
  if (graph_.updates().empty()) return;
  for (const KeptOutput& k : memory_.kept)
    std::memcpy(session_.arena_->data() + k.offset, address(k.value), memory_.slot(k.value).bytes);
  for (const Commit& c : memory_.commits)
    if (c.staged)
      std::memcpy(session_.arena_->data() + c.staging_offset, address(c.value),
                  memory_.slot(c.value).bytes);
  for (const Commit& c : memory_.commits) {
    const std::byte* from =
        c.staged ? session_.arena_->data() + c.staging_offset : address(c.value);
    std::memcpy(address({c.variable, 0}), from, memory_.slot(c.value).bytes);
  }
  session_.variables_->changed();
}

template <class Each>
void Execution::run_steps(Each each) {
  resolve();
  const auto lock = session_.variables_->lock(!graph_.updates().empty());
  KernelContext context{session_.pool_.get(), session_.arena_->data() + scratch_offset_,
                        session_.arena_->data() + worker_offset_, worker_stride_};
  for (Step& step : steps_) {
    context.packed = step.packed.data();
    context.pool = step.alone ? &calling_thread_alone() : session_.pool_.get();
    each(step, context);
  }
  commit();
}

namespace {
template <class Step>
void run_step(const Step& step, const KernelContext& context) {
  step.plan->run(step.inputs.data(), step.outputs.data(), context);
}
}  // namespace

void Execution::run() {
  run_steps([](const Step& step, const KernelContext& c) { run_step(step, c); });
}

void Execution::run_timed() {
  using Clock = std::chrono::steady_clock;
  times_.resize(steps_.size());
  const auto origin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - origin).count(); };
  run_steps([&](Step& step, const KernelContext& c) {
    NodeTimes& t = times_[static_cast<size_t>(&step - steps_.data())];
    t.begin = seconds();
    run_step(step, c);
    t.end = seconds();
    step.milliseconds += 1e3 * (t.end - t.begin);
  });
}

void Execution::run_observed(const Observer& observer) {
  run_steps([&](const Step& step, const KernelContext& c) {
    run_step(step, c);
    const Node& n = graph_.node(step.node);
    for (size_t i = 0; i < n.types.size(); ++i)
      observer(n, i,
               {static_cast<const std::byte*>(step.outputs[i]),
                memory_.slot({step.node, static_cast<int32_t>(i)}).bytes});
  });
}

bool Execution::finite(Value v, bool* nan) const {
  const ValueType& t = graph_.type(v);
  const size_t count = memory_.slot(v).bytes / dtype_size(t.dtype);
  if (t.dtype == DType::f32) return all_finite<float>(address(v), count, nan);
  if (t.dtype == DType::f64) return all_finite<double>(address(v), count, nan);
  if (t.dtype == DType::bf16) return all_finite<bf16>(address(v), count, nan);
  return true;
}

std::string Execution::first_non_finite_source() const {
  for (int id = 0; id < graph_.size(); ++id) {
    const Node& n = graph_.node(id);
    if (n.op->name != "input" && n.op->name != "variable") continue;
    bool nan = false;
    if (!finite({id, 0}, &nan)) return n.name;
  }
  return {};
}

std::string Execution::run_looking_for_non_finite() {
  std::string first_infinity, first_nan;
  run_steps([&](const Step& step, const KernelContext& c) {
    if (&step == &steps_.front()) first_nan = first_non_finite_source();
    const Node& n = graph_.node(step.node);
    bool nan = false, clean_inputs = true;
    if (first_nan.empty())
      for (Value v : n.inputs) clean_inputs = finite(v, &nan) && clean_inputs;
    run_step(step, c);
    if (!first_nan.empty()) return;
    nan = false;
    bool clean = true;
    for (size_t i = 0; i < n.types.size(); ++i)
      clean = finite({step.node, static_cast<int32_t>(i)}, &nan) && clean;
    if (nan)
      first_nan = n.name;
    else if (!clean && clean_inputs && first_infinity.empty())
      first_infinity = n.name;
  });
  return first_infinity.empty() ? first_nan : first_infinity;
}

std::vector<NodeReport> Execution::reports() const {
  std::vector<NodeReport> out;
  for (const Step& step : steps_) {
    const Node& n = graph_.node(step.node);
    const Cost cost = node_cost(graph_, n);
    out.push_back({n.name, std::string(n.op->name), step.plan->kernel, cost.flops.constant(),
                   cost.bytes.constant(), step.milliseconds, step.alone});
  }
  return out;
}

}  // namespace fovea
