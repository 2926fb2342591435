// A curve in a few lines of text, for terminals.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fovea {

// Lines of UTF-8 with an axis and its least and largest value on the left, and the first and last x
// below. x grows from point to point; where more points than columns are given, a column shows the
// mean of its own; what is not finite leaves a gap. Empty where there is nothing to show. width
// counts all columns of the lines, height the lines of the plot without the x axis.
std::vector<std::string> text_plot(std::span<const std::pair<double, double>> points, size_t width,
                                   size_t height);

}  // namespace fovea
