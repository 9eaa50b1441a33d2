#!/usr/bin/env bash
# make cuda: builds quern with the CUDA back end. Without an nvcc on the PATH it takes NVIDIA's packages from PyPI, pinned,
# into build/cuda (about 260 MB); nothing outside the build folder changes.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvcc >/dev/null && [[ ! -x /usr/local/cuda/bin/nvcc || -n ${QUERN_FETCH_NVCC:-} ]]; then
  if ! ls build/cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc >/dev/null 2>&1; then
    echo "cuda: fetching nvcc into build/cuda"
    python3 -c 'import ensurepip' 2>/dev/null || { echo "cuda: python3-venv is needed: apt-get install python3-venv"; exit 1; }
    python3 -m venv build/cuda
    build/cuda/bin/pip install -q --disable-pip-version-check nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 \
      nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  fi
fi
cmake --preset release -DQUERN_CUDA=AUTO
cmake --build build
build/quern version
