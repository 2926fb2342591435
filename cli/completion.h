// Scripts that complete the program's command line in a shell; made from the table of verbs.
#pragma once

#include <string>

namespace fovea::cli {

std::string bash_completion();
std::string zsh_completion();

}  // namespace fovea::cli
