// Measures a model on a data set.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fovea/runtime/session.h"
#include "fovea/tasks/task.h"

namespace fovea {

struct Evaluation {                       // what a data set showed
  std::map<std::string, double> metrics;  // "accuracy", "loss"
  int64_t examples = 0;                   // that were run
  double examples_per_second = 0;         // over the whole of run(), planning included
};

// The bytes of one input for several samples, one after another.
struct InputBytes {
  std::string_view name;
  std::span<const uint8_t> bytes;
};
// Those of samples [first, first + count).
std::vector<InputBytes> input_bytes(const Dataset& dataset, int64_t first, int64_t count);

// Copies inputs of N samples and, where the graph takes any, labels [N] into an execution that was
// prepared with B = batch; rows from N to batch are 0 and get the label -1, so they are not
// counted. Throws Error (invalid_argument) when N is more than batch, or the bytes are not those of
// N samples of the model's size.
void feed_batch(Execution& execution, std::span<const InputBytes> inputs,
                std::span<const int32_t> labels, int64_t batch);

// Runs an evaluation graph (TaskKind::evaluation, compiled) over all examples in order. The sums
// are taken in double, batch by batch, so that they depend on `batch` but not on threads.
class Evaluator {
 public:
  // Throws Error (invalid_argument) when the graph lacks an input or an output of a metric, or one
  // is no number.
  Evaluator(const Graph& evaluation, std::vector<Metric> metrics,
            std::shared_ptr<VariableStore> variables, std::shared_ptr<ThreadPool> pool);

  // One thread at a time. Throws Error: what check_inputs throws, invalid_argument when a label is
  // no class of the model, there is nothing to count, or batch is not positive; non_finite when the
  // model gives no numbers; interrupted when `stop` was set between two batches.
  Evaluation run(const Dataset& dataset, int64_t batch, const std::atomic<bool>* stop = nullptr);

 private:
  std::vector<Metric> metrics_;
  Session session_;
};

// Checks that the samples have the inputs that the graph takes, of its types and sizes. Throws what
// check_image_input throws, and Error (invalid_argument) naming both; `what` begins the message.
void check_inputs(const Graph& graph, const Dataset& dataset, const std::string& what);

// The shape [B,H,W,C] of the input "image". Throws Error (unsupported) when the graph has no such
// input of type u8; `what` begins the message, such as "[predict] cat.png".
const Shape& image_input_shape(const Graph& graph, const std::string& what);

// Checks that a model takes images of this size and kind. Throws what image_input_shape throws, and
// Error (invalid_argument) naming both, as width x height.
void check_image_input(const Graph& graph, int64_t height, int64_t width, int64_t channels,
                       const std::string& what);

}  // namespace fovea
