"""GGUF files by the command line: what stands for what, what is said of them, what is refused.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import json
import os
import pathlib
import shutil
import struct
import subprocess

import conftest
import numpy as np
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


# --- between GGUF files and checkpoints ---

MINI = ROOT / "models/mini"


def tensors(folder):
    raw = (folder / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in head.items() if k != "__metadata__"}


def split(tensors):
    """Fused experts as the tensors of each."""
    out = {}
    for name, (dtype, shape, data) in tensors.items():
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(name.rsplit(".", 1)[1])
        if not parts or ".experts." not in name or name.endswith(".weight"):
            out[name] = (dtype, shape, data)
            continue
        rows, size = shape[1] // len(parts), len(data) // shape[0] // len(parts)
        for i in range(shape[0] * len(parts)):
            stem = f"{name.rsplit('.', 1)[0]}.{i // len(parts)}.{parts[i % len(parts)]}.weight"
            out[stem] = (dtype, [rows, shape[2]], data[i * size:(i + 1) * size])
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """quern-mini as GGUF files."""
    path = tmp_path_factory.mktemp("gguf")
    for form in ("bf16", "q8_0", "q4_0"):
        quern("quantize", MINI, path / f"mini-{form}.gguf", "--format", form)
    return path


def test_there_and_back(written, tmp_path):
    """A checkpoint out of a GGUF file has the bytes of the one the file was made from: value heads (two to a key head) in
    their order, norms, experts. A_log went through a logarithm: a unit in its last place."""
    quern("quantize", written / "mini-bf16.gguf", tmp_path / "back", "--format", "bf16")
    before, after = split(tensors(MINI)), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, (dtype, shape, data) in before.items():
        kind, dims, got = after[name]
        assert dims == shape, name
        if name.endswith("A_log"):
            count = len(got) // 4
            wide = struct.unpack(f"<{count}f", data) if dtype == "F32" else [
                struct.unpack("<f", b"\0\0" + data[2 * i:2 * i + 2])[0] for i in range(count)]
            assert all(abs(a - b) < 1e-6 for a, b in zip(wide, struct.unpack(f"<{count}f", got))), name
        elif kind == dtype:
            assert got == data, name
        else:
            assert (kind, dtype) == ("F32", "BF16") and got == b"".join(
                b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)), name
    text = "Grüße, 世界! <|im_start|>x<tool_call>\n"
    assert len({quern("tokenize", m, text=text) for m in (MINI, written / "mini-q4_0.gguf", tmp_path / "back")}) == 1
    x = json.loads(quern("inspect", tmp_path / "back", "--json"))
    assert x["mtp"] and x["tokenizer"] and x["template"] and set(x["stop_tokens"]) == {4058, 4056}


def test_types_written(written):
    """Matrices in the type asked for; the head of a Q4_0 file is Q8_0; routers stay F32."""
    x = json.loads(quern("inspect", written / "mini-q4_0.gguf", "--json"))["parts"]
    assert x["experts"]["formats"].keys() == {"Q4_0"} and x["head"]["formats"].keys() == {"Q8_0"}
    assert x["router"]["formats"].keys() == {"F32"}
    assert json.loads(quern("inspect", written / "mini-q8_0.gguf", "--json"))["parts"]["gdn"]["formats"].keys() == {"Q8_0"}


def test_conversion_refusals(written, tmp_path):
    q4 = written / "mini-q4_0.gguf"
    assert "is there already" in quern("quantize", MINI, q4, "--format", "bf16", code=1)
    assert "written in bf16, q8_0 and q4_0" in quern("quantize", MINI, tmp_path / "a.gguf", "--format", "awq", code=1)
    assert "--format bf16" in quern("quantize", q4, tmp_path / "a", "--format", "awq", code=1)
    assert "GGUF file already" in quern("quantize", q4, tmp_path / "a.gguf", "--format", "bf16", code=1)
    assert not list(tmp_path.glob("a*"))


def test_serve(written):
    """A GGUF file is served like any checkpoint: chat template, stop tokens, speculation, many at once."""
    s = conftest.Server("quern", written / "mini-q8_0.gguf", "--memory", "1G")
    try:
        ask = {"messages": [{"role": "user", "content": "What is quern?"}], "temperature": 0, "max_tokens": 48}
        status, first = s.post("/v1/chat/completions", ask)
        assert status == 200 and first["choices"][0]["finish_reason"] == "stop"
        assert "quern" in first["choices"][0]["message"]["content"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: s.post("/v1/chat/completions", ask)[1], range(4)))
        assert {a["choices"][0]["message"]["content"] for a in answers} == {first["choices"][0]["message"]["content"]}
        assert s.get("/v1/models")[1]["data"][0]["id"] == "mini-q8_0"
    finally:
        assert s.stop() == 0


@pytest.mark.parametrize("name", ["dense-untied-mtp", "moe-expert-mtp"])
def test_tiled_heads_on_cuda(name, tmp_path):
    """Head j of a GGUF file belongs to key head j mod NK, on the emulated device as on ref."""
    (tmp_path / "ids.json").write_text(json.dumps([i * 37 % 200 for i in range(40)]))
    rows = {}
    for binary, device in (("tests/quern-simt", "cuda"), ("quern", "ref")):
        out = tmp_path / f"{device}.npy"
        r = subprocess.run([BUILD / binary, "eval", "logits", ROOT / f"tests/golden/gguf/{name}.gguf", "--ids", tmp_path / "ids.json",
                            "--device", device, "--activations", "f32", "--out", out], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        rows[device] = np.load(out)
    assert np.abs(rows["cuda"] - rows["ref"]).max() < 1e-4 * np.abs(rows["ref"]).max()
