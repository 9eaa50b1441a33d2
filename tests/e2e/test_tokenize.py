"""quern tokenize: text to ids and back, as a user runs it.

SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import shutil
import subprocess
import unicodedata

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERN = ROOT / "build/quern"
GOLDEN = ROOT / "tests/golden/tokenizer"


def run(*args, stdin=b""):
    return subprocess.run([QUERN, "tokenize", *map(str, args)], input=stdin, capture_output=True, timeout=60)


def test_golden_cases_there_and_back():
    for text, ids in json.loads((GOLDEN / "small.json").read_text())["cases"][:30]:
        out = run(GOLDEN / "small", stdin=text.encode())
        assert out.returncode == 0, out.stderr
        assert out.stdout.count(b"\n") == 1
        assert json.loads(out.stdout) == ids
        back = run(GOLDEN / "small", "--decode", stdin=out.stdout)
        assert back.returncode == 0, back.stderr
        assert unicodedata.normalize("NFC", back.stdout.decode()) == unicodedata.normalize("NFC", text)


def test_invalid_utf8_is_repaired():
    out = run(GOLDEN / "small", stdin=b"a\xff\xe4\xbdb")
    assert out.returncode == 0
    assert out.stdout == run(GOLDEN / "small", stdin="a\ufffd\ufffdb".encode()).stdout


def test_skip_special():
    ids = run(GOLDEN / "small", stdin=b"<|im_start|><think>x</think><|im_end|>").stdout
    assert run(GOLDEN / "small", "--decode", stdin=ids).stdout == b"<|im_start|><think>x</think><|im_end|>"
    assert run(GOLDEN / "small", "--decode", "--skip-special", stdin=ids).stdout == b"<think>x</think>"


@pytest.mark.parametrize("stdin, part", [
    (b"[1, 99999999]", b"no token has the id 99999999"),
    (b"[-1]", b"no token has the id -1"),
    (b"[1.5]", b"item 0 is not a token id"),
    (b'[1, "a"]', b"item 1 is not a token id"),
    (b"{}", b"one JSON array"),
    (b"[1", b"JSON ends at byte 2"),
])
def test_bad_ids(stdin, part):
    out = run(GOLDEN / "small", "--decode", stdin=stdin)
    assert (out.returncode, out.stdout) == (1, b"")
    assert part in out.stderr


def test_bad_use(tmp_path):
    assert run().returncode == 2
    assert run(GOLDEN / "small", "--decod").returncode == 2
    assert run(GOLDEN / "small", "--skip-special").returncode == 2
    assert b"example" in run("--help").stdout.lower()
    out = run(tmp_path)
    assert out.returncode == 1 and b"tokenizer.json is missing" in out.stderr
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece", "vocab": {}}}')
    out = run(tmp_path)
    assert out.returncode == 1 and b"'WordPiece'" in out.stderr


def test_tokenizer_config_is_optional(tmp_path):
    shutil.copy(GOLDEN / "small/tokenizer.json", tmp_path)
    out = run(tmp_path, stdin=b"<think><tts_pad>")
    assert out.returncode == 0
    assert len(json.loads(out.stdout)) > 2  # <tts_pad> is in tokenizer_config.json only
