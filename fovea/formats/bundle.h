// A model on disk: a folder with model.graph (before the passes), model.safetensors (weights, and
// the graph's large constants), recipe.toml, labels.txt (one class a line) and metrics.json.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

struct Bundle {                                  // a trained model
  Graph graph;                                   // for inference, before the passes
  std::map<std::string, HostTensorPtr> weights;  // by the name of the variable
  std::string recipe;                            // TOML, overrides applied
  std::vector<std::string> labels;               // class names; empty where a task has none
  std::string metrics_json;                      // results, seed, build, processor, libraries
};

// Makes the folder. A bundle that is there stays whole until all files of the new one are on the
// disk; they then take their places one after another, metrics.json, without which no bundle is
// loaded, last. A process that is killed in the middle may leave a folder ".fovea-*.tmp". Of the
// weights, those are written that are variables of the graph; caches are left out. A constant of
// the graph's store becomes the tensor "constant.HASH". Throws Error: invalid_argument where the
// bundle would not load again (a weight or a constant is missing or has another type, a label that
// is no line of text, a graph without outputs, metrics that are no JSON), before anything is
// written; io.
void save_bundle(const std::filesystem::path& folder, const Bundle& bundle);

// Throws Error: not_found when the folder or a file is missing (saying that it is no bundle, or
// that the training in it has not finished), corrupt when a file is not what it should be, a
// variable of the graph has no weight of its type, or a constant does not have its hash;
// unsupported for a newer format. Tensors that the graph does not name are not read.
Bundle load_bundle(const std::filesystem::path& folder);

// Whether the folder holds a model.graph.
bool is_bundle(const std::filesystem::path& folder);

// The training state that a run keeps in its bundle's folder and with which --resume goes on.
inline constexpr const char* kCheckpointFile = "checkpoint.safetensors";

}  // namespace fovea
