#include "fovea/formats/onnx_nodes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <limits>
#include <set>

#include "fovea/base/error.h"

namespace fovea {

int32_t onnx_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 1;
    case DType::u8:
      return 2;
    case DType::i8:
      return 3;
    case DType::i32:
      return 6;
    case DType::boolean:
      return 9;
    case DType::f16:
      return 10;
    case DType::f64:
      return 11;
    case DType::bf16:
      return 16;
  }
  return 0;
}

namespace {

template <class T>
void append(std::vector<std::byte>& bytes, T value) {
  const auto* p = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), p, p + sizeof value);
}

// A whole number out of any double, which may stand in a file.
template <class T>
T whole(double v) {
  using Limits = std::numeric_limits<T>;
  return v >= Limits::max()   ? Limits::max()
         : v >= Limits::min() ? static_cast<T>(v)
                              : Limits::min();
}

void append_number(std::vector<std::byte>& bytes, DType dtype, double v) {
  switch (dtype) {
    case DType::f32:
    case DType::f16:  // made of f32 by a node, see constant()
      return append(bytes, static_cast<float>(v));
    case DType::bf16:
      return append(bytes, bf16(static_cast<float>(v)).bits);
    case DType::f64:
      return append(bytes, v);
    case DType::i32:
      return append(bytes, whole<int32_t>(v));
    case DType::i8:
      return append(bytes, whole<int8_t>(v));
    case DType::u8:
      return append(bytes, whole<uint8_t>(v));
    case DType::boolean:
      return append(bytes, static_cast<uint8_t>(v != 0));
  }
}

// A dense tensor with its axes in another order.
class Transposition {
 public:
  Transposition(const HostTensor& x, const std::vector<int64_t>& order)
      : x_(x), y_(std::make_shared<HostTensor>()) {
    y_->dtype = x.dtype;
    for (int64_t axis : order) {
      y_->shape.push_back(x.shape[static_cast<size_t>(axis)]);
      size_t stride = dtype_size(x.dtype);
      for (size_t i = static_cast<size_t>(axis) + 1; i < x.shape.size(); ++i)
        stride *= static_cast<size_t>(x.shape[i]);
      strides_.push_back(stride);
    }
  }
  HostTensorPtr run() {
    y_->bytes.reserve(x_.bytes.size());
    copy(0, 0);
    return y_;
  }

 private:
  void copy(size_t axis, size_t offset) {
    if (axis == strides_.size()) {
      const auto from = x_.bytes.begin() + static_cast<std::ptrdiff_t>(offset);
      y_->bytes.insert(y_->bytes.end(), from, from + dtype_size(x_.dtype));
      return;
    }
    for (int64_t i = 0; i < y_->shape[axis]; ++i)
      copy(axis + 1, offset + static_cast<size_t>(i) * strides_[axis]);
  }

  const HostTensor& x_;
  std::shared_ptr<HostTensor> y_;
  std::vector<size_t> strides_;  // in x, in bytes, of y's axes
};

bool in_order(const std::vector<int64_t>& order) {
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != static_cast<int64_t>(i)) return false;
  return true;
}

}  // namespace

OnnxRef OnnxNodes::make(std::string label) {
  labels_.push_back(std::move(label));
  return count() - 1;
}

OnnxRef OnnxNodes::store(std::string_view label, int32_t type, std::vector<int64_t> dims,
                         HostTensorPtr tensor) {
  const OnnxRef ref = make(std::string(label));
  initializer_of_[ref] = initializers_.size();
  initializers_.push_back({ref, type, std::move(dims), std::move(tensor)});
  return ref;
}

bool OnnxNodes::is_result(OnnxRef ref) const {
  return std::any_of(nodes_.begin(), nodes_.end(), [&](const OnnxNode& n) {
    return std::find(n.outputs.begin(), n.outputs.end(), ref) != n.outputs.end();
  });
}

