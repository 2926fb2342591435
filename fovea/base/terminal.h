// What a stream shows its lines on: a person's terminal, how wide it is, whether it takes colours.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

namespace fovea {

// A terminal that cannot move its cursor (TERM=dumb) counts as none.
bool is_terminal(FILE* out);

// Columns of the terminal behind the stream; `otherwise` where there is none.
size_t terminal_columns(FILE* out, size_t otherwise = 80);

// A terminal whose user has not set NO_COLOR (to anything but nothing; see no-color.org).
bool takes_colours(FILE* out);

// Marks text for people where `on`; gives it as it is elsewhere. bold needs no colour to be told
// apart, red and yellow repeat what the words say.
enum class Ink { bold, dim, red, yellow };
std::string inked(std::string_view text, Ink ink, bool on);

// Characters of UTF-8 text: what its bytes take on a terminal, where each character is one wide.
size_t text_width(std::string_view text);
// At most so many characters of it; the middle of what is longer gives way to "..".
std::string shortened(std::string_view text, size_t width);

// Words in lines that end at column `width`. All lines begin at column `indent`: the first one is
// put there by the caller, the others by spaces. A line break in the text stays; a word longer than
// a line stands alone.
std::string wrapped(std::string_view text, size_t width, size_t indent = 0);

}  // namespace fovea
