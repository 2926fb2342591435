// What the program says about itself: one screen for all verbs, one page for each, and the tables
// that its man pages show too.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/verbs.h"

namespace fovea::cli {

// How a page is laid out.
struct Layout {
  size_t columns = 80;
  bool colours = false;
};
// For standard output: as wide as its terminal, but not wider than eyes like.
Layout layout_of_output();

// All verbs by what people want.
std::string overview(const Layout& layout);
// What `fovea VERB --help` prints.
std::string verb_help(const Verb& verb, const Layout& layout);

// "--out DIR", "FILE...", "[VERB]".
std::string argument_words(const Argument& argument);
// "fovea predict BUNDLE FILE... [options]".
std::string usage(const Verb& verb);
// The help of an argument with its default behind.
std::string argument_help(const Argument& argument);

struct Entry {
  std::string_view name, meaning;
};
// What the exit codes mean, in every verb.
std::span<const Entry> exit_codes();
// Environment variables that the program reads.
std::span<const Entry> environment_variables();

}  // namespace fovea::cli
