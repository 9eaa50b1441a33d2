#!/usr/bin/env bash
# make fuzz: every fuzz target under libFuzzer for FUZZ_SECONDS (default 60), starting from its corpus.
# New inputs stay in build-fuzz/corpus; a finding stops the run and leaves crash-* in build-fuzz.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset fuzz >/dev/null
cmake --build build-fuzz
for target in build-fuzz/tests/fuzz_*; do
  noun=${target##*/fuzz_}
  mkdir -p "build-fuzz/corpus/$noun"
  echo "== $noun"
  (cd build-fuzz && "tests/fuzz_$noun" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=4096 \
    -print_final_stats=1 "corpus/$noun" "../tests/fuzz/corpus/$noun" 2>&1 | grep -E 'ERROR|SUMMARY|number_of_executed|crash-' || true)
  ! ls build-fuzz/crash-* >/dev/null 2>&1 || { echo "fuzz: finding in build-fuzz"; exit 1; }
done
