#!/usr/bin/env python3
"""Golden files for the storage formats: random codes and scales, and the weights they stand for.

The formulas are written here a second time, from docs/formats.md, with numpy and nothing of quern. Each file holds
the tensors of one layer "x" and "expected" [N, K] in F32.

Usage: make_format_golden.py [OUT]   (default tests/golden/formats)
SPDX-License-Identifier: Apache-2.0
"""
import pathlib
import sys

import numpy as np

import tiny_safetensors

rng = np.random.default_rng(20)
F = np.float32
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F)


def e4m3(code):
    code = code.astype(np.int64)
    e, m = code >> 3 & 15, code & 7
    value = np.where(e == 0, m / 8 * 2.0**-6, (1 + m / 8) * 2.0 ** (e - 7.0))
    return np.where(code & 128, -value, value).astype(F)


def bf16(x):
    """Nearest even, as bits."""
    u = np.asarray(x, F).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def wide(dtype, bits):
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(F)
    return bits.astype(F)


def scales(shape, dtype, low=1e-3, high=0.2):
    x = np.exp(rng.uniform(np.log(low), np.log(high), shape)).astype(F)
    return bf16(x) if dtype == "BF16" else x.astype(tiny_safetensors.NATIVE[dtype])


def weight_codes(N, K):
    c = rng.integers(0, 256, (N, K), np.uint8)
    c[(c & 0x7F) == 0x7F] = 0x7E
    return c


