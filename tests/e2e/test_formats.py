"""Checkpoints in every format as a user meets them: damaged, contradicted by their configuration, quantised with a text,
interrupted, and served.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tiny_safetensors  # noqa: E402

BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
MINI = ROOT / "models/mini"
FORMATS = ["nvfp4", "nvfp4-ct", "fp8", "fp8-channel", "fp8-tensor", "awq", "gptq", "int4-ct", "int8"]
IDS = [3, 100, 41, 7, 7, 250, 19, 64, 200, 5]


def quern(*args, code=0):
    p = subprocess.run([BUILD / "quern", *map(str, args)], capture_output=True, text=True, timeout=300)
    assert p.returncode == code, p.stdout + p.stderr
    return p.stdout + p.stderr


def logits(model, tmp, *args, code=0):
    (tmp / "ids.json").write_text(json.dumps(IDS))
    text = quern("eval", "logits", model, "--ids", tmp / "ids.json", "--out", tmp / "out.npy", *args, code=code)
    return np.load(tmp / "out.npy") if code == 0 else text


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def change(folder, name, tensors=None):
    """Rewrites the shard that holds NAME: tensors(dict) changes its content."""
    for path in shards(folder):
        content = tiny_safetensors.read(path)
        if name in content:
            tensors(content)
            tiny_safetensors.write(path, content)
            return path
    raise KeyError(name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = {}
    for shape in ("tiny", "tiny-moe"):
        out[shape] = tmp_path_factory.mktemp("plain") / shape
        quern("synth", shape, out[shape], "--seed", 9)
    return out


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
    """Each format of the dense model, everything quantised, in a few shards."""
    out = {}
    for fmt in FORMATS:
        out[fmt] = tmp_path_factory.mktemp("stored") / fmt
        quern("quantize", plain["tiny"], out[fmt], "--format", fmt, "--recipe", "linear-mtp", "--shard-size", "60K", "-q")
    return out


LISTS = ("ignore", "modules_to_not_convert", "exclude_modules", "dynamic")


def drop_lists(config):
    for key in LISTS:
        config["quantization_config"].pop(key, None)


def wrong_lists(config):
    q = config["quantization_config"]
    for key in LISTS:
        if key in q:
            q[key] = {"-:.*down_proj": {}} if key == "dynamic" else ["re:.*down_proj", "lm_head"]


def other_method(config):
    q = config["quantization_config"]
    q["quant_method"] = "awq" if q["quant_method"] != "awq" else "gptq"
    q.pop("quant_algo", None)


def no_config(config):
    del config["quantization_config"]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("lie", [drop_lists, wrong_lists, other_method, no_config])
def test_configuration_that_lies_changes_a_line_only(stored, tmp_path, fmt, lie):
    want = logits(stored[fmt], tmp_path)
    assert json.loads(quern("inspect", stored[fmt], "--json"))["notes"] == []
    bad = tmp_path / "bad"
    shutil.copytree(stored[fmt], bad)
    config = json.loads((bad / "config.json").read_text())
    lie(config)
    (bad / "config.json").write_text(json.dumps(config))
    (bad / "hf_quant_config.json").unlink(missing_ok=True)
    assert np.array_equal(logits(bad, tmp_path), want)
    notes = json.loads(quern("inspect", bad, "--json"))["notes"]
    assert notes and "config.json" in notes[0]
    assert f"note: {notes[0]}" in quern("inspect", bad)


# the tensor besides the weight that a layer cannot do without, and another that is a scale
SCALES = {"nvfp4": "weight_scale_2", "nvfp4-ct": "weight_global_scale", "fp8": "weight_scale_inv", "fp8-channel": "weight_scale",
          "fp8-tensor": "weight_scale", "awq": "scales", "gptq": "scales", "int4-ct": "weight_scale", "int8": "weight_scale"}
WEIGHTS = {"nvfp4-ct": "weight_packed", "awq": "qweight", "gptq": "qweight", "int4-ct": "weight_packed"}
STEM = "model.language_model.layers.1.mlp.down_proj."


@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_layers_are_named(stored, tmp_path, fmt):
    scale, weight = STEM + SCALES[fmt], STEM + WEIGHTS.get(fmt, "weight")

    def damage(edit, name, *words):
        bad = tmp_path / "bad"
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(stored[fmt], bad)
        change(bad, name, edit)
        text = logits(bad, tmp_path, code=1)
        for word in words:
            assert word in text, text

    def missing(c):
        del c[scale]

    def nan(c):
        dtype, data = c[scale]
        data = np.array(data)
        flat = data.reshape(-1) if data.ndim else data.reshape(1)
        flat[-1] = np.nan if dtype in ("F32", "F16") else 0x7FFF if dtype == "BF16" else 0x7F
        c[scale] = dtype, flat.reshape(data.shape)

    def shape(name):
        def cut(c):
            dtype, data = c[name]
            c[name] = dtype, np.ascontiguousarray(np.concatenate([data.reshape(data.shape or (1,))] * 2))
        return cut

    damage(missing, scale, STEM)
    damage(nan, scale, STEM)
    damage(shape(weight), weight, STEM)
    damage(shape(scale), scale, STEM)


@pytest.mark.parametrize("fmt", ["nvfp4", "awq"])
def test_damaged_files_are_named(stored, tmp_path, fmt):
    bad = tmp_path / "bad"
    shutil.copytree(stored[fmt], bad)
    want = logits(bad, tmp_path)
    one = shards(bad)[1]
    data = one.read_bytes()
    one.write_bytes(data[:-100])
    assert one.name in logits(bad, tmp_path, code=1)
    one.unlink()
    assert one.name in logits(bad, tmp_path, code=1)
    one.write_bytes(data)
    # a tensor in two shards: the index settles it; without one it is refused
    name, tensor = next(iter(tiny_safetensors.read(one).items()))
    other = tiny_safetensors.read(shards(bad)[2])
    other[name] = tensor[0], np.zeros_like(tensor[1])
    tiny_safetensors.write(shards(bad)[2], other)
    assert np.array_equal(logits(bad, tmp_path), want)
    assert any(name in note for note in json.loads(quern("inspect", bad, "--json"))["notes"])
    (bad / "model.safetensors.index.json").unlink()
    assert name in logits(bad, tmp_path, code=1)


def test_scales_of_the_cache_are_used(plain, tmp_path):
    """A value scale of 1/2 halves what fits: with E4M3, values above 224 would saturate, so the logits differ; and a power
    of two changes nothing in range."""
    def with_scales(k, v):
        bad = tmp_path / f"kv{k}{v}"
        shutil.copytree(plain["tiny"], bad)
        stem = "model.language_model.layers.3.self_attn."

        def add(c):
            c[stem + "k_proj.k_scale"] = "F32", np.float32(k)
            c[stem + "v_proj.v_scale"] = "F32", np.float32(v)
        change(bad, stem + "k_proj.weight", add)
        return bad

    base = logits(plain["tiny"], tmp_path, "--device", "ref", "--kv", "E4M3")
    same, tiny = with_scales(2.0, 0.5), with_scales(1.0, 1e-3)
    assert json.loads(quern("inspect", same, "--json"))["kv_scales"] == 1
    for device in ("ref", "cpu"):
        args = ("--device", device, "--activations", "f32", "--kv", "E4M3")
        assert np.abs(logits(same, tmp_path, *args) - base).max() < 1e-3 * np.abs(base).max()
        assert np.abs(logits(tiny, tmp_path, *args) - base).max() > 1e-2 * np.abs(base).max()
        plain_kv = logits(tiny, tmp_path, "--device", device, "--activations", "f32", "--kv", "F32")
        assert np.abs(plain_kv - logits(plain["tiny"], tmp_path, "--device", "ref", "--kv", "F32")).max() < 1e-3


@pytest.mark.parametrize("shape", ["tiny", "tiny-moe"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_is_served(plain, tmp_path, shape, fmt):
    """The released recipe of the format: the server's greedy tokens are those of the logits."""
    out = tmp_path / "q"
    quern("quantize", plain[shape], out, "--format", fmt, "-q", *(["--recipe", "linear"] if fmt == "nvfp4" and shape == "tiny" else []))
    server = Server("quern", out)
    try:
        status, answer = server.post("/v1/completions", {"prompt": IDS, "max_tokens": 4, "temperature": 0, "ignore_eos": True,
                                                         "logprobs": 0, "return_token_ids": True})
        assert status == 200, answer
    finally:
        server.stop()
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    n_tok = 1 + max(max(tokenizer["model"]["vocab"].values()), max(t["id"] for t in tokenizer["added_tokens"]))
    first = int(np.argmax(logits(out, tmp_path)[-1][:n_tok]))  # rows above are padding
    ids = answer["choices"][0]["token_ids"]
    assert answer["usage"]["completion_tokens"] == 4 and len(ids) == 4 and ids[0] == first


