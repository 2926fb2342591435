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

namespace {

// CLI11's own layout, with our defaults in the description and nothing about types.
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_positional()) return {};
    return option->get_type_name().empty() ? "" : " " + option->get_type_name();
  }
  std::string make_option_usage(const CLI::Option* option) const override {
    return option->get_name(true) + (option->get_expected_max() > 1 ? "..." : "");
  }
  // CLI11 would repeat the one usage line below "Positionals"; each has a description here.
  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = "Usage: " + name;
    for (const CLI::Option* option :
         app->get_options([](const CLI::Option* o) { return o->get_positional(); }))
      usage += " " + make_option_usage(option);
    return usage + " [options]\n";
  }
};

}  // namespace

struct Arguments::Impl {
  Impl(const std::string& verb, const std::string& description)
      : name("fovea " + verb), app(description, name) {
    app.set_help_flag("-h,--help", "Show this help");
    app.formatter(std::make_shared<HelpFormatter>());
    app.get_formatter()->column_width(30);
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

  std::vector<std::string> option_names() const {
    std::vector<std::string> names;
    for (const CLI::Option* option : app.get_options())
      for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
    return names;
  }

  void fail_on_unknown_option() const {
    for (const std::string& word : app.remaining()) {
      if (!word.starts_with("-") || word == "--") continue;
      const std::string option = word.substr(0, word.find('='));
      fail(fmt::format("there is no option '{}'{}", option, did_you_mean(option, option_names())));
    }
  }

  std::string name;
  CLI::App app;
};

Arguments::Arguments(const std::string& verb, const std::string& description)
    : impl_(std::make_unique<Impl>(verb, description)) {}

Arguments::~Arguments() = default;

void Arguments::positional(const std::string& name, std::string& value, const std::string& help) {
  impl_->app.add_option(name, value, help)->required();
}

void Arguments::positionals(const std::string& name, std::vector<std::string>& values,
                            const std::string& help) {
  impl_->app.add_option(name, values, help)->required();
}

void Arguments::option(const std::string& name, std::string& value, const std::string& value_name,
                       const std::string& help) {
  const std::string shown = value.empty() ? help : fmt::format("{} [{}]", help, value);
  impl_->app.add_option(name, value, shown)->type_name(value_name);
}

void Arguments::option(const std::string& name, int64_t& value, int64_t least, int64_t most,
                       const std::string& help) {
  impl_->app
      .add_option_function<std::string>(
          name,
          [this, name, &value, least, most](const std::string& text) {
            value = impl_->number(name, text, least, most);
          },
          fmt::format("{} [{}]", help, value))
      ->type_name("N");
}

void Arguments::option(const std::string& name, double& value, double least, double most,
                       const std::string& help) {
  impl_->app
      .add_option_function<std::string>(
          name,
          [name, &value, least, most](const std::string& text) {
            char* end = nullptr;
            const double number = std::strtod(text.c_str(), &end);
            if (text.empty() || *end != '\0' || !(number >= least && number <= most))
              throw Error(ErrorCode::invalid_argument,
                          fmt::format("[{}] expected a number from {:g} to {:g}, got '{}'", name,
                                      least, most, text));
            value = number;
          },
          fmt::format("{} [{:g}]", help, value))
      ->type_name("X");
}

void Arguments::option(const std::string& name, std::optional<int64_t>& value, int64_t least,
                       int64_t most, const std::string& help) {
  impl_->app
      .add_option_function<std::string>(
          name,
          [this, name, &value, least, most](const std::string& text) {
            value = impl_->number(name, text, least, most);
          },
          help)
      ->type_name("N");
}

void Arguments::repeated(const std::string& name, std::vector<std::string>& values,
                         const std::string& value_name, const std::string& help) {
  impl_->app.add_option(name, values, help)
      ->type_name(value_name)
      ->type_size(1)
      ->expected(1, 1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}

void Arguments::flag(const std::string& name, bool& value, const std::string& help) {
  impl_->app.add_flag(name, value, help);
}

bool Arguments::parse(std::span<const std::string> arguments) {
  try {
    // CLI11 takes them from the back.
    impl_->app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", impl_->app.help());
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
