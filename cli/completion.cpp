// fovea completion: scripts for bash and zsh.
#include "cli/completion.h"

#include <fmt/format.h>

#include <functional>
#include <string_view>

#include "cli/verbs.h"
#include "fovea/passes/pipeline.h"

namespace fovea::cli {

namespace {

// How a level, a key or a recipe is found in the words that were typed; both shells run it. In bash
// and in zsh `sed` and `awk` read the recipe, which lies in the bundle or is the word itself.
constexpr std::string_view kReaders = R"sh(
# The recipe that a word of the line names: the word itself or the one in that bundle.
_fovea_recipe() {
  local word
  for word in "$@"; do
    if [[ -f "$word/recipe.toml" ]]; then printf '%s\n' "$word/recipe.toml"; return; fi
    if [[ -f "$word" && "$word" == *.toml ]]; then printf '%s\n' "$word"; return; fi
  done
}
_fovea_levels() {
  local recipe
  recipe=$(_fovea_recipe "$@")
  echo full
  [[ -z "$recipe" ]] ||
    sed -n "/^\[\[levels\]\]/,/^ *name/s/^ *name *= *[\"']\([^\"']*\).*/\1/p" "$recipe" 2>/dev/null
}
_fovea_keys() {
  local recipe
  recipe=$(_fovea_recipe "$@")
  [[ -z "$recipe" ]] ||
    awk '/^\[\[/ { section = ""; next } /^\[/ { gsub(/[][ ]/, ""); section = $0; next }
         section != "" && /^[a-z_]+ *=/ { sub(/ *=.*/, ""); print section "." $0 "=" }' \
      "$recipe" 2>/dev/null
}
)sh";

constexpr std::string_view kBashBody = R"sh(
_fovea() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W "$_fovea_verbs --help --version" -- "$word")
    return
  fi
  # bash takes "--name=value" apart at the "=".
  if [[ $word == "=" ]]; then
    word=""
  elif [[ $before == "=" ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  # What is wanted: the value of an option, or else the argument at this place.
  local kind=${_fovea_takes["$verb $before"]-}
  if [[ -z $kind && $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "${_fovea_options[$verb]-}" -- "$word")
    return
  fi
  if [[ -z $kind ]]; then
    local place=1 i
    for ((i = 2; i < COMP_CWORD; i++)); do
      if [[ ${COMP_WORDS[i]} == -* ]]; then
        [[ -z ${_fovea_takes["$verb ${COMP_WORDS[i]}"]-} ]] || ((i++))
      else
        ((place++))
      fi
    done
    kind=${_fovea_takes["$verb $place"]-${_fovea_takes["$verb more"]-}}
  fi
  case $kind in
    "") mapfile -t COMPREPLY < <(compgen -W "${_fovea_options[$verb]-}" -- "$word") ;;
    @text) ;;
    @verb) mapfile -t COMPREPLY < <(compgen -W "$_fovea_verbs" -- "$word") ;;
    @level)
      mapfile -t COMPREPLY < <(compgen -W "$(_fovea_levels "${COMP_WORDS[@]:2}")" -- "$word") ;;
    @key)
      compopt -o nospace 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -W "$(_fovea_keys "${COMP_WORDS[@]:2}")" -- "$word") ;;
    @folder | @bundle)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
    @recipe | @model)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$word"; compgen -f -X '!*.toml' -- "$word") ;;
    @file)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$word") ;;
  esac
}
complete -F _fovea fovea
)sh";

void each_verb(const std::function<void(const Verb&)>& act) {
  for (const VerbGroup& group : verb_groups())
    for (const Verb& verb : group.verbs) act(verb);
}

std::string words_of(const std::vector<std::string>& all) {
  return fmt::format("{}", fmt::join(all, " "));
}

std::string names_of_passes() {
  std::vector<std::string> names;
  for (const Pass& pass : pipeline()) names.emplace_back(pass.name);
  return words_of(names);
}

std::string names_of_kinds() { return fmt::format("{}", fmt::join(new_kinds(), " ")); }

std::string names_of_verbs() {
  std::vector<std::string> names;
  each_verb([&](const Verb& verb) { names.push_back(verb.name); });
  return words_of(names);
}

// "@kind", or the choices themselves.
std::string bash_kind(const Argument& argument) {
  switch (value_kind(argument.value)) {
    case ValueKind::text:
      return "@text";
    case ValueKind::file:
      return "@file";
    case ValueKind::folder:
      return "@folder";
    case ValueKind::bundle:
      return "@bundle";
    case ValueKind::recipe:
      return "@recipe";
    case ValueKind::model:
      return "@model";
    case ValueKind::level:
      return "@level";
    case ValueKind::key:
      return "@key";
    case ValueKind::verb:
      return "@verb";
    case ValueKind::kind:
      return names_of_kinds();
    case ValueKind::pass:
      return names_of_passes();
    case ValueKind::choices:
      break;
  }
  return words_of(choices_of(argument.value));
}

