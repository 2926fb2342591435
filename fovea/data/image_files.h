// Data sets of image files, however their labels were found: cut into parts, read, prepared.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"

namespace fovea {

struct ImageFile {
  std::filesystem::path path;
  int32_t label = 0;  // index of a class name
  Split split = Split::train;
};

struct ImageFiles {
  std::string source;  // where the list came from, for errors and reports
  std::vector<std::string> class_names;
  std::vector<ImageFile> files;
  std::array<bool, 3> given = {};  // by Split: the data themselves say which files belong to it
  int64_t others = 0;              // files beside them that are no images
};

// The files of an image_folder or an image_csv, cut into parts. Errors: those of list_image_folder
// and list_image_csv, and of cut_splits.
ImageFiles list_image_files(const DataOptions& options);

// Parts that are not given are cut from train, each class in proportion, by the options'
// validation, test and validation_seed; a class with at least two files keeps one in train. The
// same for the same list and options. Error (invalid_argument) for shares that cannot be.
void cut_splits(ImageFiles& list, const DataOptions& options);

// Reads the files of a part, with all threads. Errors: invalid_argument where sizes or channels
// differ and the options do not say which to take, or more memory is needed than there may be;
// corrupt with the first files that cannot be read, unless the options skip them.
ImageDataset read_image_files(const ImageFiles& list, Split split, const DataOptions& options,
                              const LoadContext& context);

// Whether the name ends like that of an image file: .png, .jpg and so on, and of other formats that
// people keep images in (reading those gives an error that says what is expected).
bool has_image_name(const std::filesystem::path& path);

// "3" before "12" where all are numbers, else in the order of their bytes.
void sort_names(std::vector<std::string>& names);

}  // namespace fovea
