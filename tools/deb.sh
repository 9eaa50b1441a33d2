#!/usr/bin/env bash
# make deb: builds build/quern_VERSION_ARCH.deb from what is committed, and holds it against Debian's policy (lintian).
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^project(quern VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
work=build/deb/quern-$version
rm -rf build/deb && mkdir -p "$work"
git archive HEAD | tar -x -C "$work"
mv "$work/deploy/debian" "$work/debian"
# fakeroot: files of a package belong to root whoever builds it
(cd "$work" && DEB_BUILD_OPTIONS="parallel=$(nproc) nocheck" dpkg-buildpackage -b -us -uc -rfakeroot >../build.log 2>&1) ||
  { tail -n 40 build/deb/build.log; exit 1; }
lintian --fail-on error,warning build/deb/*.changes
cp build/deb/quern_*.deb build/
ls -l build/quern_*.deb
