// A recipe written for data that somebody has: what was seen in them, and what was chosen for it.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fovea/base/thread_pool.h"
#include "fovea/data/image_files.h"

namespace fovea::cli {

struct ImageSurvey {
  DataOptions data;                     // kind, and dir or file
  ImageFiles list;                      // cut into parts
  std::array<int64_t, 3> samples = {};  // by Split
  std::vector<int64_t> class_counts;    // of train
  // Of the files that were opened, up to 400 spread over the list:
  int64_t opened = 0, unreadable = 0;
  std::string first_problem;
  bool colour = false;            // one of them has pixels that are no grey
  bool one_size = true;           // all are equally large
  int64_t height = 0, width = 0;  // the middle one of each, sorted
  int64_t least_side = 0, most_side = 0;
  double least_aspect = 0, most_aspect = 0;  // width by height, leaving out a tenth on either end
};

// Looks at a folder of images, or at a CSV file that names them. Throws what list_image_files
// throws, and Error (corrupt) where no file can be read.
ImageSurvey survey_images(const std::string& path, const std::shared_ptr<ThreadPool>& pool,
                          const std::function<void(double share)>& progress);

// The text as a string of TOML, in quotes.
std::string toml_string(const std::string& text);

// What a person should know: imbalance, few images, odd sizes, files that cannot be read.
std::vector<std::string> remarks(const ImageSurvey& survey);

// The recipe, with the reasons for its numbers as comments. `command` is how it was asked for,
// `file` its own name.
std::string image_classifier_recipe(const ImageSurvey& survey, const std::string& command,
                                    const std::string& file);

}  // namespace fovea::cli
