#!/usr/bin/env bash
# make test-arm64: builds for 64-bit Arm on an x86 Debian and runs the unit, golden and kernel tests under qemu-user.
# usage: tools/test_arm64.sh [REGEX of tests]
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user libhwloc-dev:arm64 libpcre2-dev:arm64 libutf8proc-dev:arm64
          libmicrohttpd-dev:arm64 libcurl4-openssl-dev:arm64 libcmocka-dev:arm64 libjpeg62-turbo-dev:arm64 libpng-dev:arm64
          libwebp-dev:arm64 libheif-dev:arm64 libavformat-dev:arm64 libavcodec-dev:arm64 libavutil-dev:arm64 libswscale-dev:arm64)
if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
  echo "test-arm64: installing ${packages[*]}"
  sudo=(); [[ $(id -u) == 0 ]] || sudo=(sudo)
  "${sudo[@]}" dpkg --add-architecture arm64
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
cmake -S . -B build-arm64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build-arm64
cd build-arm64
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
if [[ -n ${1:-} ]]; then
  ctest --output-on-failure -R "$1"
else
  ctest --output-on-failure -L quick
  ctest --output-on-failure -R 'golden_model|kern_kernels'
fi
