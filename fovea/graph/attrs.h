// The attributes of a node: any plain struct with `visit`, held by value and compared by its
// fields.
#pragma once

#include <memory>
#include <string>
#include <typeinfo>
#include <utility>

#include "fovea/base/error.h"
#include "fovea/base/visit.h"

namespace fovea {

struct NoAttrs {
  template <class V>
  void visit(V&) {}
};

class Attrs {
 public:
  Attrs() : Attrs(NoAttrs{}) {}
  template <class T>
  requires requires(T t, FieldVisitor& v) { t.visit(v); }
  Attrs(T value) : held_(std::make_shared<Model<T>>(std::move(value))) {}  // NOLINT

  template <class T>
  const T& get() const {
    FOVEA_ASSERT(holds<T>());
    return static_cast<const Model<T>&>(*held_).value;
  }
  template <class T>
  bool holds() const {
    const Holder& held = *held_;
    return typeid(held) == typeid(Model<T>);
  }

  // Shows each field to the visitor, which may replace it; other holders keep the old value.
  void visit(FieldVisitor& v);
  // "heads=4, causal=true": the fields that differ from `defaults`, in order.
  std::string text(const Attrs& defaults) const;
  // Sets one field from text. Throws Error with the nearest name when there is none such, or when
  // the text does not fit the field's type.
  void set(std::string_view field, std::string_view text);
  bool operator==(const Attrs& other) const;

 private:
  struct Holder {
    virtual ~Holder() = default;
    virtual void visit(FieldVisitor&) = 0;
    virtual std::shared_ptr<Holder> clone() const = 0;
  };
  template <class T>
  struct Model final : Holder {
    explicit Model(T v) : value(std::move(v)) {}
    void visit(FieldVisitor& v) override { value.visit(v); }
    std::shared_ptr<Holder> clone() const override { return std::make_shared<Model>(value); }
    T value;
  };
  std::shared_ptr<Holder> held_;
};

}  // namespace fovea
