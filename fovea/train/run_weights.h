// Weights between a bundle and the variables of a training.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "fovea/formats/bundle.h"
#include "fovea/runtime/variables.h"

namespace fovea {

// Copies the weights of the same name, type and shape, into moving averages too, and returns how
// many there were. An optimiser's state stays as it is.
int64_t take_weights(const Bundle& bundle, VariableStore& variables);

// What is validated and saved: the moving average of each weight where there is one. Copies.
std::map<std::string, HostTensorPtr> current_weights(const VariableStore& variables);

}  // namespace fovea
