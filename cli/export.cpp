// fovea export: a bundle's model in a format that other runtimes read.
#include <fmt/format.h>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/base/error.h"
#include "fovea/base/progress.h"
#include "fovea/formats/onnx.h"

namespace fovea::cli {

namespace {

struct Options {
  std::string path, file;
  OnnxOptions onnx;
  bool json = false;
};

void declare(Arguments& arguments, Options& o) {
  arguments.positional("BUNDLE", o.path, "Folder of the model");
  arguments.option("--onnx", o.file, "FILE", "Where to write, such as model.onnx");
  arguments.flag("--overwrite", o.onnx.overwrite, "Replace the file that is there");
  arguments.json(o.json);
}

int run(const Call&, Options& o) {
  if (o.file.empty())
    throw Error(ErrorCode::invalid_argument, "[export] expected --onnx FILE, the file to write");
  const OnnxSummary written = write_onnx(o.file, load_bundle(o.path), o.onnx);
  if (o.json) {
    Json out = Json::object();
    out.set("file", o.file)
        .set("format", "onnx")
        .set("operator_set", int64_t{kOnnxOperatorSet})
        .set("nodes", static_cast<int64_t>(written.nodes))
        .set("bytes", static_cast<int64_t>(written.bytes));
    print_json(out);
  } else {
    fmt::print("{}: ONNX, operator set {}, {} nodes, {}\n", o.file, kOnnxOperatorSet, written.nodes,
               format_bytes(static_cast<double>(written.bytes)));
  }
  return 0;
}

}  // namespace

Verb export_verb() {
  return {.name = "export",
          .summary = "write a model as an ONNX file, for other runtimes",
          .description = fmt::format("Writes a trained model as an ONNX file (operator set {}), "
                                     "with its weights and for any batch size.",
                                     kOnnxOperatorSet),
          .examples = {{"fovea export runs/demo --onnx demo.onnx", "for ONNX Runtime and others"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli
