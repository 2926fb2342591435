// Makes arrays out of a data set of sequences as its authors publish it:
//   prepare_series uci_har FROM OUT     FROM/train/Inertial Signals/*.txt, FROM/train/y_train.txt
// writes OUT/{train,test}.npy [windows, 128 steps, 9 channels] and OUT/{train,test}_labels.npy.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "fovea/base/error.h"
#include "fovea/formats/test_npy.h"

namespace fovea {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSteps = 128, kChannels = 9;

template <class T>
std::vector<T> read_numbers(const fs::path& path) {
  std::ifstream file(path);
  if (!file) throw Error{ErrorCode::not_found, path.string() + " is not there"};
  std::vector<T> values;
  for (T v; file >> v;) values.push_back(v);
  if (!file.eof()) throw Error{ErrorCode::corrupt, path.string() + " holds something else"};
  return values;
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error{ErrorCode::io, path.string() + " cannot be written"};
}

int64_t make_uci_har(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  int64_t written = 0;
  for (const std::string part : {"train", "test"}) {
    std::vector<int32_t> labels = read_numbers<int32_t>(from / part / ("y_" + part + ".txt"));
    for (int32_t& label : labels) --label;  // 1 to 6 become 0 to 5
    const auto windows = static_cast<int64_t>(labels.size());
    std::vector<float> all(static_cast<size_t>(windows * kSteps * kChannels));
    int64_t channel = 0;
    for (const char* signal : {"body_acc", "body_gyro", "total_acc"})
      for (const char* axis : {"x", "y", "z"}) {
        const fs::path path =
            from / part / "Inertial Signals" / fmt::format("{}_{}_{}.txt", signal, axis, part);
        const std::vector<float> values = read_numbers<float>(path);
        if (static_cast<int64_t>(values.size()) != windows * kSteps)
          throw Error{ErrorCode::corrupt, path.string() + " has another length than its labels"};
        for (size_t i = 0; i < values.size(); ++i)
          all[i * kChannels + static_cast<size_t>(channel)] = values[i];
        ++channel;
      }
    write_text(to / (part + ".npy"),
               npy_text(fmt::format("({}, {}, {})", windows, kSteps, kChannels), all));
    write_text(to / (part + "_labels.npy"), npy_text(fmt::format("({},)", windows), labels));
    written += windows;
  }
  return written;
}

int run(int argc, char** argv) {
  if (argc != 4 || std::string(argv[1]) != "uci_har") {
    fmt::print(stderr, "usage: prepare_series uci_har FROM OUT\n");
    return 2;
  }
  const int64_t written = make_uci_har(argv[2], argv[3]);
  fmt::print("{} windows written to {}\n", written, argv[3]);
  return 0;
}

}  // namespace
}  // namespace fovea

int main(int argc, char** argv) {
  try {
    return fovea::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "prepare_series: {}\n", e.what());
    return 2;
  }
}
