#include "fovea/formats/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/base/text.h"
#include "fovea/base/utf8.h"
#include "fovea/formats/file.h"
#include "fovea/formats/recipe_parse.h"

namespace fovea {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 20;

using namespace recipe_detail;

}  // namespace

struct RecipeTable::Impl {
  std::string file;
  toml::table root;
  std::set<std::string> overrides;                        // paths given to set()
  std::map<std::string, std::vector<std::string>> known;  // section -> fields, as visited
  std::map<std::string, std::string> resolved;            // path -> value

  const toml::node* find(std::string_view path) const {
    const auto steps = split(path);
    if (!steps) return nullptr;
    const toml::node* node = &root;
    for (const Step& step : *steps) {
      const toml::table* table = node->as_table();
      node = table != nullptr ? table->get(step.key) : nullptr;
      if (node != nullptr && step.index) {
        const toml::array* array = node->as_array();
        node = array != nullptr ? array->get(*step.index) : nullptr;
      }
      if (node == nullptr) return nullptr;
    }
    return node;
  }

  // "--set path" where the path or a table around it was set, else nothing.
  std::optional<std::string> override_of(std::string_view path) const {
    while (!path.empty()) {
      if (overrides.contains(std::string(path))) return fmt::format("--set {}", path);
      const size_t cut = path.find_last_of(".[");
      path = path.substr(0, cut == std::string_view::npos ? 0 : cut);
    }
    return std::nullopt;
  }

  std::string place(std::string_view path, const toml::source_region& source) const {
    if (const auto set = override_of(path)) return *set;
    return source.begin.line > 0 ? fmt::format("{}:{}", file, source.begin.line) : file;
  }

  bool knows_section(const std::string& path) const {
    const auto it = known.lower_bound(path);
    for (auto i = it; i != known.end() && i->first.starts_with(path); ++i) {
      if (i->first.size() == path.size() || i->first[path.size()] == '.' ||
          i->first[path.size()] == '[') {
        return true;
      }
    }
    return false;
  }

  bool knows_field(const std::string& section, const std::string& key) const {
    const auto it = known.find(section);
    return it != known.end() &&
           std::find(it->second.begin(), it->second.end(), key) != it->second.end();
  }

  struct Unknown {
    std::string section, key;
    toml::source_region source;
    bool table;
  };

  void collect(const toml::table& table, const std::string& section,
               std::vector<Unknown>& unknown) const {
    for (const auto& [key, node] : table) {
      const std::string name = shown_key(key.str());
      const std::string path = join(section, name);
      if (knows_field(section, name)) continue;
      const toml::array* array = node.as_array();
      if (node.is_table() && knows_section(path)) {
        collect(*node.as_table(), path, unknown);
      } else if (array != nullptr && knows_section(path)) {
        collect_items(*array, path, unknown);
      } else {
        unknown.push_back({section, name, key.source(), node.is_table()});
      }
    }
  }

  void collect_items(const toml::array& array, const std::string& path,
                     std::vector<Unknown>& unknown) const {
    for (size_t i = 0; i < array.size(); ++i) {
      const std::string item = fmt::format("{}[{}]", path, i);
      const toml::table* table = array.get(i)->as_table();
      if (table != nullptr && knows_section(item)) {
        collect(*table, item, unknown);
      } else {
        unknown.push_back({path, fmt::format("[{}]", i), array.get(i)->source(), true});
      }
    }
  }

  // Fields and sub-sections that may stand in a section.
  std::vector<std::string> names_in(const std::string& section) const {
    std::vector<std::string> names;
    for (const auto& [path, fields] : known) {
      if (path == section) names.insert(names.end(), fields.begin(), fields.end());
      const std::string prefix = section.empty() ? "" : section + ".";
      if (path.size() > prefix.size() && path.starts_with(prefix)) {
        const std::string_view rest = std::string_view(path).substr(prefix.size());
        const std::string name(rest.substr(0, rest.find_first_of(".[")));
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
      }
    }
    return names;
  }

