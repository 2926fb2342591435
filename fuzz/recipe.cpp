// A recipe is read, changed, bound and written; what is written is read again to the same. A line
// that begins with "--set " is an override, as on the command line.
#include "fovea/formats/recipe.h"

#include <algorithm>
#include <optional>

#include "fovea/base/error.h"
#include "fovea/data/augment.h"
#include "fovea/data/dataset.h"
#include "fovea/tasks/levels.h"
#include "fovea/tasks/task.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

// As the trainer reads it, but that the data set is given.
void bind(RecipeTable& recipe) {
  DataOptions data;
  AugmentOptions augment;
  recipe.bind("data", data);
  recipe.bind("augment", augment);
  try {
    check_augment(augment);
  } catch (const Error& e) {
    throw recipe.located(e);
  }
  const DataInfo info{8, 8, 1, {"a", "b"}};
  make_task(recipe, info);
  read_levels(recipe);
  recipe.check_all_read();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::MemoryBound bound((size_t{64} << 20) + 8192 * size);
  constexpr std::string_view kSet = "--set ";
  std::string text;
  std::vector<std::string> overrides;
  for (std::string_view rest = fuzz::as_text(data, size); !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size() - 1) + 1;
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end);
    if (line.starts_with(kSet))
      overrides.emplace_back(line.substr(kSet.size(), line.find('\n') - kSet.size()));
    else
      text += line;
  }
  std::optional<RecipeTable> recipe;
  try {
    recipe = RecipeTable::parse(text, "input.toml");
    for (const std::string& assignment : overrides) recipe->set(assignment);
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  const std::string written = recipe->to_text();
  fuzz::expect(RecipeTable::parse(written, "written.toml").to_text() == written,
               "a recipe is read as it was written");
  try {
    bind(*recipe);
  } catch (const Error&) {
  }
  bound.check();
  return 0;
}
