"""Checkpoints as other tools make them: read as what they stand for, or refused with a sentence that is true.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
MINI = ROOT / "models/mini"
sys.path.insert(0, str(ROOT / "tests"))
from support import makes  # noqa: E402

IDS = [11, 500, 42, 7, 1033, 260, 99, 4000, 3, 3, 71, 815]
TENSORS = makes.read(MINI / "model.safetensors")
SPLIT = makes.split_experts(TENSORS)


def quern(*args, code=0):
    p = subprocess.run([BUILD / "quern", *map(str, args)], capture_output=True, text=True, timeout=120)
    assert p.returncode == code, p.stdout + p.stderr
    return p.stdout if code == 0 else p.stdout + p.stderr


def logits(folder, tmp_path, device="ref", *extra):
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    quern("eval", "logits", folder, "--ids", tmp_path / "ids.json", "--out", tmp_path / "x.npy", "--device", device, "--activations", "f32", *extra)
    return np.load(tmp_path / "x.npy")


def notes(folder, *flags):
    return "\n".join(json.loads(quern("inspect", folder, "--json", *flags))["notes"])


def formats(folder):
    parts = json.loads(quern("inspect", folder, "--json"))["parts"]
    return {f for p in parts.values() for f in p["formats"]} - {"BF16", "F32"}


def same(folder, plain, tmp_path):
    """ref has the very weights, cpu the same within its order of sums."""
    want = logits(plain, tmp_path)
    size = np.abs(want).max()
    for device, most in (("ref", 2e-5), ("cpu", 1e-4)):
        assert np.abs(logits(folder, tmp_path, device) - want).max() < most * size, device


def attention_qkv(name):
    return "self_attn" in name or "in_proj" in name


CT = dict(quant_method="compressed-tensors", format="pack-quantized")
FORMS = {
    "gptq-8": (makes.gptq(8), dict(quant_method="gptq", bits=8, group_size=32), "INT8-GPTQ"),
    "gptq-8-zeros": (makes.gptq(8, 64, zero_points=True), dict(quant_method="gptq", bits=8, group_size=64), "INT8-GPTQ"),
    "gptq-8-act-order": (makes.gptq(8, 32, act_order=True), dict(quant_method="gptq", bits=8, group_size=32), "INT8-GPTQ"),
    "gptq-4-v2-zeros": (makes.gptq(4, 64, zero_points=True, v2=True), dict(quant_method="gptq", checkpoint_format="gptq_v2"), "INT4-GPTQ"),
    "gptq-4-odd-group": (makes.gptq(4, 96, g_idx=False), dict(quant_method="gptq", bits=4, group_size=96), "INT4-GPTQ"),
    "gptq-4-odd-act-order": (makes.gptq(4, 96, act_order=True), dict(quant_method="gptq", bits=4, group_size=96), "INT4-GPTQ"),
    "gptq-3": (makes.gptq(3), dict(quant_method="gptq", bits=3, group_size=32), "INTn-GPTQ"),
    "gptq-2": (makes.gptq(2, zero_points=True), dict(quant_method="auto-round", bits=2, group_size=32), "INTn-GPTQ"),
    "ct-8-channel": (makes.packed(8, 0), CT, "INT8-CT"),
    "ct-8-group": (makes.packed(8, 64), CT, "INT8-CT"),
    "ct-8-zeros": (makes.packed(8, 32, zero_points=True), CT, "INT8-CT"),
    "ct-4-zeros": (makes.packed(4, 32, zero_points=True), CT, "INT4-CT-zero"),
    "ct-4-zeros-odd": (makes.packed(4, 96, zero_points=True), dict(CT, config_groups={"g": {"weights": {"group_size": 96}}}), "INT4-CT-zero"),
    "ct-4-small-groups": (makes.packed(4, 16), CT, "INT4-CT"),
    "ct-4-channel": (makes.packed(4, 0), CT, "INT4-CT"),
    "ct-3": (makes.packed(3, 32), CT, "INTn-CT"),
    "ct-6": (makes.packed(6, 64, zero_points=True), CT, "INTn-CT"),
    "int8-group": (makes.int8(64), CT, "INT8-group"),
    "int8-zeros": (makes.int8(128, zero_points=True), CT, "INT8-group"),
    "int8-whole": (makes.int8(whole=True), CT, "INT8-group"),
    "fp8-64": (makes.fp8((64, 64)), dict(quant_method="fp8", weight_block_size=[64, 64]), "FP8-grid"),
    "fp8-96-32": (makes.fp8((96, 32)), dict(quant_method="fp8", weight_block_size=[96, 32]), "FP8-grid"),
    "fp8-unsaid": (makes.fp8((32, 64)), dict(quant_method="fp8"), "FP8-grid"),
    "fp8-e8m0": (makes.fp8((128, 128), "F8_E8M0"), dict(quant_method="fp8", weight_block_size=[128, 128]), "FP8-grid"),
    "fp8-e8m0-bytes": (makes.fp8((128, 128), "U8"), dict(quant_method="fp8", weight_block_size=[128, 128]), "FP8-grid"),
    "fp8-group": (makes.fp8((1, 32), name="weight_scale"), CT, "FP8-grid"),
    "mxfp4": (makes.mx(4), CT, "MXFP4"),
    "mxfp4-e8m0": (makes.mx(4, "F8_E8M0"), CT, "MXFP4"),
    "mxfp8": (makes.mx(8), CT, "MXFP8"),
    "mlx-4": (makes.mlx(4, 64), dict(bits=4, group_size=64), "INT4-MLX"),
    "mlx-4-32": (makes.mlx(4, 32), dict(bits=4, group_size=32), "INT4-MLX"),
    "mlx-8": (makes.mlx(8, 64), dict(bits=8, group_size=64), "INT8-MLX"),
    "mlx-6": (makes.mlx(6, 64), dict(bits=6, group_size=64), "INTn-MLX"),
    "mlx-3": (makes.mlx(3, 64), dict(bits=3, group_size=64), "INTn-MLX"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form):
    quantise, said, name = FORMS[form]
    stored, plain = makes.convert(SPLIT, quantise, attention_qkv)
    makes.folder(tmp_path / "q", MINI, stored, makes.quantised(**said))
    makes.folder(tmp_path / "p", MINI, plain)
    assert formats(tmp_path / "q") == {name}
    same(tmp_path / "q", tmp_path / "p", tmp_path)


def test_mixed(tmp_path):
    """AutoRound's and llm-compressor's mixes: experts in one width, the rest in another."""
    is_expert = lambda name: "experts." in name and "shared" not in name  # noqa: E731
    stored, plain = makes.convert(SPLIT, makes.gptq(4), is_expert)
    stored, again = makes.convert(stored, makes.gptq(8), lambda name: not is_expert(name))
    plain.update({k: v for k, v in again.items() if k in plain and makes.LINEAR.search(k)})
    makes.folder(tmp_path / "q", MINI, stored, makes.quantised(quant_method="auto-round", bits=4, group_size=32))
    makes.folder(tmp_path / "p", MINI, plain)
    assert formats(tmp_path / "q") == {"INT4-GPTQ", "INT8-GPTQ"}
    same(tmp_path / "q", tmp_path / "p", tmp_path)


@pytest.mark.parametrize("group, columns, said", [(128, 192, None), (128, 192, 128), (64, 160, None), (96, 192, 96)])
def test_last_group(tmp_path, group, columns, said):
    """A last group that is not full, without g_idx: K = 192 in groups of 128 was read as groups of 96."""
    quern("synth", f"tiny:hidden={columns},layers=2,interval=2", tmp_path / "s", "--seed", 3)
    tensors = makes.read(tmp_path / "s/model.safetensors")
    for quantise in (makes.gptq(4, group, g_idx=False), makes.packed(4, group), makes.packed(8, group, zero_points=True)):
        stored, plain = makes.convert(tensors, quantise, lambda name: "self_attn.q_proj" in name or "in_proj_qkv" in name)
        makes.folder(tmp_path / "q", tmp_path / "s", stored, makes.quantised(quant_method="gptq", **({"group_size": said} if said else {})))
        makes.folder(tmp_path / "p", tmp_path / "s", plain)
        want = logits_small(tmp_path / "p", tmp_path)
        for device in ("ref", "cpu"):
            assert np.abs(logits_small(tmp_path / "q", tmp_path, device) - want).max() < 1e-4 * np.abs(want).max()


def logits_small(folder, tmp_path, device="ref"):
    (tmp_path / "small.json").write_text("[1, 5, 200, 33, 9]")
    quern("eval", "logits", folder, "--ids", tmp_path / "small.json", "--out", tmp_path / "x.npy", "--device", device, "--activations", "f32")
    return np.load(tmp_path / "x.npy")


def fused(quantise, names):
    """Quantised experts in one tensor of three dimensions."""
    stored, plain = {}, {}
    for name, t in TENSORS.items():
        if not re.search(r"mlp\.experts\.(gate_up|down)_proj$", name) or name.startswith("mtp"):
            stored[name] = plain[name] = t
            continue
        parts = [quantise(x) for x in makes.f32(t)]
        plain[name] = makes.pack(np.stack([value for _, value in parts]))
        for suffix, (dtype, shape, _) in parts[0][0].items():
            if suffix != "weight_shape":
                stored[names(name, suffix)] = (dtype, [len(parts), *shape], b"".join(p[suffix][2] for p, _ in parts))
    return stored, plain


@pytest.mark.parametrize("form, dotted", [(f, d) for f in ("fp8-64", "fp8-e8m0", "mxfp4", "mxfp8", "ct-4-zeros", "ct-8-group") for d in (False, True)] +
                         [("mlx-4", True)])
def test_fused_experts(tmp_path, form, dotted):
    """As transformers 5 saves them: gate_up_proj [E, 2 I, H] with gate_up_proj_scale_inv."""
    quantise, said, kind = FORMS[form]
    stored, plain = fused(quantise, lambda name, suffix: f"{name}.{suffix}" if dotted else name + suffix.removeprefix("weight"))
    makes.folder(tmp_path / "q", MINI, stored, makes.quantised(**said))
    makes.folder(tmp_path / "p", MINI, plain)
    assert formats(tmp_path / "q") == {kind}
    same(tmp_path / "q", tmp_path / "p", tmp_path)


def shifted(tensors):
    norm = re.compile(r"(layernorm|q_norm|k_norm|\.norm|pre_fc_norm_\w+)\.weight$")
    return {k: makes.bf16(makes.f32(v) + 1) if norm.search(k) and "linear_attn" not in k else v for k, v in tensors.items()}


def mlx_names(tensors):
    return {("language_" + k.replace("language_model.", "", 1).replace("model.", "model.model.", 1)) if k.startswith("model.language_model.")
            else "language_model." + k: v for k, v in tensors.items()}


def test_mlx_saves(tmp_path):
    """Norms of 1 + w and the convolution's taps in the middle; experts as switch_mlp; 4-bit layers."""
    conv = {k: (v[0], [v[1][0], v[1][2], v[1][1]], v[2]) if k.endswith("conv1d.weight") else v for k, v in shifted(TENSORS).items()}
    want = logits(MINI, tmp_path)
    for tensors in (conv, mlx_names(conv), mlx_names(shifted(TENSORS))):
        makes.folder(tmp_path / "m", MINI, tensors)
        assert "an MLX save: its norm weights hold 1 + w" in notes(tmp_path / "m")
        assert np.abs(logits(tmp_path / "m", tmp_path) - want).max() < 0.05 * np.abs(want).max()  # (1 + w) was rounded
        assert np.abs(logits(tmp_path / "m", tmp_path, "ref", "--mtp") - logits(MINI, tmp_path, "ref", "--mtp")).max() < 0.05 * np.abs(want).max()
    makes.folder(tmp_path / "m", MINI, shifted(TENSORS))
    assert "nothing else says so" in notes(tmp_path / "m")
    makes.folder(tmp_path / "m", MINI, TENSORS, metadata="mlx")
    assert "MLX" not in notes(tmp_path / "m") and np.array_equal(logits(tmp_path / "m", tmp_path), want)
    makes.folder(tmp_path / "m", MINI, conv)
    assert "quantize the published checkpoint" in quern("quantize", tmp_path / "m", tmp_path / "out", "--format", "fp8", code=1)


