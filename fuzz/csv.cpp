// Whatever is read as a table is written with quotes round every field and read again to the same.
#include "fovea/formats/csv.h"

#include "fovea/base/error.h"
#include "fuzz/property.h"

using namespace fovea;

namespace {

std::string written(const CsvTable& table) {
  std::string text;
  for (int64_t row = 0; row < table.rows(); ++row)
    for (int64_t column = 0; column < table.columns(); ++column) {
      text += column > 0 ? "," : "";
      text += '"';
      for (const char c : table.at(row, column)) text += c == '"' ? "\"\"" : std::string(1, c);
      text += column + 1 < table.columns() ? "\"" : "\"\n";
    }
  return text;
}

bool same(const CsvTable& a, const CsvTable& b) {
  if (a.rows() != b.rows() || a.columns() != b.columns()) return false;
  for (int64_t row = 0; row < a.rows(); ++row)
    for (int64_t column = 0; column < a.columns(); ++column)
      if (a.at(row, column) != b.at(row, column)) return false;
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A place for each field, which takes a byte at least.
  const fuzz::MemoryBound bound((size_t{1} << 20) + 64 * size);
  CsvTable table;
  try {
    table = parse_csv(fuzz::as_bytes(data, size), "input");
  } catch (const Error&) {
    bound.check();
    return 0;
  }
  bound.check();
  const std::string text = written(table);
  fuzz::expect(same(table, parse_csv(std::as_bytes(std::span(text)), "written", ',')),
               "a table is read as it was written");
  int64_t line = 0;
  for (int64_t row = 0; row < table.rows(); ++row) {
    fuzz::expect(table.line(row) > line, "rows stand in the order of their lines");
    line = table.line(row);
    for (int64_t column = 0; column < table.columns(); ++column) try {
        csv_number(table, row, column);
      } catch (const Error&) {
      }
  }
  return 0;
}
