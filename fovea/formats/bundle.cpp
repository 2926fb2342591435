#include "fovea/formats/bundle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "fovea/base/error.h"
#include "fovea/base/utf8.h"
#include "fovea/formats/file.h"
#include "fovea/formats/safetensors.h"
#include "fovea/graph/graph_text.h"
#include "fovea/graph/op.h"
#include "fovea/graph/op_attrs.h"
#include "fovea/graph/ops.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGraphFile = "model.graph";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kRecipeFile = "recipe.toml";
constexpr const char* kLabelsFile = "labels.txt";
constexpr const char* kMetricsFile = "metrics.json";
// As they take their places.
constexpr const char* kFiles[] = {kRecipeFile, kLabelsFile, kGraphFile, kWeightsFile, kMetricsFile};

constexpr uint64_t kMaxGraph = uint64_t{256} << 20;  // as parse_graph
constexpr uint64_t kMaxRecipe = uint64_t{1} << 20;   // as RecipeTable::load
constexpr uint64_t kMaxLabels = uint64_t{64} << 20;
constexpr uint64_t kMaxMetrics = uint64_t{16} << 20;
constexpr size_t kLongestLabel = 1000;
constexpr std::string_view kConstantPrefix = "constant.";

// Says what is wrong with a bundle in memory (save) or with its files (load).
class Complaint {
 public:
  Complaint(ErrorCode code, std::string place) : code_(code), place_(std::move(place)) {}
  template <class... Args>
  [[noreturn]] void operator()(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error{code_, fmt::format("[bundle] {}: {}", place_,
                                   fmt::format(format, std::forward<Args>(args)...))};
  }

 private:
  ErrorCode code_;
  std::string place_;
};

// Nothing when the text is UTF-8 without control characters (a label is printed on terminals, and
// some of them take U+0080 to U+009F for commands too), else what is wrong.
std::string_view text_fault(std::string_view text) {
  if (!is_utf8(text)) return "no UTF-8";
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) return "a control character";
    if (c == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0) return "a control character";
  }
  return {};
}

void check_label(std::string_view label, size_t line, const Complaint& complain) {
  if (label.empty()) complain("line {}: expected the name of a class, got nothing", line);
  if (label.size() > kLongestLabel) {
    complain("line {}: expected a name of at most {} bytes, got {}", line, kLongestLabel,
             label.size());
  }
  if (const std::string_view fault = text_fault(label); !fault.empty()) {
    complain("line {}: expected the name of a class as text, got {}", line, fault);
  }
}

std::string print_labels(const std::vector<std::string>& labels, const Complaint& complain) {
  std::string text;
  for (size_t i = 0; i < labels.size(); ++i) {
    check_label(labels[i], i + 1, complain);
    text += labels[i] + "\n";
  }
  return text;
}

// Lines may end as on Windows; the last one needs no end.
std::vector<std::string> parse_labels(std::string_view text, const Complaint& complain) {
  std::vector<std::string> labels;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    check_label(line, labels.size() + 1, complain);
    labels.emplace_back(line);
  }
  return labels;
}

void check_metrics(const std::string& json, const Complaint& complain) {
  if (!nlohmann::json::accept(json)) complain("expected JSON");
}

// The type of a variable or a constant, whose sizes must be numbers.
struct TensorType {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;

  bool operator==(const TensorType&) const = default;
  std::string text() const {
    return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(shape, ","));
  }
};

TensorType tensor_type(const Node& node, const Complaint& complain) {
  TensorType type{node.types[0].dtype, {}};
  for (const Size& size : node.types[0].shape) {
    if (!size.is_constant()) {
      complain("the {} '{}' has the unknown size {}", node.op->name, node.name, size.text());
    }
    type.shape.push_back(size.constant());
  }
  return type;
}

// What of a graph stands in model.safetensors.
bool is_stored_variable(const Node& node) {
  return node.op->name == "variable" && node.attrs.get<VariableAttrs>().kind != VariableKind::cache;
}
bool is_stored_constant(const Node& node) {
  return node.op->name == "constant" && !node.attrs.get<ConstantAttrs>().hash.empty();
}

