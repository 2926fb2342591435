// The folder that `fovea explain` writes: the page, and each picture as a file of its own.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "fovea/explain/page.h"

namespace fovea {

// Makes the folder, or takes one that is empty or holds an earlier report. Throws Error:
// invalid_argument where it holds anything else, io where it cannot be made or written to.
void prepare_report_folder(const std::filesystem::path& folder);

// Writes index.html, for each image NN-input.png, NN-rollout.png, NN-gradient.png and NN-heads.png,
// and with faithfulness deletion.svg and insertion.svg; pictures of an earlier report go, whatever
// else stays. Gives the names of the files. Throws what prepare_report_folder throws, and Error
// (io).
std::vector<std::string> write_report(const std::filesystem::path& folder,
                                      const ExplainReport& report);

}  // namespace fovea
