"""Writes and reads small safetensors files with numpy alone. BF16 and FP8 travel as uint16 and uint8.

SPDX-License-Identifier: Apache-2.0
"""
import json
import struct

import numpy as np

NATIVE = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I64": np.int64, "U8": np.uint8, "I8": np.int8,
          "BF16": np.uint16, "F8_E4M3": np.uint8, "F64": np.float64}


def write(path, tensors):
    """tensors: {name: (dtype name, array)}; a 0-dimensional array is a scalar."""
    header, blob = {}, b""
    for name, (dtype, array) in tensors.items():
        data = np.ascontiguousarray(array).astype(NATIVE[dtype], copy=False).tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(array)), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def read(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, x in json.loads(raw[8 : 8 + n]).items():
        if name != "__metadata__":
            a, b = x["data_offsets"]
            out[name] = (x["dtype"], np.frombuffer(raw[8 + n + a : 8 + n + b], NATIVE[x["dtype"]]).reshape(x["shape"]))
    return out
