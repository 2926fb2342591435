#!/usr/bin/env bash
# What CI leaves out: all tests with GCC, with Clang, under ASan with UBSan, and under TSan.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs="${1:-2}"

run() {  # name, labels to leave out, cmake options
  local name="$1" leave_out="$2"
  shift 2
  echo "== $name"
  cmake -S . -B "build-$name" -G Ninja -DFOVEA_WERROR=ON "$@" >/dev/null
  ninja -C "build-$name" -j "$jobs" --quiet
  ctest --test-dir "build-$name" --output-on-failure -LE "$leave_out"
}

run test none
run clang none -DCMAKE_CXX_COMPILER=clang++-14
# Under the sanitizers, which compile slowly, one instruction set: the best that the processor has.
best=SSE4
grep -qw avx2 /proc/cpuinfo && best=AVX2
grep -qw avx512dq /proc/cpuinfo && best=AVX3
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
run asan slow -DFOVEA_ONLY_TARGET=$best -DCMAKE_CXX_COMPILER=clang++-14 -DFOVEA_SANITIZE=address,undefined
# oneDNN and libgomp are not built for TSan: what they do among themselves is left out. With GCC, whose
# runtime lets the tests that count allocations replace operator new.
export TSAN_OPTIONS="suppressions=$PWD/scripts/tsan.supp ignore_noninstrumented_modules=1"
run tsan slow -DFOVEA_ONLY_TARGET=$best -DFOVEA_SANITIZE=thread
