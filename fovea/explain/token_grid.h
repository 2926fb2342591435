// Where a model's tokens lie on its image.
#pragma once

#include <cstdint>

#include "fovea/graph/graph.h"

namespace fovea {

// What a token stands for: a patch of an image; so many steps of a sequence, one token beside the
// other in time; a column of a single row of numbers.
enum class TokenKind { patch, steps, column };

// Tokens in rows, the first at the upper left; each stands for an equal part of the image (what it
// sees of it may be larger, behind a convolutional stem).
struct TokenGrid {
  int64_t rows = 0, columns = 0;
  TokenKind kind = TokenKind::patch;
  int64_t steps = 1;  // of a token of a sequence; the last one may stand for fewer

  int64_t tokens() const { return rows * columns; }

  // Pixels [top,bottom) x [left,right) of a token, on an image of this size. Every pixel belongs to
  // one token.
  struct Box {
    int64_t top = 0, bottom = 0, left = 0, right = 0;
  };
  Box box(int64_t token, int64_t height, int64_t width) const;
};

// The grid of the patches on which the model's attention works: of the last op `patches` on the way
// from the input "image" to the first attention. Of a model of sequences or of rows
// (models/series.h) the tokens, one beside the other. Throws Error (unsupported) where there is
// none, or its attention has another number of tokens.
TokenGrid token_grid(const Graph& inference);

}  // namespace fovea