def text_of(seed, count, *args):
    return subprocess.run([sys.executable, ROOT / "tools/mini/generate.py", "--text", "--seed", str(seed), "--count", str(count), *args],
                          capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "calib.txt").write_text(text_of(77, 60))
    (folder / "held.txt").write_text(text_of(5, 20, "--held"))
    return folder


@pytest.mark.parametrize("fmt, extra, part", [("awq", [], 0.85), ("gptq", [], 0.7), ("gptq", ["--act-order"], 0.7), ("int8", [], 0.8),
                                              ("nvfp4", [], 0.95)])
def test_calibration_lowers_the_divergence(texts, tmp_path, fmt, extra, part):
    """On held-out text, with another text calibrated on. Medians: a mean of few positions is one position's."""
    def median(name, *args):
        quern("quantize", MINI, tmp_path / name, "--format", fmt, "--recipe", "linear", "-q", *args)
        text = subprocess.run([BUILD / "quern", "eval", "kld", tmp_path / name, "--reference", MINI, texts / "held.txt", "--max-tokens",
                               "1500", "--activations", "f32", "--json"], capture_output=True, text=True, check=True).stdout
        return json.loads(text)["median_kld"]

    without = median("plain")
    with_text = median("calib", "--calib", texts / "calib.txt", "--calib-tokens", "4096", *extra)
    assert with_text < part * without
    config = json.loads((tmp_path / "calib/config.json").read_text())["quantization_config"]
    assert config.get("desc_act", False) == bool(extra)
    assert json.loads(quern("inspect", tmp_path / "calib", "--json"))["notes"] == []


