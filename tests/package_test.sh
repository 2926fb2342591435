#!/usr/bin/env bash
# The installed package, as a stranger uses it. Usage:
# package_test.sh install  CMAKE SOURCE BUILD PREFIX
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
  [ "$("$prefix/bin/fovea" --version | head -c 5)" = fovea ] || fail "the program does not run"
}

case "$1" in
  install) install_package "${@:2}" ;;
  *) fail "there is no step '$1'" ;;
esac
