"""Checkpoints as other tools write them, made of one published-style folder: numpy only.

A tensor is (dtype, shape, bytes). Each `quantise` function turns a float matrix [N, K] into the tensors of one layer
in some form and the exact float32 values they stand for, so that a test can compare with a plain checkpoint.

SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import re
import shutil
import struct

import numpy as np

LINEAR = re.compile(r"(self_attn\.[qkvo]_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)|"
                    r"shared_expert\.(gate|up|down)_proj|experts\.\d+\.(gate|up|down)_proj)\.weight$")
DTYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "uint8": "U8", "int8": "I8", "uint32": "U32"}


def read(path):
    data = pathlib.Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, v in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            a, b = v["data_offsets"]
            out[name] = (v["dtype"], v["shape"], data[8 + n + a:8 + n + b])
    return out


def write(path, tensors, metadata="pt"):
    header, at = {"__metadata__": {"format": metadata}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def folder(out, source, tensors, change=None, name="model.safetensors", metadata="pt"):
    """A copy of the folder `source` with these tensors and an edited config.json."""
    out = pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for f in pathlib.Path(source).iterdir():
        if f.suffix in (".json", ".jinja") and f.name != "config.json":
            shutil.copy(f, out)
    config = json.loads((pathlib.Path(source) / "config.json").read_text())
    if change:
        change(config)
    (out / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        write(out / name, tensors, metadata)
    return out


def quantised(**fields):
    return lambda config: config.update(quantization_config=fields)


def pack(a, dtype=None):
    return dtype or DTYPES[str(a.dtype)], list(a.shape), np.ascontiguousarray(a).tobytes()


def f32(t):
    dtype, shape, data = t
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32).reshape(shape)


def bf16(a):
    u = np.ascontiguousarray(a, dtype="<f4").view(np.uint32)
    return "BF16", list(a.shape), ((u + 0x7fff + ((u >> 16) & 1)) >> 16).astype("<u2").tobytes()


def as_bf16(a):
    return f32(bf16(a))


E4M3 = np.array([(m / 8) * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0**(e - 7) for e in range(16) for m in range(8)][:127], np.float32)
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6], np.float32)


def nearest(table, x):
    """Sign in the highest bit above the codes; the nearest code of the table."""
    a = np.minimum(np.abs(x), table[-1])
    code = np.abs(a[..., None] - table).argmin(-1).astype(np.uint8)
    return code, np.where(np.signbit(x), -table[code], table[code]).astype(np.float32)


def e4m3(x):
    i = np.clip(np.searchsorted(E4M3, np.minimum(np.abs(x), 448)), 1, 126)
    a = np.minimum(np.abs(x), 448)
    code = np.where(a - E4M3[i - 1] < E4M3[i] - a, i - 1, i).astype(np.uint8)
    return code | (np.signbit(x).astype(np.uint8) << 7), np.where(np.signbit(x), -E4M3[code], E4M3[code]).astype(np.float32)


def e2m1(x):
    code, value = nearest(E2M1, x)
    return code | (np.signbit(x).astype(np.uint8) << 3), value


def by_group(w, group):
    """Index of the group of each k, and the largest |w| of each: [N, groups]."""
    g = np.arange(w.shape[1]) // group
    return g, np.stack([np.abs(w[:, g == i]).max(1) for i in range(g[-1] + 1)], 1)


def words(codes, bits):
    """Streams of bits along the last axis, lowest first, in 32-bit words."""
    n = codes.shape[-1]
    out = np.zeros(codes.shape[:-1] + ((n * bits + 31) // 32,), np.uint64)
    for i in range(n):
        word, shift = divmod(i * bits, 32)
        value = codes[..., i].astype(np.uint64) << np.uint64(shift)
        out[..., word] |= value & np.uint64(0xffffffff)
        if shift + bits > 32:
            out[..., word + 1] |= value >> np.uint64(32)
    return out.astype(np.uint32)


def integers(w, bits, group, zero_points):
    """Codes, zero points, scales (BF16 values), the group of each k."""
    g, size = by_group(w, group)
    top, n_group = (1 << bits) - 1, size.shape[1]
    if zero_points:
        low = np.stack([w[:, g == i].min(1) for i in range(n_group)], 1).clip(max=0)
        high = np.stack([w[:, g == i].max(1) for i in range(n_group)], 1).clip(min=0)
        scale = as_bf16(np.maximum((high - low) / top, 1e-8))
        zero = np.clip(np.rint(-low / scale), 0, top).astype(int)
    else:
        scale = as_bf16(np.maximum(size / (top / 2), 1e-8))
        zero = np.full(size.shape, (top + 1) // 2)
    codes = np.clip(np.rint(w / scale[:, g]) + zero[:, g], 0, top).astype(int)
    return codes, zero, scale, g


def gptq(bits=4, group=32, zero_points=False, v2=False, g_idx=True, act_order=False):
    def quantise(w):
        order = np.random.default_rng(5).permutation(w.shape[1]) if act_order else np.arange(w.shape[1])
        codes, zero, scale, g = integers(w[:, order], bits, group, zero_points)
        scale = np.frombuffer(scale.astype(np.float16).tobytes(), "<f2").reshape(scale.shape).astype(np.float32)
        value = np.empty_like(w)
        value[:, order] = (codes - zero[:, g]) * scale[:, g]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        out = {"qweight": pack(words(codes[:, place], bits).T.copy().view(np.int32)), "scales": pack(scale.T.astype(np.float16)),
               "qzeros": pack(words(((zero - (not v2)) & ((1 << bits) - 1)).T, bits).view(np.int32))}
        if g_idx or act_order:
            out["g_idx"] = pack(g[place].astype(np.int32))
        return out, value.astype(np.float32)
    return quantise


def packed(bits=4, group=32, zero_points=False):
    """compressed-tensors pack-quantized."""
    def quantise(w):
        codes, zero, scale, g = integers(w, bits, group or w.shape[1], zero_points)
        out = {"weight_packed": pack(words(codes, bits).view(np.int32)), "weight_scale": bf16(scale),
               "weight_shape": pack(np.array(w.shape, np.int64))}
        if zero_points:
            out["weight_zero_point"] = pack(words(zero.T, bits).T.copy().view(np.int32))
        return out, ((codes - zero[:, g]) * scale[:, g]).astype(np.float32)
    return quantise


def int8(group=0, zero_points=False, whole=False):
    """compressed-tensors int-quantized."""
    def quantise(w):
        codes, zero, scale, g = integers(w if not whole else w.reshape(1, -1), 8, group or w.size, zero_points)
        codes, value = codes.reshape(w.shape), ((codes - zero[:, g]) * scale[:, g]).reshape(w.shape)
        out = {"weight": pack((codes - 128).astype(np.int8)), "weight_scale": bf16(scale if not whole else scale.reshape(1))}
        if zero_points:
            out["weight_zero_point"] = pack((zero - 128).astype(np.int8))
        return out, value.astype(np.float32)
    return quantise


def fp8(block, e8m0=None, name="weight_scale_inv"):
    """E4M3 with a scale a block [rows, columns]; e8m0: dtype of scales that are powers of two."""
    def quantise(w):
        rows, columns = np.arange(w.shape[0]) // block[0], np.arange(w.shape[1]) // block[1]
        scale = np.zeros((rows[-1] + 1, columns[-1] + 1), np.float32)
        np.maximum.at(scale, (rows[:, None], columns[None]), np.abs(w))
        scale = np.maximum(scale / 448, 1e-9).astype(np.float32)
        if e8m0:
            exponent = np.ceil(np.log2(scale))
            scale = (2.0**exponent).astype(np.float32)
        whole = scale[rows][:, columns]
        code, value = e4m3(w / whole)
        stored = pack((exponent + 127).astype(np.uint8), e8m0) if e8m0 else pack(scale)
        return {"weight": pack(code, "F8_E4M3"), name: stored}, (value * whole).astype(np.float32)
    return quantise


def mx(bits, dtype="U8"):
    """MXFP4 (packed) and MXFP8 of compressed-tensors."""
    def quantise(w):
        g, size = by_group(w, 32)
        exponent = np.ceil(np.log2(np.maximum(size, 1e-20) / (6 if bits == 4 else 448)))
        scale = (2.0**exponent).astype(np.float32)[:, g]
        code, value = (e2m1 if bits == 4 else e4m3)(w / scale)
        out = {"weight_scale": pack((exponent + 127).astype(np.uint8), dtype)}
        if bits == 4:
            out["weight_packed"] = pack(code[:, 0::2] | code[:, 1::2] << 4)
        else:
            out["weight"] = pack(code, "F8_E4M3")
        return out, (value * scale).astype(np.float32)
    return quantise


def mlx(bits=4, group=64):
    """MLX affine: code * scale + bias."""
    def quantise(w):
        g = np.arange(w.shape[1]) // group
        low = np.stack([w[:, g == i].min(1) for i in range(g[-1] + 1)], 1)
        high = np.stack([w[:, g == i].max(1) for i in range(g[-1] + 1)], 1)
        scale, bias = as_bf16(np.maximum((high - low) / ((1 << bits) - 1), 1e-8)), as_bf16(low)
        codes = np.clip(np.rint((w - bias[:, g]) / scale[:, g]), 0, (1 << bits) - 1).astype(int)
        return ({"weight": pack(words(codes, bits)), "scales": bf16(scale), "biases": bf16(bias)},
                (codes * scale[:, g] + bias[:, g]).astype(np.float32))
    return quantise


def convert(tensors, quantise, pick=lambda name: True):
    """Two checkpoints: the layers that `pick` names quantised, and the same as float32."""
    out, plain = {}, {}
    for name, t in tensors.items():
        if LINEAR.search(name) and pick(name) and not name.startswith("mtp"):
            parts, value = quantise(f32(t))
            plain[name] = pack(value)
            for suffix, part in parts.items():
                out[name[:-len("weight")] + suffix] = part
        else:
            out[name] = plain[name] = t
    return out, plain


def split_experts(tensors):
    """Fused experts as one tensor an expert and projection."""
    out = {}
    for name, t in tensors.items():
        m = re.match(r"(.*mlp\.experts\.)(gate_up_proj|down_proj)$", name)
        if not m:
            out[name] = t
            continue
        a = f32(t)
        for i, x in enumerate(a):
            if m[2] == "down_proj":
                out[f"{m[1]}{i}.down_proj.weight"] = bf16(x)
            else:
                half = len(x) // 2
                out[f"{m[1]}{i}.gate_proj.weight"], out[f"{m[1]}{i}.up_proj.weight"] = bf16(x[:half]), bf16(x[half:])
    return out
