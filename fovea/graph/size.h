// Sizes known only when a plan is made: integer expressions over symbols such as B and T, held in a
// canonical form (a sum of products of atoms), so that equal sizes compare equal.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fovea/base/dtype.h"

namespace fovea {

// What each symbol stands for when a plan is made.
using SizeBindings = std::map<std::string, int64_t, std::less<>>;

class Size {
 public:
  Size(int64_t constant = 0) : constant_(constant) {}  // NOLINT: sizes are written as numbers
  Size(int constant) : constant_(constant) {}          // NOLINT

  // A name of letters, digits and '_', starting with a letter. Throws Error otherwise.
  static Size symbol(std::string_view name);
  // Reads what text() writes, such as "B*49", "ceildiv(T,8)+1". Throws Error.
  static Size parse(std::string_view text);

  bool is_constant() const { return !terms_; }
  int64_t constant() const;  // only when is_constant()
  // The number that it stands for. Throws Error when a symbol is not bound or the result overflows.
  int64_t eval(const SizeBindings& bindings) const;
  std::string text() const;
  // Adds the symbols that occur to `names` (sorted, each once).
  void collect_symbols(std::vector<std::string>& names) const;

  friend Size operator+(const Size& a, const Size& b);
  friend Size operator-(const Size& a, const Size& b);
  friend Size operator*(const Size& a, const Size& b);
  // ceil(a / b). Throws Error when b is the constant 0.
  friend Size ceildiv(const Size& a, const Size& b);
  friend Size min(const Size& a, const Size& b);
  friend Size max(const Size& a, const Size& b);
  friend bool operator==(const Size& a, const Size& b);

 private:
  struct Atom;  // a symbol, or ceildiv, min, max of sizes
  using Product = std::vector<std::shared_ptr<const Atom>>;  // sorted; empty for the constant term
  struct Less {
    bool operator()(const Product& a, const Product& b) const;
  };
  using Terms = std::map<Product, int64_t, Less>;

  static Size from_terms(Terms terms);
  static Size from_atom(Atom atom);
  static Size function(int kind, const Size& a, const Size& b);
  Terms to_terms() const;
  static int64_t eval_atom(const Atom& atom, const SizeBindings& bindings);

  int64_t constant_ = 0;
  std::shared_ptr<const Terms> terms_;  // null for a constant
};

using Shape = std::vector<Size>;

// An axis as attributes name it (negative: from the back) as an index; it must be in range.
inline size_t axis_index(int64_t axis, size_t rank) {
  return static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(rank) : axis);
}

// Product of all sizes; 1 for a scalar.
Size element_count(const Shape& shape);
std::string shape_text(const Shape& shape);

// The type of a value: dense, row-major.
struct ValueType {
  DType dtype = DType::f32;
  Shape shape;

  size_t rank() const { return shape.size(); }
  bool operator==(const ValueType&) const = default;
};

// "f32[B,49,64]"
std::string to_text(const ValueType& type);
void from_text(std::string_view text, ValueType& type);
std::string to_text(const Size& size);
void from_text(std::string_view text, Size& size);
std::string to_text(const Shape& shape);
void from_text(std::string_view text, Shape& shape);

}  // namespace fovea