OnnxRef OnnxNodes::input(std::string_view name, const ValueType& type) {
  const OnnxRef ref = make(std::string(name));
  for (size_t i = 0; i < type.rank(); ++i) {
    std::vector<std::string> symbols;
    type.shape[i].collect_symbols(symbols);
    if (symbols.size() == 1 && symbols[0] == type.shape[i].text())
      symbols_.try_emplace(symbols[0], ref, static_cast<int64_t>(i));
  }
  return ref;
}

OnnxRef OnnxNodes::initializer(std::string_view label, HostTensorPtr tensor) {
  return store(label, onnx_type(tensor->dtype), tensor->shape, tensor);
}

OnnxRef OnnxNodes::add(std::string_view op, std::vector<OnnxRef> inputs,
                       std::vector<OnnxAttribute> attributes, int outputs) {
  OnnxNode node{op, std::move(inputs), {}, std::move(attributes)};
  for (int i = 0; i < outputs; ++i) node.outputs.push_back(make(fmt::format("{}.{}", place_, op)));
  nodes_.push_back(std::move(node));
  return nodes_.back().outputs[0];
}

OnnxRef OnnxNodes::constant(const ValueType& type, const std::vector<double>& values) {
  const Size elements = element_count(type.shape);
  const bool fills =
      !elements.is_constant() || elements.constant() != static_cast<int64_t>(values.size());
  auto tensor = std::make_shared<HostTensor>();
  tensor->dtype = type.dtype == DType::f16 ? DType::f32 : type.dtype;
  for (double v : values) append_number(tensor->bytes, type.dtype, v);
  const std::string key =
      to_text(type) +
      std::string(reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size());
  if (const auto it = constants_.find(key); it != constants_.end()) return it->second;
  if (!fills)
    for (const Size& s : type.shape) tensor->shape.push_back(s.constant());
  OnnxRef ref = initializer(fmt::format("constant.{}", dtype_name(type.dtype)), tensor);
  if (type.dtype == DType::f16) ref = add("Cast", {ref}, {{"to", int64_t{onnx_type(DType::f16)}}});
  if (fills) ref = add("Expand", {ref, shape(type.shape)});
  return constants_[key] = ref;
}

OnnxRef OnnxNodes::integers(const std::vector<int64_t>& values) {
  if (const auto it = integers_.find(values); it != integers_.end()) return it->second;
  auto tensor = std::make_shared<HostTensor>();
  for (int64_t v : values) append(tensor->bytes, v);
  const auto length = static_cast<int64_t>(values.size());
  return integers_[values] = store("constant.i64", kOnnxInt64, {length}, tensor);
}

OnnxRef OnnxNodes::symbol(std::string_view name) {
  const auto it = symbols_.find(name);
  if (it == symbols_.end())
    throw Error(ErrorCode::unsupported,
                fmt::format("[onnx] the size {} is that of no axis of an input, so the model could "
                            "not compute it (give the model an input with an axis of this size)",
                            name));
  const auto [input, axis] = it->second;
  return add("Shape", {input}, {{"start", axis}, {"end", axis + 1}});
}

// Reads what Size::text writes and adds the nodes that compute it.
class OnnxSizeParser {
 public:
  OnnxSizeParser(OnnxNodes& to, std::string_view text) : to_(to), text_(text) {}

  OnnxRef sum() {
    OnnxRef s = take('-') ? to_.add("Neg", {product()}) : product();
    for (;;) {
      if (take('+'))
        s = to_.add("Add", {s, product()});
      else if (take('-'))
        s = to_.add("Sub", {s, product()});
      else
        return s;
    }
  }

