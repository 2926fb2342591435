// One HTML page that shows what a model looked at: no script, no other file, readable on a phone.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/explain/curve_plot.h"
#include "fovea/explain/explainer.h"
#include "fovea/explain/faithfulness.h"
#include "fovea/explain/picture.h"
#include "fovea/formats/image.h"

namespace fovea {

// What is said about an example beside its explanation.
struct ExplainedImage {
  std::string name;   // a file, or "test image 17"
  std::string truth;  // the name of the true class; empty where it is not known
  Image image;        // as the model sees it; of numbers a picture of them
  Explanation explanation;
  std::vector<float> values = {};           // of a single row, by column; NaN: no value
  std::vector<double> column_effects = {};  // of numbers, for the explained class
};

struct ExplainReport {
  std::string model;  // how the bundle is called
  std::string about;  // a line about how it ran: "level full, f32"
  std::vector<std::string> labels;
  TokenGrid grid;
  std::vector<ExplainedImage> images;
  std::optional<Faithfulness> faithfulness;
  std::string removed;                    // what stood in the place of removed tokens, for people
  std::vector<std::string> columns = {};  // of tables and sequences
  std::vector<std::string> colours = {};  // of the columns that have a curve, "#d55e00"
};

// The name of a class: its label, or its number.
std::string class_name(const ExplainReport& report, int32_t of);

// For all heads of an explanation, from 0. A few heads with one very light token would leave the
// others dark, so the scale ends below the largest numbers.
Range head_range(const Explanation& explanation);

// What is removed of what: "patches", "steps" or "columns" of "images", "sequences" or "rows".
struct TokenWords {
  std::string_view parts, examples;
};
TokenWords token_words(TokenKind kind);

// Deletion and insertion.
std::vector<Plot> faithfulness_plots(const Faithfulness& faithfulness, TokenKind kind);

std::string explain_page(const ExplainReport& report);

// By which a page is known as one of ours; it stands in the first kilobyte.
inline constexpr std::string_view kPageMark = "<meta name=\"generator\" content=\"fovea explain\">";

// Base64 (RFC 4648, section 4).
std::string base64(std::span<const std::byte> bytes);

}  // namespace fovea