def test_mlx_experts_and_embedding(tmp_path):
    stored, plain = makes.convert(TENSORS, makes.mlx(4, 64), attention_qkv)
    for name in ("model.language_model.embed_tokens", "lm_head"):
        parts, value = makes.mlx(4, 64)(makes.f32(TENSORS[name + ".weight"]))
        plain[name + ".weight"] = makes.pack(value)
        stored.update({f"{name}.{k}": v for k, v in parts.items()})
    for name, t in TENSORS.items():
        m = re.match(r"(model.*mlp\.)experts\.(gate_up|down)_proj$", name)
        if not m:
            continue
        a = makes.f32(stored.pop(name))
        pieces = {"down_proj": a} if m[2] == "down" else {"gate_proj": a[:, :a.shape[1] // 2], "up_proj": a[:, a.shape[1] // 2:]}
        for piece, x in pieces.items():
            stored[f"{m[1]}switch_mlp.{piece}.weight"] = makes.bf16(x)
    makes.folder(tmp_path / "q", MINI, stored, lambda c: c.update(quantization=dict(group_size=64, bits=4)), metadata="mlx")
    makes.folder(tmp_path / "p", MINI, plain)
    same(tmp_path / "q", tmp_path / "p", tmp_path)


def test_tied_with_a_head_of_its_own(tmp_path):
    """transformers 5.24 ties only what is equal."""
    tie = lambda c: c.update(tie_word_embeddings=True)  # noqa: E731
    other = dict(TENSORS, **{"lm_head.weight": makes.bf16(-makes.f32(TENSORS["lm_head.weight"]))})
    makes.folder(tmp_path / "own", MINI, other, tie)
    assert "the files hold another lm_head.weight" in notes(tmp_path / "own")
    assert np.array_equal(logits(tmp_path / "own", tmp_path), -logits(MINI, tmp_path))
    equal = dict(TENSORS, **{"lm_head.weight": TENSORS["model.language_model.embed_tokens.weight"]})
    makes.folder(tmp_path / "equal", MINI, equal, tie)
    assert "to which the head is tied" in notes(tmp_path / "equal")


def test_single_file_and_index(tmp_path):
    """transformers takes model.safetensors, whatever the index beside it names."""
    other = dict(TENSORS, **{"lm_head.weight": makes.bf16(-makes.f32(TENSORS["lm_head.weight"]))})
    out = makes.folder(tmp_path / "both", MINI, TENSORS)
    makes.write(out / "model-00001-of-00001.safetensors", other)
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {k: "model-00001-of-00001.safetensors" for k in other}}))
    assert "the single file is read" in notes(out)
    assert np.array_equal(logits(out, tmp_path), logits(MINI, tmp_path))


