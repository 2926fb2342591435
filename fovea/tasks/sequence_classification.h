// One label for each row of a table, or each sequence of rows of numbers.
#pragma once

#include "fovea/tasks/classification.h"

namespace fovea {

// The task with the transformer that [model] describes (models/series.h); the means and deviations
// of the training part become constants of the graph, so whoever runs it needs no other file.
extern const TaskKind kSequenceClassification;

// What a graph of this task takes, read back from it. Error (corrupt) where it is none.
SeriesInfo series_info(const Graph& graph);

}  // namespace fovea
