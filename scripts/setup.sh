#!/usr/bin/env bash
# Installs the Debian packages that are missing, and nothing else. Usage:
# scripts/setup.sh [demo|test|bench|docs|check|fuzz]
set -euo pipefail

demo="g++ cmake ninja-build ccache libdnnl-dev libhwy-dev libfmt-dev libtomlplusplus-dev
  nlohmann-json3-dev libcli11-dev libpng-dev libjpeg62-turbo-dev zlib1g-dev libzip-dev
  libfreetype-dev fonts-dejavu-core dataset-fashion-mnist libonnx-dev libprotobuf-dev
  libsqlite3-dev"
docs="doxygen"
test="libgtest-dev clang-format-14 pkgconf $docs"
check="clang-14 libclang-rt-14-dev"
bench="libtorch-dev libopenblas0-openmp"
# Node and npm also come from elsewhere than Debian, in one package.
command -v node >/dev/null && command -v npm >/dev/null || bench="$bench nodejs npm"

case "${1:-demo}" in
  demo) wanted="$demo" ;;
  test) wanted="$demo $test" ;;
  bench) wanted="$demo $bench" ;;
  docs) wanted="$demo $docs" ;;
  check) wanted="$demo $test $check" ;;
  fuzz) wanted="$demo $check" ;;
  *) echo "usage: scripts/setup.sh [demo|test|bench|docs|check|fuzz]" >&2; exit 2 ;;
esac

missing=""
for package in $wanted; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
    missing="$missing $package"
done
[ -z "$missing" ] && exit 0

echo "Installing:$missing"
root=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root, or install sudo" >&2; exit 2; }
  root="sudo"
fi
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
# shellcheck disable=SC2086
$root apt-get install -y -qq --no-install-recommends $missing >/dev/null
