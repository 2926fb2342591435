// Words drawn into a picture. Hides FreeType.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "fovea/formats/image.h"

namespace fovea::cli {

class TextDrawer {
 public:
  // Letters of DejaVu Sans (Debian's fonts-dejavu-core), `height` pixels from line to line. Error
  // (not_found), with the command that installs it, where it is missing.
  explicit TextDrawer(int64_t height);
  ~TextDrawer();

  int64_t width(std::string_view text) const;
  // The text (UTF-8) in black, its upper left corner at (top, left); what does not fit into
  // `most` pixels of width is cut off with "...".
  void draw(Image& image, std::string_view text, int64_t top, int64_t left, int64_t most) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fovea::cli
