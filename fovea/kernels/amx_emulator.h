// Tile instructions (AMX, bf16) on processors without them, for tests. Defined in
// amx_emulator_test.cpp, so no library has it.
#pragma once

#include <memory>

namespace fovea::amx {

// As long as one lives, amx::available() says yes, and a tile instruction that the processor does
// not know is carried out by the handler of its SIGILL, on the thread that met it. What hardware
// would not do (an instruction without a configuration, a wrong one) ends the process with a
// message. One at a time.
class Emulator {
 public:
  // nullptr where it cannot work: without AVX-512 with bf16, or under sanitizers, which have
  // handlers of their own.
  static std::unique_ptr<Emulator> make();
  ~Emulator();
  Emulator(const Emulator&) = delete;
  Emulator& operator=(const Emulator&) = delete;

 private:
  Emulator();
};

}  // namespace fovea::amx