  std::string suggestion(const Unknown& unknown) const {
    const std::vector<std::string> names = names_in(unknown.section);
    const std::string near = nearest(unknown.key, names);
    if (!near.empty()) return fmt::format("; did you mean '{}'?", join(unknown.section, near));
    for (const auto& [path, fields] : known) {  // the right key in the wrong section
      if (std::find(fields.begin(), fields.end(), unknown.key) != fields.end()) {
        return fmt::format("; did you mean '{}'?", join(path, unknown.key));
      }
    }
    return names.empty() ? "" : fmt::format(" (expected one of {})", fmt::join(names, ", "));
  }
};

// Puts the values of one section into the fields of a struct.
class RecipeTable::Reader : public FieldVisitor {
 public:
  Reader(Impl& impl, std::string section, const toml::table* table)
      : impl_(impl), section_(std::move(section)), table_(table), fields_(impl.known[section_]) {}

 protected:
  void boolean(std::string_view name, bool& v) override {
    if (const toml::node* node = find(name)) {
      const auto* value = node->as_boolean();
      if (value == nullptr) mismatch(name, *node, "true or false");
      v = value->get();
    }
  }
  void integer(std::string_view name, int64_t& v) override {
    if (const toml::node* node = find(name)) v = integer_of(name, *node);
  }
  void real(std::string_view name, double& v) override {
    if (const toml::node* node = find(name)) v = real_of(name, *node);
  }
  void text(std::string_view name, std::string& v) override {
    if (const toml::node* node = find(name)) v = text_of(name, *node);
  }
  void integers(std::string_view name, std::vector<int64_t>& v) override {
    read_array(name, v, "an array of integers", &Reader::integer_of);
  }
  void reals(std::string_view name, std::vector<double>& v) override {
    read_array(name, v, "an array of numbers", &Reader::real_of);
  }
  void texts(std::string_view name, std::vector<std::string>& v) override {
    read_array(name, v, "an array of strings", &Reader::text_of);
  }
  void enumeration(std::string_view name, int& index,
                   std::span<const std::string_view> names) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const std::string expected = fmt::format("one of {}", fmt::join(names, ", "));
    const auto* value = node->as_string();
    if (value == nullptr) mismatch(name, *node, expected);
    const auto it = std::find(names.begin(), names.end(), std::string_view(value->get()));
    if (it == names.end()) mismatch(name, *node, expected, did_you_mean(value->get(), names));
    index = static_cast<int>(it - names.begin());
  }

 private:
  const toml::node* find(std::string_view name) {
    if (std::find(fields_.begin(), fields_.end(), name) == fields_.end()) {
      fields_.emplace_back(name);
    }
    return table_ != nullptr ? table_->get(name) : nullptr;
  }

  [[noreturn]] void mismatch(std::string_view name, const toml::node& node,
                             std::string_view expected, std::string_view hint = "") const {
    const std::string path = join(section_, name);
    refuse(impl_.place(path, node.source()), "'{}': expected {}, got {}{}", path, expected,
           describe(node), hint);
  }

  int64_t integer_of(std::string_view name, const toml::node& node) const {
    const auto* value = node.as_integer();
    if (value == nullptr) mismatch(name, node, "an integer");
    return value->get();
  }
  double real_of(std::string_view name, const toml::node& node) const {
    if (const auto* whole = node.as_integer()) return static_cast<double>(whole->get());
    const auto* value = node.as_floating_point();
    if (value == nullptr || !std::isfinite(value->get())) mismatch(name, node, "a finite number");
    return value->get();
  }
  std::string text_of(std::string_view name, const toml::node& node) const {
    const auto* value = node.as_string();
    if (value == nullptr) mismatch(name, node, "a string");
    return value->get();
  }

  template <class T>
  void read_array(std::string_view name, std::vector<T>& v, std::string_view expected,
                  T (Reader::*element)(std::string_view, const toml::node&) const) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr) mismatch(name, *node, expected);
    std::vector<T> values;
    for (size_t i = 0; i < array->size(); ++i) {
      values.push_back((this->*element)(fmt::format("{}[{}]", name, i), *array->get(i)));
    }
    v = std::move(values);
  }

  Impl& impl_;
  std::string section_;
  const toml::table* table_;
  std::vector<std::string>& fields_;
};

