#include "fovea/infer/attention_maps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fovea/base/error.h"
#include "fovea/graph/gradient.h"
#include "fovea/graph/op.h"
#include "fovea/graph/ops.h"
#include "fovea/passes/apply_level.h"
#include "fovea/passes/fuse_attention.h"
#include "fovea/tasks/task.h"

namespace fovea {
namespace {

// What an attention op's attributes say about its probabilities.
struct Layout {
  int64_t heads = 0;  // 0: no op that has any
  int64_t kept = 0;
  bool sink = false;  // stands behind the keys
};
Layout layout_of(const Node& node) {
  if (node.op->name == "attention") {
    const auto& a = node.attrs.get<AttentionAttrs>();
    return {a.heads, a.kept(), a.sink};
  }
  if (node.op->name != "additive_attention" && node.op->name != "subtraction_attention") return {};
  const int64_t heads = node.attrs.get<PairAttentionAttrs>().heads;
  return {heads, heads};
}

// Attention that has become its decomposition.
struct Exposed {
  std::string name;
  Value probabilities;  // as the decomposition has them, [B,Hkv,G,Tq,Tk]
  Layout layout;
  Value spans = {};  // [H], where they are learned
};

// A name below which no node of the graph stands, so that those of a decomposition keep theirs.
std::string free_scope(const Graph& graph, const std::string& name) {
  const auto taken = [&](const std::string& scope) {
    for (int id = 0; id < graph.size(); ++id)
      if (graph.node(id).name.starts_with(scope + ".")) return true;
    return false;
  };
  std::string scope = name;
  for (int i = 2; taken(scope); ++i) scope = fmt::format("{}_{}", name, i);
  return scope;
}

// Puts the node's decomposition into the result.
Exposed decompose(const Graph& from, const Node& node, GraphRewriter& rewriter, int id,
                  Graph& result) {
  const int first = result.size();
  const std::vector<Value> inputs = rewriter.mapped(node.inputs);
  std::vector<Value> outputs;
  {
    const Graph::Scope scope(result, free_scope(from, node.name));
    outputs = node.op->decompose(result, inputs, node.attrs);
  }
  for (size_t i = 0; i < outputs.size(); ++i)
    rewriter.map({id, static_cast<int32_t>(i)}, outputs[i]);
  Exposed exposed{node.name, {}, layout_of(node)};
  for (int at = first; at < result.size(); ++at)
    if (const auto op = result.node(at).op->name; op == "softmax" || op == "normalise")
      exposed.probabilities = {at, 0};  // the last one: what a sink and top-k leave
  FOVEA_ASSERT(exposed.probabilities);
  if (node.op->name == "attention")
    if (const int span = node.attrs.get<AttentionAttrs>().input(AttentionLink::span); span >= 0)
      exposed.spans = inputs[static_cast<size_t>(span)];
  return exposed;
}

// [B,Hkv,G,Tq,Tk] as f32 [B,H,Tq,Tk], of the heads that are kept.
Value by_heads(Graph& g, Value v, const Layout& layout) {
  Shape s = g.shape(v);
  if (layout.sink) {
    s[4] = s[4] - Size(1);
    v = ops::slice(g, v, 4, 0, s[4]);
  }
  v = ops::reshape(g, ops::cast(g, v, DType::f32), {s[0], layout.heads, s[3], s[4]});
  return layout.kept < layout.heads ? ops::slice(g, v, 1, 0, layout.kept) : v;
}

// Adds the gradients of one logit an image, which an input chooses.
void add_gradients(Graph& g, const std::vector<Exposed>& nodes) {
  const Value logits = g.output(kLogits);
  const Shape shape = g.shape(logits);
  const Value asked = ops::input(g, kAttentionClassInput, DType::i32, {shape[0]});
  const Graph::Scope scope(g, "attention_gradient");
  const Value predicted = predicted_class(g, logits);
  const Value none = ops::binary(g, "less", asked, ops::constant(g, 0, DType::i32));
  const Value chosen = ops::reshape(g, ops::select(g, none, predicted, asked), {shape[0], 1});
  const Value places = ops::iota(g, DType::i32, {1, shape[1]}, 1);
  const Value one_hot = ops::cast(g, ops::binary(g, "equal", places, chosen), DType::f32);
  // The images of a batch do not see each other, so one sweep gives the gradient of each.
  const std::pair<Value, Value> seeds[] = {{logits, one_hot}};
  std::vector<Value> wrt;
  for (const Exposed& node : nodes) wrt.push_back(node.probabilities);
  const std::vector<Value> gradients = backpropagate(g, seeds, wrt);
  for (size_t i = 0; i < nodes.size(); ++i) {
    // Attention that the logits do not depend on.
    const Value gradient = gradients[i] ? gradients[i] : ops::scaled(g, wrt[i], 0);
    g.set_output(std::string(kAttentionGradientPrefix) + nodes[i].name,
                 by_heads(g, gradient, nodes[i].layout));
  }
}

bool has_logits(const Graph& graph) {
  if (!graph.has_output(kLogits)) return false;
  const ValueType& type = graph.type(graph.output(kLogits));
  return type.dtype == DType::f32 && type.rank() == 2 && type.shape[1].is_constant();
}

int64_t dim(const ValueType& type, size_t axis) { return type.shape[axis].constant(); }

std::vector<float> numbers(const Execution& execution, const std::string& name) {
  const auto values = execution.output_f32(name);
  for (const float v : values) {
    if (!std::isfinite(v))
      throw Error{
          ErrorCode::non_finite,
          fmt::format("[attention] the output '{}' is not a number: the weights of the "
                      "model are broken (train again with a lower learning_rate, or copy it again)",
                      name)};
  }
  return {values.begin(), values.end()};
}

std::span<const float> part(const std::vector<float>& all, int64_t image, int64_t size) {
  if (all.empty()) return {};
  const auto n = static_cast<size_t>(size), at = static_cast<size_t>(image) * n;
  FOVEA_ASSERT(image >= 0 && at + n <= all.size());
  return std::span(all).subspan(at, n);
}

}  // namespace

Graph expose_attention(const Graph& inference, const AttentionMapOptions& options) {
  PassContext context;
  context.level = options.level;
  const Graph graph = fuse_attention(apply_level(inference, context), context);
  if (options.gradients && !has_logits(graph))
    throw Error{ErrorCode::unsupported,
                fmt::format("[attention] the model is no classifier: it has no output '{}' of type "
                            "f32 [B,classes] (take a model that was trained to classify)",
                            kLogits)};
  Graph result;
  GraphRewriter rewriter(graph, result);
  std::vector<Exposed> nodes;
  for (int id = 0; id < graph.size(); ++id) {
    const Node& node = graph.node(id);
    if (layout_of(node).kept > 0)
      nodes.push_back(decompose(graph, node, rewriter, id, result));
    else  // what the rules of gradients read is saved; what nobody reads, dead_nodes drops
      rewriter.copy(
          id, options.gradients && node.op->saving ? node.op->saving(node.attrs) : node.attrs);
  }
  rewriter.finish();
  if (nodes.empty())
    throw Error{
        ErrorCode::unsupported,
        "[attention] the model has no attention to look at (`fovea graph` shows its nodes; linear "
        "attention forms no probabilities)"};
  for (const Exposed& node : nodes) {
    const Graph::Scope scope(result, "attention_map");
    result.set_output(std::string(kAttentionPrefix) + node.name,
                      by_heads(result, node.probabilities, node.layout));
    if (node.spans)
      result.set_output(
          std::string(kAttentionSpanPrefix) + node.name,
          ops::slice(result, ops::cast(result, node.spans, DType::f32), 0, 0, node.layout.kept));
  }
  if (options.gradients) add_gradients(result, nodes);
  return result;
}

std::span<const float> AttentionMap::probabilities_of(int64_t image) const {
  return part(probabilities, image, heads * queries * keys);
}
std::span<const float> AttentionMap::gradients_of(int64_t image) const {
  return part(gradients, image, heads * queries * keys);
}

AttentionReader::AttentionReader(Graph exposed, std::shared_ptr<VariableStore> variables,
                                 std::shared_ptr<ThreadPool> pool)
    : session_(std::move(exposed), std::move(variables), std::move(pool)) {
  const auto& outputs = graph().outputs();
  if (std::none_of(outputs.begin(), outputs.end(),
                   [](auto& output) { return output.first.starts_with(kAttentionPrefix); }))
    throw Error{ErrorCode::unsupported,
                "[attention] the graph exposes no attention (expose_attention makes one that "
                "does)"};
}

AttentionMaps AttentionReader::read(std::span<const uint8_t> images,
                                    std::span<const int32_t> classes) {
  const Shape& shape = image_input_shape(graph(), "[attention] this graph");
  const int64_t size = element_count({shape[1], shape[2], shape[3]}).eval({});
  const auto count = static_cast<int64_t>(images.size()) / size;
  if (count < 1 || static_cast<int64_t>(images.size()) % size != 0)
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[attention] expected whole images of {} bytes, got {} bytes", size,
                            images.size())};
  const InputBytes image{kImageInput, images};
  return read({&image, 1}, count, classes);
}

