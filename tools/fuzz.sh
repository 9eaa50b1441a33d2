#!/usr/bin/env bash
# make fuzz: fuzz targets under libFuzzer for FUZZ_SECONDS each (default 60), all or those named, starting from their
# corpus and with the words of tests/fuzz/words. New inputs stay in build-fuzz/corpus; a finding stops the run and
# leaves crash-*, leak-*, oom-* or timeout-* in build-fuzz.
#   tools/fuzz.sh [TARGET...]          e.g. tools/fuzz.sh api_chat parse
#   tools/fuzz.sh --merge [TARGET...]  adds to tests/fuzz/corpus what reaches more than it does
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
merges=
[[ ${1:-} == --merge ]] && { merges=1; shift; }
nouns=("$@")
((${#nouns[@]})) || for source in tests/fuzz/fuzz_*.c; do nouns+=("$(basename "${source#tests/fuzz/fuzz_}" .c)"); done
cmake --preset fuzz >/dev/null
cmake --build build-fuzz --target "${nouns[@]/#/fuzz_}"
cd build-fuzz
for noun in "${nouns[@]}"; do
  mkdir -p "corpus/$noun"
  committed=../tests/fuzz/corpus/$noun words=../tests/fuzz/words/$noun.dict
  if [[ $merges ]]; then
    "tests/fuzz_$noun" -merge=1 -use_counters=0 -max_len=2048 -timeout=10 "$committed" "corpus/$noun" >"merge-$noun.log" 2>&1
    echo "$noun: $(ls "$committed" | wc -l) inputs, $(cat "$committed"/* | wc -c) bytes"
    continue
  fi
  echo "== $noun"
  dict=()
  [[ -f $words ]] && dict=(-dict="$words")
  # short inputs and cheap book-keeping: several times the executions, which find more here
  ASAN_OPTIONS=malloc_context_size=4:quarantine_size_mb=16 "tests/fuzz_$noun" -max_total_time="${FUZZ_SECONDS:-60}" \
    -max_len=1200 -entropic=0 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    "${dict[@]}" "corpus/$noun" "$committed" >"fuzz-$noun.log" 2>&1 || true
  grep -aE 'ERROR|SUMMARY|number_of_executed|average_exec|crash-|leak-|oom-|timeout-' "fuzz-$noun.log" || true
  ! compgen -G '*-????????????????????????????????????????' >/dev/null || { echo "fuzz: finding in build-fuzz"; exit 1; }
done
