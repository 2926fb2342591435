#include "fovea/graph/attrs.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "fovea/base/text.h"

namespace fovea {

namespace {

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// Shortest text that reads back to the same double; infinities and NaN have names.
std::string real_text(double v) { return fmt::format("{}", v); }

template <class T, class F>
std::string list_text(const std::vector<T>& v, F&& one) {
  std::string s = "[";
  for (size_t i = 0; i < v.size(); ++i) s += (i ? "," : "") + one(v[i]);
  return s + "]";
}

// Collects (name, text) of every field.
class Printer : public FieldVisitor {
 public:
  std::vector<std::pair<std::string, std::string>> fields;

 protected:
  void boolean(std::string_view n, bool& v) override { put(n, v ? "true" : "false"); }
  void integer(std::string_view n, int64_t& v) override { put(n, std::to_string(v)); }
  void real(std::string_view n, double& v) override { put(n, real_text(v)); }
  void text(std::string_view n, std::string& v) override { put(n, quoted(v)); }
  void text_form(std::string_view n, std::string& v) override { put(n, v); }
  void integers(std::string_view n, std::vector<int64_t>& v) override {
    put(n, list_text(v, [](int64_t x) { return std::to_string(x); }));
  }
  void reals(std::string_view n, std::vector<double>& v) override {
    put(n, list_text(v, real_text));
  }
  void texts(std::string_view n, std::vector<std::string>& v) override {
    put(n, list_text(v, quoted));
  }
  void enumeration(std::string_view n, int& v, std::span<const std::string_view> names) override {
    put(n, std::string(names[static_cast<size_t>(v)]));
  }

 private:
  void put(std::string_view n, std::string t) { fields.emplace_back(n, std::move(t)); }
};

// Replaces the one field that it is told, from text.
class Setter : public FieldVisitor {
 public:
  Setter(std::string_view field, std::string_view text) : field_(field), text_(text) {}
  bool found = false;
  std::vector<std::string> known;

 protected:
  void boolean(std::string_view n, bool& v) override {
    if (!mine(n)) return;
    if (text_ != "true" && text_ != "false") bad("true or false");
    v = text_ == "true";
  }
  void integer(std::string_view n, int64_t& v) override {
    if (mine(n)) v = parse_integer(text_);
  }
  void real(std::string_view n, double& v) override {
    if (mine(n)) v = parse_real(text_);
  }
  void text(std::string_view n, std::string& v) override {
    if (mine(n)) v = unquote(text_);
  }
  void text_form(std::string_view n, std::string& v) override {
    if (mine(n)) v = text_;
  }
  void integers(std::string_view n, std::vector<int64_t>& v) override {
    if (mine(n)) v = list<int64_t>([this](std::string_view s) { return parse_integer(s); });
  }
  void reals(std::string_view n, std::vector<double>& v) override {
    if (mine(n)) v = list<double>([this](std::string_view s) { return parse_real(s); });
  }
  void texts(std::string_view n, std::vector<std::string>& v) override {
    if (mine(n)) v = list<std::string>([this](std::string_view s) { return unquote(s); });
  }
  void enumeration(std::string_view n, int& v, std::span<const std::string_view> names) override {
    if (!mine(n)) return;
    const auto it = std::find(names.begin(), names.end(), text_);
    if (it == names.end()) bad(fmt::format("one of {}", fmt::join(names, ", ")));
    v = static_cast<int>(it - names.begin());
  }

 private:
  bool mine(std::string_view n) {
    known.emplace_back(n);
    found = found || n == field_;
    return n == field_;
  }
  [[noreturn]] void bad(const std::string& expected) const {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[attribute] {}: expected {}, got '{}'", field_, expected, text_));
  }
  int64_t parse_integer(std::string_view s) const {
    int64_t v = 0;
    const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
    if (r.ec != std::errc() || r.ptr != s.data() + s.size()) bad("an integer");
    return v;
  }
  double parse_real(std::string_view s) const {
    double v = 0;
    const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
    if (r.ec != std::errc() || r.ptr != s.data() + s.size()) bad("a number");
    return v;
  }
  std::string unquote(std::string_view s) const {
    if (s.size() < 2 || s.front() != '"' || s.back() != '"') return std::string(s);
    std::string out;
    for (size_t i = 1; i + 1 < s.size(); ++i) {
      if (s[i] == '\\' && i + 2 < s.size()) ++i;
      out += s[i];
    }
    return out;
  }
  template <class T, class F>
  std::vector<T> list(F&& one) const {
    if (text_.size() < 2 || text_.front() != '[' || text_.back() != ']') bad("a list in [ ]");
    std::vector<T> out;
    const std::string_view rest = text_.substr(1, text_.size() - 2);
    if (rest.empty()) return out;
    size_t start = 0;
    bool inside = false;
    for (size_t i = 0; i <= rest.size(); ++i) {
      if (i == rest.size() || (rest[i] == ',' && !inside)) {
        std::string_view item = rest.substr(start, i - start);
        while (!item.empty() && item.front() == ' ') item.remove_prefix(1);
        out.push_back(one(item));
        start = i + 1;
      } else if (rest[i] == '"') {
        inside = !inside;
      } else if (rest[i] == '\\') {
        ++i;
      }
    }
    return out;
  }
  std::string_view field_, text_;
};

}  // namespace

void Attrs::visit(FieldVisitor& v) {
  if (held_.use_count() > 1) held_ = held_->clone();
  held_->visit(v);
}

std::string Attrs::text(const Attrs& defaults) const {
  Printer mine, other;
  held_->visit(mine);
  defaults.held_->visit(other);
  FOVEA_ASSERT(mine.fields.size() == other.fields.size());
  std::string out;
  for (size_t i = 0; i < mine.fields.size(); ++i)
    if (mine.fields[i].second != other.fields[i].second)
      out += (out.empty() ? "" : ", ") + mine.fields[i].first + "=" + mine.fields[i].second;
  return out;
}

void Attrs::set(std::string_view field, std::string_view text) {
  Setter setter(field, text);
  visit(setter);
  if (setter.found) return;
  throw Error(ErrorCode::invalid_argument, fmt::format("[attribute] there is no '{}'{}", field,
                                                       did_you_mean(field, setter.known)));
}

bool Attrs::operator==(const Attrs& other) const {
  if (held_ == other.held_) return true;
  const Holder &my_type = *held_, &their_type = *other.held_;
  if (typeid(my_type) != typeid(their_type)) return false;
  Printer mine, theirs;
  held_->visit(mine);
  other.held_->visit(theirs);
  return mine.fields == theirs.fields;
}

}  // namespace fovea