AttentionMaps AttentionReader::read(std::span<const InputBytes> inputs, int64_t count,
                                    std::span<const int32_t> classes) {
  if (count < 1)
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[attention] expected at least one sample, got {}", count)};
  check_names(inputs);
  Execution& execution = session_.prepare({{"B", count}});
  feed_batch(execution, inputs, std::vector<int32_t>(static_cast<size_t>(count)), count);
  feed_classes(execution, classes, count);
  execution.run();

  AttentionMaps maps;
  maps.images = count;
  if (graph().has_output(kProbabilities)) {
    maps.classes = dim(execution.output_type(kProbabilities), 1);
    maps.probabilities = numbers(execution, std::string(kProbabilities));
  }
  for (const auto& [output, value] : graph().outputs()) {
    if (!output.starts_with(kAttentionPrefix)) continue;
    AttentionMap map;
    map.name = output.substr(kAttentionPrefix.size());
    const ValueType& type = execution.output_type(output);
    map.heads = dim(type, 1);
    map.queries = dim(type, 2);
    map.keys = dim(type, 3);
    map.probabilities = numbers(execution, output);
    if (const std::string gradient = std::string(kAttentionGradientPrefix) + map.name;
        graph().has_output(gradient))
      map.gradients = numbers(execution, gradient);
    if (const std::string spans = std::string(kAttentionSpanPrefix) + map.name;
        graph().has_output(spans))
      map.spans = numbers(execution, spans);
    maps.nodes.push_back(std::move(map));
  }
  return maps;
}