def test_folds_keep_the_function(texts, tmp_path):
    """AWQ changes norms and unquantised layers too; what is folded in on one side comes out on the other."""
    quern("quantize", MINI, tmp_path / "awq", "--format", "awq", "--recipe", "linear", "-q", "--calib", texts / "calib.txt",
          "--calib-tokens", "1024", "--device", "ref")
    quern("quantize", MINI, tmp_path / "plain", "--format", "awq", "--recipe", "linear", "-q")
    a, b = (tiny_safetensors.read(tmp_path / x / "model.safetensors") for x in ("awq", "plain"))
    assert set(a) == set(b) and all(a[k][0] == b[k][0] and a[k][1].shape == b[k][1].shape for k in a)
    changed = {k for k in a if not np.array_equal(a[k][1], b[k][1])}
    assert any(k.endswith("input_layernorm.weight") for k in changed) and any(k.endswith("in_proj_b.weight") for k in changed)
    assert not any(k.startswith("mtp.") or "embed_tokens" in k for k in changed)
    text = subprocess.run([BUILD / "quern", "eval", "kld", tmp_path / "awq", "--reference", MINI, texts / "held.txt", "--max-tokens", "1000",
                           "--activations", "f32", "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(text)["median_kld"] < 0.01


def interrupt(args, out, is_far):
    """Starts quantize and kills it once is_far(partial folder)."""
    p = subprocess.Popen([BUILD / "quern", *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = pathlib.Path(str(out) + ".partial")
    end = time.monotonic() + 60
    while p.poll() is None and time.monotonic() < end and not is_far(partial):
        time.sleep(0.001)
    p.send_signal(signal.SIGKILL)
    p.wait()
    return partial


def same_folder(a, b):
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
    for p in a.iterdir():
        assert p.read_bytes() == (b / p.name).read_bytes(), p.name


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_interrupted_run_is_gone_on_with(texts, tmp_path, calibrated):
    args = ["--format", "gptq", "--recipe", "linear", "--threads", "1", "--shard-size", "1M"]
    if calibrated:
        args += ["--calib", texts / "calib.txt", "--calib-tokens", "2048"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    report = quern("quantize", MINI, whole, *args)

    def is_far(partial):
        try:
            if calibrated:
                return (partial / "quern.rows").exists()
            return "shard" in (partial / "quern.partial").read_text()
        except OSError:
            return False

    for _ in range(5):
        partial = interrupt(["quantize", MINI, out, *args], out, is_far)
        if not out.exists():
            break
        shutil.rmtree(out)
    assert not out.exists() and is_far(partial)
    assert "no such" in quern("inspect", out, code=1)
    text = quern("quantize", MINI, out, *args)
    assert "going on" in text and not partial.exists()
    same_folder(whole, out)
    table = [line for line in report.splitlines() if "INT4" in line]
    assert [line for line in text.splitlines() if "INT4" in line] == table  # errors of the finished part are reported, too
    # another run's leftover is not used
    partial = interrupt(["quantize", MINI, tmp_path / "b", *args], tmp_path / "b", is_far)
    if partial.exists():
        assert "going on" not in quern("quantize", MINI, tmp_path / "b", *args, "--nearest" if not calibrated else "--act-order")


def test_what_stays_can_be_chosen(plain, tmp_path):
    report = quern("quantize", plain["tiny"], tmp_path / "q", "--format", "int8", "--keep", "self_attn.v_proj,re:layers\\.1\\..*up_proj")
    parts = json.loads(quern("inspect", tmp_path / "q", "--json"))
    assert "--keep" in report and parts["notes"] == []
    assert parts["parts"]["attention"]["formats"] == {"BF16": 1, "INT8-channel": 3}
    assert parts["parts"]["mlp"]["formats"]["BF16"] == 1
    quern("quantize", plain["tiny"], tmp_path / "none", "--format", "int8", "--keep", "*", code=1)


def test_options_that_do_not_go_together(plain, tmp_path):
    def refused(*args):
        return quern("quantize", plain["tiny"], tmp_path / "x", *args, code=2)

    assert "--calib" in refused("--format", "gptq", "--act-order")
    assert "gptq" in refused("--format", "awq", "--act-order", "--calib", "t")
    assert "choose one" in refused("--format", "awq", "--nearest", "--calib", "t")
    assert "on or off" in refused("--format", "awq", "--compensate", "yes", "--calib", "t")
    (tmp_path / "t").write_text("")
    assert "too few" in quern("quantize", plain["tiny"], tmp_path / "x", "--format", "awq", "--calib", tmp_path / "t", code=1)
    assert not list(tmp_path.glob("x*"))
