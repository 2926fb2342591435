// fovea doctor: what this machine and this build offer, and what will be used.
#include <fmt/format.h>
#include <jpeglib.h>
#include <png.h>
#include <toml++/impl/version.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>

#include "cli/cli_support.h"
#include "cli/verbs.h"
#include "fovea/base/build_info.h"
#include "fovea/base/error.h"
#include "fovea/data/fashion_mnist.h"
#include "fovea/kernels/versions.h"
#include "fovea/runtime/binding.h"

namespace fovea::cli {

namespace {

std::vector<LibraryVersion> libraries() {
  std::vector<LibraryVersion> all = kernel_libraries();
  const auto dotted = [](int version) {  // two decimal digits a part
    return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  };
  all.push_back({"libpng", png_get_libpng_ver(nullptr), ""});
#ifdef LIBJPEG_TURBO_VERSION_NUMBER  // three decimal digits a part
  all.push_back(
      {"libjpeg-turbo",
       fmt::format("{}.{}.{}", LIBJPEG_TURBO_VERSION_NUMBER / 1000000,
                   LIBJPEG_TURBO_VERSION_NUMBER / 1000 % 1000, LIBJPEG_TURBO_VERSION_NUMBER % 1000),
       ""});
#else
  all.push_back({"libjpeg", fmt::format("{}", JPEG_LIB_VERSION), ""});
#endif
  all.push_back({"zlib", zlibVersion(), ""});
  all.push_back(
      {"toml++", fmt::format("{}.{}.{}", TOML_LIB_MAJOR, TOML_LIB_MINOR, TOML_LIB_PATCH), ""});
  all.push_back({"fmt", dotted(FMT_VERSION), ""});
  return all;
}

struct DataSet {
  std::string name;
  std::string folder;
  std::string state;  // "60000 images to train, 10000 to test", or what is wrong
  bool usable = false;
};

DataSet fashion_mnist() {
  DataSet set{"Fashion-MNIST", kFashionMnistFolder, {}, false};
  try {
    set.state = fmt::format("{} images to train, {} to test", load_fashion_mnist(true).size(),
                            load_fashion_mnist(false).size());
    set.usable = true;
  } catch (const Error& e) {
    set.state = e.what();
  }
  return set;
}

struct Report {
  std::vector<std::string> features;
  int threads = 0;
  std::string forced;                 // FOVEA_FORCE_KERNEL
  std::vector<KernelFamily> kernels;  // those that may be chosen, in the order of asking
  std::vector<LibraryVersion> libraries;
  std::vector<DataSet> data_sets;
};

Report examine() {
  Report r;
  const KernelChoice choice = KernelChoice::from_environment();
  if (const char* text = std::getenv("FOVEA_FORCE_KERNEL")) r.forced = text;
  for (const KernelFamily& family : kernel_families()) {
    const std::string_view forced = choice.forced(family.name);
    r.kernels.push_back(family);
    if (!forced.empty())
      std::erase_if(r.kernels.back().kernels, [&](std::string_view k) { return k != forced; });
  }
  r.features = processor_features();
  r.threads = ThreadPool::hardware_threads();
  r.libraries = libraries();
  r.data_sets = {fashion_mnist()};
  return r;
}

void print_as_json(const Report& r) {
  Json features = Json::array();
  for (const std::string& feature : r.features) features.push(feature);
  Json kernels = Json::object();
  for (const KernelFamily& family : r.kernels) {
    Json names = Json::array();
    for (const std::string_view name : family.kernels) names.push(name);
    kernels.set(family.name, std::move(names));
  }
  Json all_libraries = Json::object();
  for (const LibraryVersion& library : r.libraries)
    all_libraries.set(library.name, library.version);
  Json data_sets = Json::array();
  for (const DataSet& set : r.data_sets) {
    Json one = Json::object();
    one.set("name", set.name).set("folder", set.folder).set("usable", set.usable);
    one.set("state", set.state);
    data_sets.push(std::move(one));
  }
  Json out = Json::object();
  out.set("version", version())
      .set("compiler", compiler())
      .set("processor", processor_name())
      .set("features", std::move(features))
      .set("threads", int64_t{r.threads})
      .set("force_kernel", r.forced)
      .set("kernels", std::move(kernels))
      .set("libraries", std::move(all_libraries))
      .set("data_sets", std::move(data_sets));
  print_json(out);
}

void print_as_text(const Report& r) {
  fmt::print("fovea {}\n\n", version());
  fmt::print("compiler   {}\n", compiler());
  fmt::print("processor  {}\n", processor_name());
  fmt::print("features   {}\n", fmt::join(r.features, " "));
  fmt::print("threads    {}\n", r.threads);
  fmt::print("\nkernels: the first that supports a case is used\n");
  for (const KernelFamily& family : r.kernels)
    fmt::print("  {:<20} {}\n", family.name, fmt::join(family.kernels, ", "));
  if (r.forced.empty())
    fmt::print("  force one with FOVEA_FORCE_KERNEL=attention=hwy_avx2\n");
  else
    fmt::print("  by FOVEA_FORCE_KERNEL={}\n", r.forced);
  fmt::print("\nlibraries\n");
  for (const LibraryVersion& library : r.libraries)
    fmt::print("  {:<20} {}{}{}\n", library.name, library.version,
               library.detail.empty() ? "" : "  ", library.detail);
  fmt::print("\ndata sets\n");
  for (const DataSet& set : r.data_sets) {
    fmt::print("  {:<20} {}\n", set.name, set.state);
    if (set.usable) fmt::print("  {:<20} {}\n", "", set.folder);
  }
}

struct Options {
  bool json = false;
};

void declare(Arguments& arguments, Options& o) { arguments.json(o.json); }

int run(const Call&, Options& o) {
  const Report report = examine();
  if (o.json)
    print_as_json(report);
  else
    print_as_text(report);
  return 0;
}

}  // namespace

Verb doctor_verb() {
  return {.name = "doctor",
          .summary = "processor, kernels, libraries, data sets",
          .description =
              "Shows what the processor offers, which kernels will be used, the libraries, and the "
              "data sets that are installed. FOVEA_FORCE_KERNEL=family=kernel, more behind commas, "
              "forces kernels of the families that it lists.",
          .examples = {{"fovea doctor", "the first thing to send with a report of a fault"}},
          .declare = with_options<Options>(declare, run)};
}

}  // namespace fovea::cli