 private:
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  OnnxRef product() {
    OnnxRef p = factor();
    while (take('*')) p = to_.add("Mul", {p, factor()});
    return p;
  }
  OnnxRef factor() {
    size_t end = at_;
    while (end < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[end])) || text_[end] == '_'))
      ++end;
    const std::string_view word = text_.substr(at_, end - at_);
    FOVEA_ASSERT(!word.empty());
    at_ = end;
    if (std::isdigit(static_cast<unsigned char>(word[0]))) {
      int64_t value = 0;
      std::from_chars(word.data(), word.data() + word.size(), value);
      return to_.integers({value});
    }
    if (!take('(')) return to_.size(Size::symbol(word));
    const OnnxRef a = sum();
    FOVEA_ASSERT(take(','));
    const OnnxRef b = sum();
    FOVEA_ASSERT(take(')'));
    if (word == "min") return to_.add("Min", {a, b});
    if (word == "max") return to_.add("Max", {a, b});
    // The next multiple of b, then an exact division: ONNX divides towards zero.
    const OnnxRef missing = to_.add("Mod", {to_.add("Neg", {a}), b});
    return to_.add("Div", {to_.add("Add", {a, missing}), b});
  }

  OnnxNodes& to_;
  std::string_view text_;
  size_t at_ = 0;
};

OnnxRef OnnxNodes::size(const Size& size) {
  if (size.is_constant()) return integers({size.constant()});
  const std::string text = size.text();
  if (const auto it = sizes_.find(text); it != sizes_.end()) return it->second;
  const std::string place = std::exchange(place_, "size." + text);
  std::vector<std::string> symbols;
  size.collect_symbols(symbols);
  const bool plain = symbols.size() == 1 && symbols[0] == text;
  const OnnxRef ref = plain ? symbol(text) : OnnxSizeParser(*this, text).sum();
  place_ = place;
  set_label(ref, "size." + text);
  return sizes_[text] = ref;
}

OnnxRef OnnxNodes::sizes(const std::vector<Size>& all) {
  if (std::all_of(all.begin(), all.end(), [](const Size& s) { return s.is_constant(); })) {
    std::vector<int64_t> numbers;
    for (const Size& s : all) numbers.push_back(s.constant());
    return integers(numbers);
  }
  if (all.size() == 1) return size(all[0]);
  const std::string text = "shape." + shape_text(all);
  if (const auto it = sizes_.find(text); it != sizes_.end()) return it->second;
  std::vector<OnnxRef> parts;
  for (const Size& s : all) parts.push_back(size(s));
  const OnnxRef ref = add("Concat", parts, {{"axis", int64_t{0}}});
  set_label(ref, text);
  return sizes_[text] = ref;
}

OnnxRef OnnxNodes::permuted(OnnxRef x, const std::vector<int64_t>& order) {
  if (in_order(order)) return x;
  const auto key = std::make_pair(x, order);
  if (const auto it = permuted_.find(key); it != permuted_.end()) return it->second;
  if (const auto it = initializer_of_.find(x); it != initializer_of_.end()) {
    const HostTensorPtr tensor = Transposition(*initializers_[it->second].tensor, order).run();
    return permuted_[key] = initializer(label(x) + ".transposed", tensor);
  }
  OnnxRef source = x;
  std::vector<int64_t> whole = order;
  if (const auto it = transpose_of_.find(x); it != transpose_of_.end()) {
    source = it->second.first;
    for (int64_t& axis : whole) axis = it->second.second[static_cast<size_t>(axis)];
    if (in_order(whole)) return source;
  }
  const OnnxRef ref = add("Transpose", {source}, {{"perm", whole}});
  transpose_of_[ref] = {source, whole};
  return permuted_[key] = ref;
}

void OnnxNodes::prune(const std::vector<OnnxRef>& outputs) {
  std::set<OnnxRef> needed(outputs.begin(), outputs.end());
  std::vector<OnnxNode> kept;
  for (size_t i = nodes_.size(); i-- > 0;) {
    OnnxNode& node = nodes_[i];
    const auto wanted = [&](OnnxRef ref) { return needed.contains(ref); };
    if (std::none_of(node.outputs.begin(), node.outputs.end(), wanted)) continue;
    needed.insert(node.inputs.begin(), node.inputs.end());
    kept.push_back(std::move(node));
  }
  std::reverse(kept.begin(), kept.end());
  nodes_ = std::move(kept);
  std::erase_if(initializers_, [&](auto& i) { return !needed.contains(i.ref); });
  initializer_of_.clear();
  permuted_.clear();
}

}  // namespace fovea
