// The nodes of an ONNX model while it is made. They know sizes and constants as Fovea does, and
// nothing of the file; onnx.cpp writes them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "fovea/graph/graph.h"

namespace fovea {

// A tensor of the model: an input, an initializer or a result of a node, in the order of making.
using OnnxRef = int32_t;

struct OnnxAttribute {
  std::string_view name;
  std::variant<int64_t, double, std::vector<int64_t>> value;
};

struct OnnxNode {
  std::string_view op;
  std::vector<OnnxRef> inputs, outputs;
  std::vector<OnnxAttribute> attributes;
};

// TensorProto.DataType.
int32_t onnx_type(DType dtype);
inline constexpr int32_t kOnnxInt64 = 7;

struct OnnxInitializer {
  OnnxRef ref = -1;
  int32_t type = 0;
  std::vector<int64_t> dims;
  HostTensorPtr tensor;  // its bytes; type and shape are those above
};

class OnnxNodes {
 public:
  // New tensors are labelled with this and the name of the op that gives them.
  void begin(std::string_view place) { place_ = place; }
  // Every tensor has a label; onnx.cpp makes unique names of them.
  const std::string& label(OnnxRef ref) const { return labels_[static_cast<size_t>(ref)]; }
  void set_label(OnnxRef ref, std::string_view label) { labels_[static_cast<size_t>(ref)] = label; }
  OnnxRef count() const { return static_cast<OnnxRef>(labels_.size()); }  // of tensors

  // Whether a node gives the tensor, and not an input or an initializer.
  bool is_result(OnnxRef ref) const;

  // An input shows the sizes of its axes that are symbols.
  OnnxRef input(std::string_view name, const ValueType& type);
  OnnxRef initializer(std::string_view label, HostTensorPtr tensor);
  // The first result of a new node; the others have the numbers after it.
  OnnxRef add(std::string_view op, std::vector<OnnxRef> inputs,
              std::vector<OnnxAttribute> attributes = {}, int outputs = 1);

  // Values of any type: all of them, or one that fills the shape.
  OnnxRef constant(const ValueType& type, const std::vector<double>& values);
  OnnxRef scalar(DType dtype, double value) { return constant({dtype, {}}, {value}); }
  // i64 [n]
  OnnxRef integers(const std::vector<int64_t>& values);
  // The size as i64 [1]; computed from the shapes of inputs where it has symbols. Throws Error
  // (unsupported) where no input shows a symbol.
  OnnxRef size(const Size& size);
  // The shape as i64 [rank].
  OnnxRef shape(const Shape& shape) { return sizes(shape); }
  // Any sizes as i64 [n], one behind the other.
  OnnxRef sizes(const std::vector<Size>& sizes);

  // x with its axes in this order. An initializer is laid out anew, a transpose of a transpose is
  // one.
  OnnxRef permuted(OnnxRef x, const std::vector<int64_t>& order);

  // Leaves out what no output needs.
  void prune(const std::vector<OnnxRef>& outputs);
  const std::vector<OnnxNode>& nodes() const { return nodes_; }
  const std::vector<OnnxInitializer>& initializers() const { return initializers_; }

 private:
  OnnxRef make(std::string label);
  OnnxRef store(std::string_view label, int32_t type, std::vector<int64_t> dims,
                HostTensorPtr tensor);
  OnnxRef symbol(std::string_view name);

  std::string place_;
  std::vector<std::string> labels_;
  std::vector<OnnxNode> nodes_;
  std::vector<OnnxInitializer> initializers_;
  std::map<OnnxRef, size_t> initializer_of_;
  std::map<OnnxRef, std::pair<OnnxRef, std::vector<int64_t>>> transpose_of_;
  std::map<std::pair<OnnxRef, std::vector<int64_t>>, OnnxRef> permuted_;
  std::map<std::string, std::pair<OnnxRef, int64_t>, std::less<>> symbols_;  // input and axis
  std::map<std::string, OnnxRef, std::less<>> sizes_;                        // by their text
  std::map<std::vector<int64_t>, OnnxRef> integers_;                         // by their values
  std::map<std::string, OnnxRef> constants_;                                 // by type and bytes
};

}  // namespace fovea
