"""Longer contexts: every spelling of YaRN and of the other rope types, against transformers (tools/make_rope_golden.py),
and the flags that ask for it.

SPDX-License-Identifier: Apache-2.0
"""
import copy
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from conftest import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
QUERN = BUILD / "quern"
GOLDEN = json.loads((ROOT / "tests/golden/rope/cases.json").read_text())
MODEL = ROOT / "tests/golden/model/dense-untied-mtp"
PROMPT = json.loads((MODEL / "golden.json").read_text())["prompt"]
NAMES = [c["name"] for c in GOLDEN["cases"]]
DEFAULT = {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25, "rope_theta": 10000000}


def quern(*args, code=0):
    p = subprocess.run([QUERN, *map(str, args)], capture_output=True, text=True, timeout=60)
    assert p.returncode == code, p.stdout + p.stderr
    return p.stdout if code == 0 else p.stdout + p.stderr


def overlay(base, over):
    """What is laid over replaces, but within text_config: as a person edits the file."""
    for key, value in over.items():
        if key == "text_config":
            overlay(base[key], value)
        else:
            base[key] = value
    return base


@pytest.fixture
def model(tmp_path):
    """A folder with the golden model and an edited config.json."""
    def make(over):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.symlink(MODEL / "model.safetensors", folder / "model.safetensors")
        config = overlay(json.loads((MODEL / "config.json").read_text()), copy.deepcopy(over))
        (folder / "config.json").write_text(json.dumps(config))
        return folder
    return make


def logits(folder, tmp_path, device, *extra):
    (tmp_path / "ids.json").write_text(json.dumps(PROMPT))
    out = tmp_path / "logits.npy"
    quern("eval", "logits", folder, "--ids", tmp_path / "ids.json", "--out", out, "--device", device, "--activations", "f32", *extra)
    return np.load(out)[GOLDEN["positions"]]


@pytest.mark.skipif(not (BUILD / "tests/quern-simt").exists(), reason="the emulator of CUDA devices is not built")
@pytest.mark.parametrize("name", ["yarn-4", "yarn-wide", "yarn-attention-factor", "llama3", "proportional-2"])
def test_on_cuda(model, tmp_path, name, monkeypatch):
    """The same frequencies and factor, on the emulated device."""
    at = NAMES.index(name)
    monkeypatch.setitem(globals(), "QUERN", BUILD / "tests/quern-simt")
    want = np.load(ROOT / "tests/golden/rope/logits.npy")[at]
    assert np.abs(logits(model(GOLDEN["cases"][at]["over"]), tmp_path, "cuda") - want).max() < 2e-4


@pytest.mark.parametrize("device", ["ref", "cpu"])
@pytest.mark.parametrize("name", NAMES)
def test_as_transformers(model, tmp_path, name, device):
    at = NAMES.index(name)
    folder = model(GOLDEN["cases"][at]["over"])
    for kind, extra in (("logits", []), ("mtp", ["--mtp"])):
        want = np.load(ROOT / f"tests/golden/rope/{kind}.npy")[at]
        got = logits(folder, tmp_path, device, *extra)
        assert np.abs(got - want).max() < 1e-4, kind


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("flags", [
    ["--hf-overrides", json.dumps({"text_config": {"rope_parameters": YARN}})],
    ["--hf-overrides", json.dumps({"rope_parameters": YARN})],
    ["--hf-overrides", json.dumps({"rope_scaling": dict(YARN, type="yarn")})],
    ["--json-model-override-args", json.dumps({"text_config": {"rope_scaling": YARN}})],
    ["--rope-scaling", json.dumps(YARN)],
    ["--rope-scaling", "yarn", "--rope-scale", "4", "--yarn-orig-ctx", "32"],
    ["--yarn-orig-ctx", "32", "--rope-freq-scale", "0.25", "--yarn-beta-fast", "32", "--yarn-ext-factor", "-1"],
])
def test_flags(tmp_path, flags):
    """Each flag gives what the same fields in the file give."""
    want = np.load(ROOT / "tests/golden/rope/logits.npy")[NAMES.index("yarn-4")]
    assert np.abs(logits(MODEL, tmp_path, "ref", *flags) - want).max() < 1e-4
    x = json.loads(quern("inspect", MODEL, "--json", *flags))
    assert x["rope_type"] == "yarn" and x["rope_factor"] == 4 and x["context"] == 4096
    assert x["fingerprint"] != json.loads(quern("inspect", MODEL, "--json"))["fingerprint"]


