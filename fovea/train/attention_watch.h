// How a model's attention looks while it learns: its entropy and its pictures, on the same few
// images each time.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fovea/formats/tensorboard.h"
#include "fovea/infer/attention_maps.h"
#include "fovea/train/observer.h"

namespace fovea {

// The entropy of each query's attention, in nats, for one head of all images of a map: [B,queries].
// 0: one key has it all; log(keys): all keys have the same.
std::vector<float> attention_entropy(const AttentionMap& map, int64_t head);

// What the heads of all layers look at in one image: the image, and in a row for each layer a
// square for each head. Where the keys are the patches of the image, in rows from the top, it shows
// how much attention each received, else the matrix of queries and keys. Bright is much; each
// square has its own scale.
Image attention_picture(const Image& image, const AttentionMaps& maps, int64_t index);

class AttentionWatch {
 public:
  // Null where the task's model has no attention.
  static std::unique_ptr<AttentionWatch> make(const TrainStart& start,
                                              const RecordOptions& options);

  void add(EventSummary& summary, const std::map<std::string, HostTensorPtr>& weights);

 private:
  AttentionWatch(Graph exposed, const TrainStart& start, const RecordOptions& options);

  Dataset examples_;
  int64_t pictures_;
  std::shared_ptr<VariableStore> variables_ = std::make_shared<VariableStore>();
  AttentionReader reader_;
};

}  // namespace fovea
