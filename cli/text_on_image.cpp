#include "cli/text_on_image.h"

#include <fmt/format.h>
#include <ft2build.h>
#include FT_FREETYPE_H

#include <algorithm>
#include <vector>

#include "fovea/base/error.h"

namespace fovea::cli {
namespace {

constexpr const char* kFont = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
constexpr uint32_t kReplacement = 0xfffd;  // for bytes that are no UTF-8
constexpr std::string_view kEllipsis = "...";

std::vector<uint32_t> code_points(std::string_view text) {
  std::vector<uint32_t> points;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i++]);
    const int more = byte < 0x80       ? 0
                     : byte >> 5 == 6  ? 1
                     : byte >> 4 == 14 ? 2
                     : byte >> 3 == 30 ? 3
                                       : -1;
    uint32_t point = more <= 0 ? byte : byte & (0x3fu >> more);
    int taken = 0;
    while (taken < more && i < text.size() &&
           (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) {
      point = point << 6 | (static_cast<unsigned char>(text[i++]) & 0x3fu);
      ++taken;
    }
    points.push_back(more < 0 || taken < more ? kReplacement : point);
  }
  return points;
}

}  // namespace

struct TextDrawer::State {
  FT_Library library = nullptr;
  FT_Face face = nullptr;

  ~State() {
    if (face != nullptr) FT_Done_Face(face);
    if (library != nullptr) FT_Done_FreeType(library);
  }
  // Renders a letter; nullptr where the font cannot.
  FT_GlyphSlot letter(uint32_t point) const {
    return FT_Load_Char(face, point, FT_LOAD_RENDER) == 0 ? face->glyph : nullptr;
  }
};

TextDrawer::TextDrawer(int64_t height) : state_(std::make_unique<State>()) {
  if (FT_Init_FreeType(&state_->library) != 0)
    throw Error(ErrorCode::out_of_memory, "[text] FreeType cannot begin");
  if (FT_New_Face(state_->library, kFont, 0, &state_->face) != 0)
    throw Error(ErrorCode::not_found,
                fmt::format("[text] the font {} cannot be read (install it: apt-get install "
                            "fonts-dejavu-core)",
                            kFont));
  FT_Set_Pixel_Sizes(state_->face, 0, static_cast<FT_UInt>(std::max<int64_t>(4, height * 4 / 5)));
}
TextDrawer::~TextDrawer() = default;

int64_t TextDrawer::width(std::string_view text) const {
  int64_t width = 0;
  for (uint32_t point : code_points(text))
    if (const FT_GlyphSlot glyph = state_->letter(point)) width += glyph->advance.x >> 6;
  return width;
}

void TextDrawer::draw(Image& image, std::string_view text, int64_t top, int64_t left,
                      int64_t most) const {
  const bool whole = width(text) <= most;
  const int64_t room = whole ? most : most - width(kEllipsis);
  const int64_t base = top + (state_->face->size->metrics.ascender >> 6);
  int64_t at = left;
  const auto put = [&](uint32_t point, int64_t end) {
    const FT_GlyphSlot glyph = state_->letter(point);
    if (glyph == nullptr) return true;
    if (at + (glyph->advance.x >> 6) > end) return false;
    const FT_Bitmap& bitmap = glyph->bitmap;
    for (unsigned row = 0; row < bitmap.rows; ++row) {
      for (unsigned column = 0; column < bitmap.width; ++column) {
        const int64_t y = base - glyph->bitmap_top + row, x = at + glyph->bitmap_left + column;
        if (y < 0 || y >= image.height || x < 0 || x >= image.width) continue;
        const unsigned light =
            255u - bitmap.buffer[row * static_cast<unsigned>(bitmap.pitch) + column];
        for (int64_t c = 0; c < image.channels; ++c) {
          uint8_t& pixel =
              image.pixels[static_cast<size_t>((y * image.width + x) * image.channels + c)];
          pixel = static_cast<uint8_t>(pixel * light / 255);
        }
      }
    }
    at += glyph->advance.x >> 6;
    return true;
  };
  for (uint32_t point : code_points(text))
    if (!put(point, left + room)) break;
  if (whole) return;
  for (uint32_t point : code_points(kEllipsis)) put(point, left + most);
}

}  // namespace fovea::cli
