// The probability of a class for samples of which a part was changed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/runtime/session.h"

namespace fovea {

// The input that parts are taken from: the image, or the series.
const DataInput& removable_input(const Dataset& dataset);

// Runs samples in full batches, whatever order they come in.
class Prober {
 public:
  // session: compiled for inference, with the output "probabilities". The data set stays as it is
  // while the prober lives, and has the inputs that the model takes (check_inputs).
  Prober(Session& session, const Dataset& dataset, int64_t batch);

  // Sample i with `changed` in the place of removable_input. The probability of the class goes to
  // *to, at the latest in flush().
  void push(int64_t i, std::span<const uint8_t> changed, int32_t of, double* to);
  void flush();

 private:
  struct Wanted {
    size_t of = 0;
    double* to = nullptr;
  };
  Execution& execution_;
  const Dataset& dataset_;
  size_t batch_, classes_;
  std::vector<Wanted> wanted_;
};

}  // namespace fovea
