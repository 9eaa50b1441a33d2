#!/usr/bin/env bash
# make test: build with warnings as errors, then every test. ctest drives the C side, pytest the clients. At the end a
# table of what was skipped. `test.sh long` (make test-long) gives the random tests larger counts.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} == long ]]; then
  export QUERN_COMBINATIONS=${QUERN_COMBINATIONS:-20000} QUERN_OPERATIONS=${QUERN_OPERATIONS:-10000000}
  export QUERN_SCHEMAS=${QUERN_SCHEMAS:-1000} QUERN_SOAK_S=${QUERN_SOAK_S:-120} QUERN_LONG=1
fi
cmake --preset ci -DQUERN_TIMEOUT_TIMES="$([[ ${1:-} == long ]] && echo 12 || echo 1)" >/dev/null
cmake --build build
rm -f build/ctest.xml build/pytest.xml
rc=0
(cd build && ctest --output-on-failure -j "$(nproc)" --output-junit "$PWD/ctest.xml" --test-output-size-passed 65536) || rc=1
.venv/bin/python -m pytest -q tests --junitxml=build/pytest.xml || rc=1
python3 tools/skips.py
exit "$rc"
