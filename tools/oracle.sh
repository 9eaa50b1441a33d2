#!/usr/bin/env bash
# make oracle: writes the golden files again with the reference implementations and shows what changed.
# Needs several GB for torch; PYTHON names an interpreter that has the packages already.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv-oracle/bin/python}
if [[ ! -x $python ]]; then
  tools/setup.sh test
  /usr/bin/python3 -m venv .venv-oracle
  .venv-oracle/bin/python -m pip install -q --disable-pip-version-check -r tools/requirements-oracle.txt
fi
for script in tools/make_format_golden.py tools/make_template_golden.py tools/make_tokenizer_golden.py tools/make_model_golden.py tools/make_rope_golden.py; do
  echo "== $script"
  "$python" "$script"
done
git status --short tests/golden
git diff --stat -- tests/golden
