"""GGUF files by the command line: what stands for what, what is said of them, what is refused.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
GOLDEN = ROOT / "tests/golden/gguf"


def quern(*args, code=0, text=None):
    p = subprocess.run([BUILD / "quern", *map(str, args)], capture_output=True, text=True, timeout=120, input=text)
    assert p.returncode == code, p.stdout + p.stderr
    return p.stdout if code == 0 else p.stdout + p.stderr


def string(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def gguf(path, **values):
    """A file of metadata alone."""
    out = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values))
    for key, value in values.items():
        out += string(key.replace("__", "."))
        out += struct.pack("<I", 8) + string(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    path.write_bytes(out + b"\0" * 64)
    return path


def test_inspect():
    x = json.loads(quern("inspect", GOLDEN / "moe-expert-mtp.gguf", "--json"))
    assert x["moe"] and x["mtp"] and x["gdn_value_heads"] == 8 and x["name"] == "moe-expert-mtp"
    assert x["tokenizer"] and x["parts"]["experts"]["formats"].keys() == {"BF16"}
    assert "in the file" in quern("inspect", GOLDEN / "moe-expert-mtp.gguf")


def test_split_set(tmp_path):
    """Any part stands for the set; a missing part is named."""
    for no in (1, 2):
        x = json.loads(quern("inspect", GOLDEN / f"dense-tied-0000{no}-of-00003.gguf", "--json"))
        assert x["files"] == 3 and x["tied"] and x["name"] == "dense-tied"
    for part in GOLDEN.glob("dense-tied-*"):
        shutil.copy(part, tmp_path)
    assert json.loads(quern("inspect", tmp_path, "--json"))["files"] == 3
    (tmp_path / "dense-tied-00002-of-00003.gguf").unlink()
    assert "dense-tied-00002-of-00003.gguf is not there" in quern("inspect", tmp_path, code=1)


def test_folders(tmp_path):
    """A folder with one model, towers aside; with several; the hub's cache."""
    shutil.copy(GOLDEN / "dense-untied-mtp.gguf", tmp_path / "a-Q8_0.gguf")
    gguf(tmp_path / "mmproj-F16.gguf", general__architecture="clip")
    (tmp_path / "README.md").write_text("hello")
    assert json.loads(quern("inspect", tmp_path, "--json"))["files"] == 1
    shutil.copy(tmp_path / "a-Q8_0.gguf", tmp_path / "a-Q4_0.gguf")
    told = quern("inspect", tmp_path, code=1)
    assert "several models" in told and "a-Q4_0.gguf, a-Q8_0.gguf" in told and "mmproj" not in told

    hub = tmp_path / "models--acme--Small-GGUF"
    (hub / "refs").mkdir(parents=True)
    (hub / "snapshots/abc").mkdir(parents=True)
    (hub / "snapshots/old").mkdir()
    (hub / "refs/main").write_text("abc")
    os.symlink(GOLDEN / "dense-untied-mtp.gguf", hub / "snapshots/abc/small.gguf")
    x = json.loads(quern("inspect", hub, "--json"))
    assert x["mtp"] and x["name"] == "Small-GGUF"
    (hub / "refs/main").unlink()
    assert "snapshots" in quern("inspect", hub, code=1)


def test_refusals(tmp_path):
    """What is no model of the family says what it is."""
    cases = {"general.architecture 'llama'": dict(general__architecture="llama"),
             "mmproj": dict(general__architecture="clip"),
             "adapter": dict(general__architecture="qwen35", general__type="adapter"),
             "no general.architecture": dict(general__name="x")}
    for i, (word, values) in enumerate(cases.items()):
        told = quern("inspect", gguf(tmp_path / f"{i}.gguf", **values), code=1)
        assert word.split(" '")[-1].rstrip("'") in told, told
    (tmp_path / "big.gguf").write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + b"\0" * 64)
    assert "big-endian" in quern("inspect", tmp_path / "big.gguf", code=1)
    data = bytearray((GOLDEN / "dense-untied-mtp.gguf").read_bytes())
    at = data.index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight")
    data[at + 4 + 16:at + 8 + 16] = struct.pack("<I", 16)
    (tmp_path / "iq.gguf").write_bytes(data)
    told = quern("inspect", tmp_path / "iq.gguf", code=1)
    assert "blk.0.ffn_up.weight is of type IQ2_XXS (16)" in told and "Q4_K_M" in told
    (tmp_path / "short.gguf").write_bytes(data[:len(data) // 2])
    assert "beyond the end of the file; the download is incomplete" in quern("inspect", tmp_path / "short.gguf", code=1)
    quern("plan", GOLDEN / "dense-untied-mtp.gguf", "--memory", "64M")


@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_logits(tmp_path, device):
    """The same logits as of the checkpoint the file was made from."""
    ids, out = tmp_path / "ids.json", {}
    ids.write_text(json.dumps(list(range(3, 80, 2))))
    for key, model in (("gguf", GOLDEN / "dense-untied-mtp.gguf"), ("hf", ROOT / "tests/golden/model/dense-untied-mtp")):
        quern("eval", "logits", model, "--ids", ids, "--out", tmp_path / key, "--device", device, "--activations", "f32")
        raw = (tmp_path / key).read_bytes()
        n = struct.unpack("<H", raw[8:10])[0]
        out[key] = struct.unpack(f"<{(len(raw) - 10 - n) // 4}f", raw[10 + n:])
    top = max(abs(x) for x in out["hf"])
    assert max(abs(a - b) for a, b in zip(out["gguf"], out["hf"])) < 1e-5 * top
