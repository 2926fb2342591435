#include "fovea/base/normaliser.h"

#include "fovea/base/visit.h"

namespace fovea {

std::optional<std::string> fault_of(Normaliser n, int64_t top_k, double softmax_temperature) {
  const auto wrong = [&](const char* expected, const std::string& got) {
    return std::string("expected ") + expected + " with normaliser=" + std::string(enum_name(n)) +
           ", got " + got;
  };
  const std::string k = "top_k=" + std::to_string(top_k);
  const std::string t = "softmax_temperature=" + std::to_string(softmax_temperature);
  if (n == Normaliser::top_k && !(top_k >= 1 && top_k < (int64_t{1} << 31)))
    return wrong("top_k between 1 and 2^31 - 1", k);
  if (n != Normaliser::top_k && top_k != 0) return wrong("no top_k", k);
  if (has_temperature(n) && !(softmax_temperature >= 1e-6 && softmax_temperature <= 1e6))
    return wrong("a softmax_temperature between 1e-6 and 1e6", t);
  if (!has_temperature(n) && softmax_temperature != 1) return wrong("no softmax_temperature", t);
  return std::nullopt;
}

}  // namespace fovea
