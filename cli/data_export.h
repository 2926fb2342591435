// A data set written as folders of PNG files, as any program takes them.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "fovea/base/thread_pool.h"
#include "fovea/data/dataset.h"

namespace fovea::cli {

// Writes FOLDER/{train,validation,test}/CLASS/NUMBER.png for the splits that there are; the number
// counts the samples of a split from 0. At most `limit` of each class and split, the first ones.
// Characters that no folder may have become '_'. Returns how many images were written. Throws
// Error: invalid_argument where the folder holds something, or two classes would share a folder;
// io; interrupted, by a signal, with whole images alone.
int64_t export_images(const DataOptions& options, const std::filesystem::path& folder,
                      std::optional<int64_t> limit, const std::shared_ptr<ThreadPool>& pool);

}  // namespace fovea::cli
