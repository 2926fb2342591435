// One way to describe a plain struct of options: `template <class V> void visit(V& v)` calls
// `v("name", field)` for each field. Text form, equality, overrides, recipe keys and docs all use
// it.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fovea {

// Enumerations count from 0 and offer `std::span<const std::string_view> enum_names(E)`, found by
// argument-dependent lookup; the i-th name belongs to the value i.
template <class E>
std::string_view enum_name(E value) {
  return enum_names(value)[static_cast<size_t>(value)];
}

// A type with its own short text form: `std::string to_text(const T&)` and
// `void from_text(std::string_view, T&)`, which throws Error on a bad text.
template <class T>
concept HasText = std::is_class_v<T> && requires(T& v, std::string_view s) {
  { to_text(v) } -> std::convertible_to<std::string>;
  from_text(s, v);
};

// Receives the fields of a struct by reference, so that it may read or replace them.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  void operator()(std::string_view name, bool& v) { boolean(name, v); }
  void operator()(std::string_view name, int64_t& v) { integer(name, v); }
  void operator()(std::string_view name, double& v) { real(name, v); }
  void operator()(std::string_view name, std::string& v) { text(name, v); }
  void operator()(std::string_view name, std::vector<int64_t>& v) { integers(name, v); }
  void operator()(std::string_view name, std::vector<double>& v) { reals(name, v); }
  void operator()(std::string_view name, std::vector<std::string>& v) { texts(name, v); }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(std::string_view name, E& v) {
    int index = static_cast<int>(v);
    enumeration(name, index, enum_names(v));
    v = static_cast<E>(index);
  }
  template <HasText T>
  void operator()(std::string_view name, T& v) {
    std::string s = to_text(v);
    const std::string before = s;
    text_form(name, s);
    if (s != before) from_text(s, v);
  }

 protected:
  virtual void boolean(std::string_view name, bool& v) = 0;
  virtual void integer(std::string_view name, int64_t& v) = 0;
  virtual void real(std::string_view name, double& v) = 0;
  virtual void text(std::string_view name, std::string& v) = 0;
  // A value that has its own short text form, such as a type or a shape.
  virtual void text_form(std::string_view name, std::string& v) { text(name, v); }
  virtual void integers(std::string_view name, std::vector<int64_t>& v) = 0;
  virtual void reals(std::string_view name, std::vector<double>& v) = 0;
  virtual void texts(std::string_view name, std::vector<std::string>& v) = 0;
  virtual void enumeration(std::string_view name, int& index,
                           std::span<const std::string_view> names) = 0;
};

// Passes by everything that has no text form of its own.
class TextFormVisitor : public FieldVisitor {
 protected:
  void boolean(std::string_view, bool&) override {}
  void integer(std::string_view, int64_t&) override {}
  void real(std::string_view, double&) override {}
  void text(std::string_view, std::string&) override {}
  void integers(std::string_view, std::vector<int64_t>&) override {}
  void reals(std::string_view, std::vector<double>&) override {}
  void texts(std::string_view, std::vector<std::string>&) override {}
  void enumeration(std::string_view, int&, std::span<const std::string_view>) override {}
};

}  // namespace fovea
