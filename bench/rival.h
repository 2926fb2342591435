// What the rivals written in C++ share: the lines on standard input that drive them, and the files
// they read and write. One answer a line ("ok KEY=VALUE...", "times MS MS...", "error TEXT"):
//   setup train|infer|attention|attention_backward KEY=VALUE...
//         threads=N dtype=f32|bf16 tensors=FILE heads=N, for train also rate= decay=
//   output FILE   the results of the problem as raw f32: logits, losses of three steps, out, or
//                 dq dk dv; before any run
//   run N         the milliseconds of N runs
//   memory        bytes resident after a step of one image, and at most since then
//   quit
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rival {

using Options = std::map<std::string, std::string>;

struct RawTensor {
  std::string dtype;  // "F32"
  std::vector<int64_t> shape;
  std::string bytes;
};
// A file in the safetensors format.
std::map<std::string, RawTensor> read_tensors(const std::string& path);

// A line of /proc/self/status in bytes.
int64_t status_bytes(const std::string& key);

class Problem {
 public:
  virtual ~Problem() = default;
  virtual void run() = 0;
  virtual std::vector<float> output() = 0;
  // KEY=VALUE... of the answer to setup: version, kernel, blas.
  virtual std::string description() const = 0;
  int64_t resident_before = 0;  // after a step of one image
};

// Answers until the input ends. make: the problem of this kind; throws what is wrong with it.
int serve(
    const std::function<std::unique_ptr<Problem>(const std::string& kind, Options& options)>& make);

}  // namespace rival