// The hash that a graph gives to this tensor.
std::string content_hash(const HostTensorPtr& tensor) {
  Graph scratch;
  return scratch.node(ops::constant(scratch, tensor)).attrs.get<ConstantAttrs>().hash;
}

std::string constant_name(std::string_view hash) {
  return fmt::format("{}{}", kConstantPrefix, hash);
}

// Throws unless the tensor is what the node declares.
void check_tensor(const Node& node, const HostTensor& tensor, const Complaint& complain) {
  const TensorType expected = tensor_type(node, complain);
  const TensorType got{tensor.dtype, tensor.shape};
  if (!(expected == got)) {
    complain("the {} '{}': expected {}, got {}", node.op->name, node.name, expected.text(),
             got.text());
  }
}

void check_constant(const Node& node, const HostTensorPtr& tensor, const Complaint& complain) {
  check_tensor(node, *tensor, complain);
  if (content_hash(tensor) != node.attrs.get<ConstantAttrs>().hash) {
    complain("the numbers of the constant '{}' are not those that the graph was made with",
             node.name);
  }
}

TensorView view_of(std::string name, const HostTensor& tensor) {
  return {std::move(name), tensor.dtype, tensor.shape, tensor.bytes};
}

HostTensorPtr copy_of(const TensorView& view) {
  auto tensor = std::make_shared<HostTensor>();
  tensor->dtype = view.dtype;
  tensor->shape = view.shape;
  tensor->bytes.assign(view.bytes.begin(), view.bytes.end());
  return tensor;
}

// Tensors for model.safetensors: the graph's variables and the constants of its store.
std::vector<TensorView> stored_tensors(const Bundle& bundle, const Complaint& complain) {
  std::map<std::string, TensorView> views;
  for (int id = 0; id < bundle.graph.size(); ++id) {
    const Node& node = bundle.graph.node(id);
    if (is_stored_variable(node)) {
      const auto it = bundle.weights.find(node.name);
      if (it == bundle.weights.end()) complain("the variable '{}' has no weight", node.name);
      check_tensor(node, *it->second, complain);
      if (node.name.starts_with(kConstantPrefix)) {
        complain("the variable '{}' has a name of the kind that stored constants have", node.name);
      }
      views.emplace(node.name, view_of(node.name, *it->second));
    } else if (is_stored_constant(node)) {
      const std::string& hash = node.attrs.get<ConstantAttrs>().hash;
      const auto it = bundle.graph.constants().find(hash);
      if (it == bundle.graph.constants().end()) {
        complain("the graph's store lacks the numbers of the constant '{}'", node.name);
      }
      check_constant(node, it->second, complain);
      views.emplace(constant_name(hash), view_of(constant_name(hash), *it->second));
    }
  }
  std::vector<TensorView> tensors;
  for (auto& [name, view] : views) tensors.push_back(std::move(view));
  return tensors;
}

void read_tensors(const fs::path& path, Bundle& bundle) {
  const Complaint complain(ErrorCode::corrupt, path.string());
  const Safetensors file = Safetensors::read(path);
  std::vector<std::pair<std::string, HostTensorPtr>> constants;
  for (int id = 0; id < bundle.graph.size(); ++id) {
    const Node& node = bundle.graph.node(id);
    const bool constant = is_stored_constant(node);
    if (!constant && !is_stored_variable(node)) continue;
    const std::string hash = constant ? node.attrs.get<ConstantAttrs>().hash : std::string();
    const TensorView* view = file.find(constant ? constant_name(hash) : node.name);
    if (view == nullptr) {
      complain("the {} '{}' of {} is missing", node.op->name, node.name, kGraphFile);
    }
    const HostTensorPtr tensor = copy_of(*view);
    if (constant) {
      check_constant(node, tensor, complain);
      constants.emplace_back(hash, tensor);
    } else {
      check_tensor(node, *tensor, complain);
      bundle.weights.emplace(node.name, tensor);
    }
  }
  for (auto& [hash, tensor] : constants) bundle.graph.store_constant(hash, tensor);
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

}  // namespace

