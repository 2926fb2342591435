// Tables as text: comma-separated values (RFC 4180), with other separators too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

// All rows have equally many fields. Fields are views into one text, so a table takes little more
// memory than its file.
class CsvTable {
 public:
  int64_t rows() const { return static_cast<int64_t>(lines_.size()); }
  int64_t columns() const { return columns_; }
  // The field without its quotes.
  std::string_view at(int64_t row, int64_t column) const;
  // Where a row begins in the file, from 1; quoted fields may hold line breaks.
  int64_t line(int64_t row) const;
  char separator() const { return separator_; }
  // "data.csv:12", for errors about a row.
  std::string place(int64_t row) const;

 private:
  friend CsvTable parse_csv(std::span<const std::byte> file, const std::string& name,
                            char separator);
  friend class CsvReader;
  std::string name_, text_;
  std::vector<size_t> ends_;  // of the fields, row by row, in text_
  std::vector<int64_t> lines_;
  int64_t columns_ = 0;
  char separator_ = ',';
};

// The separator is one of , ; tab | or, 0, guessed: the one that cuts the first lines into the most
// fields, equally many in each. Line breaks may be LF or CRLF, a byte order mark and empty lines
// are skipped, quoted fields may hold everything. Where the first row has one field less than all
// the others (a header without a name for the row numbers), an empty name is put before it. Errors,
// with the line: corrupt for rows of different lengths, a quote that is not closed or stands inside
// a field, a NUL; invalid_argument for another separator.
CsvTable parse_csv(std::span<const std::byte> file, const std::string& name, char separator = 0);
// The same for a file of at most 1 GiB.
CsvTable read_csv(const std::filesystem::path& path, char separator = 0);

// A field as a number, as C writes it ("-1.5e3"), blanks around it ignored. Error (corrupt) naming
// the place where it is none, or is not finite.
double csv_number(const CsvTable& table, int64_t row, int64_t column);

}  // namespace fovea
