#!/usr/bin/env bash
# Builds the fuzz targets with Clang, runs each for a while, one after another, and says what was
# found. Usage: scripts/fuzz.sh [SECONDS of each] [jobs of the build] [target...]
# What a run finds is kept: build-fuzz/found/TARGET (inputs that reach new code, the start of the next
# run) and build-fuzz/broken/TARGET-* (inputs that break a promise).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
jobs="${2:-2}"
shift $(($# < 2 ? $# : 2))

[ -f build-fuzz/build.ninja ] || cmake -S . -B build-fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++-14 \
  -DFOVEA_FUZZ=ON -DFOVEA_TESTS=OFF -DFOVEA_WERROR=ON >/dev/null
ninja -C build-fuzz -j "$jobs" --quiet fuzzers
mkdir -p build-fuzz/found build-fuzz/broken build-fuzz/logs
build-fuzz/bin/fuzz_dictionary >build-fuzz/graph.dict

# The corpus and the dictionary of a target: its own name, or "graph" for those that read graphs.
stem() { case "$1" in graph_*) echo graph ;; *) echo "$1" ;; esac; }

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for program in build-fuzz/bin/fuzz_*; do
    name="${program##*/fuzz_}"
    [ "$name" = dictionary ] || targets+=("$name")
  done
fi

export ASAN_OPTIONS="${ASAN_OPTIONS:-}:allocator_may_return_null=1:detect_leaks=1"
export UBSAN_OPTIONS="print_stacktrace=1"
summary=""
status=0
for name in "${targets[@]}"; do
  corpus="fuzz/corpus/$(stem "$name")"
  [ -d "$corpus" ] || corpus=""
  found="build-fuzz/found/$name"
  log="build-fuzz/logs/$name.log"
  mkdir -p "$found"
  before=$(find "$found" -type f | wc -l)
  dictionary=()
  for file in "build-fuzz/$(stem "$name").dict" "fuzz/dictionaries/$(stem "$name").dict"; do
    [ -f "$file" ] && dictionary=("-dict=$file")
  done
  echo "== $name, $seconds s ($log)"
  result=ok
  # A slow input is as bad as a wrong one: it holds up whoever opens the file.
  "build-fuzz/bin/fuzz_$name" "$found" $corpus -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=8192 -use_value_profile=1 \
    -print_final_stats=1 "${dictionary[@]}" -artifact_prefix="build-fuzz/broken/$name-" \
    >"$log" 2>&1 || result=BROKEN
  broken=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  # Time is that of the clock: where other programs had the processor, the input is fast when it runs alone.
  if [ "$result" != ok ] && [[ "$broken" == *-timeout-* ]] &&
    "build-fuzz/bin/fuzz_$name" -timeout=10 "$broken" >>"$log" 2>&1; then
    result="ok, but stopped early: the machine was busy"
    rm "$broken"
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
  after=$(find "$found" -type f | wc -l)
  summary+=$(printf '%-14s %10s runs %7s edges %6s new inputs  %s' "$name" "${runs:-?}" \
    "${edges:-?}" "$((after - before))" "$result")$'\n'
  if [ "$result" = BROKEN ]; then
    status=1
    grep -m 3 -E 'ERROR:|runtime error|broken promise|SUMMARY' "$log" || true
    grep -E 'Test unit written' "$log" || true
  fi
done
printf '\n%s' "$summary"
exit $status
