#include "cli/json.h"

#include <nlohmann/json.hpp>

namespace fovea::cli {

struct Json::Impl {
  nlohmann::ordered_json value;
};

Json::Json(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

Json Json::object() { return Json(std::make_unique<Impl>(Impl{nlohmann::ordered_json::object()})); }
Json Json::array() { return Json(std::make_unique<Impl>(Impl{nlohmann::ordered_json::array()})); }

Json& Json::set(std::string_view key, std::string_view value) {
  impl_->value[std::string(key)] = value;
  return *this;
}
Json& Json::set(std::string_view key, double value) {
  impl_->value[std::string(key)] = value;
  return *this;
}
Json& Json::set(std::string_view key, int64_t value) {
  impl_->value[std::string(key)] = value;
  return *this;
}
Json& Json::set(std::string_view key, bool value) {
  impl_->value[std::string(key)] = value;
  return *this;
}
Json& Json::set(std::string_view key, const std::map<std::string, double>& values) {
  Json members = object();
  for (const auto& [name, value] : values) members.set(name, value);
  return set(key, std::move(members));
}
Json& Json::set(std::string_view key, Json value) {
  impl_->value[std::string(key)] = std::move(value.impl_->value);
  return *this;
}
Json& Json::push(std::string_view value) {
  impl_->value.push_back(value);
  return *this;
}
Json& Json::push(double value) {
  impl_->value.push_back(value);
  return *this;
}
Json& Json::push(Json value) {
  impl_->value.push_back(std::move(value.impl_->value));
  return *this;
}

std::string Json::text() const {
  return impl_->value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace fovea::cli
