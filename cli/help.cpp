// fovea help, and the pages of --help.
#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "fovea/base/build_info.h"
#include "fovea/base/terminal.h"

namespace fovea::cli {

namespace {

constexpr size_t kWidestPage = 100;
constexpr size_t kVerbColumn = 28;  // of 80
constexpr size_t kOptionColumn = 26;

std::string heading(std::string_view text, const Layout& layout) {
  return "\n" + inked(text, Ink::bold, layout.colours) + "\n";
}

// Two columns; what is too long for the first has a line of its own.
std::string entry(const std::string& name, const std::string& meaning, size_t widest,
                  const Layout& layout) {
  const size_t column = std::min(widest, layout.columns * 3 / 8);
  std::string out = "  " + inked(name, Ink::bold, layout.colours);
  const size_t used = 2 + text_width(name);
  if (used + 2 > column)
    out += "\n" + std::string(column, ' ');
  else
    out.append(column - used, ' ');
  return out + wrapped(meaning, layout.columns, column) + "\n";
}

struct Options {
  std::optional<std::string> verb;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("VERB", o.verb, "The verb to explain; without it, the list of all");
}

int run(const Call&, Options& o) {
  const Layout layout = layout_of_output();
  fmt::print("{}", o.verb ? verb_help(verb_named(*o.verb), layout) : overview(layout));
  return 0;
}

}  // namespace

Layout layout_of_output() {
  return {std::clamp<size_t>(terminal_columns(stdout), 40, kWidestPage), takes_colours(stdout)};
}

std::string argument_words(const Argument& argument) {
  if (!argument.positional)
    return argument.value.empty() ? argument.name : argument.name + " " + argument.value;
  const std::string words = argument.name + (argument.repeated ? "..." : "");
  return argument.required ? words : "[" + words + "]";
}

std::string argument_help(const Argument& argument) {
  return argument.initial.empty() ? argument.help
                                  : fmt::format("{} [{}]", argument.help, argument.initial);
}

std::string usage(const Verb& verb) {
  std::string words = "fovea " + verb.name;
  for (const Argument& argument : arguments_of(verb))
    if (argument.positional) words += " " + argument_words(argument);
  return words + " [options]";
}

std::span<const Entry> exit_codes() {
  static constexpr Entry kCodes[] = {
      {"0", "It was done."},
      {"2",
       "The command line, a file or the data is wrong, or the system refused. One line on standard "
       "error says what, and what to do."},
      {"130",
       "Stopped by Ctrl-C. A training has then finished its step, saved its state and said how to "
       "go on."},
      {"143", "The same by SIGTERM, as kill sends it."},
  };
  return kCodes;
}

std::span<const Entry> environment_variables() {
  static constexpr Entry kVariables[] = {
      {"FOVEA_FORCE_KERNEL",
       "FAMILY=KERNEL,...: runs these kernels instead of the first that supports a case. fovea "
       "doctor lists the families and their kernels."},
      {"NO_COLOR", "Where it is set to anything, terminals get no colours."},
      {"TERM", "dumb: the terminal is treated as a file, without colours and moving lines."},
  };
  return kVariables;
}

std::string overview(const Layout& layout) {
  std::string out = fmt::format(
      "fovea {}: attention models inside a budget. Usage: fovea VERB [options]\n", version());
  for (const VerbGroup& group : verb_groups()) {
    out += heading(group.title, layout);
    for (const Verb& verb : group.verbs) {
      std::string words = verb.name;
      for (const Argument& argument : arguments_of(verb))
        if (argument.positional)
          words += value_kind(argument.name) == ValueKind::choices ? " WHAT"
                                                                   : " " + argument_words(argument);
      out += entry(words, verb.summary, kVerbColumn, layout);
    }
  }
  return out +
         "\nfovea VERB --help explains a verb; --version says which version this is.\n"
         "Begin with: fovea new image-classifier DIR; DIR holds a folder for each class\n";
}

std::string verb_help(const Verb& verb, const Layout& layout) {
  std::string out = fmt::format("Usage: {}\n\n", usage(verb));
  out += wrapped(verb.description, layout.columns) + "\n";
  const std::vector<Argument> all = arguments_of(verb);
  if (std::any_of(all.begin(), all.end(), [](const Argument& a) { return a.positional; })) {
    out += heading("Arguments", layout);
    for (const Argument& argument : all)
      if (argument.positional)
        out += entry(argument.name, argument_help(argument), kOptionColumn, layout);
  }
  out += heading("Options", layout);
  for (const Argument& argument : all)
    if (!argument.positional)
      out += entry(argument_words(argument), argument_help(argument), kOptionColumn, layout);
  if (!verb.examples.empty()) out += heading("Examples", layout);
  for (const Verb::Example& example : verb.examples)
    out += fmt::format("  {}\n      {}\n", inked(example.command, Ink::bold, layout.colours),
                       wrapped(example.what, layout.columns, 6));
  return out + "\nExit code: 0 when it was done, 2 after an error, 130 after Ctrl-C.\n";
}

Verb help_verb() {
  return {.name = "help",
          .summary = "explain a verb, as VERB --help does",
          .description =
              "Explains a verb: what it does, takes and gives. Without one, it shows "
              "what the program can do.",
          .examples = {{"fovea help train", "how to train"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli
