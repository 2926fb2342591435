#include "cli/arguments.h"

#include <fmt/format.h>

#include <cstdlib>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea::cli {

std::vector<std::string> choices_of(std::string_view value_name) {
  std::vector<std::string> parts;
  while (true) {
    const size_t bar = value_name.find('|');
    parts.emplace_back(value_name.substr(0, bar));
    if (bar == std::string_view::npos) return parts;
    value_name.remove_prefix(bar + 1);
  }
}

ValueKind value_kind(std::string_view value_name) {
  static constexpr std::pair<std::string_view, ValueKind> kKinds[] = {
      {"DIR", ValueKind::folder},    {"BUNDLE", ValueKind::bundle},
      {"RECIPE", ValueKind::recipe}, {"BUNDLE|RECIPE", ValueKind::model},
      {"LEVEL", ValueKind::level},   {"KEY=VALUE", ValueKind::key},
      {"VERB", ValueKind::verb},     {"KIND", ValueKind::kind},
      {"PASS", ValueKind::pass}};
  for (const auto& [name, kind] : kKinds)
    if (name == value_name) return kind;
  if (value_name.find("FILE") != std::string_view::npos) return ValueKind::file;
  const bool has_bar = value_name.find('|') != std::string_view::npos;
  const auto upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  return has_bar && std::none_of(value_name.begin(), value_name.end(), upper) ? ValueKind::choices
                                                                              : ValueKind::text;
}

struct Arguments::Impl {
  explicit Impl(const std::string& verb) : name("fovea " + verb), app("", name) {
    app.set_help_flag("-h,--help");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[{}] {} (see {} --help)", name, what, name));
  }

  // A number that fits, or an Error that names the option.
  int64_t number(const std::string& option, const std::string& text, int64_t least,
                 int64_t most) const {
    int64_t value = 0;
    if (!CLI::detail::lexical_cast(text, value) || value < least || value > most)
      fail(fmt::format("{}: expected a whole number {}, got '{}'", option,
                       most == INT64_MAX ? fmt::format("from {}", least)
                                         : fmt::format("from {} to {}", least, most),
                       text));
    return value;
  }

  // Its index, or an Error with the nearest.
  size_t index_of(const std::string& option, const std::string& text,
                  const std::vector<std::string>& names) const {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) return static_cast<size_t>(found - names.begin());
    fail(fmt::format("{}: expected {}, got '{}'{}", option, fmt::join(names, ", "), text,
                     did_you_mean(text, names)));
  }

  void fail_on_unknown_option() const {
    std::vector<std::string> names = {"--help"};
    for (const Argument& argument : declared)
      if (!argument.positional) names.push_back(argument.name);
    for (const std::string& word : app.remaining()) {
      if (!word.starts_with("-") || word == "--") continue;
      const std::string option = word.substr(0, word.find('='));
      fail(fmt::format("there is no option '{}'{}", option, did_you_mean(option, names)));
    }
  }

  std::string name;
  CLI::App app;
  std::vector<Argument> declared;
};

Arguments::Arguments(const std::string& verb) : impl_(std::make_unique<Impl>(verb)) {}

Arguments::~Arguments() = default;

void Arguments::add(Argument argument, Setter set) {
  CLI::Option* option;
  if (argument.repeated) {
    option = impl_->app.add_option_function<std::vector<std::string>>(
        argument.name, [set](const std::vector<std::string>& texts) {
          for (const std::string& text : texts) set(text);
        });
    if (!argument.positional)
      option->type_size(1)
          ->expected(1, 1)
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
          ->allow_extra_args(false);
  } else {
    option = impl_->app.add_option_function<std::string>(argument.name, set);
  }
  option->required(argument.required);
  impl_->declared.push_back(std::move(argument));
}

void Arguments::choice(const std::string& name, std::span<const std::string_view> names,
                       const std::string& initial, const std::string& help,
                       std::function<void(size_t)> set) {
  std::vector<std::string> all(names.begin(), names.end());
  add({name, fmt::format("{}", fmt::join(all, "|")), help, initial},
      [this, name, all, set](const std::string& text) { set(impl_->index_of(name, text, all)); });
}

void Arguments::positional(const std::string& name, std::string& value, const std::string& help) {
  add({.name = name, .value = name, .help = help, .positional = true, .required = true},
      [this, name, &value](const std::string& text) {
        if (value_kind(name) == ValueKind::choices) impl_->index_of(name, text, choices_of(name));
        value = text;
      });
}

