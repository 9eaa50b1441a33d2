#!/usr/bin/env bash
# make check: formatting, include directions, unit tests under ASan/UBSan, engine and server tests under TSan.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
for package in clang clang-format clang-tidy; do command -v "$package" >/dev/null || missing+=("$package"); done
if ((${#missing[@]})); then
  echo "check: installing ${missing[*]}"
  sudo=(); [[ $(id -u) == 0 ]] || sudo=(sudo)
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

echo "== include directions"
python3 tools/check_includes.py
echo "== formatting"
git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror
echo "== address and undefined behaviour"
cmake --preset asan >/dev/null
cmake --build build-asan --target tests_quick
(cd build-asan && ASAN_OPTIONS=detect_leaks=1 ctest -L quick --output-on-failure --timeout 300)
echo "== threads"
cmake --preset tsan >/dev/null
cmake --build build-tsan --target tests_threads
(cd build-tsan && ctest -L threads --output-on-failure --timeout 300)
echo "== static analysis"
cmake --preset ci >/dev/null
# one file a process: with more, the analyzer takes a va_list of the second file for uninitialised
git ls-files 'src/*.c' | grep -vE '_(avx2|avx512|avx512bf16|neon)\.c$' |
  xargs -P "$(nproc)" -n 1 clang-tidy -p build --quiet 2>/dev/null
echo "check: ok"