def nvfp4(N, K, dialect):
    codes = rng.integers(0, 16, (N, K), np.uint8)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    s = rng.integers(0, 0x7F, (N, K // 16), np.uint8)
    whole = F(0.37 / 2688)
    tensors = {"x.weight_scale": ("F8_E4M3", s)}
    if dialect == "modelopt":
        tensors["x.weight"] = ("U8", packed)
        tensors["x.weight_scale_2"] = ("F32", np.array(whole))
        tensors["x.input_scale"] = ("F32", np.array(F(0.01)))
    else:
        divisor = F(1) / whole
        tensors["x.weight_packed"] = ("U8", packed)
        tensors["x.weight_global_scale"] = ("F32", np.array([divisor]))
        whole = F(1) / divisor  # a reader multiplies by the reciprocal
    return tensors, E2M1[codes] * np.repeat(e4m3(s), 16, axis=1) * whole


def fp8(N, K, kind, dtype, name="weight_scale"):
    c = weight_codes(N, K)
    if kind == "block":
        s = scales((-(-N // 128), -(-K // 128)), dtype)
        grid = np.repeat(np.repeat(wide(dtype, s), 128, 0), 128, 1)[:N, :K]
    elif kind == "channel":
        s = scales((N, 1), dtype)
        grid = wide(dtype, s)
    elif kind == "row":
        s = scales((N,), dtype)
        grid = wide(dtype, s)[:, None]
    else:
        s = scales((), dtype)
        grid = wide(dtype, np.asarray(s))
    return {"x.weight": ("F8_E4M3", c), "x." + name: (dtype, s)}, e4m3(c) * grid


def awq(N, K, group, dtype):
    q, z = rng.integers(0, 16, (K, N)), rng.integers(0, 16, (K // group, N))
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble j holds column order[j]

    def pack(a):
        words = np.zeros((a.shape[0], N // 8), np.uint64)
        for j, column in enumerate(order):
            words |= a[:, column::8].astype(np.uint64) << np.uint64(4 * j)
        return words.astype(np.uint32).view(np.int32)

    s = scales((K // group, N), dtype)
    w = (q - np.repeat(z, group, 0)).astype(F) * np.repeat(wide(dtype, s), group, 0)
    return {"x.qweight": ("I32", pack(q)), "x.qzeros": ("I32", pack(z)), "x.scales": (dtype, s)}, w.T


def gptq(N, K, group, dtype, symmetric=True, version=1, act_order=False, zeros=True):
    q = rng.integers(0, 16, (K, N))
    z = np.full((K // group, N), 8) if symmetric else rng.integers(1, 16, (K // group, N))
    g = rng.permutation(np.arange(K) // group) if act_order else np.arange(K) // group
    words = np.zeros((K // 8, N), np.uint64)
    for i in range(8):
        words |= q[i::8].astype(np.uint64) << np.uint64(4 * i)
    stored = z - (1 if version == 1 else 0)
    zero_words = np.zeros((K // group, N // 8), np.uint64)
    for j in range(8):
        zero_words |= stored[:, j::8].astype(np.uint64) << np.uint64(4 * j)
    s = scales((K // group, N), dtype)
    tensors = {"x.qweight": ("I32", words.astype(np.uint32).view(np.int32)), "x.scales": (dtype, s),
               "x.g_idx": ("I32", g.astype(np.int32))}
    if zeros:
        tensors["x.qzeros"] = ("I32", zero_words.astype(np.uint32).view(np.int32))
    return tensors, ((q - z[g]).astype(F) * wide(dtype, s)[g]).T


def packed4(N, K, group, dtype, act_order=False):
    u = rng.integers(0, 16, (N, K))
    words = np.zeros((N, K // 8), np.uint64)
    for i in range(8):
        words |= u[:, i::8].astype(np.uint64) << np.uint64(4 * i)
    s = scales((N, K // group), dtype)
    tensors = {"x.weight_packed": ("I32", words.astype(np.uint32).view(np.int32)), "x.weight_scale": (dtype, s),
               "x.weight_shape": ("I64", np.array([N, K]))}
    g = np.arange(K) // group
    if act_order:
        g = rng.permutation(g)
        tensors["x.weight_g_idx"] = ("I32", g.astype(np.int32))
    return tensors, (u - 8).astype(F) * wide(dtype, s)[:, g]


def int8(N, K, dtype):
    c = rng.integers(-128, 128, (N, K)).astype(np.int8)
    s = scales((N, 1), dtype)
    return {"x.weight": ("I8", c), "x.weight_scale": (dtype, s)}, c.astype(F) * wide(dtype, s)


def plain(N, K, dtype):
    x = rng.normal(0, 0.02, (N, K)).astype(F)
    bits = bf16(x) if dtype == "BF16" else x.astype(tiny_safetensors.NATIVE[dtype])
    return {"x.weight": (dtype, bits)}, wide(dtype, bits)


CASES = {
    "bf16": lambda: plain(8, 24, "BF16"),
    "f16": lambda: plain(8, 24, "F16"),
    "f32": lambda: plain(8, 24, "F32"),
    "nvfp4": lambda: nvfp4(10, 64, "modelopt"),
    "nvfp4-ct": lambda: nvfp4(10, 64, "ct"),
    "fp8-block-rows": lambda: fp8(130, 16, "block", "BF16", "weight_scale_inv"),
    "fp8-block-columns": lambda: fp8(6, 300, "block", "F32", "weight_scale_inv"),
    "fp8-block-ct": lambda: fp8(140, 136, "block", "BF16")[:2],
    "fp8-tensor": lambda: fp8(8, 40, "tensor", "F32"),
    "fp8-channel": lambda: fp8(8, 40, "channel", "BF16"),
    "fp8-row": lambda: fp8(8, 40, "row", "F32"),
    "awq": lambda: awq(16, 256, 128, "F16"),
    "awq-64-bf16": lambda: awq(24, 128, 64, "BF16"),
    "gptq": lambda: gptq(16, 256, 128, "F16"),
    "gptq-v2": lambda: gptq(16, 128, 64, "BF16", version=2),
    "gptq-asymmetric": lambda: gptq(16, 128, 32, "F16", symmetric=False),
    "gptq-order": lambda: gptq(16, 128, 32, "F16", act_order=True),
    "gptq-no-zeros": lambda: gptq(16, 64, 32, "F16", zeros=False),
    "int4-ct": lambda: packed4(12, 128, 64, "BF16"),
    "int8": lambda: int8(12, 40, "BF16"),
    "int4-ct-order": lambda: packed4(12, 128, 32, "F16", act_order=True),
}


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests/golden/formats"
    out.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        tensors, expected = make()
        tensors["expected"] = ("F32", np.ascontiguousarray(expected, F))
        tiny_safetensors.write(out / f"{name}.safetensors", tensors)


if __name__ == "__main__":
    main()
