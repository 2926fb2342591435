#include "fovea/graph/size.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <limits>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"

namespace fovea {

namespace {
enum Kind { kSymbol, kCeildiv, kMin, kMax };
constexpr std::string_view kKindNames[] = {"", "ceildiv", "min", "max"};

[[noreturn]] void overflow() {
  throw Error(ErrorCode::invalid_argument, "[size] the product of sizes does not fit 64 bits");
}
// Hostile text must not make an expression that takes minutes to multiply out.
constexpr size_t kMaxTerms = 1024;
[[noreturn]] void too_long() {
  throw Error(ErrorCode::invalid_argument, "[size] an expression of over 1024 terms");
}
int64_t checked_add(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_add_overflow(a, b, &r)) overflow();
  return r;
}
int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) overflow();
  return r;
}
int64_t floor_ceildiv(int64_t a, int64_t b) {
  if (b <= 0)
    throw Error(ErrorCode::invalid_argument, "[size] expected ceildiv by a positive number");
  const int64_t q = a / b;
  return q + ((a % b != 0 && (a > 0) == (b > 0)) ? 1 : 0);
}
int64_t apply(int kind, int64_t a, int64_t b) {
  if (kind == kCeildiv) return floor_ceildiv(a, b);
  return kind == kMin ? std::min(a, b) : std::max(a, b);
}
}  // namespace

struct Size::Atom {
  int kind = kSymbol;
  std::string text;  // canonical; atoms are compared by it
  std::vector<Size> args;
};

bool Size::Less::operator()(const Product& a, const Product& b) const {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(),
                                      [](auto& x, auto& y) { return x->text < y->text; });
}

Size Size::symbol(std::string_view name) {
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  if (name.empty() || name.size() > 64 || !std::isalpha(static_cast<unsigned char>(name[0])) ||
      !std::all_of(name.begin(), name.end(), word))
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[size] expected a name of letters, digits and '_', got '{}'", name));
  return from_atom({kSymbol, std::string(name), {}});
}

Size Size::from_atom(Atom atom) {
  Terms terms;
  terms[{std::make_shared<const Atom>(std::move(atom))}] = 1;
  return from_terms(std::move(terms));
}

Size Size::from_terms(Terms terms) {
  std::erase_if(terms, [](auto& t) { return t.second == 0; });
  if (terms.size() > kMaxTerms) too_long();
  Size s;
  if (terms.empty()) return s;
  if (terms.size() == 1 && terms.begin()->first.empty()) return Size(terms.begin()->second);
  s.terms_ = std::make_shared<const Terms>(std::move(terms));
  return s;
}

Size::Terms Size::to_terms() const {
  if (terms_) return *terms_;
  Terms t;
  if (constant_ != 0) t[{}] = constant_;
  return t;
}

int64_t Size::constant() const {
  FOVEA_ASSERT(is_constant());
  return constant_;
}

Size operator+(const Size& a, const Size& b) {
  if (a.is_constant() && b.is_constant()) return Size(checked_add(a.constant_, b.constant_));
  auto terms = a.to_terms();
  for (auto& [product, factor] : b.to_terms()) terms[product] = checked_add(terms[product], factor);
  return Size::from_terms(std::move(terms));
}

Size operator-(const Size& a, const Size& b) { return a + Size(int64_t{-1}) * b; }

Size operator*(const Size& a, const Size& b) {
  if (a.is_constant() && b.is_constant()) return Size(checked_mul(a.constant_, b.constant_));
  Size::Terms terms;
  const auto right = b.to_terms();
  const auto left = a.to_terms();
  if (left.size() * right.size() > kMaxTerms) too_long();
  for (auto& [pa, fa] : left)
    for (auto& [pb, fb] : right) {
      auto product = pa;
      product.insert(product.end(), pb.begin(), pb.end());
      std::sort(product.begin(), product.end(), [](auto& x, auto& y) { return x->text < y->text; });
      auto& slot = terms[product];
      slot = checked_add(slot, checked_mul(fa, fb));
    }
  return Size::from_terms(std::move(terms));
}

Size Size::function(int kind, const Size& a, const Size& b) {
  if (a.is_constant() && b.is_constant()) return Size(apply(kind, a.constant_, b.constant_));
  std::vector<Size> args = {a, b};
  if (kind != kCeildiv) {
    if (a == b) return a;
    if (args[1].text() < args[0].text()) std::swap(args[0], args[1]);
  }
  Atom atom{kind, fmt::format("{}({},{})", kKindNames[kind], args[0].text(), args[1].text()), args};
  return from_atom(std::move(atom));
}

Size ceildiv(const Size& a, const Size& b) {
  if (b.is_constant()) {
    if (b.constant_ == 1) return a;
    if (b.constant_ <= 0) floor_ceildiv(0, b.constant_);
    // Exact where every term is a multiple: ceildiv(4*B, 2) = 2*B.
    auto terms = a.to_terms();
    if (std::all_of(terms.begin(), terms.end(),
                    [&](auto& t) { return t.second % b.constant_ == 0; })) {
      for (auto& t : terms) t.second /= b.constant_;
      return Size::from_terms(std::move(terms));
    }
  }
  return Size::function(kCeildiv, a, b);
}
Size min(const Size& a, const Size& b) { return Size::function(kMin, a, b); }
Size max(const Size& a, const Size& b) { return Size::function(kMax, a, b); }

bool operator==(const Size& a, const Size& b) {
  if (a.terms_ == b.terms_) return a.constant_ == b.constant_;
  if (!a.terms_ || !b.terms_) return false;
  const Size::Less less;
  return std::equal(a.terms_->begin(), a.terms_->end(), b.terms_->begin(), b.terms_->end(),
                    [&](auto& x, auto& y) {
                      return x.second == y.second && !less(x.first, y.first) &&
                             !less(y.first, x.first);
                    });
}

