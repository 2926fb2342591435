// The program `fovea`: a table of verbs, and how every one of them ends.
#include <errno.h>
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "cli/verbs.h"
#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/base/text.h"

namespace fovea::cli {

namespace {

constexpr int kErrorExit = 2;

struct Verb {
  std::string_view name;
  std::string_view arguments;
  std::string_view summary;
  int (*run)(const Call&);
};

// Verbs by what people want, in the order in which they want it.
struct VerbGroup {
  std::string_view title;
  std::vector<Verb> verbs;
};

std::vector<VerbGroup> verb_groups() {
  return {
      {"Make a model", {{"train", "RECIPE", "train a model as a recipe says", train_verb}}},
      {"Use a model",
       {{"predict", "BUNDLE FILE...", "name the classes of PNG and JPEG files", predict_verb},
        {"eval", "BUNDLE", "measure a model, its levels too, on its data set", eval_verb},
        {"export", "BUNDLE", "write a model as an ONNX file, for other runtimes", export_verb}}},
      {"Look inside",
       {{"profile", "BUNDLE|RECIPE", "show where time and memory go, node by node", profile_verb},
        {"graph", "BUNDLE|RECIPE", "print the graph, before and after the passes", graph_verb},
        {"diff", "BUNDLE|RECIPE", "run in two ways, show where the results part", diff_verb}}},
      {"See what this machine can do",
       {{"bench", "WHAT", "attention, train or infer against other runtimes", bench_verb},
        {"doctor", "", "processor, kernels, libraries, data sets", doctor_verb}}},
  };
}

void print_help() {
  fmt::print("fovea {} - attention models inside a budget\n\nUsage: fovea VERB [options]\n",
             version());
  for (const VerbGroup& group : verb_groups()) {
    fmt::print("\n{}\n", group.title);
    for (const Verb& verb : group.verbs)
      fmt::print("  {:<24} {}\n", fmt::format("{} {}", verb.name, verb.arguments), verb.summary);
  }
  fmt::print(
      "\nfovea VERB --help explains a verb, fovea --version says which version this is.\n"
      "Begin with: fovea train recipes/fashion_mnist.toml\n");
}

int run(const std::string& program, const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_help();
    return 0;
  }
  if (words[0] == "--version") {
    fmt::print("fovea {}\n", version());
    return 0;
  }
  std::vector<std::string_view> names;
  for (const VerbGroup& group : verb_groups())
    for (const Verb& verb : group.verbs) {
      if (verb.name == words[0]) return verb.run({program, std::span(words).subspan(1)});
      names.push_back(verb.name);
    }
  throw Error(ErrorCode::invalid_argument,
              fmt::format("there is no verb '{}'{} (verbs: {})", words[0],
                          did_you_mean(words[0], names), fmt::join(names, ", ")));
}

int fail(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "fovea: %s\n", message.c_str());
  return kErrorExit;
}

// Standard output could not take everything. A reader that has seen enough (`| head`) is no error.
int fail_to_write(int error) {
  if (error == EPIPE) return 0;
  return fail(fmt::format("standard output cannot be written: {}", std::strerror(error)));
}

int guarded_run(const std::string& program, const std::vector<std::string>& words) {
  try {
    const int code = run(program, words);
    if (std::fflush(stdout) != 0) return fail_to_write(errno);
    return code;
  } catch (const std::bad_alloc&) {
    return fail("out of memory");
  } catch (const std::system_error& e) {
    // What fmt throws where it cannot write.
    if (std::ferror(stdout)) return fail_to_write(e.code().value());
    return fail(e.what());
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}

}  // namespace

}  // namespace fovea::cli

int main(int argc, char** argv) {
  // A full quota or a closed pipe shall be an error of the write, which is reported, and not the
  // end of a training.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  const std::string program = argc > 0 ? argv[0] : "fovea";
  return fovea::cli::guarded_run(program,
                                 std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
}
