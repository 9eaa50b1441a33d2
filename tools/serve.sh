#!/usr/bin/env bash
# make serve: the shipped small model, or a synthesised tiny one when it is not in the tree.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
model=models/mini
if [[ ! -f $model/config.json ]]; then
  model=.synth/tiny
  echo "serve: models/mini is not in this tree; synthesising a tiny model with random weights (it talks nonsense)"
  [[ -f $model/config.json ]] || build/quern synth tiny "$model"
fi
exec build/quern serve "$model" --port "${1:-8080}"
