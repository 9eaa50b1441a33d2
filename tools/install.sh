#!/usr/bin/env bash
# make install PREFIX=/usr/local [DESTDIR=]: binary, small model, man pages, completions, unit, docs.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local} root=${DESTDIR:-} binary=${BINARY:-build/quern}
[[ $prefix == /* ]] || { echo "install: PREFIX must be an absolute path, not $prefix"; exit 1; }
[[ -x $binary ]] || { echo "install: $binary is missing; run make build"; exit 1; }
guides=$(mktemp -d)
trap 'rm -rf "$guides"' EXIT
python3 tools/make_guides.py "$binary" "$guides"
to=$root$prefix
zsh=${ZSH_COMPLETIONS:-$to/share/zsh/site-functions}
install -D -m 755 "$binary" "$to/bin/quern"
for f in models/mini/*; do [[ -f $f ]] && install -D -m 644 "$f" "$to/share/quern/models/mini/${f##*/}"; done
for f in "$guides"/man1/*.1; do install -D -m 644 "$f" "$to/share/man/man1/${f##*/}"; done
install -D -m 644 "$guides/quern.bash" "$to/share/bash-completion/completions/quern"
install -D -m 644 "$guides/_quern" "$zsh/_quern"
install -D -m 644 "$guides/quern.fish" "$to/share/fish/vendor_completions.d/quern.fish"
for f in README.md docs/*.md; do install -D -m 644 "$f" "$to/share/doc/quern/${f##*/}"; done
install -D -m 644 deploy/grafana/quern.json "$to/share/doc/quern/grafana/quern.json"
install -d "$to/lib/systemd/system"
sed "s|@PREFIX@|$prefix|g" deploy/systemd/quern.service >"$to/lib/systemd/system/quern.service"
chmod 644 "$to/lib/systemd/system/quern.service"
[[ -n $root ]] || echo "install: quern is in $prefix/bin; systemctl enable --now quern serves the small model (/etc/default/quern says what)"
