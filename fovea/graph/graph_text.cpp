#include "fovea/graph/graph_text.h"

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "fovea/graph/op.h"

namespace fovea {

namespace {
constexpr size_t kMaxText = size_t{256} << 20;

std::string types_text(const std::vector<ValueType>& types) {
  std::string s;
  for (auto& t : types) s += (s.empty() ? "" : ", ") + to_text(t);
  return s;
}
}  // namespace

std::string print_graph(const Graph& graph) {
  std::set<std::pair<std::string_view, int>> used;
  for (int id = 0; id < graph.size(); ++id)
    used.emplace(graph.node(id).op->name, graph.node(id).op->version);
  std::string out = fmt::format("fovea.graph {}\nops", kGraphFormat);
  for (auto& [name, version] : used) out += fmt::format(" {}={}", name, version);
  out += '\n';
  for (int id = 0; id < graph.size(); ++id) {
    const Node& n = graph.node(id);
    std::string args;
    for (Value v : n.inputs) args += (args.empty() ? "" : ", ") + value_text(graph, v);
    const std::string attrs = n.attrs.text(n.op->defaults);
    if (!attrs.empty()) args += (args.empty() ? "" : ", ") + attrs;
    out += fmt::format("{} = {}({})", n.name, n.op->name, args);
    // Sources carry their type as an attribute already.
    if (!n.op->source) out += " : " + types_text(n.types);
    out += '\n';
  }
  for (auto& [name, v] : graph.outputs())
    out += fmt::format("output {} = {}\n", name, value_text(graph, v));
  for (auto& [variable, value] : graph.updates())
    out += fmt::format("update {} = {}\n", value_text(graph, variable), value_text(graph, value));
  return out;
}

bool operator==(const Graph& a, const Graph& b) { return print_graph(a) == print_graph(b); }

namespace {

class GraphParser {
 public:
  GraphParser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  Graph parse() {
    if (text_.size() > kMaxText) fail("the text is larger than 256 MB");
    header();
    while (next_line())
      if (!line_.empty()) statement();
    return std::move(graph_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::corrupt) const {
    throw Error(code, fmt::format("[graph] {}:{}: {}", where_, number_, what));
  }

  bool next_line() {
    if (at_ >= text_.size()) return false;
    const size_t end = text_.find('\n', at_);
    if (end == std::string_view::npos) {
      ++number_;
      fail("the last line has no end; the file is cut off");
    }
    line_ = text_.substr(at_, end - at_);
    at_ = end + 1;
    ++number_;
    return true;
  }

  // Takes a prefix of the line, or leaves it.
  bool take(std::string_view prefix) {
    if (!line_.starts_with(prefix)) return false;
    line_.remove_prefix(prefix.size());
    return true;
  }
  void want(std::string_view prefix) {
    if (!take(prefix)) fail(fmt::format("expected '{}' before '{}'", prefix, line_.substr(0, 40)));
  }
  static bool name_char(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-';
  }
  std::string_view word() {
    size_t n = 0;
    while (n < line_.size() && name_char(line_[n])) ++n;
    if (n == 0) fail(fmt::format("expected a name before '{}'", line_.substr(0, 40)));
    const std::string_view w = line_.substr(0, n);
    line_.remove_prefix(n);
    return w;
  }
  int integer() {
    int v = 0;
    const auto r = std::from_chars(line_.data(), line_.data() + line_.size(), v);
    if (r.ec != std::errc())
      fail(fmt::format("expected a number before '{}'", line_.substr(0, 40)));
    line_.remove_prefix(static_cast<size_t>(r.ptr - line_.data()));
    return v;
  }

  void header() {
    if (!next_line() || !take("fovea.graph ")) fail("expected 'fovea.graph 1' in the first line");
    const int format = integer();
    if (format > kGraphFormat)
      fail(fmt::format("format {} is newer than {}, which this build reads (update fovea)", format,
                       kGraphFormat),
           ErrorCode::unsupported);
    if (format < 1 || !line_.empty()) fail("expected 'fovea.graph 1' in the first line");
    if (!next_line() || !take("ops"))
      fail("expected the ops and their versions in the second line");
    while (take(" ")) {
      const std::string_view name = word();
      want("=");
      const int version = integer();
      const Op& op = known_op(name);
      if (version > op.version)
        fail(fmt::format("version {} of the op {} is newer than {}, which this build knows (update "
                         "fovea)",
                         version, name, op.version),
             ErrorCode::unsupported);
      if (version < 1) fail(fmt::format("the op {} has no version {}", name, version));
    }
    if (!line_.empty()) fail(fmt::format("expected ' op=version', got '{}'", line_.substr(0, 40)));
  }

  const Op& known_op(std::string_view name) {
    try {
      return get_op(name);
    } catch (const Error& e) {
      fail(e.what());
    }
  }

  Value value() {
    want("%");
    const std::string_view name = word();
    const int id = graph_.find(name);
    if (id < 0) fail(fmt::format("%{} is used before it is defined", name));
    int output = 0;
    if (take(":")) output = integer();
    if (output < 0 || output >= static_cast<int>(graph_.node(id).types.size()))
      fail(fmt::format("%{} has no output {}", name, output));
    return {id, output};
  }

  // The text of an attribute: up to a comma or the closing parenthesis outside brackets and quotes.
  std::string_view attribute_text() {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < line_.size(); ++i) {
      const char c = line_[i];
      if (quoted) {
        if (c == '\\')
          ++i;
        else if (c == '"')
          quoted = false;
        continue;
      }
      if (c == '"')
        quoted = true;
      else if (c == '[' || c == '(')
        ++depth;
      else if (depth == 0 && (c == ',' || c == ')')) {
        const std::string_view t = line_.substr(0, i);
        line_.remove_prefix(i);
        return t;
      } else if (c == ']' || c == ')')
        --depth;
    }
    fail("an attribute has no end");
  }

