// A model on disk: a folder with model.graph (before the passes), model.safetensors (weights, and the
// graph's large constants), recipe.toml, labels.txt (one class a line) and metrics.json.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

struct Bundle {
  Graph graph;                                 // for inference, before the passes
  std::map<std::string, HostTensorPtr> weights;  // by the name of the variable
  std::string recipe;                          // TOML, overrides applied
  std::vector<std::string> labels;             // class names; empty where a task has none
  std::string metrics_json;                    // results, seed, build, processor, libraries
};

// Writes each file atomically, model.safetensors and metrics.json last. Makes the folder. Throws Error (io).
void save_bundle(const std::filesystem::path& folder, const Bundle& bundle);

// Throws Error: not_found when the folder or a file is missing (saying that it is no bundle, or that the
// training in it has not finished), corrupt when a file is not what it should be or a variable of the
// graph has no weight of its type.
Bundle load_bundle(const std::filesystem::path& folder);

// Whether the folder holds a model.graph.
bool is_bundle(const std::filesystem::path& folder);

}  // namespace fovea
