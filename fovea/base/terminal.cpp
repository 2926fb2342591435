#include "fovea/base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace fovea {
namespace {

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// The bytes that the first `count` characters take.
size_t bytes_of(std::string_view text, size_t count) {
  size_t at = 0;
  for (size_t seen = 0; at < text.size(); ++at)
    if (!continues_character(text[at]) && ++seen > count) break;
  return at;
}

}  // namespace

bool is_terminal(FILE* out) {
  const char* kind = std::getenv("TERM");
  return ::isatty(::fileno(out)) == 1 && kind != nullptr && std::string_view(kind) != "dumb";
}

size_t terminal_columns(FILE* out, size_t otherwise) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : otherwise;
}

bool takes_colours(FILE* out) {
  const char* refused = std::getenv("NO_COLOR");
  return is_terminal(out) && (refused == nullptr || *refused == '\0');
}

std::string inked(std::string_view text, Ink ink, bool on) {
  if (!on || text.empty()) return std::string(text);
  static constexpr std::string_view kCodes[] = {"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m"};
  return std::string(kCodes[static_cast<size_t>(ink)]) + std::string(text) + "\x1b[0m";
}

size_t text_width(std::string_view text) {
  size_t width = 0;
  for (const char c : text) width += continues_character(c) ? 0 : 1;
  return width;
}

std::string shortened(std::string_view text, size_t width) {
  const size_t all = text_width(text);
  if (all <= width) return std::string(text);
  if (width < 4) return std::string(text.substr(0, bytes_of(text, width)));
  const size_t head = (width - 2) / 2, tail = width - 2 - head;
  return std::string(text.substr(0, bytes_of(text, head))) + ".." +
         std::string(text.substr(bytes_of(text, all - tail)));
}

std::string wrapped(std::string_view text, size_t width, size_t indent) {
  std::string out;
  size_t column = 0;  // 0: nothing stands in the line yet
  const auto break_line = [&] {
    out += '\n';
    out.append(indent, ' ');
  };
  while (!text.empty()) {
    const size_t end = text.find_first_of(" \n");
    const std::string_view word = text.substr(0, end);
    const size_t wide = text_width(word);
    const size_t room = width > indent ? width - indent : 0;
    if (column > 0 && wide > 0) {
      if (column + 1 + wide > room) {
        break_line();
        column = 0;
      } else {
        out += ' ';
        ++column;
      }
    }
    out += word;
    column += wide;
    if (end == std::string_view::npos) break;
    if (text[end] == '\n') {
      break_line();
      column = 0;
    }
    text.remove_prefix(end + 1);
  }
  return out;
}

}  // namespace fovea
