// A whole bundle in one input: "=== NAME" on a line begins a file. What loads is saved and loads
// again to the same.
#include "fovea/formats/bundle.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "fovea/base/error.h"
#include "fovea/base/temporary_folder.h"
#include "fovea/graph/graph_text.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

namespace fs = std::filesystem;

// In memory where the system has such a place: thousands of bundles a second.
const fs::path& folder() {
  static const TemporaryFolder made = [] {
    std::error_code ignored;
    const fs::path memory = "/dev/shm";
    return TemporaryFolder(fs::is_directory(memory, ignored) ? memory : fs::temp_directory_path());
  }();
  return made.path();
}

void write_files(std::string_view input) {
  static constexpr const char* kFiles[] = {"model.graph", "model.safetensors", "recipe.toml",
                                           "labels.txt", "metrics.json"};
  constexpr std::string_view kMark = "=== ";
  for (const char* name : kFiles) {
    const std::string head = std::string(kMark) + name + "\n";
    const size_t at = input.find(head);
    std::error_code ignored;
    fs::remove(folder() / "in" / name, ignored);
    if (at == std::string_view::npos) continue;
    std::string_view text = input.substr(at + head.size());
    text = text.substr(0, text.find(kMark));
    std::ofstream(folder() / "in" / name, std::ios::binary) << text;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fs::create_directories(folder() / "in");
  write_files(fuzz::as_text(data, size));
  const fuzz::MemoryBound bound((size_t{8} << 20) + 4096 * size);
  Bundle bundle;
  try {
    bundle = load_bundle(folder() / "in");
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  bound.check();
  save_bundle(folder() / "out", bundle);
  const Bundle again = load_bundle(folder() / "out");
  fuzz::expect(again.graph == bundle.graph && again.labels == bundle.labels &&
                   again.recipe == bundle.recipe && again.metrics_json == bundle.metrics_json,
               "a bundle is read as it was written");
  fuzz::expect(again.weights.size() == bundle.weights.size(), "a bundle keeps its weights");
  for (const auto& [name, tensor] : bundle.weights)
    fuzz::expect(again.weights.at(name)->bytes == tensor->bytes, "a bundle keeps its weights");
  return 0;
}