@pytest.mark.parametrize("index", [False, True])
def test_draft_layer_beside(tmp_path, index):
    main = {k: v for k, v in TENSORS.items() if not k.startswith("mtp.")}
    out = makes.folder(tmp_path / "m", MINI, main, name="model-00001-of-00001.safetensors" if index else "model.safetensors")
    if index:
        (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {k: "model-00001-of-00001.safetensors" for k in main}}))
    makes.write(out / "mtp.safetensors", {k: v for k, v in TENSORS.items() if k.startswith("mtp.")})
    makes.write(out / "unrelated.safetensors", {"a": makes.pack(np.zeros(3, np.float32))})
    x = json.loads(quern("inspect", out, "--json"))
    assert x["mtp"] and any("mtp.safetensors is not named by an index" in n for n in x["notes"])
    assert any("unrelated.safetensors is not part of the model" in n for n in x["notes"])
    assert np.array_equal(logits(out, tmp_path, "ref", "--mtp"), logits(MINI, tmp_path, "ref", "--mtp"))


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.", "module.", "module._orig_mod."])
def test_wrappers(tmp_path, prefix):
    out = makes.folder(tmp_path / "m", MINI, {prefix + k: v for k, v in TENSORS.items()})
    assert "carry the prefix of a wrapper" in notes(out)
    assert np.array_equal(logits(out, tmp_path), logits(MINI, tmp_path))
    assert json.loads(quern("inspect", out, "--json"))["mtp"]


