#include "fovea/data/splits.h"

#include <fmt/format.h>

#include "fovea/base/visit.h"
#include "fovea/data/series_dataset.h"

namespace fovea {

std::array<Dataset, 3> load_splits(const DataOptions& options,
                                   const std::function<LoadContext(Split)>& context) {
  const auto context_of = [&](Split split) { return context ? context(split) : LoadContext{}; };
  if (is_series(options.kind)) return load_series_splits(options, context_of(Split::train));
  std::array<Dataset, 3> splits;
  for (const Split split : {Split::train, Split::validation, Split::test})
    if (has_split(options, split))
      splits[static_cast<size_t>(split)] = load_dataset(options, split, context_of(split));
  return splits;
}

std::string skipped_text(const DataOptions& options, const Dataset& dataset, Split split) {
  const size_t count = dataset.skipped.size();
  if (count == 0) return "";
  const bool one = count == 1, series = is_series(options.kind);
  return fmt::format("{}: {} {}{} of the {} split {} and {} left out, the first: {}",
                     dataset.source, count, series ? "sample" : "image file", one ? "" : "s",
                     enum_name(split),
                     series ? (one ? "misses a value" : "miss a value") : "cannot be read",
                     one ? "is" : "are", dataset.skipped[0]);
}

}  // namespace fovea
