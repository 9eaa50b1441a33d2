#!/usr/bin/env bash
# The KL table of KV-cache types in docs/numerics.md: a model with each of them against itself with F32.
# usage: tools/kv_table.sh [MODEL] [TOKENS]   (models/mini, 8192)
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-models/mini} tokens=${2:-8192} quern=build/quern
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 tools/mini/generate.py --text --held --count 200 --seed 5 >"$work/held.txt"
echo "| KV cache | Mean KL | +- | Median | P99 | Top-1 agreement |"
echo "| --- | --- | --- | --- | --- | --- |"
for kv in bf16 fp8_dynamic fp8_e4m3 fp8_e5m2; do
    $quern eval kld "$model" --reference "$model" "$work/held.txt" --activations f32 --kv $kv --reference-kv f32 \
        --max-tokens "$tokens" --json 2>/dev/null |
        python3 -c 'import json, sys; x = json.load(sys.stdin); print("| %s | %.6f | %.6f | %.6f | %.4f | %.4f |" % (
            sys.argv[1], x["mean_kld"], x["mean_kld_error"], x["median_kld"], x["p99_kld"], x["top1"]))' $kv
done
