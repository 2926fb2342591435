// One label for each image.
#pragma once

#include "fovea/tasks/task.h"

namespace fovea {

extern const TaskKind kImageClassification;

}  // namespace fovea
