// What a verb takes on the command line: it declares its arguments, parse() fills its variables.
// Hides CLI11, whose headers cost seconds in each file that includes them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fovea::cli {

class Arguments {
 public:
  // For "fovea VERB"; the description stands on top of its help.
  Arguments(const std::string& verb, const std::string& description);
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Must be given; `name` is how the help calls it (RECIPE).
  void positional(const std::string& name, std::string& value, const std::string& help);
  // One or more, behind all other positionals.
  void positionals(const std::string& name, std::vector<std::string>& values,
                   const std::string& help);
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
  // May be given again and again, one value each time.
  void repeated(const std::string& name, std::vector<std::string>& values,
                const std::string& value_name, const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);

  // False where help was asked for and has been printed. Throws Error (invalid_argument): an
  // unknown option (with the nearest one), a missing or wrong value, too many arguments.
  bool parse(std::span<const std::string> arguments);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fovea::cli
