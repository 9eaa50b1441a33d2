"""The soak, for a few seconds: tests/soak/run.py runs it for as long as wanted.

SPDX-License-Identifier: Apache-2.0
"""
import os
import time

import pytest
import run

# says that it is ready, answers nothing
DEAF = """#!/bin/sh
echo $$ >> {pids}
{line}
exec sleep 300
"""


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("line", ["echo ready http://127.0.0.1:1/", "echo something else"])
def test_early_failure_leaves_no_server(line, tmp_path, monkeypatch):
    script = tmp_path / "quern-fake"
    script.write_text(DEAF.format(pids=tmp_path / "pids", line=line), encoding="ascii")
    script.chmod(0o755)
    monkeypatch.setattr(run, "BUILD", tmp_path)
    start = time.monotonic()
    with pytest.raises((OSError, RuntimeError)):
        run.main(["--binary", "quern-fake", "--seconds", "1"])
    assert time.monotonic() - start < 10
    pids = [int(p) for p in (tmp_path / "pids").read_text(encoding="ascii").split()]
    assert pids and all(map(is_gone, pids))


def test_scripted_model():
    assert run.main(["--binary", "quern-fake", "--seconds", "6", "--streams", "64", "--max-seqs", "24"]) == 0


def test_mini():
    assert run.main(["--seconds", "8", "--streams", "32", "--max-seqs", "16"]) == 0


def test_kills():
    assert run.main(["--kills", "5"]) == 0
