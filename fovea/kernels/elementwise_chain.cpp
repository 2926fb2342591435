// The plan that runs a chain of elementwise functions block by block, and the family's list.
#include "fovea/kernels/elementwise_chain.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/kernels/elementwise_blocks.h"
#include "fovea/kernels/hwy_lists.h"
#include "fovea/kernels/strided.h"
#include "hwy/targets.h"

namespace fovea {
namespace elementwise {
namespace {

[[noreturn]] void wrong(const std::string& expected, const std::string& got) {
  throw Error(ErrorCode::invalid_argument, "[elementwise] expected " + expected + ", got " + got);
}

int operands(const ChainStep& step) {
  if (step.kind == ChainStep::Kind::unary) return 1;
  return step.kind == ChainStep::Kind::binary ? 2 : 3;
}

constexpr size_t kMaxRank = 8;  // of an input, after joining
// Of a block: the registers of a short chain lie in the first cache together.
constexpr int64_t kBlock = 1024;
// Where no register is needed, the price of a block is what counts.
constexpr int64_t kDirectBlock = 2048;
// Inputs that begin again after so many elements are laid out once a run, so that every block finds
// its piece in one run.
constexpr int64_t kTablePeriod = 4096;

struct Axis {
  int64_t size = 1, stride = 0;
};

// How an input lies along the output's elements.
enum class Form {
  scalar,    // one element for all
  dense,     // element i is x[i]
  periodic,  // element i is x[i mod period]
  strided,
};

struct Input {
  DType dtype = DType::f32;
  Form form = Form::strided;
  std::vector<Axis> axes;  // joined, outermost first; at least one
  int64_t period = 0;      // the innermost size
  int64_t table = -1;      // where its table begins, in floats of the scratch
  ReadFunction read = nullptr;

  // Elements [start, start + n) of the output's order.
  void walk(const void* x, int64_t start, int64_t n, float* y) const {
    std::array<int64_t, kMaxRank> index{};
    int64_t offset = 0, rest = start;
    for (size_t i = axes.size(); i-- > 0; rest /= axes[i].size) {
      index[i] = rest % axes[i].size;
      offset += index[i] * axes[i].stride;
    }
    const size_t inner = axes.size() - 1;
    while (n > 0) {
      const int64_t run = std::min(n, axes[inner].size - index[inner]);
      read(x, offset, axes[inner].stride, y, run);
      y += run;
      n -= run;
      offset -= index[inner] * axes[inner].stride;
      index[inner] = 0;
      for (size_t i = inner; i-- > 0;) {
        offset += axes[i].stride;
        if (++index[i] < axes[i].size) break;
        offset -= axes[i].size * axes[i].stride;
        index[i] = 0;
      }
    }
  }
};

// False for strides of another rank, and for too many axes that cannot be joined.
bool lay_out(const std::vector<int64_t>& dims, const std::vector<int64_t>& strides, Input& input) {
  const std::vector<int64_t> given = strides.empty() ? dense_strides(dims) : strides;
  if (given.size() != dims.size()) return false;
  auto& axes = input.axes;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 1) continue;
    if (!axes.empty() && axes.back().stride == given[i] * dims[i])
      axes.back() = {axes.back().size * dims[i], given[i]};
    else
      axes.push_back({dims[i], given[i]});
  }
  if (axes.empty()) axes.push_back({1, 0});
  if (axes.size() > kMaxRank) return false;
  input.period = axes.back().size;
  if (axes.size() == 1 && axes[0].stride == 0)
    input.form = Form::scalar;
  else if (axes.size() == 1 && axes[0].stride == 1)
    input.form = Form::dense;
  else if (axes.size() == 2 && axes[0].stride == 0 && axes[1].stride == 1)
    input.form = Form::periodic;
  return true;
}

bool has_table(const Input& input) {
  return input.form == Form::periodic && input.period <= kTablePeriod;
}

struct Step {
  StepFunction function = nullptr;
  int a = 0, b = 0, c = 0;
  int64_t slot = 0;  // where its result lies, in floats of the worker's scratch
  bool scalar = false;
};

class ChainPlan final : public KernelPlan<ChainArgs> {
 public:
  ChainPlan(const ChainProblem& p, std::vector<Input> inputs, const BlockFunctions& f)
      : lanes_(f.lanes),
        count_(count_of(p.dims)),
        inputs_(std::move(inputs)),
        y_float_(p.y == DType::f32),
        write_(f.write[static_cast<size_t>(p.y)]) {
    // A scalar that goes straight to the output has to be spread.
    if (p.steps.empty() && inputs_[0].form == Form::scalar) inputs_[0].form = Form::strided;
    bool direct = y_float_ && p.steps.size() == 1;
    for (const Input& input : inputs_)
      direct = direct && (input.form == Form::scalar || has_table(input) ||
                          (input.form == Form::dense && input.dtype == DType::f32));
    block_ = direct ? kDirectBlock : kBlock;
    slot_ = block_ + 16;  // of its own cache line, and not a power of two apart
    make_steps(p, f);
    int64_t floats = 0;
    for (Input& input : inputs_) {
      if (!has_table(input)) continue;
      input.table = floats;
      floats += (input.period + slot_ + 15) / 16 * 16;
    }
    scratch_bytes = static_cast<size_t>(floats) * sizeof(float);
  }

