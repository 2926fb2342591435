#include "fovea/base/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>
#include <utility>

#include "fovea/base/terminal.h"

namespace fovea {
namespace {

constexpr double kRedrawSeconds = 0.1;
// Before that, the pace says more about the start than about the work.
constexpr double kPaceSeconds = 1;
constexpr std::string_view kClearLine = "\r\x1b[K";

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// As much of the text as fits, in characters of UTF-8; what would move the cursor becomes a space.
std::string fitted(std::string_view text, size_t width) {
  std::string shown;
  size_t used = 0;
  for (char c : text) {
    if (!continues_character(c) && ++used > width) break;
    const auto code = static_cast<unsigned char>(c);
    shown += code < 0x20 || code == 0x7f ? ' ' : c;
  }
  return shown;
}

std::string with_unit(double number, std::span<const std::string_view> units) {
  if (!std::isfinite(number)) return "?";
  double rest = std::abs(number);
  if (rest < 999.5 && rest == std::floor(rest)) {
    return fmt::format("{}{}", static_cast<int64_t>(number), units[0]);
  }
  size_t unit = 0;
  while (rest >= 999.5 && unit + 1 < units.size()) {
    rest /= 1000;
    ++unit;
  }
  const int digits = rest < 9.995 ? 2 : rest < 99.95 ? 1 : 0;
  return fmt::format("{}{:.{}f}{}", number < 0 ? "-" : "", rest, digits, units[unit]);
}

}  // namespace

Progress::Progress(FILE* out, std::optional<bool> terminal, Clock clock)
    : out_(out),
      terminal_(terminal ? *terminal : is_terminal(out)),
      clock_(clock ? std::move(clock) : Clock(steady_seconds)) {}

Progress::~Progress() { finish(); }

void Progress::update(double done_share, std::string_view text) {
  if (!terminal_) return;
  // The comparison is false for NaN as well.
  share_ = done_share > 0 ? std::min(done_share, 1.0) : 0;
  text_ = text;
  const double now = clock_();
  if (!start_) start_ = Start{now, share_};
  if (drawn_ && now - drawn_at_ < kRedrawSeconds) return;
  draw(now);
}

void Progress::draw(double now) {
  // The last column stays free: some terminals wrap when it is written.
  const size_t width = terminal_columns(out_) - 1;
  const size_t bar = std::clamp<size_t>(width / 4, 5, 30);
  const auto full = static_cast<size_t>(share_ * static_cast<double>(bar));
  const std::string head =
      fmt::format("{:3.0f}% [{:=<{}}{:.<{}}] ", std::floor(share_ * 100), "", full, "", bar - full);
  std::string tail;
  const double elapsed = now - start_->time, gained = share_ - start_->share;
  if (elapsed >= kPaceSeconds && gained > 0) {
    tail = fmt::format("  {} left", format_duration(elapsed / gained * (1 - share_)));
  }
  const size_t taken = head.size() + tail.size();
  const std::string middle = fitted(text_, width > taken ? width - taken : 0);
  const std::string whole =
      fmt::format("{}{}", kClearLine, fitted(fmt::format("{}{}{}", head, middle, tail), width));
  std::fwrite(whole.data(), 1, whole.size(), out_);
  std::fflush(out_);
  drawn_ = true;
  drawn_at_ = now;
}

void Progress::clear() {
  if (!drawn_) return;
  std::fwrite(kClearLine.data(), 1, kClearLine.size(), out_);
  std::fflush(out_);
  drawn_ = false;
}

void Progress::line(std::string_view text) {
  const bool again = drawn_;
  clear();
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fputc('\n', out_);
  std::fflush(out_);
  if (again) draw(clock_());
}

void Progress::finish() {
  clear();
  start_.reset();
}

std::string format_duration(double seconds) {
  constexpr double kLongest = 1e9;  // thirty years: nobody waits, and the digits still fit
  if (!(seconds >= 0 && seconds < kLongest)) return "?";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string format_count(double number) {
  static constexpr std::array<std::string_view, 5> kUnits = {"", " k", " M", " G", " T"};
  return with_unit(number, kUnits);
}

std::string format_bytes(double bytes) {
  static constexpr std::array<std::string_view, 5> kUnits = {" B", " kB", " MB", " GB", " TB"};
  return with_unit(bytes, kUnits);
}

}  // namespace fovea