bool is_bundle(const fs::path& folder) { return is_file(folder / kGraphFile); }

namespace {

// Bundles that may be meant by a path that is none: the folder round it, those in it, and for a
// recipe the one where `fovea train` puts its model. Sorted.
std::vector<std::string> bundles_near(const fs::path& path) {
  std::vector<std::string> near;
  std::error_code error;
  const fs::path plain = path.has_filename() ? path : path.parent_path();
  if (plain.has_parent_path() && is_bundle(plain.parent_path()))
    near.push_back(plain.parent_path().string());
  if (const fs::path trained = fs::path("runs") / plain.stem();
      plain.extension() == ".toml" && is_bundle(trained))
    near.push_back(trained.string());
  for (fs::directory_iterator it(plain, error), end; !error && it != end; it.increment(error))
    if (is_bundle(it->path())) near.push_back(it->path().string());
  std::sort(near.begin(), near.end());
  return near;
}

// "; did you mean 'a' or 'b'?", of many the first few.
std::string suggestion(std::vector<std::string> names) {
  constexpr size_t kShown = 4;
  if (names.empty()) return {};
  if (names.size() > kShown) names.resize(kShown);
  return fmt::format("; did you mean '{}'?", fmt::join(names, "' or '"));
}

// Says why the folder is no finished bundle, if it is none.
void check_files(const fs::path& folder) {
  const Complaint complain(ErrorCode::not_found, folder.string());
  std::error_code ignored;
  if (!fs::exists(folder, ignored))
    complain("no such folder{} (give the folder that `fovea train` wrote)",
             did_you_mean_path(folder));
  if (!fs::is_directory(folder, ignored)) {
    if (folder.extension() == ".toml" && !is_bundle(folder.parent_path())) {
      complain(
          "expected a bundle, got a recipe, which has no weights{} (`fovea train {}` makes one)",
          suggestion(bundles_near(folder)), folder.string());
    }
    complain(
        "expected a bundle, which is a folder, got a file{} (give the folder that `fovea train` "
        "wrote)",
        suggestion(bundles_near(folder)));
  }
  for (const char* name : {kGraphFile, kWeightsFile, kRecipeFile, kLabelsFile, kMetricsFile}) {
    if (fs::exists(folder / name, ignored)) continue;
    if (is_file(folder / kCheckpointFile)) {
      complain(
          "the training in this folder has not finished (go on with `fovea train RECIPE "
          "--out {} --resume`)",
          folder.string());
    }
    if (name == kGraphFile) {
      complain(
          "this folder is no bundle: it has no {}{} (give the folder that `fovea train` wrote)",
          name, suggestion(bundles_near(folder)));
    }
    complain("the bundle is not whole: it has no {} (train again, or copy the whole folder)", name);
  }
}

void check_graph(const Graph& graph, const Complaint& complain) {
  if (graph.outputs().empty()) complain("the graph has no output; the file may be cut off");
}

}  // namespace

namespace {

// A folder in the bundle's, in which the new files wait. Removes itself.
class Staging {
 public:
  explicit Staging(const fs::path& folder)
      : path_(folder / fmt::format(".fovea-{}-bundle.tmp", ::getpid())) {
    std::error_code error;
    fs::remove_all(path_, error);  // of a process that had this number
    fs::create_directories(path_, error);
    if (error) {
      throw Error{ErrorCode::io,
                  fmt::format("[bundle] {}: cannot make the folder: {} (make the folder round it "
                              "writable, or choose another one)",
                              path_.string(), error.message())};
    }
  }
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }

