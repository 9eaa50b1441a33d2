"""The soak, for a few seconds: tests/soak/run.py runs it for as long as wanted.

SPDX-License-Identifier: Apache-2.0
"""
import run


def test_scripted_model():
    assert run.main(["--binary", "quern-fake", "--seconds", "6", "--streams", "64", "--max-seqs", "24"]) == 0


def test_mini():
    assert run.main(["--seconds", "8", "--streams", "32", "--max-seqs", "16"]) == 0


def test_kills():
    assert run.main(["--kills", "5"]) == 0
