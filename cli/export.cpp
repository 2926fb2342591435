// fovea export: a bundle's model in a format that other runtimes read.
#include <fmt/format.h>

#include "cli/arguments.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/formats/onnx.h"

namespace fovea::cli {

int export_verb(const Call& call) {
  std::string path, file;
  OnnxOptions options;
  Arguments arguments("export",
                      fmt::format("Writes a trained model as an ONNX file (operator set {}), "
                                  "with its weights and for any batch size.",
                                  kOnnxOperatorSet));
  arguments.positional("BUNDLE", path, "Folder of the model");
  arguments.option("--onnx", file, "FILE", "Where to write, such as model.onnx");
  arguments.flag("--overwrite", options.overwrite, "Replace the file that is there");
  if (!arguments.parse(call.arguments)) return 0;
  if (file.empty())
    throw Error(ErrorCode::invalid_argument, "[export] expected --onnx FILE, the file to write");

  const OnnxSummary written = write_onnx(file, load_bundle(path), options);
  fmt::print("{}: ONNX, operator set {}, {} nodes, {}\n", file, kOnnxOperatorSet, written.nodes,
             format_bytes(static_cast<double>(written.bytes)));
  return 0;
}

}  // namespace fovea::cli