int64_t Size::eval_atom(const Atom& atom, const SizeBindings& bindings) {
  if (atom.kind != kSymbol)
    return apply(atom.kind, atom.args[0].eval(bindings), atom.args[1].eval(bindings));
  const auto it = bindings.find(atom.text);
  if (it == bindings.end())
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[size] the size {} is not given", atom.text));
  return it->second;
}

int64_t Size::eval(const SizeBindings& bindings) const {
  if (!terms_) return constant_;
  int64_t sum = 0;
  for (auto& [product, factor] : *terms_) {
    int64_t value = factor;
    for (auto& atom : product) value = checked_mul(value, eval_atom(*atom, bindings));
    sum = checked_add(sum, value);
  }
  return sum;
}

void Size::collect_symbols(std::vector<std::string>& names) const {
  if (!terms_) return;
  for (auto& term : *terms_)
    for (auto& atom : term.first) {
      if (atom->kind != kSymbol) {
        for (auto& arg : atom->args) arg.collect_symbols(names);
        continue;
      }
      const auto at = std::lower_bound(names.begin(), names.end(), atom->text);
      if (at == names.end() || *at != atom->text) names.insert(at, atom->text);
    }
}

std::string Size::text() const {
  if (!terms_) return std::to_string(constant_);
  std::string out;
  // Symbols first, the constant term last, as one writes it.
  for (int constant_term = 0; constant_term < 2; ++constant_term)
    for (auto& [product, factor] : *terms_) {
      if (product.empty() != (constant_term == 1)) continue;
      if (factor < 0)
        out += '-';
      else if (!out.empty())
        out += '+';
      const uint64_t bits = static_cast<uint64_t>(factor);
      const uint64_t magnitude = factor < 0 ? 0 - bits : bits;
      std::string term;
      for (auto& atom : product) term += (term.empty() ? "" : "*") + atom->text;
      if (product.empty())
        out += std::to_string(magnitude);
      else
        out += magnitude == 1 ? term : std::to_string(magnitude) + "*" + term;
    }
  return out;
}

namespace {
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}
  Size all() {
    Size s = sum(0);
    if (at_ != text_.size()) fail();
    return s;
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[size] expected an expression such as 2*B+1, got '{}'", text_));
  }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  Size sum(int depth) {
    if (depth > 32) fail();
    Size s = take('-') ? Size(int64_t{0}) - product(depth) : product(depth);
    for (;;) {
      if (take('+'))
        s = s + product(depth);
      else if (take('-'))
        s = s - product(depth);
      else
        return s;
    }
  }
  Size product(int depth) {
    Size s = factor(depth);
    while (take('*')) s = s * factor(depth);
    return s;
  }
  Size factor(int depth) {
    const size_t start = at_;
    const auto here = [&] {
      return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : 0;
    };
    if (std::isdigit(here())) {
      int64_t value = 0;
      while (std::isdigit(here())) value = checked_add(checked_mul(value, 10), text_[at_++] - '0');
      return Size(value);
    }
    while (std::isalnum(here()) || here() == '_') ++at_;
    const std::string_view name = text_.substr(start, at_ - start);
    if (!take('(')) {
      if (name.empty()) fail();
      return Size::symbol(name);
    }
    const Size a = sum(depth + 1);
    if (!take(',')) fail();
    const Size b = sum(depth + 1);
    if (!take(')')) fail();
    if (name == "ceildiv") return ceildiv(a, b);
    if (name == "min") return min(a, b);
    if (name == "max") return max(a, b);
    fail();
  }
  std::string_view text_;
  size_t at_ = 0;
};
}  // namespace

Size Size::parse(std::string_view text) {
  if (text.size() > 1000)
    throw Error(ErrorCode::invalid_argument, "[size] an expression of over 1000 characters");
  return Parser(text).all();
}

Size element_count(const Shape& shape) {
  Size n = 1;
  for (auto& s : shape) n = n * s;
  return n;
}

std::string shape_text(const Shape& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? "," : "") + shape[i].text();
  return s + "]";
}

std::string to_text(const Size& size) { return size.text(); }
void from_text(std::string_view text, Size& size) { size = Size::parse(text); }

std::string to_text(const Shape& shape) { return shape_text(shape); }

void from_text(std::string_view text, Shape& shape) {
  const auto bad = [&] {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[shape] expected a list such as [B,28,28,1], got '{}'", text));
  };
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') bad();
  shape.clear();
  std::string_view rest = text.substr(1, text.size() - 2);
  if (rest.empty()) return;
  int depth = 0;
  size_t start = 0;
  for (size_t i = 0; i <= rest.size(); ++i) {
    if (i == rest.size() || (rest[i] == ',' && depth == 0)) {
      shape.push_back(Size::parse(rest.substr(start, i - start)));
      start = i + 1;
    } else if (rest[i] == '(') {
      ++depth;
    } else if (rest[i] == ')') {
      --depth;
    }
  }
  if (shape.size() > 8) bad();
}

std::string to_text(const ValueType& type) {
  return std::string(dtype_name(type.dtype)) + shape_text(type.shape);
}

void from_text(std::string_view text, ValueType& type) {
  const size_t open = std::min(text.find('['), text.size());
  const auto names = enum_names(DType{});
  const auto it = std::find(names.begin(), names.end(), text.substr(0, open));
  if (it == names.end())
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[type] expected a type such as f32[B,64], got '{}'", text));
  type.dtype = static_cast<DType>(it - names.begin());
  from_text(text.substr(open), type.shape);
}

}  // namespace fovea
