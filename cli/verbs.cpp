#include "cli/verbs.h"

#include <fmt/format.h>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea::cli {

const std::vector<VerbGroup>& verb_groups() {
  static const std::vector<VerbGroup> groups = {
      {"Make a model", {new_verb(), data_verb(), train_verb()}},
      {"Use a model", {predict_verb(), eval_verb(), export_verb()}},
      {"Look inside", {runs_verb(), explain_verb(), profile_verb(), graph_verb(), diff_verb()}},
      {"See what this machine can do", {bench_verb(), doctor_verb()}},
      {"Find your way", {help_verb(), man_verb(), completion_verb()}},
  };
  return groups;
}

const Verb& verb_named(const std::string& name) {
  std::vector<std::string> names;
  for (const VerbGroup& group : verb_groups())
    for (const Verb& verb : group.verbs) {
      if (verb.name == name) return verb;
      names.push_back(verb.name);
    }
  throw Error(ErrorCode::invalid_argument,
              fmt::format("there is no verb '{}'{} (verbs: {})", name, did_you_mean(name, names),
                          fmt::join(names, ", ")));
}

std::vector<Argument> arguments_of(const Verb& verb) {
  Arguments arguments(verb.name);
  verb.declare(arguments);
  return arguments.declared();
}

}  // namespace fovea::cli
