// What tests ask of the Errors that they provoke.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "fovea/base/error.h"

namespace fovea {

// The call throws an Error with this code whose message holds the text.
template <class F>
void expect_error(ErrorCode code, std::string_view text, F&& call) {
  try {
    call();
    ADD_FAILURE() << "no Error; expected one with: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_NE(std::string_view(error.what()).find(text), std::string_view::npos)
        << "expected: " << text << "\ngot: " << error.what();
  }
}

// Code and message of the Error that the call throws.
struct Caught {
  ErrorCode code;
  std::string what;
};
template <class F>
Caught error_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {ErrorCode::interrupted, "no error"};
}

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace fovea
