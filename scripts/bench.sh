#!/usr/bin/env bash
# Builds the rivals of `fovea bench` into build-bench, then measures everything. Usage:
# scripts/bench.sh [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."

onnxruntime="onnxruntime-node@1.30.0"

cmake -S bench -B build-bench -G Ninja >/dev/null
ninja -C build-bench -j "${1:-$(nproc)}"
# The package's own script would download libraries for graphics cards.
[ "$(cat build-bench/onnxruntime.version 2>/dev/null)" = "$onnxruntime" ] || {
  npm install --prefix build-bench --ignore-scripts --no-audit --no-fund --silent "$onnxruntime"
  echo "$onnxruntime" >build-bench/onnxruntime.version
}

for what in attention infer train; do
  build/bin/fovea bench "$what"
done