  void run(const ChainArgs& args, const KernelContext& context) const noexcept override {
    float* const tables = reinterpret_cast<float*>(context.scratch);
    for (size_t i = 0; i < inputs_.size(); ++i)
      if (inputs_[i].table >= 0 && count_ > 0)
        inputs_[i].walk(args.inputs[i], 0, std::min(count_, inputs_[i].period + block_),
                        tables + inputs_[i].table);
    context.pool->parallel_for(
        lanes::ceil_div(count_, lanes::kFlatBlock), [&](int64_t task, int worker) {
          float* const slots = context.worker<float>(worker);
          for (size_t i = 0; i < inputs_.size(); ++i)
            if (inputs_[i].form == Form::scalar)
              inputs_[i].read(args.inputs[i], 0, 0, input_slot(slots, i), lanes_);
          const int64_t end = std::min(count_, (task + 1) * lanes::kFlatBlock);
          for (int64_t start = task * lanes::kFlatBlock; start < end; start += block_)
            run_block(args, start, std::min(block_, end - start), tables, slots);
        });
  }

 private:
  float* input_slot(float* slots, size_t i) const {
    return slots + static_cast<int64_t>(i) * slot_;
  }

  // A register's slot is free after its last reader; a scalar's stays, since a step may read it
  // again while it writes.
  void make_steps(const ChainProblem& p, const BlockFunctions& f) {
    const size_t first = inputs_.size();
    std::vector<size_t> last_reader(first + p.steps.size(), p.steps.size());
    for (size_t s = 0; s < p.steps.size(); ++s) {
      const int from[] = {p.steps[s].a, p.steps[s].b, p.steps[s].c};
      for (int k = 0; k < operands(p.steps[s]); ++k) last_reader[static_cast<size_t>(from[k])] = s;
    }
    std::vector<int64_t> free;
    int64_t slots = static_cast<int64_t>(first);
    for (size_t s = 0; s < p.steps.size(); ++s) {
      const ChainStep& from = p.steps[s];
      Step step{nullptr, from.a, from.b, from.c, 0, s + 1 < p.steps.size()};
      if (from.kind == ChainStep::Kind::unary)
        step.function = f.unary[static_cast<size_t>(from.unary)];
      else if (from.kind == ChainStep::Kind::binary)
        step.function = f.binary[static_cast<size_t>(from.binary)];
      else
        step.function = f.select;
      if (operands(from) < 2) step.b = step.a;
      if (operands(from) < 3) step.c = step.b;
      int read[] = {step.a, step.b, step.c};
      for (int r : read) {
        const size_t i = static_cast<size_t>(r);
        const bool scalar = i < first ? inputs_[i].form == Form::scalar : steps_[i - first].scalar;
        step.scalar = step.scalar && scalar;
      }
      std::sort(read, read + 3);
      for (int* r = read; r != std::unique(read, read + 3); ++r) {
        const size_t i = static_cast<size_t>(*r);
        if (i >= first && last_reader[i] == s && !steps_[i - first].scalar)
          free.push_back(steps_[i - first].slot);
      }
      if (free.empty() || step.scalar) {
        step.slot = slots++ * slot_;
      } else {
        step.slot = free.back();
        free.pop_back();
      }
      steps_.push_back(step);
    }
    worker_scratch_bytes = static_cast<size_t>(slots * slot_) * sizeof(float);
  }

