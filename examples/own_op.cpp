// An op of one's own, from outside the library: max(x, 0)^2 (So et al. 2021, "Primer"). Its row
// says what it means in simpler ops, which gives it a reference and a gradient; a kernel makes it
// fast. Then a model with it is trained, as with any other op.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "fovea/fovea.h"
#include "fovea/graph/register_op.h"
#include "fovea/runtime/register_bindings.h"
#include "stripes.h"

namespace {

// The row of the op table.
fovea::Op squared_relu_op() {
  fovea::Op op;
  op.name = "squared_relu";
  op.infer = [](const fovea::InferContext& context) {
    context.expect(fovea::is_floating(context.inputs[0].dtype), "expected floats");
    return std::vector<fovea::ValueType>{context.inputs[0]};
  };
  op.flops = [](const fovea::Graph&, const fovea::Node& node) {
    return fovea::element_count(node.types[0].shape) * fovea::Size(2);
  };
  op.decompose = [](fovea::Graph& g, std::span<const fovea::Value> inputs, const fovea::Attrs&) {
    const fovea::Value positive = fovea::ops::unary(g, "relu", inputs[0]);
    return std::vector<fovea::Value>{fovea::ops::mul(g, positive, positive)};
  };
  return op;
}

// The kernel: planned once for given sizes, run often.
class SquaredRelu final : public fovea::NodePlan {
 public:
  explicit SquaredRelu(int64_t count) : count_(count) { kernel = "squared_relu:own"; }
  void run(const void* const* inputs, void* const* outputs,
           const fovea::KernelContext& context) const noexcept override {
    const auto* x = static_cast<const float*>(inputs[0]);
    auto* y = static_cast<float*>(outputs[0]);
    constexpr int64_t kBlock = 4096;
    context.pool->parallel_for((count_ + kBlock - 1) / kBlock, [&](int64_t block, int) {
      const int64_t end = std::min(count_, (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < end; ++i) {
        const float positive = std::max(x[i], 0.0f);
        y[i] = positive * positive;
      }
    });
  }

 private:
  int64_t count_;
};

std::unique_ptr<fovea::NodePlan> bind_squared_relu(const fovea::NodeProblem& node,
                                                   const fovea::KernelChoice&) {
  return std::make_unique<SquaredRelu>(fovea::product(node.output_dims()));
}

// What a model writes to use it.
fovea::Value squared_relu(fovea::Graph& g, fovea::Value x) { return g.add("squared_relu", {x}); }

// Runs the op alone; the result of each of the numbers.
std::vector<float> run_alone(const std::vector<float>& numbers) {
  fovea::Graph g;
  const auto x = fovea::ops::input(g, "x", fovea::DType::f32, {fovea::Size::symbol("N")});
  g.set_output("y", squared_relu(g, x));
  fovea::Session session(fovea::compile(g), std::make_shared<fovea::VariableStore>(),
                         std::make_shared<fovea::ThreadPool>());
  fovea::Execution& execution = session.prepare({{"N", static_cast<int64_t>(numbers.size())}});
  std::memcpy(execution.input("x").data(), numbers.data(), numbers.size() * sizeof(float));
  execution.run();
  for (const fovea::NodeReport& node : execution.reports())
    if (node.op == "squared_relu") std::cout << "run by " << node.kernel << "\n";
  const auto y = execution.output_f32("y");
  return {y.begin(), y.end()};
}

}  // namespace

int main() {
  fovea::register_op(squared_relu_op());
  fovea::register_bindings({.bindings = {{"squared_relu", bind_squared_relu}}, .families = {}});

  for (const float y : run_alone({-1.0f, 0.5f, 3.0f})) std::cout << y << " ";
  std::cout << "\n";

  fovea::TrainJob job;
  job.train = stripes(512, 1);
  job.test = stripes(128, 2);
  job.task = fovea::image_classification(
      fovea::data_info(job.train),
      [](fovea::Graph& g, fovea::Value image, int64_t classes, const fovea::BuildContext&) {
        namespace ops = fovea::ops;
        fovea::Value x = ops::scaled(g, ops::cast(g, image, fovea::DType::f32), 1.0 / 255);
        x = ops::reshape(g, x, {g.shape(image)[0], 64});
        return ops::linear(g, "out", squared_relu(g, ops::linear(g, "hidden", x, 16)), classes);
      });
  job.options = {.epochs = 4, .batch = 32, .learning_rate = 1e-2};
  const fovea::TrainResult result =
      fovea::train(std::move(job), {.out = "runs/own_op", .overwrite = true});
  std::cout << "accuracy " << result.test.at("accuracy") << "\n";
}
