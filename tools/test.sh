#!/usr/bin/env bash
# make test: build with warnings as errors, then every test. ctest drives the C side, pytest the clients.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset ci >/dev/null
cmake --build build
(cd build && ctest --output-on-failure -j "$(nproc)")
.venv/bin/python -m pytest -q tests