  void statement() {
    if (take("output ")) {
      const std::string_view name = word();
      want(" = ");
      graph_.set_output(name, value());
    } else if (take("update ")) {
      const Value variable = value();
      want(" = ");
      const Value v = value();
      try {
        graph_.update(variable, v);
      } catch (const Error& e) {
        fail(e.what());
      }
    } else {
      node();
    }
    if (!line_.empty())
      fail(fmt::format("expected the end of the line, got '{}'", line_.substr(0, 40)));
  }

  void node() {
    const std::string name(word());
    if (graph_.find(name) >= 0) fail(fmt::format("%{} is defined twice", name));
    want(" = ");
    const Op& op = known_op(word());
    want("(");
    std::vector<Value> inputs;
    Attrs attrs = op.defaults;
    for (bool first = true; !take(")"); first = false) {
      if (!first) want(", ");
      if (line_.starts_with("%")) {
        if (inputs.size() >= 4096) fail("a node has over 4096 inputs");
        inputs.push_back(value());
        continue;
      }
      const std::string_view field = word();
      want("=");
      try {
        attrs.set(field, attribute_text());
      } catch (const Error& e) {
        fail(e.what());
      }
    }
    Value v;
    try {
      v = graph_.add_named(op, std::move(inputs), std::move(attrs), name);
    } catch (const Error& e) {
      fail(e.what());
    }
    if (op.source) return;
    want(" : ");
    const std::string types = types_text(graph_.node(v).types);
    if (!take(types))
      fail(fmt::format("the type of %{} is {}, the text says {}", name, types, line_));
  }

  std::string_view text_, where_, line_;
  size_t at_ = 0;
  int number_ = 0;
  Graph graph_;
};

}  // namespace

Graph parse_graph(std::string_view text, std::string_view where) {
  return GraphParser(text, where).parse();
}

}  // namespace fovea
