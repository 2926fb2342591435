// What `fovea bench` measures: problems, and who solves them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/json.h"
#include "fovea/base/dtype.h"
#include "fovea/base/thread_pool.h"

namespace fovea::cli {

// Bytes that training takes: of ours what was planned, of a rival what the system reports.
struct BenchMemory {
  int64_t bytes = 0;  // what is compared
  std::vector<std::pair<std::string, int64_t>> parts = {};
};

// Ours or a rival, set up for one problem.
class Competitor {
 public:
  virtual ~Competitor() = default;

  // What the problem asks for, to be compared with the others; once, before any run. Empty of all:
  // they compute different things, and only their times are compared.
  virtual std::vector<float> output() = 0;
  // Milliseconds of each of so many runs.
  virtual std::vector<double> run(int64_t runs) = 0;
  // After the runs.
  virtual BenchMemory memory() { return {}; }

  std::string implementation;  // "fovea", "libtorch"
  std::string kernel;          // what worked inside
  int64_t flops = 0;           // 0: not known to it
};

// A problem, with all that is needed to set up its competitors.
struct BenchCase {
  std::string name;          // "train batch 128 f32"
  DType dtype = DType::f32;  // whose peak stands beside it
  int64_t images = 0;        // of one run of a model; 0: no model
  // Of one run whose time is that of reading them: the peak is reading a buffer of that size. 0: it
  // is operations that take the time.
  int64_t read_bytes = 0;
  double tolerance = 1e-3;  // differences to ours that are no error, relative to the largest
  bool wants_memory = false;
  // Ours first, then others of ours that stand beside it.
  std::function<std::vector<std::unique_ptr<Competitor>>(const std::shared_ptr<ThreadPool>&)> own;
  // Writes into the folder what rivals read.
  std::function<void(const std::filesystem::path& folder)> write_files;
  // The line that sets up the rival of this name, without "threads="; empty: it has none.
  std::function<std::string(std::string_view rival)> setup;
};

// The middle one; of an even number the upper of the two.
double median(std::vector<double> values);
// Milliseconds of each call.
std::vector<double> time_runs(int64_t runs, const std::function<void()>& run);

// The tables of problems. kernel: "" for the first of the list, or the name of one; problems that
// it does not support are left out, and a name that no list holds is an Error (not_found).
std::vector<BenchCase> attention_cases(const std::string& kernel);
// Other scores than the scaled dot product; they stand among the attention cases.
std::vector<BenchCase> score_cases(const std::string& kernel);
std::vector<BenchCase> train_cases();
std::vector<BenchCase> infer_cases();

}  // namespace fovea::cli