  // Calls write(); its errors name the place where the file was to be, not where it waited.
  template <class Write>
  void fill(Write&& write) const {
    try {
      write();
    } catch (const Error& error) {
      std::string what = error.what();
      const std::string waited = path_.string();
      if (const size_t at = what.find(waited); at != std::string::npos)
        what.replace(at, waited.size(), path_.parent_path().string());
      throw Error{error.code(), what};
    }
  }

 private:
  fs::path path_;
};

// A name of a bundle may stand for a file alone: a rename would replace a link or fail at a folder.
void check_replaceable(const fs::path& path) {
  std::error_code ignored;
  const fs::file_type type = fs::status(path, ignored).type();
  if (type == fs::file_type::regular || type == fs::file_type::not_found ||
      type == fs::file_type::none)
    return;
  throw Error{
      ErrorCode::io,
      fmt::format("[bundle] {}: cannot write: expected a regular file to replace, got {} "
                  "(choose another folder)",
                  path.string(), type == fs::file_type::directory ? "a folder" : "something else")};
}

void move_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    throw Error{ErrorCode::io, fmt::format("[bundle] {}: cannot write: {} (check the disk, or "
                                           "choose another folder)",
                                           to.string(), error.message())};
  }
}

}  // namespace

void save_bundle(const fs::path& folder, const Bundle& bundle) {
  const auto place = [&](const char* file) {
    return Complaint(ErrorCode::invalid_argument, (folder / file).string());
  };
  check_graph(bundle.graph, place(kGraphFile));
  const std::vector<TensorView> tensors = stored_tensors(bundle, place(kWeightsFile));
  const std::string labels = print_labels(bundle.labels, place(kLabelsFile));
  check_metrics(bundle.metrics_json, place(kMetricsFile));

  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw Error{ErrorCode::io,
                fmt::format("[bundle] {}: cannot make the folder: {} (choose another one)",
                            folder.string(), error.message())};
  }
  for (const char* name : kFiles) check_replaceable(folder / name);
  const Staging staging(folder);
  staging.fill([&] {
    write_file_atomically(staging / kRecipeFile, bundle.recipe);
    write_file_atomically(staging / kLabelsFile, labels);
    write_file_atomically(staging / kGraphFile, print_graph(bundle.graph));
    write_safetensors(staging / kWeightsFile, tensors);
    write_file_atomically(staging / kMetricsFile, bundle.metrics_json);
  });
  // From here on nothing is written that a disk could have no room for. An old graph with new
  // weights must never look whole.
  fs::remove(folder / kMetricsFile, error);
  sync_folder(folder);
  for (const char* name : kFiles) {
    if (std::string_view(name) == kMetricsFile) sync_folder(folder);
    move_file(staging / name, folder / name);
  }
  sync_folder(folder);
}

namespace {

Bundle load_files(const fs::path& folder) {
  const auto place = [&](const char* file) {
    return Complaint(ErrorCode::corrupt, (folder / file).string());
  };
  Bundle bundle;
  const fs::path graph = folder / kGraphFile;
  bundle.graph = parse_graph(read_text_file(graph, kMaxGraph), graph.string());
  check_graph(bundle.graph, place(kGraphFile));
  read_tensors(folder / kWeightsFile, bundle);
  bundle.recipe = read_text_file(folder / kRecipeFile, kMaxRecipe);
  bundle.labels =
      parse_labels(read_text_file(folder / kLabelsFile, kMaxLabels), place(kLabelsFile));
  bundle.metrics_json = read_text_file(folder / kMetricsFile, kMaxMetrics);
  check_metrics(bundle.metrics_json, place(kMetricsFile));
  return bundle;
}

}  // namespace

Bundle load_bundle(const fs::path& folder) {
  check_files(folder);
  try {
    return load_files(folder);
  } catch (const Error& error) {
    // Those who read the files know what is wrong, and not that they belong to a bundle.
    const std::string_view what = error.what();
    if (error.code() != ErrorCode::corrupt || what.ends_with(')')) throw;
    throw Error{error.code(),
                fmt::format("{} (copy the whole folder again, or train again)", what)};
  }
}

}  // namespace fovea
