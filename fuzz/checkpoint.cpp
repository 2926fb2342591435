// The state of a training. What loads is saved and loads again to the same; what does not leaves
// the variables as they were.
#include "fovea/train/checkpoint.h"

#include <cstring>
#include <fstream>
#include <memory>

#include "fovea/base/error.h"
#include "fovea/base/temporary_folder.h"
#include "fovea/formats/file.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

namespace fs = std::filesystem;

// In memory where the system has such a place: thousands of files a second.
const fs::path& folder() {
  static const TemporaryFolder made = [] {
    std::error_code ignored;
    const fs::path memory = "/dev/shm";
    return TemporaryFolder(fs::is_directory(memory, ignored) ? memory : fs::temp_directory_path());
  }();
  return made.path();
}

// A model of two weights, and what its optimiser keeps.
std::unique_ptr<VariableStore> variables() {
  static const Graph graph = [] {
    Graph g;
    const auto add = [&](const char* name, DType dtype, Shape shape, VariableKind kind) {
      VariableAttrs attrs;
      attrs.type = {dtype, std::move(shape)};
      attrs.kind = kind;
      attrs.init = Init::constant;
      attrs.scale = 1;
      ops::variable(g, name, attrs);
    };
    add("w", DType::f32, {2, 3}, VariableKind::weight);
    add("b", DType::f32, {3}, VariableKind::weight);
    add("optimiser.m.w", DType::f32, {2, 3}, VariableKind::state);
    add("optimiser.step", DType::i32, {}, VariableKind::state);
    return g;
  }();
  auto store = std::make_unique<VariableStore>();
  store->create(graph, 1);
  return store;
}

bool same(const VariableStore& a, const VariableStore& b) {
  for (const auto& [name, v] : a.all())
    if (std::memcmp(v.data.data(), b.get(name).data.data(), v.data.size()) != 0) return false;
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fs::path path = folder() / "in";
  std::ofstream(path, std::ios::binary) << fuzz::as_text(data, size);
  const auto read = variables();
  const fuzz::MemoryBound bound((size_t{2} << 20) + 1024 * size);
  RunState state;
  try {
    checkpoint_recipe(path);
    state = load_checkpoint(path, *read);
  } catch (const Error&) {
    bound.check();
    fuzz::expect(same(*read, *variables()), "variables stay where a checkpoint is none of theirs");
    return 0;
  }
  bound.check();
  const fs::path once = folder() / "once", twice = folder() / "twice";
  save_checkpoint(once, *read, state);
  const auto again = variables();
  const RunState second = load_checkpoint(once, *again);
  fuzz::expect(same(*read, *again) && second.recipe == state.recipe &&
                   second.epoch == state.epoch && second.step == state.step,
               "a checkpoint is read as it was written");
  save_checkpoint(twice, *again, second);
  fuzz::expect(read_file(once, 1 << 24) == read_file(twice, 1 << 24),
               "the same state gives the same bytes");
  return 0;
}
