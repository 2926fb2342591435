// The folder in which a run writes.
#pragma once

#include "fovea/formats/folder_lock.h"
#include "fovea/train/trainer.h"

namespace fovea {

// Makes request.out where it must, locks it, and removes what a killed run has left half written.
// Nothing else in it is touched. Throws Error: invalid_argument where it holds a run and the
// request neither resumes nor overwrites, or where another process trains; not_found where there is
// nothing to resume; io where it cannot be made.
FolderLock open_run_folder(const TrainRequest& request);

}  // namespace fovea
