// Manual pages as roff with the man macros (man(7)), made from the same rows as --help.
#pragma once

#include <string>

#include "cli/verbs.h"

namespace fovea::cli {

// fovea(1): the list of verbs, exit codes, environment, files.
std::string man_page();
// fovea-VERB(1).
std::string man_page(const Verb& verb);

}  // namespace fovea::cli
