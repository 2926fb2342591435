// The verbs of the program; main.cpp lists them. Each returns the exit code and throws Error.
#pragma once

#include <span>
#include <string>

namespace fovea::cli {

// What was typed: the program as it was called, and what follows the verb.
struct Call {
  std::string program;
  std::span<const std::string> arguments;
};

int train_verb(const Call& call);
int eval_verb(const Call& call);
int predict_verb(const Call& call);
int profile_verb(const Call& call);
int graph_verb(const Call& call);
int diff_verb(const Call& call);
int export_verb(const Call& call);
int bench_verb(const Call& call);
int doctor_verb(const Call& call);

}  // namespace fovea::cli
