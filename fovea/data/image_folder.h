// Folders of images, a folder a class: DIR/CLASS/..., or DIR/{train,validation,test}/CLASS/...
#pragma once

#include "fovea/data/image_files.h"

namespace fovea {

// Where DIR has a folder "train" (or "training"), parts are read from it and from its neighbours
// "validation" ("valid", "val") and "test" ("testing"); else every folder in DIR is a class. The
// files of a class may lie in folders below it; names that begin with a dot are left out, and files
// that are no images are counted. Files are in the order of their names. Errors: not_found for a
// missing folder; invalid_argument where there are less than two classes, or a class without
// images, each saying what was found instead.
ImageFiles list_image_folder(const DataOptions& options);

}  // namespace fovea
