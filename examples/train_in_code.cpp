// Builds, trains and runs a model in code: no recipe, no data on disk.
#include <algorithm>
#include <iostream>

#include "fovea/fovea.h"
#include "stripes.h"

int main() {
  fovea::TrainJob job;
  job.train = stripes(512, 1);  // an ImageDataset: sizes, pixels, labels, names of the classes
  job.test = stripes(128, 2);

  const fovea::VisionOptions vit = {.stem = {}, .patch = 2, .layers = 2, .width = 32, .heads = 2};
  const auto model = [&](fovea::Graph& graph, fovea::Value image, int64_t classes,
                         const fovea::BuildContext& context) {
    return fovea::vision_classifier(graph, image, classes, vit, context);
  };
  job.task = fovea::image_classification(fovea::data_info(job.train), model);
  job.options = {.epochs = 3, .batch = 32, .learning_rate = 3e-3};

  const fovea::TrainResult result =
      fovea::train(std::move(job), {.out = "runs/stripes", .overwrite = true});
  std::cout << "accuracy " << result.test.at("accuracy") << "\n";

  fovea::Predictor predictor(fovea::load_bundle("runs/stripes"));
  fovea::Image picture{8, 8, 1, std::vector<uint8_t>(64, 0)};
  for (int y = 0; y < 4; ++y) std::fill_n(picture.pixels.begin() + 8 * y, 8, 200);
  const fovea::ClassScore best = predictor.predict(picture, "the picture").front();
  std::cout << best.label << " with probability " << best.probability << "\n";
}
