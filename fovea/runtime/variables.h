// The numbers of a model and its trainer, by name. Several sessions may read one store; the one
// whose graph updates it holds it alone while it runs.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "fovea/base/aligned.h"
#include "fovea/graph/graph.h"
#include "fovea/graph/op_attrs.h"

namespace fovea {

// Making, finding and setting variables is not locked: do it while no session runs.
class VariableStore {
 public:
  struct Variable {
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    VariableKind kind = VariableKind::weight;
    AlignedBuffer data;
  };

  // Makes each variable of the graph that the store does not have yet, with the initial values that
  // its attributes name; the random ones come from Philox(seed, stream of the name), so that they
  // depend on nothing else. Throws Error when one exists already with another type, or a source is
  // missing.
  void create(const Graph& graph, uint64_t seed);

  bool has(std::string_view name) const { return variables_.find(name) != variables_.end(); }
  // Throws Error when there is none.
  Variable& get(std::string_view name);
  const Variable& get(std::string_view name) const;
  // Copies numbers in. Throws Error when there is no such variable or type and shape differ.
  void set(std::string_view name, DType dtype, const std::vector<int64_t>& shape,
           std::span<const std::byte> bytes);
  const std::map<std::string, Variable, std::less<>>& all() const { return variables_; }

  // Held for one step: alone by a session whose graph updates variables, shared by readers.
  struct Lock {
    std::unique_lock<std::shared_mutex> alone;
    std::shared_lock<std::shared_mutex> shared;
  };
  Lock lock(bool alone) {
    Lock l;
    if (alone)
      l.alone = std::unique_lock(mutex_);
    else
      l.shared = std::shared_lock(mutex_);
    return l;
  }

  // Grows with each step that updated weights, so that readers can tell.
  uint64_t version() const { return version_.load(); }
  void changed() { version_.fetch_add(1); }

 private:
  std::map<std::string, Variable, std::less<>> variables_;
  std::atomic<uint64_t> version_{0};
  std::shared_mutex mutex_;
};

}  // namespace fovea