  // n elements from `start` on. Behind the last whole vector nothing may be read or written in
  // place: such a block goes through the slots.
  void run_block(const ChainArgs& args, int64_t start, int64_t n, const float* tables,
                 float* slots) const {
    const int64_t whole = lanes::ceil_div(n, lanes_) * lanes_;
    const bool in_place = whole == n;
    float* const out = y_float_ && in_place ? static_cast<float*>(args.y) + start : nullptr;
    // Not cleared: that would take as long as a cheap step.
    std::array<Operand, kChainInputs + kChainSteps> registers;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      // Without steps, a dense input is read to where it shall be.
      const bool copies = steps_.empty() && out && inputs_[i].form == Form::dense;
      float* const slot = copies ? out : input_slot(slots, i);
      registers[i] = fetch(inputs_[i], args.inputs[i], start, n, in_place, tables, slot);
    }
    Operand last = registers[0];
    for (size_t s = 0; s < steps_.size(); ++s) {
      const Step& step = steps_[s];
      float* const y = out && s + 1 == steps_.size() ? out : slots + step.slot;
      const auto at = [&](int r) { return registers[static_cast<size_t>(r)]; };
      step.function(at(step.a), at(step.b), at(step.c), y, step.scalar ? lanes_ : whole);
      last = {y, step.scalar ? 0 : lanes_};
      registers[inputs_.size() + s] = last;
    }
    if (last.p != out) write_(last.p, args.y, start, n);
  }

  Operand fetch(const Input& input, const void* x, int64_t start, int64_t n, bool in_place,
                const float* tables, float* slot) const {
    if (input.form == Form::scalar) return {slot, 0};
    if (input.table >= 0) return {tables + input.table + start % input.period, lanes_};
    const bool periodic = input.form == Form::periodic;
    const int64_t at = periodic ? start % input.period : start;
    const bool one_run = input.form == Form::dense || (periodic && at + n <= input.period);
    const bool copies = steps_.empty() && y_float_;
    if (one_run && in_place && input.dtype == DType::f32 && !copies)
      return {static_cast<const float*>(x) + at, lanes_};
    if (one_run)
      input.read(x, at, 1, slot, n);
    else
      input.walk(x, start, n, slot);
    return {slot, lanes_};
  }

  int64_t lanes_, count_, block_ = kBlock, slot_ = 0;
  std::vector<Input> inputs_;
  std::vector<Step> steps_;
  bool y_float_;
  WriteFunction write_;
};

}  // namespace

void check(const ChainProblem& p) {
  if (p.inputs.size() > kChainInputs)
    wrong("at most " + std::to_string(kChainInputs) + " inputs", std::to_string(p.inputs.size()));
  if (p.steps.empty() || p.steps.size() > kChainSteps)
    wrong("1 to " + std::to_string(kChainSteps) + " steps", std::to_string(p.steps.size()));
  for (size_t s = 0; s < p.steps.size(); ++s) {
    const int from[] = {p.steps[s].a, p.steps[s].b, p.steps[s].c};
    const int written = static_cast<int>(p.inputs.size() + s);
    for (int k = 0; k < operands(p.steps[s]); ++k)
      if (from[k] < 0 || from[k] >= written)
        wrong("step " + std::to_string(s) + " to read a register below " + std::to_string(written),
              std::to_string(from[k]) + " (a step reads inputs and earlier steps)");
  }
}

std::unique_ptr<KernelPlan<ChainArgs>> plan_blocks(const ChainProblem& p,
                                                   const BlockFunctions& functions) {
  for (int64_t d : p.dims)
    if (d < 0) return nullptr;
  if (!functions.write[static_cast<size_t>(p.y)]) return nullptr;
  std::vector<Input> inputs(p.inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs[i].dtype = p.inputs[i].dtype;
    inputs[i].read = functions.read[static_cast<size_t>(p.inputs[i].dtype)];
    if (!inputs[i].read || !lay_out(p.dims, p.inputs[i].strides, inputs[i])) return nullptr;
  }
  return std::make_unique<ChainPlan>(p, std::move(inputs), functions);
}

}  // namespace elementwise

namespace {

template <const elementwise::BlockFunctions& (*kFunctions)()>
std::unique_ptr<KernelPlan<ChainArgs>> plan_chain(const ChainProblem& p) {
  elementwise::check(p);
  if (p.y != DType::f32 && p.y != DType::bf16) return nullptr;
  return elementwise::plan_blocks(p, kFunctions());
}

}  // namespace

void append_hwy([[maybe_unused]] KernelList<ChainProblem, ChainArgs>& list) {
  [[maybe_unused]] const int64_t supported = hwy::SupportedTargets();
#define FOVEA_ADD(bit, target, name) \
  if (supported & bit) list.push_back({name, plan_chain<target::block_functions>});
  FOVEA_FOR_EACH_TARGET(FOVEA_ADD)
#undef FOVEA_ADD
}

std::span<const Kernel<ChainProblem, ChainArgs>> chain_kernels() {
  static const auto list = with_hwy<ChainProblem, ChainArgs>(elementwise::plan_chain_ref);
  return list;
}

}  // namespace fovea
