// What a verb takes on the command line, declared once: parse() fills its variables, and help, man
// pages and completions are made from declared(). Hides CLI11, whose headers cost seconds in each
// file that includes them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/visit.h"

namespace fovea::cli {

// An argument as it was declared.
struct Argument {
  std::string name;   // "--out"; of a positional what the help calls it, "RECIPE"
  std::string value;  // what the value is called, "DIR"; empty for a flag
  std::string help;
  std::string initial = {};  // what it is where it is not given, for people; may be empty
  bool positional = false;
  bool required = false;
  bool repeated = false;
};

// What a value is, so that a shell can complete it. Its name in the help says it: FILE (FILE.png,
// DIR|FILE.csv), DIR, BUNDLE, RECIPE, BUNDLE|RECIPE, LEVEL, KEY=VALUE, VERB, KIND (of what `fovea
// new` makes), PASS, or the only values that it may have, as in one|two|three.
enum class ValueKind {
  text,
  file,
  folder,
  bundle,
  recipe,
  model,
  level,
  key,
  verb,
  kind,
  pass,
  choices
};
ValueKind value_kind(std::string_view value_name);
// "one|two|three" as its parts.
std::vector<std::string> choices_of(std::string_view value_name);

class Arguments {
 public:
  explicit Arguments(const std::string& verb);
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Must be given; `name` is how the help calls it (RECIPE), and one of the choices where it names
  // them (one|two).
  void positional(const std::string& name, std::string& value, const std::string& help);
  // May be left out.
  void positional(const std::string& name, std::optional<std::string>& value,
                  const std::string& help);
  // Behind all other positionals; where required, one or more.
  void positionals(const std::string& name, std::vector<std::string>& values,
                   const std::string& help, bool required = true);
  // "--name VALUE". The value stands in the help as the default, unless it is empty.
  void option(const std::string& name, std::string& value, const std::string& value_name,
              const std::string& help);
  // Whole numbers in [least, most].
  void option(const std::string& name, int64_t& value, int64_t least, int64_t most,
              const std::string& help);
  void option(const std::string& name, std::optional<int64_t>& value, int64_t least, int64_t most,
              const std::string& help);
  // A number in [least, most].
  void option(const std::string& name, double& value, double least, double most,
              const std::string& help);
  // The names of an enumeration (fovea/base/visit.h).
  template <class E>
  requires std::is_enum_v<E>
  void option(const std::string& name, E& value, const std::string& help) {
    choice(name, enum_names(E{}), std::string(enum_name(value)), help,
           [&value](size_t i) { value = static_cast<E>(i); });
  }
  template <class E>
  requires std::is_enum_v<E>
  void option(const std::string& name, std::optional<E>& value, const std::string& help) {
    choice(name, enum_names(E{}), value ? std::string(enum_name(*value)) : "", help,
           [&value](size_t i) { value = static_cast<E>(i); });
  }
  // May be given again and again, one value each time.
  void repeated(const std::string& name, std::vector<std::string>& values,
                const std::string& value_name, const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);

  // What means the same in every verb that has it; CONTRIBUTING.md says when one has.
  // 0: one for each processor that the process may use.
  void threads(int64_t& value);
  void threads(std::optional<int64_t>& value, const std::string& initial);
  void seed(std::optional<int64_t>& value);
  void quiet(bool& value);
  void json(bool& value);

  // In the order of their declaration, --help last.
  std::vector<Argument> declared() const;

  // False where help was asked for. Throws Error (invalid_argument): an unknown option (with the
  // nearest one), a missing or wrong value, too many arguments.
  bool parse(std::span<const std::string> arguments);

 private:
  using Setter = std::function<void(const std::string&)>;
  void add(Argument argument, Setter set);
  void choice(const std::string& name, std::span<const std::string_view> names,
              const std::string& initial, const std::string& help, std::function<void(size_t)> set);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fovea::cli
