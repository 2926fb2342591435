// Kernels for ops from outside the library: their bindings join the table.
#pragma once

#include "fovea/runtime/binding.h"

namespace fovea {

// Adds kernels for ops that register_op() has added, for the whole program; families may be left
// empty (FOVEA_FORCE_KERNEL then does not know them). Call it at the start of the program, when no
// other thread uses graphs. Throws Error (invalid_argument) where an op does not exist, or an op or
// a family has a row already.
void register_bindings(const BindingGroup& group);

}  // namespace fovea
