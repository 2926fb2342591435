// From a bundle to answers for single images, or rows and sequences of numbers.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fovea/data/dataset.h"
#include "fovea/formats/bundle.h"
#include "fovea/formats/image.h"
#include "fovea/runtime/session.h"

namespace fovea {

struct ClassScore {        // one class of an answer
  std::string label;       // of the class
  double probability = 0;  // 0 to 1
};

// A store with the bundle's weights. Throws Error (invalid_argument) when a variable of the graph
// has no weight of its type.
std::shared_ptr<VariableStore> make_variables(const Bundle& bundle);

// The weights of a bundle as the pass freeze asks for them.
std::function<HostTensorPtr(const std::string&)> frozen_weights(const Bundle& bundle);

// The image of the size and channels of the graph's input "image", made so as training made its
// samples. `place` stands in errors: invalid_argument for an image that cannot be.
Image prepare_for(const Graph& graph, ResizeMode resize, const Image& image,
                  const std::string& place);

class Predictor {  // a bundle, ready to answer
 public:
  // Runs the passes and plans nothing yet. Throws Error: unsupported when the graph has no input
  // "image" u8 [B,H,W,C] or "series" f32 [B,T,F], or no output "probabilities" f32 [B,classes];
  // corrupt when the labels are not as many as the classes. A bundle without labels names its
  // classes "0", "1", ... Without a pool it makes one of all processors.
  explicit Predictor(const Bundle& bundle, std::shared_ptr<ThreadPool> pool = {});

  // The image as the model sees it: of its size and channels, as the bundle's recipe (data.resize)
  // made them for training. `name` stands in errors. Throws Error (invalid_argument) for an image
  // that cannot be.
  Image prepare(const Image& image, const std::string& name) const;

  // All classes for one image, prepared as above, the most probable first, equals in the order of
  // the labels. One thread at a time. Throws Error: what prepare throws, non_finite when the model
  // gives no numbers.
  std::vector<ClassScore> predict(const Image& image, const std::string& name);

  // The same for each sample of a data set, whose labels are not looked at. Throws Error: what
  // check_inputs throws, non_finite.
  std::vector<std::vector<ClassScore>> predict(const Dataset& samples);

  Session& session() { return session_; }

 private:
  std::vector<ClassScore> scores_of(std::span<const float> probabilities,
                                    const std::string& place) const;

  std::vector<std::string> labels_;
  ResizeMode resize_;
  std::shared_ptr<VariableStore> variables_;
  Session session_;
};

}  // namespace fovea
