// A recipe: a TOML file whose sections the rooms bind to their structs of options. The table knows
// the line of each key, so that every complaint says where.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"

namespace fovea {

// A path names a section or a key by its tables, with dots between ("train.epochs"); an element of
// an array of tables has its index ("losses[0].weight"); "" is the whole recipe. Errors are
// invalid_argument: "[recipe] fashion.toml:12: ...", or "[recipe] --set train.epochs: ..." for a
// value that came from set().
class RecipeTable {
 public:
  // file_name stands in errors. Error where the text is no TOML, or tables are nested absurdly
  // deep.
  static RecipeTable parse(std::string_view text, const std::string& file_name);
  // At most 1 MiB.
  static RecipeTable load(const std::filesystem::path& path);

  RecipeTable(RecipeTable&&) noexcept;
  RecipeTable& operator=(RecipeTable&&) noexcept;
  ~RecipeTable();

  // Adds or replaces one value: "train.epochs=3". The value is TOML; anything that is not TOML is
  // taken as a string, so words and paths need no quotes.
  void set(std::string_view assignment);

  // Whether a table, an array or a value stands at the path.
  bool has(std::string_view path) const;
  // Elements of the array at the path; 0 where it is absent.
  int64_t items(std::string_view path) const;
  // Where the value at the path, or else its section, was written: "fashion.toml:12".
  std::string place(std::string_view path) const;

  // An Error about a section's key, "[train] epochs: ...", with the place where the key was
  // written; any other Error as it is.
  Error located(const Error& error) const;

  // Replaces the fields that the section holds and leaves the others; a missing section changes
  // nothing. Every field becomes a known key. An integer is taken for a real; any other mismatch is
  // an Error that names the place, the key, what was expected and what stands there.
  template <class T>
  void bind(std::string_view section, T& options) {
    const std::unique_ptr<FieldVisitor> reader = reader_of(section);
    options.visit(*reader);
    const std::unique_ptr<FieldVisitor> values = values_of(section);
    options.visit(*values);
  }

  // After all sections are bound: the first key that nobody knows is an Error with the nearest
  // name.
  void check_all_read() const;

  // The table as TOML, what was set included; without comments, keys in alphabetical order.
  std::string to_text() const;

  // What was bound, defaults included: the value of each key as TOML, by its path.
  const std::map<std::string, std::string>& resolved() const;

 private:
  struct Impl;
  class Reader;
  class Values;
  explicit RecipeTable(std::unique_ptr<Impl> impl);
  std::unique_ptr<FieldVisitor> reader_of(std::string_view section);
  std::unique_ptr<FieldVisitor> values_of(std::string_view section);

  std::unique_ptr<Impl> impl_;
};

// Writes fields as lines "key = value" of TOML, in their order.
class RecipeWriter final : public FieldVisitor {
 public:
  std::string lines;

 protected:
  void boolean(std::string_view name, bool& v) override;
  void integer(std::string_view name, int64_t& v) override;
  void real(std::string_view name, double& v) override;
  void text(std::string_view name, std::string& v) override;
  void integers(std::string_view name, std::vector<int64_t>& v) override;
  void reals(std::string_view name, std::vector<double>& v) override;
  void texts(std::string_view name, std::vector<std::string>& v) override;
  void enumeration(std::string_view name, int& index,
                   std::span<const std::string_view> names) override;
};

// A section of a recipe as TOML, under its header: recipe_section("[train]", options). What
// RecipeTable::bind reads back.
template <class T>
std::string recipe_section(std::string_view header, T options) {
  RecipeWriter writer;
  options.visit(static_cast<FieldVisitor&>(writer));
  return std::string(header) + "\n" + writer.lines;
}

}  // namespace fovea
