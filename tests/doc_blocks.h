// The code blocks of a Markdown page, and what HTML comments before them say about their test.
// CONTRIBUTING ("Code blocks in the docs") is the description for writers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fovea {

struct DocBlock {
  enum class Mode {
    run,      // as it stands
    setup,    // not on the page: commands that stand in a comment
    skip,     // not run; only looked through
    slow,     // in the slow suite
    instead,  // `commands` run in place of it
    exits,    // its last command ends with `exit_code`
    same,     // is part of the file `reason`, whose own test builds and runs it
  };
  int line = 0;          // of the fence, from 1
  std::string language;  // "sh"; of a setup "sh"
  std::string text;      // lines, each with its end
  Mode mode = Mode::run;
  std::string reason;    // of skip, slow and instead; the path of same
  std::string commands;  // of instead
  int exit_code = 0;     // of exits
};

// All blocks in their order. Throws Error (invalid_argument) with the line of: a fence without a
// language or an end, a code block that is indented instead of fenced, a comment that says no known
// thing, gives no reason, or stands before no block.
std::vector<DocBlock> doc_blocks(std::string_view page, const std::string& name);

// The commands of a block of shell: lines with what backslashes continue, cut at && || | and ;,
// without comments; each as its words. Quotes hold words together and are taken off.
std::vector<std::vector<std::string>> shell_commands(std::string_view text);

}  // namespace fovea