// Notes what the fields of a struct hold after they were read.
class RecipeTable::Values : public FieldVisitor {
 public:
  Values(Impl& impl, std::string section) : impl_(impl), section_(std::move(section)) {}

 protected:
  void boolean(std::string_view name, bool& v) override { note(name, v); }
  void integer(std::string_view name, int64_t& v) override { note(name, v); }
  void real(std::string_view name, double& v) override { note_text(name, shortest(v)); }
  void text(std::string_view name, std::string& v) override { note(name, v); }
  void integers(std::string_view name, std::vector<int64_t>& v) override { note_all(name, v); }
  void reals(std::string_view name, std::vector<double>& v) override {
    std::string all;
    for (const double value : v) all += (all.empty() ? "" : ", ") + shortest(value);
    note_text(name, all.empty() ? "[]" : "[ " + all + " ]");
  }
  void texts(std::string_view name, std::vector<std::string>& v) override { note_all(name, v); }
  void enumeration(std::string_view name, int& index,
                   std::span<const std::string_view> names) override {
    note(name, std::string(names[static_cast<size_t>(index)]));
  }

 private:
  template <class T>
  void note(std::string_view name, const T& v) {
    note_node(name, toml::value<T>(v));
  }
  template <class T>
  void note_all(std::string_view name, const std::vector<T>& values) {
    toml::array array;
    for (const T& v : values) array.push_back(v);
    note_node(name, array);
  }
  void note_node(std::string_view name, const toml::node& node) {
    std::ostringstream out;
    out << toml::toml_formatter{node};
    note_text(name, out.str());
  }
  void note_text(std::string_view name, std::string text) {
    impl_.resolved[join(section_, name)] = std::move(text);
  }
  // 0.9, where the library would write 0.90000000000000002; a real number has a point or a power.
  static std::string shortest(double v) {
    const std::string text = fmt::format("{}", v);
    return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
  }

  Impl& impl_;
  std::string section_;
};

RecipeTable::RecipeTable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RecipeTable::RecipeTable(RecipeTable&&) noexcept = default;
RecipeTable& RecipeTable::operator=(RecipeTable&&) noexcept = default;
RecipeTable::~RecipeTable() = default;

RecipeTable RecipeTable::parse(std::string_view text, const std::string& file_name) {
  auto impl = std::make_unique<Impl>();
  impl->file = file_name;
  impl->root = parse_toml(text, file_name);
  return RecipeTable(std::move(impl));
}

RecipeTable RecipeTable::load(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const std::filesystem::path inside = path / "recipe.toml";
    refuse(path.string(), "expected a recipe, which is a TOML file, got a folder{}",
           std::filesystem::is_regular_file(inside, ignored)
               ? fmt::format("; did you mean '{}'?", inside.string())
               : "; fovea new writes one for a folder of data");
  }
  return parse(read_text_file(path, kMaxBytes), path.string());
}

void RecipeTable::set(std::string_view assignment) {
  const size_t equals = assignment.find('=');
  const std::string path(assignment.substr(0, equals));
  const std::string place = fmt::format("--set {}", path);
  const auto steps = split(path);
  if (equals == std::string_view::npos || !steps || steps->empty() || steps->back().index) {
    refuse(place, "expected key=value, such as train.epochs=3, got '{}'", assignment);
  }
  if (steps->size() > kMaxDots) refuse(place, "tables are nested too deep (at most {})", kMaxDots);
  const std::string_view text = assignment.substr(equals + 1);
  if (std::any_of(text.begin(), text.end(),
                  [](unsigned char c) { return c < 0x20 && c != '\t'; })) {
    refuse(place, "expected a value on one line");
  }
  if (!is_utf8(text)) refuse(place, "expected a value in UTF-8");

  toml::table parsed;
  try {
    parsed = parse_toml(fmt::format("value = {}", text), place);
  } catch (const Error&) {
    // What begins as TOML was meant as TOML.
    if (text.find_first_of("\"'[{") == 0) {
      refuse(place, "expected a value, got '{}', which is not valid TOML", text);
    }
    parsed = {};
    parsed.insert_or_assign("value", std::string(text));
  }

  toml::table* table = &impl_->root;
  std::string so_far;
  for (const Step& step : std::span(*steps).first(steps->size() - 1)) {
    so_far = join(so_far, step.key);
    toml::node* node = table->get(step.key);
    if (node == nullptr && !step.index) {
      table->insert_or_assign(step.key, toml::table{});
      node = table->get(step.key);
    }
    if (step.index) {
      so_far += fmt::format("[{}]", *step.index);
      node = node != nullptr && node->is_array() ? node->as_array()->get(*step.index) : nullptr;
    }
    if (node == nullptr || !node->is_table()) refuse(place, "'{}' is not a section", so_far);
    table = node->as_table();
  }
  parsed.get("value")->visit(
      [&](auto& value) { table->insert_or_assign(steps->back().key, std::move(value)); });
  impl_->overrides.insert(path);
}

