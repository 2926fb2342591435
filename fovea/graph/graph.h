// A model, a training step or a pattern as a value: append-only nodes with typed attributes,
// symbolic sizes and stable path names; named outputs; variables and their updates.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fovea/graph/attrs.h"
#include "fovea/graph/size.h"

namespace fovea {

struct Op;

// One output of a node. Ids never leave the process: overrides, reports and checkpoints use names.
struct Value {
  int32_t node = -1;
  int32_t output = 0;

  explicit operator bool() const { return node >= 0; }
  auto operator<=>(const Value&) const = default;
};

struct Node {                    // one op with its arguments
  const Op* op = nullptr;        // a row of the op table
  Attrs attrs;                   // of the op's own type
  std::vector<Value> inputs;     // what it reads
  std::vector<ValueType> types;  // one for each output
  std::string name;              // unique in its graph, such as "enc.3.attn"
};

// Dense numbers outside any plan: constants, initial values, what a file holds. Shared, never
// changed.
struct HostTensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;    // outermost first
  std::vector<std::byte> bytes;  // dense, row-major
};
using HostTensorPtr = std::shared_ptr<const HostTensor>;  // numbers that many hold

class Graph {  // a model or a training step; nodes are only ever added
 public:
  // Adds a node; checks the arguments through the op's shape rule. The name is made unique and
  // stands below the current scope; an empty name becomes the op's. Throws Error when the arguments
  // do not fit.
  Value add(std::string_view op, std::vector<Value> inputs, Attrs attrs,
            std::string_view name = {});
  Value add(std::string_view op, std::vector<Value> inputs);
  // Adds a node under exactly this name, outside any scope: what passes and the text form use.
  Value add_named(const Op& op, std::vector<Value> inputs, Attrs attrs, std::string name);

  // How add() would name a node.
  std::string name_of_next(std::string_view name) const;

  int size() const { return static_cast<int>(nodes_.size()); }  // how many nodes
  const Node& node(int id) const { return nodes_[static_cast<size_t>(id)]; }
  const Node& node(Value v) const { return node(v.node); }
  const ValueType& type(Value v) const { return node(v).types[static_cast<size_t>(v.output)]; }
  const Shape& shape(Value v) const { return type(v).shape; }
  // The node with this name, or -1.
  int find(std::string_view name) const;

  // Named results, in the order in which they were set. Setting a name again replaces it.
  void set_output(std::string_view name, Value value);
  void remove_output(std::string_view name);     // where there is one
  Value output(std::string_view name) const;     // throws Error when there is none
  bool has_output(std::string_view name) const;  // without an error
  const std::vector<std::pair<std::string, Value>>& outputs() const { return outputs_; }

  // All updates commit together after all reads of the step. Throws Error when `variable` is none,
  // has an update already, or the types differ.
  void update(Value variable, Value value);
  const std::vector<std::pair<Value, Value>>& updates() const { return updates_; }

  // Constants of over 64 elements, by content hash.
  const std::map<std::string, HostTensorPtr>& constants() const { return constants_; }
  void store_constant(const std::string& hash, HostTensorPtr tensor) {
    constants_[hash] = std::move(tensor);
  }

  // Names added while a Scope lives stand below its path: Scope s(g, "enc.3") gives "enc.3.attn".
  class Scope {
   public:
    Scope(Graph& g, std::string_view name);  // until it is destroyed
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    size_t length_;
  };

 private:
  std::string below_scope(std::string_view name) const;
  std::string unique_name(std::string name) const;

  std::vector<Node> nodes_;
  std::unordered_map<std::string, int> by_name_;
  std::vector<std::pair<std::string, Value>> outputs_;
  std::vector<std::pair<Value, Value>> updates_;
  std::map<std::string, HostTensorPtr> constants_;
  std::string scope_;
};

// Copies nodes of one graph into another, following what was replaced: the frame of every pass.
class GraphRewriter {
 public:
  GraphRewriter(const Graph& from, Graph& to) : from_(from), to_(to) {}

  // What a value of `from` became. FOVEA_ASSERT that it was copied or mapped.
  Value operator[](Value old) const;
  bool has(Value old) const;                           // was copied or mapped
  void map(Value old, Value now) { map_[old] = now; }  // what reads old will read now
  std::vector<Value> mapped(const std::vector<Value>& old) const;
  // Copies the node (with other attributes, if given) under its own name.
  Value copy(int id);
  Value copy(int id, Attrs attrs);
  // Copies outputs and updates whose values are mapped, and the constant store.
  void finish();

 private:
  const Graph& from_;
  Graph& to_;
  std::map<Value, Value> map_;
};

// The same graph with the given symbols replaced by numbers; every shape rule runs again, so what
// could not be proved equal before is checked now. Throws Error where it does not hold.
Graph specialise(const Graph& graph, const SizeBindings& bindings);

// "%name" or "%name:1", for messages and the text form.
std::string value_text(const Graph& graph, Value value);

// Throws Error naming the node when an invariant is broken: inputs before users, types as the shape
// rules give them, names unique, updates of variables only. Run after every pass.
void verify(const Graph& graph);

}  // namespace fovea
