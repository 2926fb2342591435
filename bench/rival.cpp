#include "rival.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace rival {

namespace {

void write_floats(const std::string& path, const std::vector<float>& values) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

std::string times_of_runs(Problem& problem, int64_t runs) {
  std::ostringstream answer;
  answer << "times";
  for (int64_t i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    problem.run();
    answer << ' '
           << std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                  .count();
  }
  return answer.str();
}

Options options_of(std::istringstream& words) {
  Options options;
  for (std::string word; words >> word;) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) throw std::runtime_error("expected KEY=VALUE, got " + word);
    options[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return options;
}

}  // namespace

std::map<std::string, RawTensor> read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream buffer;
  buffer << file.rdbuf();
  const std::string bytes = buffer.str();
  // Eight bytes of header length, a JSON header, the data.
  uint64_t length = 0;
  if (bytes.size() < 8) throw std::runtime_error(path + " cannot be read");
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) throw std::runtime_error(path + " is cut short");
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  std::map<std::string, RawTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto range = entry.at("data_offsets").get<std::vector<uint64_t>>();
    if (range.at(1) > bytes.size() - 8 - length || range[0] > range[1])
      throw std::runtime_error(path + " is not what it says of " + name);
    tensors[name] = {entry.at("dtype").get<std::string>(),
                     entry.at("shape").get<std::vector<int64_t>>(),
                     bytes.substr(8 + length + range[0], range[1] - range[0])};
  }
  return tensors;
}

int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  return 0;
}

int serve(const std::function<std::unique_ptr<Problem>(const std::string& kind, Options& options)>&
              make) {
  std::unique_ptr<Problem> problem;
  const auto answer = [&](const std::string& line) -> std::string {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "setup") {
      std::string kind;
      words >> kind;
      Options options = options_of(words);
      problem = make(kind, options);
      return "ok " + problem->description();
    }
    if (!problem) throw std::runtime_error("no problem is set up");
    if (command == "output") {
      std::string path;
      words >> path;
      write_floats(path, problem->output());
      return "ok";
    }
    if (command == "run") {
      int64_t runs = 0;
      words >> runs;
      return times_of_runs(*problem, runs);
    }
    if (command == "memory")
      return "ok resident=" + std::to_string(problem->resident_before) +
             " peak=" + std::to_string(status_bytes("VmHWM"));
    throw std::runtime_error("unknown command " + command);
  };
  for (std::string line; std::getline(std::cin, line) && line != "quit";) {
    std::string reply;
    try {
      reply = answer(line);
    } catch (const std::exception& e) {
      reply = std::string("error ") + e.what();
      reply = reply.substr(0, reply.find('\n'));
    }
    std::cout << reply << std::endl;
  }
  return 0;
}

}  // namespace rival
