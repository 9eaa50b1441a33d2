#!/usr/bin/env bash
# Installs what quern needs to build and test on Debian 12. Safe to run again: does nothing when nothing is missing.
#   tools/setup.sh build    compiler and libraries
#   tools/setup.sh install  the above, plus what makes man pages
#   tools/setup.sh deb      the above, plus Debian's packaging tools
#   tools/setup.sh test     compiler and libraries, plus a Python environment in .venv with the pinned test clients
#   tools/setup.sh claude   Claude Code in .venv-claude (400 MB), for its end-to-end test
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}

packages=(gcc g++ cmake ninja-build pkg-config libmicrohttpd-dev libpcre2-dev libutf8proc-dev libhwloc-dev
          libcurl4-openssl-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libheif-dev libavformat-dev libavcodec-dev
          libavutil-dev libswscale-dev)
[[ $what == install || $what == deb ]] && packages+=(python3)
[[ $what == deb ]] && packages+=(debhelper dpkg-dev fakeroot lintian)
[[ $what == test ]] && packages+=(libcmocka-dev relacy-dev chromium python3 python3-venv curl wamerican)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  echo "setup: installing ${missing[*]}"
  sudo=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { echo "setup: these packages are missing: ${missing[*]}; install them as root"; exit 1; }
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [[ $what == test ]]; then
  want=$(cat tests/requirements.txt tests/requirements-alone.txt | sha256sum | cut -d' ' -f1)
  if [[ $(cat .venv/.stamp 2>/dev/null) != "$want" ]]; then
    echo "setup: Python environment for the tests in .venv"
    /usr/bin/python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -r tests/requirements-alone.txt
    echo "$want" >.venv/.stamp
  fi
fi

if [[ $what == claude ]]; then
  [[ -d .venv-claude ]] || /usr/bin/python3 -m venv .venv-claude
  .venv-claude/bin/python -m pip install -q --disable-pip-version-check -r tests/requirements-claude.txt
fi
