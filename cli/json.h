// JSON for --json, in the order in which it is written. Hides nlohmann-json, whose header is heavy.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace fovea::cli {

class Json {
 public:
  static Json object();
  static Json array();
  Json(Json&&) noexcept;
  Json& operator=(Json&&) noexcept;
  ~Json();

  // Members of an object; what is not finite becomes null, bytes that are no UTF-8 are replaced.
  Json& set(std::string_view key, std::string_view value);
  Json& set(std::string_view key, const char* value) { return set(key, std::string_view(value)); }
  Json& set(std::string_view key, double value);
  Json& set(std::string_view key, int64_t value);
  Json& set(std::string_view key, bool value);
  Json& set(std::string_view key, const std::map<std::string, double>& values);
  Json& set(std::string_view key, Json value);
  // Elements of an array.
  Json& push(std::string_view value);
  Json& push(double value);
  Json& push(Json value);

  // Indented by two spaces, without a final line break.
  std::string text() const;

 private:
  struct Impl;
  explicit Json(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fovea::cli
