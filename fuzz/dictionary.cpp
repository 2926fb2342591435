// Prints a dictionary for the targets that read graphs: the words of the op table.
#include <cstdio>
#include <set>
#include <string>

#include "fovea/base/dtype.h"
#include "fovea/graph/op.h"

using namespace fovea;

namespace {

// Collects the names of the fields and of their values.
class Words : public FieldVisitor {
 public:
  explicit Words(std::set<std::string>& words) : words_(words) {}

 protected:
  void boolean(std::string_view name, bool&) override { add(name); }
  void integer(std::string_view name, int64_t&) override { add(name); }
  void real(std::string_view name, double&) override { add(name); }
  void text(std::string_view name, std::string&) override { add(name); }
  void integers(std::string_view name, std::vector<int64_t>&) override { add(name); }
  void reals(std::string_view name, std::vector<double>&) override { add(name); }
  void texts(std::string_view name, std::vector<std::string>&) override { add(name); }
  void enumeration(std::string_view name, int&, std::span<const std::string_view> names) override {
    for (std::string_view value : names)
      words_.insert(std::string(name) + "=" + std::string(value));
  }

 private:
  void add(std::string_view name) { words_.insert(std::string(name) + "="); }
  std::set<std::string>& words_;
};

}  // namespace

int main() {
  std::set<std::string> words = {"fovea.graph 1",
                                 "ops",
                                 "output ",
                                 "update ",
                                 " = ",
                                 " : ",
                                 "%",
                                 ", ",
                                 "true",
                                 "false",
                                 "ceildiv(",
                                 "min(",
                                 "max(",
                                 "[B,",
                                 "[T,",
                                 "[]",
                                 "inf",
                                 "nan",
                                 "-1",
                                 ":1",
                                 "values=",
                                 "hash=",
                                 "B*T",
                                 "1e-05",
                                 "9223372036854775807"};
  for (std::string_view type : enum_names(DType{})) words.insert(std::string(type) + "[");
  for (const Op* op : all_ops()) {
    words.insert(std::string(op->name) + "(");
    words.insert(" " + std::string(op->name) + "=1");
    Words visitor(words);
    Attrs attrs = op->defaults;
    attrs.visit(visitor);
  }
  for (const std::string& word : words) std::printf("\"%s\"\n", word.c_str());
  return 0;
}
