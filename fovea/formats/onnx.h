// Writes a model as an ONNX file (https://onnx.ai, operator set 17) for other runtimes to read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>

#include "fovea/formats/bundle.h"

namespace fovea {

inline constexpr int64_t kOnnxOperatorSet = 17;

struct OnnxOptions {
  bool overwrite = false;  // replace a file that is there
  // A model is one protobuf message, which cannot be larger.
  uint64_t most_bytes = std::numeric_limits<int32_t>::max();
};

// What was written.
struct OnnxSummary {
  int64_t nodes = 0;
  uint64_t bytes = 0;
};

// The bundle's graph with its weights as a serialised ONNX ModelProto. Inputs and outputs keep
// names and types; symbolic sizes become named dimensions of any size; nodes and weights that no
// output needs are left out. The names of the classes stand under "labels" in the metadata, one a
// line. Throws Error: unsupported for what ONNX cannot say (an op with neither an ONNX form nor a
// decomposition, updates of variables, caches, a size that no input shows, a model larger than
// `most_bytes`); invalid_argument where a weight or a constant is missing or has another type, or
// the graph has no output.
std::string onnx_model(const Bundle& bundle, const OnnxOptions& options = {},
                       OnnxSummary* summary = nullptr);

// The same, written atomically. Throws Error besides: invalid_argument where the file exists and
// overwrite is false, or is a folder; what write_file_atomically throws.
OnnxSummary write_onnx(const std::filesystem::path& path, const Bundle& bundle,
                       const OnnxOptions& options = {});

}  // namespace fovea
