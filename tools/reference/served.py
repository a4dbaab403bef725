#!/usr/bin/env python3
"""Write reference logits in served numerics, from the executable program of this folder (NumPy only).

    served.py MODEL_DIR OUT.safetensors (--ids 1,2,3 | --ids-from REFERENCE.safetensors) [--length N]

input_ids    i64 [n]
logits       f32 [n, vocab]: every op in float64, quantisation round trips of spec section 13, no other rounding
logits_bf16  f32 [n, vocab]: float32, and every bf16 tensor of the program rounded to bf16 (what a device computes,
             but for the order of sums)
"""
import argparse
import json
import struct
from pathlib import Path

import numpy as np

from checkpoint import safetensors
from run import engine, feed


def write(path, tensors):
    kinds = {"float32": "F32", "int64": "I64"}
    header, body, at = {}, b"", 0
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        header[name] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        body, at = body + array.tobytes(), at + array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model", type=Path)
    a.add_argument("out", type=Path)
    a.add_argument("--ids")
    a.add_argument("--ids-from", type=Path)
    a.add_argument("--length", type=int)
    a = a.parse_args()
    np.seterr(all="ignore")
    if a.ids:
        ids = np.array([int(i) for i in a.ids.split(",")], np.int64)
    else:
        ids = next(t for k, _, t in safetensors(a.ids_from) if k == "input_ids")
    ids = ids[: a.length].astype(np.int64)
    out = {"input_ids": ids}
    for name, real in (("logits", np.float64), ("logits_bf16", np.float32)):
        e = engine(a.model, real, served=True)
        out[name] = feed(e, e.open(), ids, [37, 1, 90, 2]).astype(np.float32)
    write(a.out, out)


if __name__ == "__main__":
    main()
