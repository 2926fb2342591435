// The verbs of the program: what each is called, takes and does. Help, man pages and completions
// are made from these rows. A verb is cli/x.cpp with x_verb(), declared here and listed in
// verbs.cpp.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/arguments.h"

namespace fovea::cli {

// How the program was called.
struct Call {
  std::string program;
};

struct Verb {
  // Gives the exit code; throws Error.
  using Action = std::function<int(const Call&)>;
  struct Example {
    std::string command;  // what a person types
    std::string what;     // and why
  };

  std::string name;
  std::string summary;      // a few words, as they stand in the list of verbs
  std::string description;  // whole sentences; a line break begins a paragraph
  std::vector<Example> examples;
  // Declares the arguments, which fill the variables of the action that it gives.
  std::function<Action(Arguments&)> declare;
};

// A Verb's declare of two functions that share a struct of options.
template <class Options>
std::function<Verb::Action(Arguments&)> with_options(void (*declare)(Arguments&, Options&),
                                                     int (*run)(const Call&, Options&)) {
  return [=](Arguments& arguments) -> Verb::Action {
    auto options = std::make_shared<Options>();
    declare(arguments, *options);
    return [=](const Call& call) { return run(call, *options); };
  };
}

struct VerbGroup {
  std::string title;  // what people want
  std::vector<Verb> verbs;
};

// All verbs, in the order in which people want them.
const std::vector<VerbGroup>& verb_groups();
// Throws Error (invalid_argument) with the nearest name when there is none.
const Verb& verb_named(const std::string& name);
std::vector<Argument> arguments_of(const Verb& verb);

Verb new_verb();
Verb train_verb();
Verb predict_verb();
Verb eval_verb();
Verb export_verb();
Verb explain_verb();
Verb profile_verb();
Verb graph_verb();
Verb diff_verb();
Verb data_verb();
Verb runs_verb();
Verb bench_verb();
Verb doctor_verb();
Verb help_verb();
Verb completion_verb();
Verb man_verb();

// What `fovea new` makes.
std::span<const std::string_view> new_kinds();

}  // namespace fovea::cli
