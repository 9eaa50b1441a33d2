#!/usr/bin/env bash
# The KL tables of docs/formats.md: each format of a model, from its weights alone and calibrated.
# usage: tools/format_table.sh [MODEL] [TOKENS]   (models/mini, 2048)
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-models/mini} tokens=${2:-2048} quern=build/quern
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 tools/mini/generate.py --text --held --count 60 --seed 5 >"$work/held.txt"
python3 tools/mini/generate.py --text --count 200 --seed 77 >"$work/calib.txt"
echo "| Format | Options | Mean KL | +- | Median | P99 | Top-1 agreement |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
row() { # FORMAT RECIPE [OPTIONS]: a line of the table
    local format=$1 recipe=$2 out=$work/q options
    shift 2
    options="$recipe${*:+ $*}" options=${options/--calib CALIB --calib-tokens 8192/calibrated}
    rm -rf "$out"
    $quern quantize "$model" "$out" --format "$format" --recipe "$recipe" -q ${@/CALIB/$work/calib.txt}
    $quern eval kld "$out" --reference "$model" "$work/held.txt" --activations f32 --max-tokens "$tokens" --json 2>/dev/null |
        python3 -c 'import json, sys; x = json.load(sys.stdin); print("| %s | %s | %.4f | %.4f | %.5f | %.3f | %.3f |" % (
            sys.argv[1], sys.argv[2], x["mean_kld"], x["mean_kld_error"], x["median_kld"], x["p99_kld"], x["top1"]))' \
            "$format" "$options"
}
calibrated="--calib CALIB --calib-tokens 8192"
for format in int8 fp8 fp8-channel fp8-tensor nvfp4 awq gptq int4-ct; do
    row $format linear
    row $format linear $calibrated
done
row nvfp4 experts
row nvfp4 linear --nearest
row gptq linear $calibrated --act-order
row awq linear $calibrated --compensate off

echo
echo "| Format | f32 | bf16 | int8 | Top-1 agreement: f32 | bf16 | int8 |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for format in int8 nvfp4 awq int4-ct; do # the same weights with each type of activations
    rm -rf "$work/q"
    $quern quantize "$model" "$work/q" --format $format --recipe linear -q
    for act in f32 bf16 int8; do
        $quern eval kld "$work/q" --reference "$model" "$work/held.txt" --activations $act --reference-activations f32 --reference-kv f32 \
            --max-tokens "$tokens" --json 2>/dev/null
    done | python3 -c 'import json, sys; x = [json.loads(line) for line in sys.stdin]; print("| %s | %s | %s |" % (sys.argv[1],
        " | ".join("%.4f +- %.4f" % (y["mean_kld"], y["mean_kld_error"]) for y in x), " | ".join("%.3f" % y["top1"] for y in x)))' $format
done
