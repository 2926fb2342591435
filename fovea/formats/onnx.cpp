#include "fovea/formats/onnx.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <onnx/onnx_pb.h>

#include <set>
#include <system_error>

#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/formats/file.h"
#include "fovea/formats/onnx_forms.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kIrVersion = 8;  // the one that came with operator set 17
constexpr int kMaxDepth = 32;      // of decompositions within decompositions

template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, "[onnx] " + fmt::format(format, std::forward<Args>(args)...));
}

// From the nodes of a graph to those of ONNX.
class Exporter {
 public:
  explicit Exporter(const Bundle& bundle) : bundle_(bundle), graph_(bundle.graph) {}

  void run() {
    if (graph_.outputs().empty())
      fail(ErrorCode::invalid_argument, "the graph has no output, so there is nothing to export");
    if (!graph_.updates().empty())
      fail(ErrorCode::unsupported,
           "the graph updates the variable '{}', which ONNX has none of (export the graph for "
           "inference, not the training step)",
           graph_.node(graph_.updates()[0].first).name);
    // First the inputs, which show the sizes.
    for (int id = 0; id < graph_.size(); ++id)
      if (const Node& node = graph_.node(id); is_input(node))
        inputs_.push_back(values_[{id, 0}] = nodes_.input(node.name, node.types[0]));
    const std::vector<bool> needed = needed_nodes();
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& node = graph_.node(id);
      if (!needed[static_cast<size_t>(id)] || is_input(node)) continue;
      std::vector<OnnxRef> inputs;
      for (Value v : node.inputs) inputs.push_back(values_.at(v));
      const auto outputs = written(graph_, node, inputs, node.name, 0);
      for (size_t i = 0; i < outputs.size(); ++i)
        values_[{id, static_cast<int32_t>(i)}] = outputs[i];
    }
    std::vector<OnnxRef> outputs;
    for (const auto& [name, value] : graph_.outputs()) outputs.push_back(output(name, value));
    nodes_.prune(outputs);
    name_tensors(outputs);
  }

  onnx::ModelProto model() const {
    onnx::ModelProto model;
    model.set_ir_version(kIrVersion);
    model.set_producer_name("fovea");
    model.set_producer_version(version());
    model.set_doc_string(
        "A Fovea model for inference. Symbolic sizes of inputs may be any number.");
    onnx::OperatorSetIdProto& operators = *model.add_opset_import();
    operators.set_domain("");
    operators.set_version(kOnnxOperatorSet);
    if (!bundle_.labels.empty()) {
      onnx::StringStringEntryProto& labels = *model.add_metadata_props();
      labels.set_key("labels");
      labels.set_value(fmt::format("{}", fmt::join(bundle_.labels, "\n")));
    }
    fill(*model.mutable_graph());
    return model;
  }

  int64_t node_count() const { return static_cast<int64_t>(nodes_.nodes().size()); }
  uint64_t weight_bytes() const {
    uint64_t bytes = 0;
    for (const OnnxInitializer& i : nodes_.initializers()) bytes += i.tensor->bytes.size();
    return bytes;
  }

 private:
  static bool is_input(const Node& node) { return node.op->name == "input"; }

  std::vector<bool> needed_nodes() const {
    std::vector<bool> needed(static_cast<size_t>(graph_.size()));
    for (const auto& [name, value] : graph_.outputs())
      needed[static_cast<size_t>(value.node)] = true;
    for (int id = graph_.size(); id-- > 0;)
      if (needed[static_cast<size_t>(id)])
        for (Value v : graph_.node(id).inputs) needed[static_cast<size_t>(v.node)] = true;
    return needed;
  }

  // --- Nodes

  std::vector<OnnxRef> written(const Graph& graph, const Node& node, std::vector<OnnxRef> inputs,
                               const std::string& name, int depth) {
    FOVEA_ASSERT(depth < kMaxDepth);
    nodes_.begin(name);
    if (node.op->source) return {source(graph, node, name)};
    const OnnxRef first_new = nodes_.count();
    std::vector<OnnxRef> outputs;
    if (const OnnxForm* form = find_onnx_form(node.op->name))
      outputs = form->write ? form->write({nodes_, graph, node, inputs})
                            : std::vector<OnnxRef>{nodes_.add(form->onnx, inputs)};
    if (outputs.empty()) outputs = decomposed(graph, node, inputs, name, depth);
    FOVEA_ASSERT(outputs.size() == node.types.size());
    for (size_t i = outputs.size(); i-- > 0;)
      if (outputs[i] >= first_new)
        nodes_.set_label(outputs[i], i == 0 ? name : fmt::format("{}.{}", name, i));
    return outputs;
  }

  std::vector<OnnxRef> decomposed(const Graph& graph, const Node& node,
                                  const std::vector<OnnxRef>& inputs, const std::string& name,
                                  int depth) {
    if (!node.op->decompose)
      fail(ErrorCode::unsupported,
           "the node '{}': the op {} has {} in ONNX and no decomposition (export the graph for "
           "inference, before the passes)",
           name, node.op->name, find_onnx_form(node.op->name) ? "no such form" : "no form");
    Graph sheet;
    std::vector<Value> sheet_inputs;
    std::map<Value, OnnxRef> now;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ValueType& type = graph.type(node.inputs[i]);
      sheet_inputs.push_back(ops::input(sheet, "in", type.dtype, type.shape));
      now[sheet_inputs.back()] = inputs[i];
    }
    const std::vector<Value> outputs = node.op->decompose(sheet, sheet_inputs, node.attrs);
    for (int id = 0; id < sheet.size(); ++id) {
      if (now.contains({id, 0})) continue;
      const Node& inner = sheet.node(id);
      std::vector<OnnxRef> inner_inputs;
      for (Value v : inner.inputs) inner_inputs.push_back(now.at(v));
      const auto refs =
          written(sheet, inner, inner_inputs, fmt::format("{}.{}", name, inner.name), depth + 1);
      for (size_t i = 0; i < refs.size(); ++i) now[{id, static_cast<int32_t>(i)}] = refs[i];
    }
    std::vector<OnnxRef> refs;
    for (Value v : outputs) refs.push_back(now.at(v));
    return refs;
  }

  // --- Inputs, weights and constants

  OnnxRef source(const Graph& graph, const Node& node, const std::string& name) {
    if (node.op->name == "variable") return weight(node);
    const auto& a = node.attrs.get<ConstantAttrs>();
    if (a.hash.empty()) return nodes_.constant(a.type, a.values);
    const auto it = graph.constants().find(a.hash);
    if (it == graph.constants().end() || !it->second)
      fail(ErrorCode::invalid_argument,
           "the graph lacks the numbers of the constant '{}' (load it from its bundle)", name);
    check_type(node, *it->second);
    return nodes_.initializer(name, it->second);
  }

  OnnxRef weight(const Node& node) {
    if (node.attrs.get<VariableAttrs>().kind == VariableKind::cache)
      fail(ErrorCode::unsupported,
           "the variable '{}' is a cache, which changes from call to call; ONNX has none (export a "
           "graph that takes it as an input)",
           node.name);
    const auto it = bundle_.weights.find(node.name);
    if (it == bundle_.weights.end() || !it->second)
      fail(ErrorCode::invalid_argument,
           "the variable '{}' has no weight (load the bundle that belongs to the graph)",
           node.name);
    check_type(node, *it->second);
    return nodes_.initializer(node.name, it->second);
  }

  static void check_type(const Node& node, const HostTensor& tensor) {
    ValueType type{tensor.dtype, {}};
    uint64_t bytes = dtype_size(tensor.dtype);
    for (int64_t n : tensor.shape) {
      type.shape.push_back(n);
      bytes *= static_cast<uint64_t>(n);
    }
    if (!(type == node.types[0]) || bytes != tensor.bytes.size())
      fail(ErrorCode::invalid_argument,
           "the {} '{}': expected {}, got {} of {} bytes (load the bundle that belongs to the "
           "graph)",
           node.op->name, node.name, to_text(node.types[0]), to_text(type), tensor.bytes.size());
  }

  // --- Names

  // A tensor of its own for each output: one that nothing else gives.
  OnnxRef output(const std::string& name, Value value) {
    const int same = graph_.find(name);
    if (same >= 0 && is_input(graph_.node(same)))
      fail(ErrorCode::unsupported,
           "an input and an output are both named '{}', and ONNX wants different names (name the "
           "output otherwise)",
           name);
    OnnxRef ref = values_.at(value);
    if (!nodes_.is_result(ref) || !named_.insert(ref).second) {
      nodes_.begin(name);
      ref = nodes_.add("Identity", {ref});
    }
    nodes_.set_label(ref, name);
    return ref;
  }

  // Inputs and outputs keep their names; another tensor of that name gets a number.
  void name_tensors(const std::vector<OnnxRef>& outputs) {
    names_.resize(static_cast<size_t>(nodes_.count()));
    std::set<std::string, std::less<>> taken;
    const auto take = [&](OnnxRef ref, const std::string& name) {
      names_[static_cast<size_t>(ref)] = name;
      taken.insert(name);
    };
    for (OnnxRef ref : inputs_) take(ref, nodes_.label(ref));
    for (OnnxRef ref : outputs) take(ref, nodes_.label(ref));
    const auto take_free = [&](OnnxRef ref) {
      if (!names_[static_cast<size_t>(ref)].empty()) return;
      const std::string& label = nodes_.label(ref);
      std::string name = label;
      for (int i = 2; taken.contains(name); ++i) name = fmt::format("{}_{}", label, i);
      take(ref, name);
    };
    for (const OnnxInitializer& i : nodes_.initializers()) take_free(i.ref);
    for (const OnnxNode& n : nodes_.nodes())
      for (OnnxRef ref : n.outputs) take_free(ref);
  }
  const std::string& name_of(OnnxRef ref) const { return names_[static_cast<size_t>(ref)]; }

  // --- The file

  static void describe(onnx::ValueInfoProto& info, const std::string& name, const ValueType& type) {
    info.set_name(name);
    info.set_doc_string(to_text(type));
    onnx::TypeProto_Tensor& tensor = *info.mutable_type()->mutable_tensor_type();
    tensor.set_elem_type(onnx_type(type.dtype));
    onnx::TensorShapeProto& shape = *tensor.mutable_shape();
    for (const Size& size : type.shape) {
      auto& dim = *shape.add_dim();
      if (size.is_constant())
        dim.set_dim_value(size.constant());
      else
        dim.set_dim_param(size.text());
    }
  }

  static void add_attribute(onnx::NodeProto& node, const OnnxAttribute& attribute) {
    onnx::AttributeProto& to = *node.add_attribute();
    to.set_name(std::string(attribute.name));
    if (const auto* integer = std::get_if<int64_t>(&attribute.value)) {
      to.set_type(onnx::AttributeProto::INT);
      to.set_i(*integer);
    } else if (const auto* real = std::get_if<double>(&attribute.value)) {
      to.set_type(onnx::AttributeProto::FLOAT);
      to.set_f(static_cast<float>(*real));
    } else {
      to.set_type(onnx::AttributeProto::INTS);
      for (int64_t i : std::get<std::vector<int64_t>>(attribute.value)) to.add_ints(i);
    }
  }

  void fill(onnx::GraphProto& graph) const {
    graph.set_name("fovea");
    for (int id = 0; id < graph_.size(); ++id)
      if (const Node& node = graph_.node(id); is_input(node))
        describe(*graph.add_input(), node.name, node.types[0]);
    for (const auto& [name, value] : graph_.outputs())
      describe(*graph.add_output(), name, graph_.type(value));
    for (const OnnxInitializer& i : nodes_.initializers()) {
      onnx::TensorProto& tensor = *graph.add_initializer();
      tensor.set_name(name_of(i.ref));
      tensor.set_data_type(i.type);
      for (int64_t n : i.dims) tensor.add_dims(n);
      tensor.set_raw_data(i.tensor->bytes.data(), i.tensor->bytes.size());
    }
    for (const OnnxNode& n : nodes_.nodes()) {
      onnx::NodeProto& node = *graph.add_node();
      node.set_name(name_of(n.outputs[0]));
      node.set_op_type(std::string(n.op));
      for (OnnxRef ref : n.inputs) node.add_input(name_of(ref));
      for (OnnxRef ref : n.outputs) node.add_output(name_of(ref));
      for (const OnnxAttribute& attribute : n.attributes) add_attribute(node, attribute);
    }
  }

  const Bundle& bundle_;
  const Graph& graph_;
  OnnxNodes nodes_;
  std::map<Value, OnnxRef> values_;
  std::vector<OnnxRef> inputs_;
  std::set<OnnxRef> named_;         // already the tensor of an output
  std::vector<std::string> names_;  // by ref
};

