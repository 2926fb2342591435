#!/usr/bin/env bash
# The installed package, as a stranger uses it. Usage:
# package_test.sh install  CMAKE SOURCE BUILD PREFIX
# package_test.sh examples CMAKE SOURCE BUILD PREFIX CC CXX    find_package: builds and runs examples/
# package_test.sh headers  CMAKE SOURCE BUILD PREFIX CC CXX    pkg-config, and every header by itself
set -euo pipefail

fail() {
  echo "package_test: $*" >&2
  exit 1
}

install_package() {
  local cmake="$1" source="$2" build="$3" prefix="$4"
  # Through DESTDIR and then moved, so that nothing can hold where it was made.
  rm -rf "$prefix" "$build/package/stage"
  DESTDIR="$build/package/stage" "$cmake" --install "$build" --prefix /opt/fovea >/dev/null
  mv "$build/package/stage/opt/fovea" "$prefix"
  for file in bin/fovea lib/libfovea.a lib/libfovea-kernels.a lib/pkgconfig/fovea.pc \
    lib/cmake/Fovea/FoveaConfig.cmake include/fovea/fovea.h share/fovea/recipes/fashion_mnist.toml; do
    [ -e "$prefix/$file" ] || fail "$file was not installed"
  done
  local place
  for place in "$source" "$build" /opt/fovea; do
    ! grep -rlF "$place/" "$prefix/lib/cmake" "$prefix/lib/pkgconfig" "$prefix/include" ||
      fail "the files above hold the path $place"
  done
  ! find "$prefix/include" -name '*_test.h' -o -name 'test_*' -o -name '*-inl.h' | grep . ||
    fail "headers of tests were installed"
  # A public header includes public ones only, and none of another library (cmake/install.cmake).
  local header
  while read -r header; do
    [ -e "$prefix/include/$header" ] || fail "an installed header includes $header, which is private"
  done < <(grep -rhoE '#include "fovea/[^"]*"' "$prefix/include" | cut -d'"' -f2 | sort -u)
  ! grep -rnE '^#include ["<]' "$prefix/include" | grep -vE '"fovea/|<[a-z_]+>|<(stddef|stdint)\.h>' ||
    fail "the headers above include those of another library"
  [ "$("$prefix/bin/fovea" --version | head -c 5)" = fovea ] || fail "the program does not run"
}

# expect WORDS COMMAND...: the command ends well and prints the words, an extended regular expression.
expect() {
  local words="$1" out
  shift
  out="$("$@" 2>&1)" || fail "$*: $out"
  grep -qE -- "$words" <<<"$out" || fail "$* should print '$words', got: $out"
}

build_examples() {
  local cmake="$1" source="$2" build="$3" prefix="$4" cc="$5" cxx="$6" work="$3/package/examples"
  rm -rf "$work" && mkdir -p "$work"
  cp -r "$source/examples" "$work/source"
  cd "$work"
  command -v ccache >/dev/null && export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
  local options=(-G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx")
  "$cmake" -S source -B build "${options[@]}" >configure.log 2>&1 || fail "$(cat configure.log)"
  "$cmake" --build build -j 2 >build.log 2>&1 || fail "$(cat build.log)"

  expect "accuracy (1|0\.9)" build/train_in_code
  expect "upper with probability (1|0\.[5-9])" build/train_in_code
  # A PNG of 8 x 8 pixels, the left half bright.
  base64 -d >left.png <<<"iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEUlEQVR42mM4AQQ2QMBAGQMAtYQggf4dIWkAAAAASUVORK5CYII="
  expect "left	(1|0\.[5-9])" build/predict runs/stripes left.png
  [ "$(build/predict runs/stripes left.png | wc -l)" = 2 ] || fail "predict should name two classes"
  ! build/predict nowhere left.png 2>error.log || fail "predict should refuse a bundle that is not there"
  grep -q "predict: .*nowhere" error.log || fail "predict says: $(cat error.log)"
  expect "run by squared_relu:own" build/own_op
  expect "^0 0\.25 9" build/own_op
  expect "accuracy (1|0\.9)" build/own_op
  expect "token 3 sees a mean of" build/attention
  expect "token 0 sees a mean of 0\.000" build/attention
}

check_headers() {
  local cmake="$1" source="$2" build="$3" prefix="$4" cc="$5" cxx="$6" work="$3/package/headers"
  rm -rf "$work" && mkdir -p "$work"
  cd "$work"
  export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
  local version
  version="$(pkg-config --modversion fovea)"
  [ "$version" = "$(pkg-config --modversion fovea-kernels)" ] || fail "two versions"
  grep -q " VERSION $version " "$source/CMakeLists.txt" || fail "version $version is not the project's"

  # Every header, in the order of their names, without a warning.
  (cd "$prefix/include" && find fovea -name '*.h' | sort) | sed 's/.*/#include "&"/' >all.cpp
  # shellcheck disable=SC2046
  "$cxx" -std=c++20 -fsyntax-only -Wall -Wextra -Wshadow -Werror all.cpp $(pkg-config --cflags fovea)
  # The kernels know no other room.
  (cd "$prefix/include" && grep -ho '#include "fovea/[^"]*"' fovea/kernels/*.h fovea/base/*.h | sort -u) |
    grep -vE '"fovea/(base|kernels)/' && fail "headers of the kernels include the rooms above"

  # C and C++ by pkg-config, with no word on any other library.
  # shellcheck disable=SC2046
  "$cc" -std=c11 -pedantic -Wall -Wextra -Werror "$source/examples/attention.c" -o attention \
    $(pkg-config --cflags --libs fovea-kernels)
  expect "token 3 sees a mean of" ./attention
  # shellcheck disable=SC2046
  "$cxx" -std=c++20 -Wall -Wextra -Werror "$source/examples/predict.cpp" -o predict \
    $(pkg-config --cflags --libs fovea)
  ! ./predict nowhere x.png 2>error.log || fail "predict should refuse a bundle that is not there"
  grep -q nowhere error.log || fail "predict says: $(cat error.log)"

  # A newer version than this is not found.
  printf 'cmake_minimum_required(VERSION 3.16)\nproject(x LANGUAGES NONE)\nfind_package(Fovea 99 REQUIRED)\n' \
    >CMakeLists.txt
  ! "$cmake" -S . -B build -DCMAKE_PREFIX_PATH="$prefix" >configure.log 2>&1 || fail "version 99 was found"
  grep -q "version: $version" configure.log || fail "$(cat configure.log)"
}

case "$1" in
  install) install_package "${@:2}" ;;
  examples) build_examples "${@:2}" ;;
  headers) check_headers "${@:2}" ;;
  *) fail "there is no step '$1'" ;;
esac
