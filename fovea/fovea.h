// The one header that a user of the library includes first: what it takes to build, train and run a
// model in code. The rest is included by its own name ("fovea/graph/op.h",
// "fovea/runtime/session.h").
//
//   TrainJob job{.task = image_classification(data_info(images), model), .train = images};
//   train(std::move(job), {.out = "runs/mine"});
//   Predictor predictor(load_bundle("runs/mine"));
//   predictor.predict(read_image("picture.png"), "picture.png");
//
// Every error of the caller, of a file or of the data is thrown as fovea::Error.
#pragma once

#include "fovea/base/build_info.h"             // version()
#include "fovea/base/error.h"                  // Error, ErrorCode
#include "fovea/base/thread_pool.h"            // ThreadPool
#include "fovea/data/dataset.h"                // Dataset, ImageDataset, load_dataset()
#include "fovea/formats/bundle.h"              // Bundle, load_bundle()
#include "fovea/formats/image.h"               // Image, read_image()
#include "fovea/formats/recipe.h"              // RecipeTable
#include "fovea/graph/graph.h"                 // Graph, Value
#include "fovea/graph/ops.h"                   // ops::linear() and its like
#include "fovea/infer/evaluator.h"             // Evaluator
#include "fovea/infer/predictor.h"             // Predictor
#include "fovea/models/blocks.h"               // encoder(), self_attention()
#include "fovea/models/vision.h"               // vision_classifier()
#include "fovea/runtime/compile.h"             // compile()
#include "fovea/runtime/session.h"             // Session, Execution
#include "fovea/tasks/image_classification.h"  // image_classification()
#include "fovea/train/trainer.h"               // TrainJob, train()