void check_bytes(uint64_t bytes, const OnnxOptions& options) {
  if (bytes > options.most_bytes)
    fail(ErrorCode::unsupported,
         "the model has {} bytes, and an ONNX file holds at most {} (export a smaller model)",
         bytes, options.most_bytes);
}

}  // namespace

std::string onnx_model(const Bundle& bundle, const OnnxOptions& options, OnnxSummary* summary) {
  Exporter exporter(bundle);
  exporter.run();
  check_bytes(exporter.weight_bytes(), options);  // before they are copied
  const onnx::ModelProto model = exporter.model();
  check_bytes(model.ByteSizeLong(), options);
  std::string bytes = model.SerializeAsString();
  if (summary) *summary = {exporter.node_count(), bytes.size()};
  return bytes;
}

OnnxSummary write_onnx(const fs::path& path, const Bundle& bundle, const OnnxOptions& options) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored))
    fail(ErrorCode::invalid_argument, "{} is a folder (give the name of a file in it)",
         path.string());
  if (!options.overwrite && fs::exists(fs::symlink_status(path, ignored)))
    fail(ErrorCode::invalid_argument,
         "{} exists already; --overwrite replaces it, another name keeps it", path.string());
  OnnxSummary summary;
  write_file_atomically(path, onnx_model(bundle, options, &summary));
  return summary;
}

}  // namespace fovea
