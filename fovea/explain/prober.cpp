#include "fovea/explain/prober.h"

#include <cstring>

#include "fovea/base/error.h"
#include "fovea/tasks/task.h"

namespace fovea {

const DataInput& removable_input(const Dataset& dataset) {
  const DataInput* image = dataset.input(kImageInput);
  if (image != nullptr) return *image;
  const DataInput* series = dataset.input(kSeriesInput);
  FOVEA_ASSERT(series != nullptr);
  return *series;
}

Prober::Prober(Session& session, const Dataset& dataset, int64_t batch)
    : execution_(session.prepare({{"B", batch}})),
      dataset_(dataset),
      batch_(static_cast<size_t>(batch)),
      classes_(static_cast<size_t>(execution_.output_type(kProbabilities).shape[1].constant())) {}

void Prober::push(int64_t i, std::span<const uint8_t> changed, int32_t of, double* to) {
  const DataInput& removable = removable_input(dataset_);
  FOVEA_ASSERT(changed.size() == removable.sample_bytes());
  for (const DataInput& input : dataset_.inputs) {
    const auto bytes = &input == &removable ? changed : input.sample(i);
    std::memcpy(execution_.input(input.name).data() + wanted_.size() * bytes.size(), bytes.data(),
                bytes.size());
  }
  wanted_.push_back({static_cast<size_t>(of), to});
  if (wanted_.size() == batch_) flush();
}

void Prober::flush() {
  if (wanted_.empty()) return;
  execution_.run();  // rows behind the last one hold older samples, and nobody reads them
  const auto p = execution_.output_f32(kProbabilities);
  for (size_t i = 0; i < wanted_.size(); ++i)
    *wanted_[i].to = static_cast<double>(p[i * classes_ + wanted_[i].of]);
  wanted_.clear();
}

}  // namespace fovea