// What zsh's _arguments does to complete it.
std::string zsh_action(const Argument& argument) {
  switch (value_kind(argument.value)) {
    case ValueKind::text:
      return " ";
    case ValueKind::file:
      return "_files";
    case ValueKind::folder:
    case ValueKind::bundle:
      return "_files -/";
    case ValueKind::recipe:
    case ValueKind::model:
      return "_files -g \"*.toml\"";
    case ValueKind::level:
      return "compadd -- $(_fovea_levels $words)";
    case ValueKind::key:
      return "compadd -S \"\" -- $(_fovea_keys $words)";
    case ValueKind::verb:
      return "(" + names_of_verbs() + ")";
    case ValueKind::kind:
      return "(" + names_of_kinds() + ")";
    case ValueKind::pass:
      return "(" + names_of_passes() + ")";
    case ValueKind::choices:
      break;
  }
  return "(" + words_of(choices_of(argument.value)) + ")";
}

// Inside single quotes of a shell, with a backslash before each of `special`.
std::string escaped(std::string_view text, std::string_view special) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) out += '\\';
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out;
}

std::string zsh_spec(const Argument& argument, size_t place) {
  const std::string help = escaped(argument.help, "[]:\\");
  const std::string value = escaped(argument.value, ":\\");
  const std::string action = zsh_action(argument);
  if (argument.positional)
    return fmt::format(
        "'{}:{}:{}'",
        argument.repeated ? "*" : fmt::format("{}{}", place, argument.required ? "" : ":"), value,
        action);
  const char* many = argument.repeated ? "*" : "";
  if (argument.value.empty()) return fmt::format("'{}{}[{}]'", many, argument.name, help);
  return fmt::format("'{}{}=[{}]:{}:{}'", many, argument.name, help, value, action);
}

struct Options {
  std::string shell;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("bash|zsh", o.shell, "The shell");
}

int run(const Call&, Options& o) {
  fmt::print("{}", o.shell == "bash" ? bash_completion() : zsh_completion());
  return 0;
}

}  // namespace

std::string bash_completion() {
  std::string options, takes;
  each_verb([&](const Verb& verb) {
    std::vector<std::string> names;
    size_t place = 0;
    for (const Argument& argument : arguments_of(verb)) {
      if (argument.positional) {
        const std::string at = argument.repeated ? "more" : fmt::format("{}", ++place);
        takes += fmt::format("  [\"{} {}\"]=\"{}\"\n", verb.name, at, bash_kind(argument));
        continue;
      }
      names.push_back(argument.name);
      if (!argument.value.empty())
        takes +=
            fmt::format("  [\"{} {}\"]=\"{}\"\n", verb.name, argument.name, bash_kind(argument));
    }
    options += fmt::format("  [{}]=\"{}\"\n", verb.name, words_of(names));
  });
  return fmt::format(
      "# Completes the command line of fovea in bash. Made by `fovea completion bash`.\n"
      "_fovea_verbs=\"{}\"\ndeclare -gA _fovea_options=(\n{})\n"
      "# What an option takes, or the argument at a place: a kind, or the words that it may be.\n"
      "declare -gA _fovea_takes=(\n{})\n{}{}",
      names_of_verbs(), options, takes, kReaders, kBashBody);
}

std::string zsh_completion() {
  std::string verbs, cases;
  each_verb([&](const Verb& verb) {
    verbs += fmt::format("    '{}:{}'\n", verb.name, escaped(verb.summary, ":\\"));
    cases += fmt::format("    {})\n      _arguments -S", verb.name);
    size_t place = 0;
    for (const Argument& argument : arguments_of(verb))
      cases += " \\\n        " + zsh_spec(argument, argument.positional ? ++place : 0);
    cases += "\n      ;;\n";
  });
  return fmt::format(
      "#compdef fovea\n# Completes the command line of fovea in zsh. Made by `fovea completion "
      "zsh`.\n{}\n"
      "_fovea() {{\n  local curcontext=\"$curcontext\" state line\n  local -a verbs\n  verbs=(\n{} "
      " )\n"
      "  _arguments -C '--version[which version this is]' '--help[what it can do]' "
      "'1: :->verb' '*:: :->arguments' && return\n"
      "  case $state in\n  verb) _describe 'verb' verbs ;;\n  arguments)\n    case $words[1] in\n{}"
      "    esac\n    ;;\n  esac\n}}\n\n"
      "# As a file on fpath it is the function; else it makes itself known.\n"
      "if [[ $funcstack[1] == _fovea ]]; then\n  _fovea \"$@\"\nelse\n  compdef _fovea fovea\nfi\n",
      kReaders, verbs, cases);
}

Verb completion_verb() {
  return {
      .name = "completion",
      .summary = "print what makes a shell complete the words above",
      .description =
          "Prints a script that makes bash or zsh complete verbs, options, their values, files, "
          "the levels of a model and the keys of a recipe.\nFor one shell alone: source <(fovea "
          "completion bash). For every new one, as the examples show.",
      .examples = {{"fovea completion bash > ~/.local/share/bash-completion/completions/fovea",
                    "for bash with the package bash-completion, in every new shell"},
                   {"fovea completion zsh > ~/.zfunc/_fovea",
                    "for zsh, with fpath+=(~/.zfunc) before compinit in ~/.zshrc"}},
      .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli
