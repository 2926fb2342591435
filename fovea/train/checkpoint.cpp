#include "fovea/train/checkpoint.h"

#include <fmt/format.h>

#include <charconv>

#include "fovea/formats/safetensors.h"

namespace fovea {

namespace {

constexpr std::string_view kBest = "best.";
constexpr std::string_view kFormatName = "fovea.checkpoint ";
constexpr int kFormat = 1;

// Shortest text that reads back to the same double.
std::string number(double v) { return fmt::format("{}", v); }
std::string number(int64_t v) { return std::to_string(v); }

class Reader {
 public:
  Reader(const TensorMetadata& metadata, std::string path)
      : metadata_(metadata), path_(std::move(path)) {}

  const std::string& text(const std::string& key) const {
    const auto it = metadata_.find(key);
    if (it == metadata_.end()) fail(key);
    return it->second;
  }
  template <class T>
  void read(const std::string& key, T& value) const {
    value = parse<T>(key, text(key));
  }
  // A number of epochs or steps; the sum of two never overflows.
  void count(const std::string& key, int64_t& value, int64_t least = 0) const {
    constexpr int64_t kMost = int64_t{1} << 53;
    read(key, value);
    if (value < least || value > kMost) fail(key);
  }
  bool flag(const std::string& key) const {
    const std::string& value = text(key);
    if (value != "0" && value != "1") fail(key);
    return value == "1";
  }
  std::map<std::string, double> numbers(const std::string& prefix) const {
    std::map<std::string, double> out;
    for (auto& [key, value] : metadata_)
      if (key.starts_with(prefix)) out[key.substr(prefix.size())] = parse<double>(key, value);
    return out;
  }
  void check_format() const {
    const std::string& format = text("format");
    if (!format.starts_with(kFormatName)) fail("format");
    const int version = parse<int>("format", format.substr(kFormatName.size()));
    if (version > kFormat)
      throw Error(ErrorCode::unsupported,
                  fmt::format("[checkpoint] {} has format {}, this build knows up to {}: it was "
                              "written by a newer fovea (update this one)",
                              path_, version, kFormat));
    if (version < 1) fail("format");
  }
  [[noreturn]] void fail(const std::string& key) const {
    throw Error(ErrorCode::corrupt,
                fmt::format("[checkpoint] {} is no checkpoint of fovea: '{}' is missing or wrong "
                            "(begin anew with --overwrite, or in another --out)",
                            path_, key));
  }

 private:
  template <class T>
  T parse(const std::string& key, const std::string& s) const {
    T value{};
    const auto r = std::from_chars(s.data(), s.data() + s.size(), value);
    if (r.ec != std::errc() || r.ptr != s.data() + s.size()) fail(key);
    return value;
  }
  const TensorMetadata& metadata_;
  std::string path_;
};

}  // namespace

void save_checkpoint(const std::filesystem::path& path, const VariableStore& variables,
                     const RunState& state) {
  std::vector<TensorView> tensors;
  for (auto& [name, v] : variables.all())
    tensors.push_back({name, v.dtype, v.shape, v.data.bytes()});
  for (auto& [name, t] : state.best_weights)
    tensors.push_back({std::string(kBest) + name, t->dtype, t->shape, t->bytes});
  TensorMetadata m;
  m["format"] = fmt::format("{}{}", kFormatName, kFormat);
  m["recipe"] = state.recipe;
  m["epoch"] = number(state.epoch);
  m["batch"] = number(state.batch);
  m["step"] = number(state.step);
  m["best_epoch"] = number(state.best_epoch);
  m["best"] = number(state.best);
  m["epochs_without_gain"] = number(state.epochs_without_gain);
  m["finished"] = number(int64_t{state.finished});
  for (auto& [name, v] : state.sums) m["sum." + name] = number(v);
  for (auto& [name, v] : state.validation) m["validation." + name] = number(v);
  write_safetensors(path, tensors, m);
}

RunState load_checkpoint(const std::filesystem::path& path, VariableStore& variables) {
  const Safetensors file = Safetensors::read(path);
  const Reader reader(file.metadata(), path.string());
  reader.check_format();
  RunState s;
  s.recipe = reader.text("recipe");
  reader.count("epoch", s.epoch);
  reader.count("batch", s.batch);
  reader.count("step", s.step);
  reader.count("best_epoch", s.best_epoch, -1);
  reader.read("best", s.best);
  reader.count("epochs_without_gain", s.epochs_without_gain);
  s.finished = reader.flag("finished");
  s.sums = reader.numbers("sum.");
  s.validation = reader.numbers("validation.");

  // All is looked at before the first variable is changed.
  const auto tensor_of = [&](const std::string& name, const VariableStore::Variable& v) {
    const TensorView* t = file.find(name);
    if (!t || t->dtype != v.dtype || t->shape != v.shape) reader.fail(name);
    return t;
  };
  for (auto& [name, v] : variables.all()) {
    tensor_of(name, v);
    if (v.kind != VariableKind::weight || s.best_epoch < 0) continue;
    const TensorView* best = tensor_of(std::string(kBest) + name, v);
    auto copy = std::make_shared<HostTensor>();
    copy->dtype = best->dtype;
    copy->shape = best->shape;
    copy->bytes.assign(best->bytes.begin(), best->bytes.end());
    s.best_weights[name] = std::move(copy);
  }
  // A run has a best epoch from its first on.
  if ((s.finished || s.epoch > 0) && s.best_epoch < 0) reader.fail("best_epoch");
  for (auto& [name, v] : variables.all())
    variables.set(name, v.dtype, v.shape, file.find(name)->bytes);
  return s;
}

std::string checkpoint_recipe(const std::filesystem::path& path) {
  const Safetensors file = Safetensors::read(path);
  const Reader reader(file.metadata(), path.string());
  reader.check_format();
  return reader.text("recipe");
}

}  // namespace fovea
