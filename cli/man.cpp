// fovea man: manual pages.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>

#include "cli/help.h"
#include "cli/man_page.h"
#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/formats/file.h"

namespace fovea::cli {

namespace {

constexpr std::string_view kProgramDescription =
    "Fovea trains, shrinks and serves attention models inside a budget that you state: latency, "
    "memory, floating-point operations. The first word is a verb; each verb has a page of its own.";

constexpr Entry kFiles[] = {
    {"RECIPE", "A TOML file: the data, the model, the training, the levels of the model."},
    {"BUNDLE",
     "A folder that train writes: model.graph (text), model.safetensors, recipe.toml, labels.txt, "
     "metrics.json, and checkpoint.safetensors, from which train --resume goes on."},
};

// Text for roff: no character of it is a command.
std::string roff(std::string_view text) {
  std::string out;
  bool begins = true;
  for (const char c : text) {
    if (begins && (c == '.' || c == '\'')) out += "\\&";
    begins = c == '\n';
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '~':
        out += "\\(ti";
        break;
      case '\'':
        out += "\\(aq";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string paragraphs(std::string_view text) {
  std::string out = roff(text);
  for (size_t at = 0; (at = out.find('\n', at)) != std::string::npos; at += 5)
    out.replace(at, 1, "\n.PP\n");
  return out + "\n";
}

std::string title(std::string_view page) {
  std::string upper(page);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return fmt::format(".TH {} 1 \"\" \"Fovea {}\" \"Fovea\"\n.SH NAME\n", roff(upper), version());
}

std::string entries(std::string_view heading, std::span<const Entry> all) {
  std::string out = fmt::format(".SH {}\n", heading);
  for (const Entry& entry : all)
    out += fmt::format(".TP\n.B {}\n{}\n", roff(entry.name), roff(entry.meaning));
  return out;
}

// The name in bold, the value in italics.
std::string argument_tag(const Argument& argument) {
  if (argument.positional) return fmt::format(".I {}\n", roff(argument.name));
  if (argument.value.empty()) return fmt::format(".B {}\n", roff(argument.name));
  return fmt::format(".BI {} \" {}\"\n", roff(argument.name), roff(argument.value));
}

std::string arguments_section(std::string_view heading, const Verb& verb, bool positional) {
  std::string out;
  for (const Argument& argument : arguments_of(verb))
    if (argument.positional == positional)
      out += ".TP\n" + argument_tag(argument) + roff(argument_help(argument)) + "\n";
  return out.empty() ? out : fmt::format(".SH {}\n{}", heading, out);
}

struct Options {
  std::optional<std::string> verb;
  std::string out;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("VERB", o.verb, "The verb; without it, the page of the whole program");
  arguments.option("--out", o.out, "DIR", "Write all pages into this folder");
}

int run(const Call&, Options& o) {
  if (o.out.empty()) {
    fmt::print("{}", o.verb ? man_page(verb_named(*o.verb)) : man_page());
    return 0;
  }
  if (o.verb)
    throw Error(
        ErrorCode::invalid_argument,
        "[man] expected a verb or --out DIR, got both: --out writes the pages of all verbs");
  const std::filesystem::path folder = o.out;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw Error(ErrorCode::io,
                fmt::format("[man] {}: cannot make the folder: {} (choose another one)", o.out,
                            error.message()));
  write_file_atomically(folder / "fovea.1", man_page());
  for (const VerbGroup& group : verb_groups())
    for (const Verb& verb : group.verbs)
      write_file_atomically(folder / fmt::format("fovea-{}.1", verb.name), man_page(verb));
  return 0;
}

}  // namespace

std::string man_page() {
  std::string out = title("fovea");
  out +=
      "fovea \\- attention models inside a budget\n.SH SYNOPSIS\n.B fovea\n.I VERB\n"
      "[options]\n.br\n.B fovea \\-\\-version\n.SH DESCRIPTION\n";
  out += paragraphs(kProgramDescription);
  for (const VerbGroup& group : verb_groups()) {
    out += fmt::format(".SS {}\n", roff(group.title));
    for (const Verb& verb : group.verbs)
      out += fmt::format(".TP\n.BR fovea\\-{} (1)\n{}.\n", roff(verb.name), roff(verb.summary));
  }
  out += entries("EXIT STATUS", exit_codes());
  out += entries("ENVIRONMENT", environment_variables());
  return out + entries("FILES", kFiles);
}

std::string man_page(const Verb& verb) {
  std::string out = title("fovea-" + verb.name);
  out += fmt::format("fovea\\-{} \\- {}\n.SH SYNOPSIS\n.B fovea {}\n", roff(verb.name),
                     roff(verb.summary), roff(verb.name));
  for (const Argument& argument : arguments_of(verb))
    if (argument.positional) out += fmt::format(".I {}\n", roff(argument_words(argument)));
  out += "[options]\n.SH DESCRIPTION\n" + paragraphs(verb.description);
  out += arguments_section("ARGUMENTS", verb, true);
  out += arguments_section("OPTIONS", verb, false);
  out += ".SH EXAMPLES\n";
  for (const Verb::Example& example : verb.examples)
    out += fmt::format(".TP\n.B {}\n{}\n", roff(example.command), roff(example.what));
  out += entries("EXIT STATUS", exit_codes());
  return out + ".SH SEE ALSO\n.BR fovea (1)\n";
}

Verb man_verb() {
  return {.name = "man",
          .summary = "print the manual page of a verb, or of all",
          .description = "Prints a manual page as roff, made from what --help shows.",
          .examples = {{"fovea man train | man -l -", "read it"},
                       {"fovea man --out ~/.local/share/man/man1",
                        "for man fovea and man fovea-train, where they are not installed"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli
