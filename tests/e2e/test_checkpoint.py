"""The commands that read and write checkpoints: synth, inspect, plan, quantize.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))


def quern(*args, code=0, cwd=None):
    p = subprocess.run([BUILD / "quern", *map(str, args)], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert p.returncode == code, p.stdout + p.stderr
    return p.stdout if code == 0 else p.stdout + p.stderr


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "moe"
    quern("synth", "tiny-moe", path, "--seed", 4)
    return path


def test_inspect(moe):
    x = json.loads(quern("inspect", moe, "--json"))
    assert x["moe"] and x["mtp"] and not x["vision"] and x["tokenizer"] and x["notes"] == []
    assert x["template"] == "chat_template.jinja" and x["stop_tokens"] == [258, 256]
    assert x["parts"]["experts"] == {"modules": 96, "parameters": 196608, "bytes": 393216, "formats": {"BF16": 96}}
    assert sum(p["bytes"] for k, p in x["parts"].items() if k != "mtp") == x["text_bytes"]
    text = quern("inspect", moe)
    assert "Qwen3_5MoeForConditionalGeneration" in text and "BF16 x 96" in text


def test_plan(moe):
    x = json.loads(quern("plan", moe, "--memory", "64M", "--users", "3", "--context", "1000", "--json"))
    assert x["fits"] and x["users"] == 3 and x["context"] == 1000
    assert x["total_bytes"] <= x["memory_bytes"] == 64 << 20
    parts = x["weights"]["bytes"] + x["workspace_bytes"] + x["request_bytes"]
    assert x["total_bytes"] == parts + x["pages_bytes"] + x["slots_bytes"] + x["lanes_bytes"]
    assert x["pages"] >= 3 * 16 and x["weights"]["bytes"] == sum(x["weights"]["parts"].values())
    refused = quern("plan", moe, "--memory", "1M", code=1)
    assert "does not fit" in refused
    wider = json.loads(quern("plan", moe, "--memory", "64M", "--users", "3", "--context", "1000", "--activations", "int8", "--json"))
    assert wider["workspace_bytes"] > x["workspace_bytes"]
    assert "must be bf16, f32 or int8" in quern("plan", moe, "--activations", "int4", code=2)


@pytest.mark.parametrize("fmt, part, name", [("nvfp4", "experts", "NVFP4"), ("nvfp4-ct", "attention", "NVFP4"),
                                             ("fp8", "gdn", "FP8-block"), ("awq", "gdn", "INT4-AWQ"),
                                             ("gptq", "experts", "INT4-GPTQ"), ("int8", "attention", "INT8-channel")])
def test_quantize(moe, tmp_path, fmt, part, name):
    out = tmp_path / fmt
    report = quern("quantize", moe, out, "--format", fmt, "--shard", "100K")
    assert name in report
    x = json.loads(quern("inspect", out, "--json"))
    assert name in x["parts"][part]["formats"] and x["notes"] == [] and x["files"] > 1
    assert "quantization_config" in json.loads((out / "config.json").read_text())
    assert (out / "hf_quant_config.json").exists() == (fmt == "nvfp4")
    assert (out / "tokenizer.json").read_bytes() == (moe / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def largest_resident(model, tmp_path):
    (tmp_path / "ids.json").write_text("[1]")
    command = [BUILD / "quern", "eval", "logits", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "out.npy"]
    p = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    assert p.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("fmt", ["bf16", "nvfp4"])
def test_resident_once(tmp_path, fmt):
    """An embedding that is most of the model is not in memory twice while it is packed: its file's pages go as they are read."""
    shape = "tiny:hidden=1024,layers=1,interval=1,ffn=256,tied=1,mtp=0,vocab="
    for name, vocab in ("small", 1024), ("large", 49152):
        quern("synth", f"{shape}{vocab}", tmp_path / name, "--format", fmt, "--recipe", "linear")
    embedding = (49152 - 1024) * 1024 * 2
    more = largest_resident(tmp_path / "large", tmp_path) - largest_resident(tmp_path / "small", tmp_path)
    assert more < 1.1 * embedding + (24 << 20), f"{more / embedding:.2f} of the embedding"


def test_not_a_model(moe, tmp_path):
    """What people give as MODEL, and is none: the error says what it is and what to do."""

    def told(model):
        return quern("inspect", model, code=1, cwd=tmp_path)

    assert "quern pull Qwen/Qwen3.5-0.8B fetches" in told("Qwen/Qwen3.5-0.8B")
    assert "quern pull Qwen/Qwen3.5-0.8B fetches" in told("https://huggingface.co/Qwen/Qwen3.5-0.8B/tree/main")
    assert "quern pull Qwen/Qwen3.5-0.8B fetches" in told("hf://Qwen/Qwen3.5-0.8B")
    assert "quern pull acme/Mini-GGUF fetches" in told("acme/Mini-GGUF:Q4_K_M")
    assert "quern pull OWNER/Qwen3.5-0.8B fetches" in told("Qwen3.5-0.8B")
    for path in ("/nowhere/x", "./x/y", "x.gguf", "a/x.gguf", "a/b/c"):
        assert "pull" not in told(path), path
    (tmp_path / "models").mkdir()
    assert "pull" not in told("models/mini")
    assert "no checkpoint: neither config.json nor a .gguf file" in told("models")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert "LoRA adapter, no model" in told("lora") and "--lora lora" in told("lora")
    (tmp_path / "models" / "moe").symlink_to(moe)
    assert "holds some (moe)" in told("models")
    assert "name its folder, models/moe" in told("models/moe/config.json")
    assert "name its folder, models/moe" in told("models/moe/model.safetensors")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").write_bytes(b"")
    assert "no config.json" in told("half")
    (tmp_path / "text.txt").write_text("x")
    assert "neither a folder nor a .gguf file" in told("text.txt")


def test_errors(moe, tmp_path):
    assert "no such folder" in quern("inspect", tmp_path / "nowhere", code=1)
    assert "unknown shape" in quern("synth", "qwen3.5-1t", tmp_path / "x", code=2)
    assert "exists" in quern("synth", "tiny", moe, code=1)
    assert "nowhere" in quern("quantize", moe, tmp_path / "x", "--format", "awq", "--calib", tmp_path / "nowhere", code=1)
    assert "unknown format" in quern("quantize", moe, tmp_path / "x", "--format", "q4_0", code=2)
    (tmp_path / "cut").mkdir()
    for f in moe.iterdir():
        data = f.read_bytes()
        (tmp_path / "cut" / f.name).write_bytes(data[: len(data) // 2] if f.suffix == ".safetensors" else data)
    assert "truncated" in quern("inspect", tmp_path / "cut", code=1)
