// What a person sees of long work: on a terminal one line that is redrawn, with a bar and the time
// left; elsewhere only the plain lines. And numbers as people read them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace fovea {

// Used by one thread; nothing else may write to the stream while the bar stands there.
class Progress {
 public:
  // Seconds of a clock that never goes back.
  using Clock = std::function<double()>;

  // `out` outlives the object. Whether it is a terminal is asked of the system, unless it is told.
  // A terminal that cannot move its cursor (TERM=dumb) counts as none.
  explicit Progress(FILE* out, std::optional<bool> terminal = {}, Clock clock = {});
  // Clears the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows which share of the work is done, 0 to 1, and a text beside it; draws at most ten times a
  // second. The time left follows from the pace since the first call, so a resumed run is judged by
  // its own pace.
  void update(double done_share, std::string_view text);
  // Prints a line that stays, above the bar.
  void line(std::string_view text);
  // Clears the bar; the next update() begins anew.
  void finish();

 private:
  struct Start {
    double time = 0;
    double share = 0;
  };
  void draw(double now);
  void clear();

  FILE* out_;
  bool terminal_;
  Clock clock_;
  std::optional<Start> start_;
  double drawn_at_ = 0;
  bool drawn_ = false;  // the bar stands on the terminal
  double share_ = 0;
  std::string text_;
};

// "0:07", "1:05", "2:03:04", rounded to seconds; "?" for what is no duration.
std::string format_duration(double seconds);
// Three digits and a unit of a thousand: "999", "1.50 k", "139 k", "2.00 M"; then G and T.
std::string format_count(double number);
// The same for bytes, in steps of a thousand: "999 B", "557 kB", "1.20 MB".
std::string format_bytes(double bytes);

}  // namespace fovea
