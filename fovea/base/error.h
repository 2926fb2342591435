// Errors of the first kind: the caller, a file or the data is wrong. Thrown as fovea::Error; the
// command line prints the message and exits 2. Our own bugs are FOVEA_ASSERT.
#pragma once

#include <stdexcept>
#include <string>

namespace fovea {

enum class ErrorCode {
  invalid_argument,  // a value, a shape, an option or a key is wrong
  not_found,         // a file, a data set, a name does not exist
  io,                // the system refused to read or write
  corrupt,           // a file does not hold what its format promises
  unsupported,       // understood, but this build or device cannot do it
  out_of_memory,     // a plan needs more memory than there is
  non_finite,        // a NaN or an infinity where a number was expected
  interrupted,       // the user asked to stop
};

// The message names the place and what to do: "[matmul] expected ..., got ...".
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace fovea

// For our own bugs only, never for user input. Stays on in release builds.
#define FOVEA_ASSERT(condition) \
  ((condition) ? (void)0 : ::fovea::assertion_failed(#condition, __FILE__, __LINE__))
