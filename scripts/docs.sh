#!/usr/bin/env bash
# Doxygen's pages of the public headers; any warning is an error. Usage: scripts/docs.sh BUILD OUT
# BUILD is a configured build folder: it knows which headers are installed.
set -euo pipefail
build="$(realpath "$1")" && out="$(realpath -m "$2")"
cd "$(dirname "$0")/.."

export FOVEA_DOCS_HEADERS="$out/headers/include" FOVEA_DOCS_OUT="$out"
FOVEA_VERSION="$(sed -n 's/^project(fovea VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)"
export FOVEA_VERSION
rm -rf "$out" && mkdir -p "$out"
cmake --install "$build" --component headers --prefix "$out/headers" >/dev/null
doxygen docs/doxygen/Doxyfile
echo "$out/html/index.html"
