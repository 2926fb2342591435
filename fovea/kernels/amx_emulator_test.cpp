#include "fovea/kernels/amx_emulator.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "fovea/base/thread_pool.h"
#include "fovea/kernels/amx.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOVEA_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FOVEA_SANITIZED 1
#endif
#endif
#ifndef FOVEA_SANITIZED
#define FOVEA_SANITIZED 0
#endif

#if FOVEA_AMX && defined(__linux__)
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

FOVEA_AVX512_BF16_BEGIN
namespace fovea::amx {
namespace {

constexpr int kTiles = 8;

// What a thread's tile registers hold.
struct State {
  bool configured = false;
  alignas(64) uint8_t tile[kTiles][kTileRows][64];
};
thread_local State state;

[[noreturn]] void fail(const char* what) {
  const auto say = [](const char* text) { return write(STDERR_FILENO, text, std::strlen(text)); };
  const bool said = say("AMX emulator: ") > 0 && say(what) > 0 && say("\n") > 0;
  _exit(said ? 3 : 4);
}

// An instruction with a VEX prefix of three bytes in map 0F38, as all tile instructions are.
struct Instruction {
  int opcode = 0, prefix = 0;            // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg = 0, rm = 0, vvvv = 0;         // registers
  bool memory = false, has_sib = false;  // whether rm is an address
  int64_t address = 0, index = 0;        // of the memory: base and displacement, scaled index
  const uint8_t* end = nullptr;
};

int64_t general_register(const greg_t* registers, int i) {
  constexpr int kPlaces[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                             REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                             REG_R12, REG_R13, REG_R14, REG_R15};
  return registers[kPlaces[i]];
}

// Intel's manual, volume 2, chapter 2 (instruction format).
Instruction decode(const greg_t* registers) {
  const auto* p = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  Instruction in;
  if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) fail("not a tile instruction");
  const int index_high = p[1] & 0x40 ? 0 : 8, base_high = p[1] & 0x20 ? 0 : 8;
  in.prefix = p[2] & 3;
  in.vvvv = ~(p[2] >> 3) & 15;
  in.opcode = p[3];
  const int mod = p[4] >> 6;
  in.reg = p[4] >> 3 & 7;
  in.rm = p[4] & 7;
  in.memory = mod != 3;
  p += 5;
  if (in.memory) {
    const auto displacement = [&p](int bytes) {
      int32_t wide = 0;
      std::memcpy(&wide, p, sizeof wide);
      const int32_t d = bytes == 1 ? static_cast<int8_t>(*p) : wide;
      p += bytes;
      return d;
    };
    in.has_sib = in.rm == 4;
    bool from_next_instruction = false;
    if (in.has_sib) {
      const int sib = *p++, i = (sib >> 3 & 7) | index_high;
      if (i != 4) in.index = general_register(registers, i) * (1 << (sib >> 6));
      if ((sib & 7) == 5 && mod == 0)
        in.address = displacement(4);
      else
        in.address = general_register(registers, (sib & 7) | base_high);
    } else if (in.rm == 5 && mod == 0) {
      in.address = displacement(4);
      from_next_instruction = true;
    } else {
      in.address = general_register(registers, in.rm | base_high);
    }
    if (mod == 1) in.address += displacement(1);
    if (mod == 2) in.address += displacement(4);
    if (from_next_instruction) in.address += reinterpret_cast<int64_t>(p);
  }
  in.end = p;
  return in;
}

// The kernels use one configuration only.
void configure(const void* config) {
  if (std::memcmp(config, &kAllTiles, sizeof kAllTiles) != 0) fail("an unknown configuration");
  state.configured = true;
  std::memset(state.tile, 0, sizeof state.tile);
}

uint8_t (&tile(int i))[kTileRows][64] {
  if (!state.configured) fail("a tile instruction without a configuration");
  if (i >= kTiles) fail("a tile that does not exist");
  return state.tile[i];
}

// The manual's TDPBF16PS: even and odd products are summed apart; denormals count as zeros.
void multiply(int to, int left, int right) {
  if (to == left || to == right || left == right) fail("a product of a tile with itself");
  const FloatMode flush;
  const __m512i odd_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int64_t m = 0; m < kTileRows; ++m) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int64_t k = 0; k < kTileRows; ++k) {
      uint32_t pair;
      std::memcpy(&pair, tile(left)[m] + 4 * k, sizeof pair);
      const __m512i b = _mm512_load_si512(tile(right)[k]);
      even = _mm512_fmadd_ps(_mm512_set1_ps(std::bit_cast<float>(pair << 16)),
                             _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, b, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_set1_ps(std::bit_cast<float>(pair & 0xffff0000u)),
                            _mm512_castsi512_ps(_mm512_and_si512(b, odd_half)), odd);
    }
    auto* c = reinterpret_cast<float*>(tile(to)[m]);
    _mm512_store_ps(c, _mm512_add_ps(_mm512_load_ps(c), _mm512_add_ps(even, odd)));
  }
}

void carry_out(const Instruction& in) {
  auto* memory = reinterpret_cast<uint8_t*>(in.address);
  if (in.opcode == 0x49 && in.prefix == 0 && in.memory) {
    configure(memory + in.index);
  } else if (in.opcode == 0x49 && in.prefix == 0) {
    state.configured = false;
  } else if (in.opcode == 0x49 && in.prefix == 3 && !in.memory) {
    std::memset(tile(in.reg), 0, kTileBytes);
  } else if (in.opcode == 0x4b && in.prefix == 3 && in.has_sib) {
    for (int64_t r = 0; r < kTileRows; ++r) std::memcpy(tile(in.reg)[r], memory + r * in.index, 64);
  } else if (in.opcode == 0x4b && in.prefix == 2 && in.has_sib) {
    for (int64_t r = 0; r < kTileRows; ++r) std::memcpy(memory + r * in.index, tile(in.reg)[r], 64);
  } else if (in.opcode == 0x5c && in.prefix == 2 && !in.memory) {
    multiply(in.reg, in.rm, in.vvvv);
  } else {
    fail("an unknown instruction");
  }
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction in = decode(registers);
  carry_out(in);
  registers[REG_RIP] = reinterpret_cast<greg_t>(in.end);
}

struct sigaction handler_before;

}  // namespace

std::unique_ptr<Emulator> Emulator::make() {
  if (FOVEA_SANITIZED || !avx512_bf16::available()) return nullptr;
  return std::unique_ptr<Emulator>(new Emulator);
}

Emulator::Emulator() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &handler_before);
  set_available_for_tests(true);
}

Emulator::~Emulator() {
  set_available_for_tests(false);
  sigaction(SIGILL, &handler_before, nullptr);
}

}  // namespace fovea::amx
FOVEA_TARGET_END
#else
namespace fovea::amx {
std::unique_ptr<Emulator> Emulator::make() { return nullptr; }
Emulator::Emulator() = default;
Emulator::~Emulator() = default;
}  // namespace fovea::amx
#endif

namespace fovea {
namespace {

TEST(AmxEmulator, LendsTheTilesAndTakesThemBack) {
  if (amx::available()) GTEST_SKIP() << "this processor has them";
  auto emulator = amx::Emulator::make();
  EXPECT_EQ(amx::available(), emulator != nullptr);
  emulator.reset();
  EXPECT_FALSE(amx::available());
}

}  // namespace
}  // namespace fovea
