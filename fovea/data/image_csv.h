// Image files that a CSV table names, with their labels.
#pragma once

#include "fovea/data/image_files.h"

namespace fovea {

// The table options.file has a column of paths, relative to options.dir or else to the table's
// folder, a column of class names, and maybe one that says train, validation (valid, val) or test.
// Columns are those that the options name, or else found by their usual names (image, path, file,
// ...; label, class, ...; split, set, ...). Errors: not_found for a missing table; invalid_argument
// for columns that are not there or less than two classes; corrupt, with the line, for an empty
// path or label and an unknown split.
ImageFiles list_image_csv(const DataOptions& options);

}  // namespace fovea
