#include "fovea/passes/apply_level.h"

#include <fmt/format.h>

#include <vector>

#include "fovea/base/text.h"

namespace fovea {

namespace {

class LevelApplier {
 public:
  LevelApplier(const Graph& graph, const Level& level)
      : graph_(graph), level_(level), rewriter_(graph, result_) {}

  Graph run() {
    for (auto& [name, attributes] : level_.overrides)
      if (graph_.find(name) < 0) unknown(name);
    for (int id = 0; id < graph_.size(); ++id) {
      const Node& node = graph_.node(id);
      for (Value v : node.inputs) expect_kept(v, node.name);
      within(node.name, [&] { rewriter_.copy(id, overridden(node)); });
    }
    for (auto& [name, v] : graph_.outputs()) expect_kept(v, "output " + name);
    for (auto& [variable, v] : graph_.updates()) expect_kept(v, graph_.node(variable).name);
    within("updates", [&] { rewriter_.finish(); });
    return std::move(result_);
  }

 private:
  [[noreturn]] void fail(ErrorCode code, const std::string& place, const std::string& what) const {
    throw Error(code, fmt::format("[level {}] {}: {}", level_.name, place, what));
  }
  [[noreturn]] void unknown(const std::string& name) const {
    std::vector<std::string> names;
    for (int id = 0; id < graph_.size(); ++id) names.push_back(graph_.node(id).name);
    fail(ErrorCode::not_found, name, "there is no such node" + did_you_mean(name, names));
  }
  // Says of errors that come from below to which level and node they belong.
  template <class F>
  void within(const std::string& place, F&& f) const {
    try {
      f();
    } catch (const Error& e) {
      fail(e.code(), place, e.what());
    }
  }
  Attrs overridden(const Node& node) const {
    Attrs attrs = node.attrs;
    const auto it = level_.overrides.find(node.name);
    if (it == level_.overrides.end()) return attrs;
    for (auto& [attribute, text] : it->second) attrs.set(attribute, text);
    return attrs;
  }
  // An override may have taken away an optional output.
  void expect_kept(Value v, const std::string& reader) const {
    if (!rewriter_.has(v))
      fail(ErrorCode::invalid_argument, graph_.node(v).name,
           fmt::format("expected to keep output {}, which {} reads", v.output, reader));
  }

  const Graph& graph_;
  const Level& level_;
  Graph result_;
  GraphRewriter rewriter_;
};

}  // namespace

Graph apply_level(const Graph& graph, const PassContext& context) {
  return context.level ? LevelApplier(graph, *context.level).run() : graph;
}

}  // namespace fovea