bool RecipeTable::has(std::string_view path) const { return impl_->find(path) != nullptr; }

int64_t RecipeTable::items(std::string_view path) const {
  const toml::node* node = impl_->find(path);
  if (node == nullptr) return 0;
  const toml::array* array = node->as_array();
  if (array == nullptr) {
    refuse(impl_->place(path, node->source()), "'{}': expected an array, got {}", path,
           describe(*node));
  }
  // An empty one has no sections that bind() could make known.
  if (array->empty()) impl_->known[std::string(path)];
  return static_cast<int64_t>(array->size());
}

std::string RecipeTable::place(std::string_view path) const {
  while (true) {
    if (const toml::node* node = impl_->find(path); node != nullptr && !path.empty()) {
      return impl_->place(path, node->source());
    }
    const size_t cut = path.find_last_of(".[");
    if (cut == std::string_view::npos) return impl_->file;
    path = path.substr(0, cut);
  }
}

std::unique_ptr<FieldVisitor> RecipeTable::reader_of(std::string_view section) {
  const toml::node* node = impl_->find(section);
  if (node != nullptr && !node->is_table()) {
    refuse(impl_->place(section, node->source()), "'{}': expected a section, got {}", section,
           describe(*node));
  }
  return std::make_unique<Reader>(*impl_, std::string(section),
                                  node != nullptr ? node->as_table() : nullptr);
}

std::unique_ptr<FieldVisitor> RecipeTable::values_of(std::string_view section) {
  return std::make_unique<Values>(*impl_, std::string(section));
}

const std::map<std::string, std::string>& RecipeTable::resolved() const { return impl_->resolved; }

Error RecipeTable::located(const Error& error) const {
  const std::string_view message = error.what();
  const size_t close = message.find("] ");
  if (!message.starts_with('[') || close == std::string_view::npos) return error;
  const std::string_view section = message.substr(1, close - 1);
  const std::string_view rest = message.substr(close + 2);
  const auto in_path = [](char c) { return is_bare(c) || c == '.'; };
  if (!std::all_of(section.begin(), section.end(), in_path) || !has(section)) return error;
  const size_t start = rest.starts_with('\'') ? 1 : 0;
  const size_t end = std::min(rest.find_first_of(": '", start), rest.size());
  const std::string path = join(section, rest.substr(start, end - start));
  return Error{error.code(), fmt::format("[recipe] {}: [{}] {}", place(path), section, rest)};
}

void RecipeTable::check_all_read() const {
  std::vector<Impl::Unknown> unknown;
  impl_->collect(impl_->root, "", unknown);
  if (unknown.empty()) return;
  const auto first = std::min_element(unknown.begin(), unknown.end(),
                                      [](const Impl::Unknown& a, const Impl::Unknown& b) {
                                        return a.source.begin.line < b.source.begin.line;
                                      });
  const std::string path =
      first->key.front() == '[' ? first->section + first->key : join(first->section, first->key);
  refuse(impl_->place(path, first->source), "unknown {} '{}'{}", first->table ? "section" : "key",
         path, impl_->suggestion(*first));
}

std::string RecipeTable::to_text() const {
  std::ostringstream out;
  out << toml::toml_formatter{impl_->root} << "\n";
  return out.str();
}

}  // namespace fovea