void Arguments::positional(const std::string& name, std::optional<std::string>& value,
                           const std::string& help) {
  add({.name = name, .value = name, .help = help, .positional = true},
      [this, name, &value](const std::string& text) {
        if (value_kind(name) == ValueKind::choices) impl_->index_of(name, text, choices_of(name));
        value = text;
      });
}

void Arguments::positionals(const std::string& name, std::vector<std::string>& values,
                            const std::string& help, bool required) {
  add({.name = name,
       .value = name,
       .help = help,
       .positional = true,
       .required = required,
       .repeated = true},
      [&values](const std::string& text) { values.push_back(text); });
}

void Arguments::option(const std::string& name, std::string& value, const std::string& value_name,
                       const std::string& help) {
  const bool choices = value_kind(value_name) == ValueKind::choices;
  add({name, value_name, help, value},
      [this, name, value_name, choices, &value](const std::string& text) {
        if (choices) impl_->index_of(name, text, choices_of(value_name));
        value = text;
      });
}

void Arguments::option(const std::string& name, int64_t& value, int64_t least, int64_t most,
                       const std::string& help) {
  add({name, "N", help, fmt::format("{}", value)},
      [this, name, &value, least, most](const std::string& text) {
        value = impl_->number(name, text, least, most);
      });
}

void Arguments::option(const std::string& name, std::optional<int64_t>& value, int64_t least,
                       int64_t most, const std::string& help) {
  add({name, "N", help}, [this, name, &value, least, most](const std::string& text) {
    value = impl_->number(name, text, least, most);
  });
}

void Arguments::option(const std::string& name, double& value, double least, double most,
                       const std::string& help) {
  add({name, "X", help, fmt::format("{:g}", value)},
      [this, name, &value, least, most](const std::string& text) {
        char* end = nullptr;
        const double number = std::strtod(text.c_str(), &end);
        if (text.empty() || *end != '\0' || !(number >= least && number <= most))
          impl_->fail(fmt::format("{}: expected a number from {:g} to {:g}, got '{}'", name, least,
                                  most, text));
        value = number;
      });
}

void Arguments::repeated(const std::string& name, std::vector<std::string>& values,
                         const std::string& value_name, const std::string& help) {
  add({.name = name, .value = value_name, .help = help, .repeated = true},
      [&values](const std::string& text) { values.push_back(text); });
}

void Arguments::flag(const std::string& name, bool& value, const std::string& help) {
  impl_->app.add_flag(name, value);
  impl_->declared.push_back({name, "", help});
}

namespace {
constexpr const char* kThreadsHelp = "Threads to work with; 0: one a processor";
constexpr int64_t kMostThreads = 1024;
}  // namespace

void Arguments::threads(int64_t& value) {
  option("--threads", value, 0, kMostThreads, kThreadsHelp);
}

void Arguments::threads(std::optional<int64_t>& value, const std::string& initial) {
  option("--threads", value, 0, kMostThreads, kThreadsHelp);
  impl_->declared.back().initial = initial;
}

void Arguments::seed(std::optional<int64_t>& value) {
  option("--seed", value, 0, INT64_MAX, "Seed of all random numbers");
  impl_->declared.back().initial = "train.seed of the recipe";
}

void Arguments::quiet(bool& value) {
  flag("--quiet", value, "No progress and no talk, results only");
}

void Arguments::json(bool& value) {
  flag("--json", value, "The result as JSON, and nothing else on the output");
}

std::vector<Argument> Arguments::declared() const {
  std::vector<Argument> all = impl_->declared;
  all.push_back({"--help", "", "Show this help; -h does too"});
  return all;
}

bool Arguments::parse(std::span<const std::string> arguments) {
  try {
    // CLI11 takes them from the back.
    impl_->app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    return false;
  } catch (const CLI::ExtrasError&) {
    impl_->fail_on_unknown_option();
    impl_->fail(fmt::format("did not expect '{}'", fmt::join(impl_->app.remaining(), " ")));
  } catch (const CLI::RequiredError& e) {
    impl_->fail_on_unknown_option();  // more likely what is wrong
    impl_->fail(e.what());
  } catch (const CLI::ParseError& e) {
    impl_->fail(e.what());
  }
  return true;
}

}  // namespace fovea::cli
