// Pictures of what counts: a heat map of tokens over an image, enlarged so that a person sees it.
#pragma once

#include <string>
#include <vector>

#include "fovea/explain/token_grid.h"
#include "fovea/formats/image.h"

namespace fovea {

// The numbers at the two ends of the colour scale.
struct Range {
  double low = 0, high = 1;
  bool more = false;  // some numbers are above, and get the colour of the end
};

// From the smallest to the largest of the numbers; where they are all equal, a little around them.
Range range_of(const std::vector<double>& values);

// The image as colour, enlarged or reduced so that its longer side has `side` pixels.
Image enlarged(const Image& image, int64_t side);

// The same with one number a token laid over it, as colours of the scale; between the middles of
// tokens the colours go over into each other, where tokens have neighbours (columns of a row have
// none). Of a sequence there may be fewer values than tokens: behind them nothing is laid over it.
// FOVEA_ASSERT that values are as many as the tokens else.
Image heat_map(const Image& image, const std::vector<double>& values, const TokenGrid& grid,
               Range range, int64_t side);

// Pictures in lines, with a little room between; each line begins at the left.
Image sheet(const std::vector<std::vector<Image>>& lines);

// The picture with the colour scale at its right and the numbers at its ends, as multiples of an
// even share ("0.4x").
Image with_scale(const Image& picture, Range range);

// "0.42x", "12x": two digits that tell. The end of a range has a "+" where there is more.
std::string share_text(double share);
std::string high_text(Range range);

}  // namespace fovea
