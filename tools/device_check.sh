#!/usr/bin/env bash
# make device-check: what only a machine with a GPU can say. Build beforehand with `tools/device_check.sh build`, where there is
# an nvcc and a network; run it on the machine with the GPU, which needs neither. Parts run in order of value; each writes its
# result to OUT/PART.txt at once and is not run again while that file says it held. OUT: ./device-check, or the environment's.
# SPDX-License-Identifier: Apache-2.0
set -uo pipefail
cd "$(dirname "$0")/.."
dir=build-device
out=${OUT:-device-check}
parts=(machine adder kern golden rows formats answer orders memcheck racecheck synccheck initcheck)

if [[ ${1:-} == build ]]; then
  set -e
  tools/setup.sh test
  cmake --preset ci -B $dir -DQUERN_CUDA=AUTO >/dev/null
  cmake --build $dir --target quern quern-simt simt_probe device_programs
  $dir/tests/simt_probe $dir/emulator.bits 200 # of hard operands of mma: the published adder
  exit
fi
[[ -x $dir/tests/device_kern ]] || { echo "device-check: build first: tools/device_check.sh build"; exit 1; }
mkdir -p "$out"

ids() { python3 -c "print([i * 37 % 4000 + 5 for i in range(96)])" >"$out/ids.json"; }
part_machine() { nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit,ecc.mode.current --format=csv; }
part_adder() { $dir/tests/device_probe "$out/device.bits" 200 && cmp "$out/device.bits" $dir/emulator.bits; }
part_kern() { $dir/tests/device_kern cuda; }
part_golden() { $dir/tests/device_golden; }
part_rows() { $dir/tests/device_rows; }
part_formats() { $dir/tests/device_formats; }
part_answer() { QUERN_TEST='test_one_answer_m*' QUERN_COMBINATIONS=3000 timeout 120 $dir/tests/device_answer; }
# the emulator's bits, then the same bits 200 times, beside a load that disturbs
part_orders() {
  ids
  $dir/tests/quern-simt eval logits models/mini --device cuda --ids "$out/ids.json" --out "$out/emulator.npy" || return 1
  (while :; do $dir/quern eval logits models/mini --device cuda --ids "$out/ids.json" --out /dev/null; done >/dev/null 2>&1) &
  local load=$! rc=0
  for _ in $(seq 200); do
    $dir/quern eval logits models/mini --device cuda --ids "$out/ids.json" --out "$out/device.npy" || rc=1
    cmp "$out/emulator.npy" "$out/device.npy" || { rc=1; break; }
  done
  kill $load
  return $rc
}
sanitize() {
  command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 1; }
  timeout 90 compute-sanitizer --tool "$1" --error-exitcode 9 $dir/tests/device_kern cuda steps
}
part_memcheck() { sanitize memcheck; }
part_racecheck() { sanitize racecheck; }
part_synccheck() { sanitize synccheck; }
part_initcheck() { sanitize initcheck; }

failed=0
for part in "${@:-${parts[@]}}"; do
  for one in $part; do
    tail -1 "$out/$one.txt" 2>/dev/null | grep -q '^held' && { echo "$one: held before"; continue; }
    start=$SECONDS
    if part_$one >"$out/$one.txt" 2>&1; then word=held; else word=FAILED failed=1; fi
    echo "$word after $((SECONDS - start)) s" >>"$out/$one.txt"
    echo "$one: $word, $((SECONDS - start)) s"
  done
done
exit $failed
