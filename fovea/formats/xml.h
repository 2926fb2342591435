// Text in pages and pictures of XML and HTML.
#pragma once

#include <string>
#include <string_view>

namespace fovea {

// In text and in attributes; control characters become spaces.
std::string xml_escaped(std::string_view text);

}  // namespace fovea