FUSED = {"linear_attn.in_proj_qkvz": ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
         "linear_attn.in_proj_ba": ("linear_attn.in_proj_b", "linear_attn.in_proj_a"),
         "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
         "mlp.shared_expert.gate_up_proj": ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj")}


@pytest.mark.parametrize("whole", FUSED)
def test_fused_projections(tmp_path, whole):
    """As vLLM and SGLang hold them in memory; so do saves of tools that copy from there."""
    tensors = {}
    for name, t in TENSORS.items():
        if f".{FUSED[whole][0]}." in name:
            parts = [makes.f32(TENSORS[name.replace(FUSED[whole][0], p)]) for p in FUSED[whole]]
            tensors[name.replace(FUSED[whole][0], whole)] = makes.bf16(np.concatenate(parts))
        elif not any(f".{p}." in name for p in FUSED[whole]):
            tensors[name] = t
    out = makes.folder(tmp_path / "m", MINI, tensors)
    assert f"{whole} (" in notes(out)
    assert np.array_equal(logits(out, tmp_path), logits(MINI, tmp_path))


LAYER = "model.language_model.layers.3.self_attn.k_proj"


@pytest.mark.parametrize("suffix, says", [
    (".lora_A.default.weight", "LoRA weights that are not merged"), (".base_layer.weight", "PEFT adapter that is not merged"),
    (".trellis", "EXL3"), (".q_invperm", "EXL2"), (".W_q", "HQQ"), (".codebooks", "AQLM"), (".Qidxs", "QuIP#"),
    (".weight.absmax", "bitsandbytes"), (".weight.quant_state.bitsandbytes__nf4", "bitsandbytes"), (".SCB", "bitsandbytes"),
    (".weight._data", "quanto"), (".bitmask", "bitmask"),
])
def test_makes_not_read(tmp_path, suffix, says):
    tensors = dict(TENSORS)
    tensors.pop(LAYER + ".weight")
    tensors[LAYER + suffix] = makes.pack(np.zeros((4, 4), np.uint8))
    out = quern("inspect", makes.folder(tmp_path / "m", MINI, tensors), code=1)
    assert says in out and LAYER + suffix in out and "do not belong together" not in out and "download" not in out


def test_classifier(tmp_path):
    tensors = {k: v for k, v in TENSORS.items() if not k.startswith("lm_head")}
    headless = quern("inspect", makes.folder(tmp_path / "h", MINI, tensors), code=1)
    assert "saved without its head" in headless
    tensors["score.weight"] = makes.pack(np.zeros((2, 128), np.float32))
    assert "classifier or reward model" in quern("inspect", makes.folder(tmp_path / "m", MINI, tensors), code=1)


def test_adapter_folder(tmp_path):
    out = makes.folder(tmp_path / "a", MINI, {"base_model.model.x.lora_A.weight": makes.pack(np.zeros((2, 2), np.float32))}, name="adapter_model.safetensors")
    assert "holds an adapter" in quern("inspect", out, code=1)
    (out / "config.json").unlink()
    (out / "adapter_config.json").write_text("{}")
    assert "adapter" in quern("inspect", out, code=1)


@pytest.mark.parametrize("model_type", ["qwen3_5_moe", "qwen3_5_moe_text", None])
def test_tokenizer_class(tmp_path, model_type):
    """With a config.json of the family transformers 5.24 makes a Qwen3_5Tokenizer: pattern with marks and NFC, whatever
    tokenizer.json says. Without one the file counts."""
    marks = "xa\u0316y \u0928\u092e\u0938\u094d\u0924\u0947 e\u0301"
    out = makes.folder(tmp_path / "m", MINI, None)
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    for x in tokenizer["pre_tokenizer"]["pretokenizers"]:
        if x["type"] == "Split":
            x["pattern"]["Regex"] = r"\p{L}|[^\p{L}]+"
    tokenizer["normalizer"] = None
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    if model_type:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(dict(config, model_type=model_type)))
    else:
        (out / "config.json").unlink()
    (tmp_path / "text").write_text(marks)
    ids = lambda folder: subprocess.run([BUILD / "quern", "tokenize", folder], input=marks, capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert (ids(out) == ids(MINI)) == bool(model_type)


def adapter(folder, factors, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(dict(peft_type="LORA", r=4, lora_alpha=8, bias="none", **config)))
    makes.write(folder / "adapter_model.safetensors", {k: makes.pack(v.astype(np.float32)) for k, v in factors.items()})
    return folder


def factors(tensors, rank=4, names=("self_attn.q_proj", "linear_attn.in_proj_qkv", "linear_attn.out_proj", "shared_expert.up_proj")):
    rng, out, merged = np.random.default_rng(1), {}, dict(tensors)
    for name, t in tensors.items():
        module = name.removesuffix(".weight")
        if name.startswith("mtp") or not module.endswith(names):
            continue
        w = makes.f32(t)
        a, b = rng.normal(0, .1, (rank, w.shape[1])), rng.normal(0, .1, (w.shape[0], rank))
        out[f"base_model.model.{module}.lora_A.weight"], out[f"base_model.model.{module}.lora_B.weight"] = a, b
        merged[name] = makes.bf16(w + (2 * b.astype(np.float32) @ a.astype(np.float32)))
    return out, merged


def test_lora(tmp_path):
    """Merged at load: attention, delta net, MLP; over quantised layers too."""
    parts, merged = factors(TENSORS)
    folder = adapter(tmp_path / "lora", parts)
    makes.folder(tmp_path / "merged", MINI, merged)
    want = logits(tmp_path / "merged", tmp_path)
    assert np.abs(logits(MINI, tmp_path) - want).max() > 0.1
    for device in ("ref", "cpu"):
        assert np.abs(logits(MINI, tmp_path, device, "--lora", folder) - want).max() < 2e-3 * np.abs(want).max()
    assert f"is merged into {len(parts) // 2} layers" in notes(MINI, "--lora", folder)
    prints = [json.loads(quern("inspect", MINI, "--json", *x))["fingerprint"] for x in ([], ["--lora", folder])]
    assert prints[0] != prints[1]
    stored, plain = makes.convert(TENSORS, makes.packed(8, 32), attention_qkv)
    makes.folder(tmp_path / "q", MINI, stored, makes.quantised(**CT))
    makes.folder(tmp_path / "p", MINI, plain)
    assert np.abs(logits(tmp_path / "q", tmp_path, "ref", "--lora", folder) - logits(tmp_path / "p", tmp_path, "ref", "--lora", folder)).max() < 1e-4


def test_lora_of_experts(tmp_path):
    """PEFT's factors of a parameter [E, out, in]: rows of A and columns of B for every expert."""
    rng, parts, merged = np.random.default_rng(2), {}, dict(TENSORS)
    stem = "model.language_model.layers.1.mlp.experts"
    for name, prefix in (("gate_up_proj", ".base_layer"), ("down_proj", "")):
        w = makes.f32(TENSORS[f"{stem}.{name}"])
        n, rows, columns = w.shape
        a, b = rng.normal(0, .1, (2 * n, columns)), rng.normal(0, .1, (rows, 2 * n))
        parts[f"base_model.model.{stem}{prefix}.lora_A.weight"], parts[f"base_model.model.{stem}{prefix}.lora_B.weight"] = a, b
        delta = np.einsum("ore,eri->eoi", b.reshape(rows, 2, n), a.reshape(n, 2, columns))
        merged[f"{stem}.{name}"] = makes.bf16(w + (4 * delta).astype(np.float32))
    makes.folder(tmp_path / "merged", MINI, merged)
    want = logits(tmp_path / "merged", tmp_path)
    got = logits(MINI, tmp_path, "ref", "--lora", adapter(tmp_path / "lora", parts))
    assert np.abs(got - want).max() < 2e-3 * np.abs(want).max()
    assert np.abs(logits(MINI, tmp_path) - want).max() > 0.1


def test_lora_refused(tmp_path):
    parts, _ = factors(TENSORS)
    assert "adapter_config.json" in quern("inspect", MINI, "--lora", tmp_path, code=1)
    assert "DoRA" in quern("inspect", MINI, "--lora", adapter(tmp_path / "a", parts, use_dora=True), code=1)
    name = next(iter(parts))
    odd = dict(parts, **{name.replace("layers.", "layers.9"): parts[name], name.replace("layers.", "layers.9").replace("lora_A", "lora_B"): parts[name.replace("lora_A", "lora_B")]})
    assert "the adapter's model.language_model.layers.9" in quern("inspect", MINI, "--lora", adapter(tmp_path / "b", odd), code=1)
    assert "without" in quern("inspect", MINI, "--lora", adapter(tmp_path / "c", {name: parts[name]}), code=1)
    extra = dict(parts, **{"base_model.model.model.language_model.norm.weight": np.zeros(128)})
    assert "is no LoRA factor" in quern("inspect", MINI, "--lora", adapter(tmp_path / "d", extra), code=1)


def test_draft_layer_from_elsewhere(tmp_path):
    """--mtp-from: the draft layer of another checkpoint of the same vocabulary; the answers stay the same."""
    bare = makes.folder(tmp_path / "bare", MINI, {k: v for k, v in TENSORS.items() if not k.startswith("mtp.")})
    assert not json.loads(quern("inspect", bare, "--json"))["mtp"]
    x = json.loads(quern("inspect", bare, "--json", "--mtp-from", MINI))
    assert x["mtp"] and any("the draft layer comes from" in n for n in x["notes"])
    assert np.array_equal(logits(bare, tmp_path, "ref", "--mtp", "--mtp-from", MINI), logits(MINI, tmp_path, "ref", "--mtp"))
    assert "no mtp tensors" in quern("inspect", MINI, "--mtp-from", bare, code=1)
    quern("synth", "tiny", tmp_path / "other")
    assert "vocabulary and hidden size" in quern("inspect", bare, "--mtp-from", tmp_path / "other", code=1)
    runs = [subprocess.run([BUILD / "quern", "run", bare, "-p", "Tell me about the sea.", "-n", "24", "-t", "0", *extra], capture_output=True, text=True, check=True).stdout
            for extra in (["--mtp", "0"], ["--mtp", "3", "--mtp-from", MINI])]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("fmt, whole", [("fp8", "model.visual"), ("fp8-channel", "re:.*visual.*"), ("int4-ct", "re:.*visual.*"), ("awq", "visual"), ("gptq", "-:.*visual.*")])
def test_skip_lists_of_quantize(tmp_path, fmt, whole):
    """Every module of the tower by its name, the whole tower in the layout's own spelling, and a tied head: transformers
    5.24 with compressed-tensors 0.20 loads the result without a missing, unexpected or mismatched tensor (dense and moe;
    fp8, fp8-channel, int4-ct, nvfp4-ct)."""
    quern("quantize", ROOT / "tests/golden/vision/moe", tmp_path / "q", "--format", fmt, "--recipe", "linear")
    config = json.loads((tmp_path / "q/config.json").read_text())["quantization_config"]
    skipped = config.get("ignore") or config.get("modules_to_not_convert") or [k.removeprefix("-:^").removesuffix("$").replace("\\", "") for k in config["dynamic"]]
    tower = {k.removesuffix(".weight") for k, v in makes.read(ROOT / "tests/golden/vision/moe/model.safetensors").items()
             if ".visual." in k and k.endswith(".weight") and len(v[1]) == 2}
    assert tower and tower <= set(skipped) and "lm_head" in skipped and whole in skipped