void AttentionReader::check_names(std::span<const InputBytes> inputs) const {
  std::vector<std::string_view> names;
  const auto given = [&](std::string_view name) {
    return std::any_of(inputs.begin(), inputs.end(),
                       [&](auto& input) { return input.name == name; });
  };
  for (int id = 0; id < graph().size(); ++id) {
    const Node& node = graph().node(id);
    if (node.op->name != "input" || node.name == kAttentionClassInput) continue;
    names.push_back(node.name);
    if (!given(node.name))
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[attention] the model's input '{}': expected its bytes among the "
                              "inputs, got none",
                              node.name)};
  }
  for (const InputBytes& input : inputs)
    if (std::find(names.begin(), names.end(), input.name) == names.end())
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[attention] the model has no input '{}' (it has {})", input.name,
                              fmt::join(names, ", "))};
}

void AttentionReader::feed_classes(Execution& execution, std::span<const int32_t> classes,
                                   int64_t images) const {
  if (!execution.has_input(kAttentionClassInput)) {
    if (classes.empty()) return;
    throw Error{ErrorCode::invalid_argument,
                "[attention] classes choose whose gradient is taken, but the graph gives none "
                "(expose it with .gradients = true)"};
  }
  if (!classes.empty() && static_cast<int64_t>(classes.size()) != images)
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[attention] expected a class for each of {} images, got {}", images,
                            classes.size())};
  const int64_t known = graph().shape(graph().output(kLogits))[1].constant();
  for (const int32_t c : classes)
    if (c >= known)
      throw Error{ErrorCode::invalid_argument,
                  fmt::format("[attention] expected a class from 0 to {}, as the model has, got {}",
                              known - 1, c)};
  const std::vector<int32_t> predicted(static_cast<size_t>(images), -1);
  const auto bytes = std::as_bytes(classes.empty() ? std::span<const int32_t>(predicted) : classes);
  std::memcpy(execution.input(kAttentionClassInput).data(), bytes.data(), bytes.size());
}

}  // namespace fovea
