#!/usr/bin/env python3
"""Golden files of GGUF (tests/golden/gguf), from the makers: the gguf package and llama.cpp's converter.

    tools/make_gguf_golden.py LLAMA_CPP

LLAMA_CPP is the folder of llama.cpp, as in the source distribution of llama-cpp-python 0.3.36 (vendor/llama.cpp), built
(build/bin/llama-gguf-split). Needs torch, transformers, gguf, numpy. Writes

    blocks.bin   random blocks of every type, and their values by gguf.quants:
                 u32 type, u32 blocks, u32 values a block, u32 bytes a block, then the blocks, then float32 values
    NAME.gguf    golden models as the converter writes them: ratios of value to key heads 1, 2 and 4, tied and untied,
                 dense and MoE, with MTP; one as a split set
    SHA256SUMS   of all of them
SPDX-License-Identifier: Apache-2.0"""
import hashlib
import os
import pathlib
import struct
import subprocess
import sys

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/gguf"
MODELS = {"dense-tied": ["--no-mtp"], "dense-ratio4-odd": ["--no-mtp"], "dense-untied-mtp": [], "moe-expert-mtp": []}
# (without --no-mtp the converter stops at a checkpoint that has no MTP layer)
SPLIT = "dense-tied"
TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 NVFP4".split()
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}


def blocks(rng, name, n=6):
    """Random bytes with scales of ordinary size; of MXFP4 exponents that overflow nothing."""
    kind = gguf.GGMLQuantizationType[name]
    n_value, n_byte = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (n, n_byte), dtype=np.uint8)
    for at in HALVES.get(name, []):
        data[:, at:at + 2] = rng.normal(0, 0.02, n).astype(np.float16).view(np.uint8).reshape(n, 2)
    if name == "MXFP4":
        data[:, 0] = rng.integers(100, 140, n)
    values = gguf.quants.dequantize(data.reshape(1, -1), kind).astype(np.float32)
    head = struct.pack("<4I", int(kind), n, n_value, n_byte)
    return head + data.tobytes() + values.tobytes()


CONVERT = r"""
import sys
L = sys.argv[1]
sys.path[:0] = [L, L + "/gguf-py"]
import conversion.base as base
def set_vocab(self):  # golden models have no tokenizer
    n = self.hparams["vocab_size"]
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("qwen35")
    self.gguf_writer.add_token_list([f"t{i}" for i in range(n)])
    self.gguf_writer.add_token_types([1] * n)
    self.gguf_writer.add_token_merges([])
import conversion.qwen as qwen
for module in (base, qwen):
    for x in vars(module).values():
        if isinstance(x, type) and hasattr(x, "set_vocab"):
            x.set_vocab = set_vocab
sys.argv = [L + "/convert_hf_to_gguf.py"] + sys.argv[2:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__", "__file__": sys.argv[0]})
"""


def main():
    llama = sys.argv[1]
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    rng = np.random.default_rng(20)
    (OUT / "blocks.bin").write_bytes(b"".join(blocks(rng, name) for name in TYPES))
    for name, options in MODELS.items():
        path = OUT / f"{name}.gguf"
        subprocess.run([sys.executable, "-c", CONVERT, llama, str(ROOT / "tests/golden/model" / name),
                        "--outfile", str(path), "--outtype", "bf16"] + options, check=True)
        if name == SPLIT:
            tool = os.path.join(llama, "build/bin/llama-gguf-split")
            subprocess.run([tool, "--split-max-tensors", "20", str(path), str(OUT / name)], check=True)
            path.unlink()
    sums = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(OUT.iterdir()))
    (OUT / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main()
