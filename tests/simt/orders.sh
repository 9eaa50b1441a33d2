#!/usr/bin/env bash
# Logits of quern-mini, in three orders of blocks, warps and lanes: equal bits. orders.sh QUERN_SIMT SOURCE
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
quern=$1 model=$2/models/mini
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -c "print([i * 37 % 4000 + 5 for i in range(96)])" >"$dir/ids"
for seed in 0 1 2; do
  SIMT_SEED=$seed "$quern" eval logits "$model" --device cuda --ids "$dir/ids" --out "$dir/$seed.npy" --chunk 40 >/dev/null
  cmp "$dir/0.npy" "$dir/$seed.npy"
done
echo "equal bits in three orders"