def inspect(folder, *flags):
    x = json.loads(quern("inspect", folder, "--json", *flags))
    return x, "\n".join(x["notes"])


def test_context(model):
    grown = inspect(MODEL, "--rope-scaling", "yarn", "--rope-scale", "4")[0]
    assert grown["context"] == 16384
    kept = inspect(model({"text_config": {"max_position_embeddings": 16384, "rope_scaling": dict(YARN, original_max_position_embeddings=4096)}}))[0]
    assert kept["context"] == 16384 and kept["rope_factor"] == 4


def test_wrong_place(model, tmp_path):
    """At the top level of a nested configuration transformers raises; here it is applied, with a line."""
    want = np.load(ROOT / "tests/golden/rope/logits.npy")[NAMES.index("yarn-4")]
    for key in ("rope_scaling", "rope_parameters"):
        folder = model({key: dict(DEFAULT, **YARN)})
        assert f"{key} stands at the top level" in inspect(folder)[1]
        assert np.abs(logits(folder, tmp_path, "ref") - want).max() < 1e-4
    both = model({"rope_scaling": dict(YARN, factor=8.0), "text_config": {"rope_scaling": dict(DEFAULT, **YARN)}})
    assert "at the top level of config.json is ignored" in inspect(both)[1]
    assert np.abs(logits(both, tmp_path, "ref") - want).max() < 1e-4
    left_out = model({"text_config": {"rope_scaling": YARN}})
    assert "rope_theta 1e+07 is taken from rope_parameters" in inspect(left_out)[1]
    assert np.abs(logits(left_out, tmp_path, "ref") - want).max() < 1e-4


def test_missing_theta(model):
    """transformers 5.24 falls back to 10000."""
    for rope in ({"rope_type": "default"}, {}):
        x, notes = inspect(model({"text_config": {"rope_parameters": rope}}))
        assert x["rope_theta"] == 10000 and "has no rope_theta: 10000" in notes
    x, notes = inspect(model({"text_config": {"rope_parameters": {}, "rope_theta": 777}}))
    assert x["rope_theta"] == 777 and not notes


@pytest.mark.parametrize("rope, says", [
    ({"rope_type": "longrope", "factor": 4.0}, "rope type 'longrope' is not served"),
    ({"rope_type": "ntk", "factor": 4.0}, "rope type 'ntk' is not served"),
    ({"type": "yarn"}, "rope type yarn has no factor"),
    ({"type": "linear", "factor": None}, "rope type linear has no factor"),
    ({"type": "yarn", "factor": 0.5}, "factor is 0.5"),
    ({"type": "yarn", "factor": "four"}, "factor"),
    ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
])
def test_refused(model, rope, says):
    assert says in quern("inspect", model({"text_config": {"rope_scaling": dict(DEFAULT, **rope)}}), code=1)


def test_refused_flags():
    assert "--rope-scaling banana" in quern("inspect", MODEL, "--rope-scaling", "banana", code=1)
    assert "needs --rope-scale" in quern("inspect", MODEL, "--rope-scaling", "yarn", code=1)
    assert "a JSON object is needed" in quern("inspect", MODEL, "--hf-overrides", "[1]", code=1)
    assert "--yarn-ext-factor" in quern("inspect", MODEL, "--rope-scaling", "yarn", "--rope-scale", "2", "--yarn-ext-factor", "0.5", code=1)


def test_notes(model):
    assert "a factor but no type" in inspect(model({"text_config": {"rope_scaling": dict(DEFAULT, factor=4.0)}}))[1]
    assert "rope_type counts" in inspect(model({"text_config": {"rope_scaling": dict(DEFAULT, type="yarn", rope_type="default")}}))[1]
    assert "up to max_position_embeddings" in inspect(model({"text_config": {"rope_scaling": dict(DEFAULT, type="dynamic", factor=2.0)}}))[1]


@pytest.mark.parametrize("options", [["--rope-scaling", json.dumps(YARN)], ["--rope-scaling", "yarn", "--rope-scale", "4"]])
def test_serve_takes_the_options(options):
    """The server reads its command through the flags of other servers: these are its own all the same."""
    server = Server("quern", ROOT / "models/mini", *options)
    server.stop()
