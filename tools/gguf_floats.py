#!/usr/bin/env python3
"""A GGUF file of the family as a folder of float32 safetensors, by the gguf package: the second statement of what
src/model/gguf.c and src/model/blocks.c read.

    tools/gguf_floats.py FILE.gguf MODEL OUT     MODEL: the checkpoint it was made from, for its small files

Blocks are dequantised by gguf.quants, and what llama.cpp's converter did to values is undone: norms, A_log, the order
of value heads. Needs gguf, numpy, safetensors. SPDX-License-Identifier: Apache-2.0"""
import json
import os
import re
import shutil
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

LAYER = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z", "ssm_alpha": "linear_attn.in_proj_a", "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d", "ssm_norm": "linear_attn.norm", "ssm_out": "linear_attn.out_proj",
    "ssm_a": "linear_attn.A_log", "ssm_dt": "linear_attn.dt_bias", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj", "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj",
}
NEXTN = {"eh_proj": "fc", "enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "shared_head_norm": "norm"}
SUFFIX = {"ssm_a": "", "ssm_dt": ""}


def read(path):
    """Names of the file -> float32 arrays, row-major, and its metadata."""
    paths = [path]
    split = re.match(r"(.*)-00001-of-(\d{5})\.gguf$", path)
    if split:
        paths = [f"{split[1]}-{i + 1:05d}-of-{split[2]}.gguf" for i in range(int(split[2]))]
    tensors, fields = {}, None
    for part in paths:
        reader = gguf.GGUFReader(part)
        fields = fields or {k: f.contents() for k, f in reader.fields.items()}
        for t in reader.tensors:
            data = t.data
            if t.tensor_type == gguf.GGMLQuantizationType.BF16:
                data = (np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            elif t.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
                data = gguf.quants.dequantize(data, t.tensor_type)
            tensors[t.name] = np.asarray(data, np.float32).reshape([int(x) for x in t.shape][::-1])
    for name in [n for n in tensors if n.endswith(".scale")]:
        scale, weight = tensors.pop(name), name[:-5] + "weight"
        tensors[weight] = tensors[weight] * scale.reshape([-1] + [1] * (tensors[weight].ndim - 1))
    return tensors, fields


def untile(x, axis, size, nk, nv, first=0):
    """Blocks of `size` along an axis from the order of the file to that of the checkpoint."""
    r = nv // nk
    rows = [((h % r) * nk + h // r) * size + i for h in range(nv) for i in range(size)]
    index = list(range(first)) + [first + i for i in rows]
    return np.take(x, index, axis)


def undo(stem, x, nk, nv, dk, dv):
    if stem.endswith("norm") and stem != "ssm_norm":
        return x - np.float32(1)
    if stem == "attn_qkv":
        return untile(x, 0, dv, nk, nv, 2 * nk * dk)
    if stem == "ssm_conv1d":
        return untile(x, 0, dv, nk, nv, 2 * nk * dk)[:, None, :]
    if stem == "attn_gate":
        return untile(x, 0, dv, nk, nv)
    if stem in ("ssm_alpha", "ssm_beta", "ssm_dt"):
        return untile(x, 0, 1, nk, nv)
    if stem == "ssm_a":
        return np.log(-untile(x, 0, 1, nk, nv).astype(np.float64)).astype(np.float32)
    if stem == "ssm_out":
        return untile(x, 1, dv, nk, nv)
    if stem == "ffn_gate_inp_shexp":
        return x.reshape(1, -1)
    return x


def translate(tensors, fields):
    arch = fields["general.architecture"]
    get = lambda key: fields[f"{arch}.{key}"]
    nk, nv, dk = get("ssm.group_count"), get("ssm.time_step_rank"), get("ssm.state_size")
    dv, n_mtp = get("ssm.inner_size") // nv, fields.get(f"{arch}.nextn_predict_layers", 0)
    n_layer, out = get("block_count") - n_mtp, {}
    for name, x in tensors.items():
        match = re.match(r"blk\.(\d+)\.(nextn\.)?([a-z0-9_]+)", name)
        if not match:
            hf = {"token_embd.weight": "model.language_model.embed_tokens.weight", "output.weight": "lm_head.weight",
                  "output_norm.weight": "model.language_model.norm.weight"}[name]
            out[hf] = x - np.float32(1) if "norm" in name else x
            continue
        layer, nextn, stem = int(match[1]), match[2], match[3]
        prefix = f"model.language_model.layers.{layer}." if layer < n_layer else f"mtp.layers.{layer - n_layer}."
        if nextn:
            out[f"mtp.{NEXTN[stem]}.weight"] = x - np.float32(1) if "norm" in stem else x
        elif stem.endswith("_exps"):
            for i, part in enumerate(x):
                out[f"{prefix}mlp.experts.{i}.{LAYER[stem]}.weight"] = part
        else:
            out[prefix + LAYER[stem] + SUFFIX.get(stem, ".weight")] = undo(stem, x, nk, nv, dk, dv)
    return {k: np.ascontiguousarray(v, np.float32) for k, v in out.items()}


def main():
    path, model, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(model):
        if name.endswith((".json", ".jinja")) and "index" not in name:
            shutil.copy(os.path.join(model, name), folder)
    config = json.load(open(os.path.join(model, "config.json")))
    config.pop("quantization_config", None)
    json.dump(config, open(os.path.join(folder, "config.json"), "w"))
    save_file(translate(*read(path)), os.path.join(folder, "model.safetensors"))


if __name__ == "__main__":
    main()
