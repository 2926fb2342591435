#include "fovea/data/split_size.h"

#include <fmt/format.h>

#include <cmath>

#include "fovea/base/error.h"

namespace fovea {
namespace {

// The files of these kinds have a test part of their own, and are many.
bool is_large(DataKind kind) {
  return kind == DataKind::fashion_mnist || kind == DataKind::idx || kind == DataKind::cifar;
}

double asked_of(const DataOptions& options, Split part) {
  const double asked = part == Split::test ? options.test : options.validation;
  if (asked != -1) return asked;
  if (is_large(options.kind)) return part == Split::test ? 0 : 5000;
  return part == Split::test ? 0.15 : 0.1;
}

}  // namespace

double share_of(const DataOptions& options, Split part, int64_t whole) {
  const double asked = asked_of(options, part);
  const char* name = part == Split::test ? "test" : "validation";
  if (!(asked >= 0) || (asked >= 1 && asked != std::floor(asked))) {
    throw Error{ErrorCode::invalid_argument,
                fmt::format("[data] '{}': expected a share below 1 or a number of samples, got {}",
                            name, asked)};
  }
  if (whole == 0 || asked < 1) return whole == 0 ? 0 : asked;
  if (asked >= static_cast<double>(whole)) {
    throw Error{
        ErrorCode::invalid_argument,
        fmt::format("[data] '{}': expected less than the {} training samples, got {} (lower it)",
                    name, whole, asked)};
  }
  return asked / static_cast<double>(whole);
}

int64_t samples_of(const DataOptions& options, Split part, int64_t whole) {
  return std::llround(share_of(options, part, whole) * static_cast<double>(whole));
}

}  // namespace fovea
