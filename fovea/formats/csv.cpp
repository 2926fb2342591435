#include "fovea/formats/csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "fovea/base/error.h"
#include "fovea/formats/file.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;
constexpr std::string_view kSeparators = ",;\t|";
constexpr int kGuessedLines = 20;

[[noreturn]] void broken(const std::string& name, int64_t line, const std::string& what) {
  throw Error{ErrorCode::corrupt, fmt::format("[csv] {}:{}: {}", name, line, what)};
}

std::string shown(char separator) {
  return separator == '\t' ? "tab" : fmt::format("'{}'", separator);
}

}  // namespace

// Reads a text record by record.
class CsvReader {
 public:
  CsvReader(std::string_view text, const std::string& name, char separator)
      : text_(text), name_(name), separator_(separator) {}

  // Appends the fields of the next record that is not empty; false at the end.
  bool next(std::string& to, std::vector<size_t>& ends) {
    while (at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r')) {
      if (text_[at_++] == '\n') ++line_;
    }
    if (at_ == text_.size()) return false;
    record_line_ = line_;
    while (true) {
      if (at_ < text_.size() && text_[at_] == '"') {
        quoted(to);
      } else {
        plain(to);
      }
      ends.push_back(to.size());
      if (at_ == text_.size()) return true;
      const char c = text_[at_++];
      if (c == separator_) continue;
      if (c == '\r' && at_ < text_.size() && text_[at_] == '\n') ++at_;
      ++line_;
      return true;
    }
  }
  int64_t record_line() const { return record_line_; }

 private:
  bool ends_field(char c) const { return c == separator_ || c == '\n' || c == '\r'; }

  void plain(std::string& to) {
    for (; at_ < text_.size() && !ends_field(text_[at_]); ++at_) {
      if (text_[at_] == '"') {
        broken(name_, line_,
               "a quote inside a field (a field with quotes is quoted as a whole, "
               "and its quotes are doubled)");
      }
      if (text_[at_] == '\0') broken(name_, line_, "a NUL byte: this is no text");
      to += text_[at_];
    }
  }

  void quoted(std::string& to) {
    ++at_;
    while (true) {
      if (at_ == text_.size()) broken(name_, record_line_, "a quoted field has no end");
      const char c = text_[at_++];
      if (c == '"') {
        if (at_ == text_.size() || text_[at_] != '"') break;
        ++at_;
      }
      if (c == '\0') broken(name_, line_, "a NUL byte: this is no text");
      if (c == '\n') ++line_;
      to += c;
    }
    if (at_ < text_.size() && !ends_field(text_[at_])) {
      broken(name_, line_,
             fmt::format("expected {} or the end of the line behind a quoted field",
                         shown(separator_)));
    }
  }

  std::string_view text_;
  const std::string& name_;
  char separator_;
  size_t at_ = 0;
  int64_t line_ = 1, record_line_ = 1;
};

namespace {

// How many fields the separator cuts each of the first lines into, 0 where they differ; the first
// line, a header, may have one less.
size_t fields_by(std::string_view text, const std::string& name, char separator) {
  CsvReader reader(text, name, separator);
  std::string scratch;
  std::vector<size_t> ends;
  size_t count = 0;
  try {
    for (int line = 0; line < kGuessedLines; ++line) {
      scratch.clear();
      ends.clear();
      if (!reader.next(scratch, ends)) break;
      const bool shorter_header = line == 1 && count > 1 && ends.size() == count + 1;
      if (line > 0 && ends.size() != count && !shorter_header) return 0;
      count = ends.size();
    }
  } catch (const Error&) {
    return 0;
  }
  return count;
}

char guess_separator(std::string_view text, const std::string& name) {
  char best = ',';
  size_t fields = 1;
  for (char separator : kSeparators) {
    if (const size_t n = fields_by(text, name, separator); n > fields) {
      best = separator;
      fields = n;
    }
  }
  return best;
}

}  // namespace

std::string_view CsvTable::at(int64_t row, int64_t column) const {
  FOVEA_ASSERT(row >= 0 && row < rows() && column >= 0 && column < columns_);
  const auto i = static_cast<size_t>(row * columns_ + column);
  const size_t begin = i == 0 ? 0 : ends_[i - 1];
  return std::string_view(text_).substr(begin, ends_[i] - begin);
}

int64_t CsvTable::line(int64_t row) const {
  FOVEA_ASSERT(row >= 0 && row < rows());
  return lines_[static_cast<size_t>(row)];
}

std::string CsvTable::place(int64_t row) const { return fmt::format("{}:{}", name_, line(row)); }

CsvTable parse_csv(std::span<const std::byte> file, const std::string& name, char separator) {
  std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (separator != 0 && kSeparators.find(separator) == std::string_view::npos) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[csv] {}: expected a comma, a semicolon, a tab or | as separator", name)};
  }
  CsvTable table;
  table.name_ = name;
  table.separator_ = separator != 0 ? separator : guess_separator(text, name);
  CsvReader reader(text, name, table.separator_);
  for (size_t before = 0; reader.next(table.text_, table.ends_); before = table.ends_.size()) {
    const auto fields = static_cast<int64_t>(table.ends_.size() - before);
    table.lines_.push_back(reader.record_line());
    if (table.rows() == 1) {
      table.columns_ = fields;
    } else if (table.rows() == 2 && table.columns_ > 1 && fields == table.columns_ + 1) {
      table.ends_.insert(table.ends_.begin(), 0);
      table.columns_ = fields;
    } else if (fields != table.columns_) {
      broken(name, reader.record_line(),
             fmt::format("expected {} field{} as in the rows before, got {} (separator {}; a field "
                         "that holds it stands in double quotes)",
                         table.columns_, table.columns_ == 1 ? "" : "s", fields,
                         shown(table.separator_)));
    }
  }
  return table;
}

CsvTable read_csv(const std::filesystem::path& path, char separator) {
  return parse_csv(read_file(path, kMaxFileBytes), path.string(), separator);
}

double csv_number(const CsvTable& table, int64_t row, int64_t column) {
  std::string_view field = table.at(row, column);
  while (!field.empty() && (field.front() == ' ' || field.front() == '\t')) field.remove_prefix(1);
  while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
  std::string_view digits = field;
  if (digits.size() > 1 && digits[0] == '+' && digits[1] != '-') digits.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || !std::isfinite(value)) {
    throw Error{ErrorCode::corrupt, fmt::format("[csv] {}: column {}: expected a number, got '{}'",
                                                table.place(row), column + 1, field.substr(0, 60))};
  }
  return value;
}

}  // namespace fovea
