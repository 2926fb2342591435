// Ops from outside the library: their rows join the op table.
#pragma once

#include "fovea/graph/op.h"

namespace fovea {

// Adds an op to the table, for the whole program. It needs a name of small letters, digits and '_',
// a shape rule, and a decomposition unless register_bindings() gives it a kernel. Call it at the
// start of the program: not while another thread uses graphs; spans from all_ops() end. Throws
// Error (invalid_argument) when the row is not complete or the name is taken.
void register_op(Op op);

}  // namespace fovea
