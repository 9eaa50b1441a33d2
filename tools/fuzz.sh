#!/usr/bin/env bash
# make fuzz: fuzz targets under libFuzzer for FUZZ_SECONDS each (default 60), all or those named, starting from their
# corpus and with the words of tests/fuzz/words. New inputs stay in build-fuzz/corpus; a finding stops the run and
# leaves crash-*, leak-*, oom-* or timeout-* in build-fuzz.
#   tools/fuzz.sh [TARGET...]          e.g. tools/fuzz.sh api_chat parse
#   FUZZ_RUNS=300000 tools/fuzz.sh     so many executions each in place of seconds; build-fuzz/executions adds them up,
#                                      so that rounds of it are a long campaign over all targets
#   FUZZ_FRESH=1 tools/fuzz.sh         from the committed corpus alone: one that grew for days has slow inputs, which get
#                                      most of the time
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
# Bytes of an input: what a target can do something with, at ten thousand executions a second where that goes.
limit() {
  case $1 in
    encode | gbnf) echo 256 ;;
    jinja_values) echo 400 ;;
    parse | schema) echo 600 ;;
    config | image | safetensors | step | tokenizer | video) echo 6000 ;; # whole files
    *) echo 1200 ;;
  esac
}
runs=(-max_total_time="${FUZZ_SECONDS:-60}")
[[ ${FUZZ_RUNS:-} ]] && runs=(-runs="$FUZZ_RUNS")
for noun in "${nouns[@]}"; do
  mkdir -p "corpus/$noun"
  committed=../tests/fuzz/corpus/$noun words=../tests/fuzz/words/$noun.dict
  if [[ $merges ]]; then
    "tests/fuzz_$noun" -merge=1 -use_counters=0 -max_len="$(limit "$noun")" -timeout=10 "$committed" "corpus/$noun" >"merge-$noun.log" 2>&1
    echo "$noun: $(ls "$committed" | wc -l) inputs, $(cat "$committed"/* | wc -c) bytes"
    continue
  fi
  echo "== $noun"
  dict=()
  [[ -f $words ]] && dict=(-dict="$words")
  grown=corpus/$noun
  [[ ${FUZZ_FRESH:-} ]] && grown=$(mktemp -d)
  # short inputs and cheap book-keeping: several times the executions, which find more here
  ASAN_OPTIONS=malloc_context_size=4:quarantine_size_mb=16 "tests/fuzz_$noun" "${runs[@]}" \
    -max_len="$(limit "$noun")" -len_control=0 -entropic=0 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    "${dict[@]}" "$grown" "$committed" >"fuzz-$noun.log" 2>&1 || true
  [[ $grown == "corpus/$noun" ]] || { find "$grown" -type f -exec mv -t "corpus/$noun" {} +; rmdir "$grown"; }
  grep -aE 'ERROR|SUMMARY|number_of_executed|average_exec|crash-|leak-|oom-|timeout-' "fuzz-$noun.log" || true
  echo "$noun $(awk '/number_of_executed/ { n = $2 } END { print n + 0 }' "fuzz-$noun.log")" >>executions
  ! compgen -G '*-????????????????????????????????????????' >/dev/null || { echo "fuzz: finding in build-fuzz"; exit 1; }
done
[[ $merges ]] || awk '{ n[$1] += $2 } END { for (t in n) print "all in all", t, n[t] }' executions | sort
