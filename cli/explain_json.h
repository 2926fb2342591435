// What `fovea explain --json` prints.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cli/json.h"
#include "fovea/explain/page.h"

namespace fovea::cli {

// How the model ran.
struct ExplainedWith {
  std::string level;
  std::string_view precision;
};

// files: the names of what was written into the folder.
Json explain_json(const ExplainReport& report, const ExplainedWith& with, const std::string& folder,
                  const std::vector<std::string>& files);

}  // namespace fovea::cli
