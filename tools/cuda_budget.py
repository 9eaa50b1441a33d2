#!/usr/bin/env python3
"""Registers and spills of the compiled CUDA kernels, from what ptxas said while they were built.

Usage: cuda_budget.py BUILD [--all]     BUILD: a build folder with cuda-objects/*.ptxas
Prints the kernels with the most registers (--all: every one) for each architecture, and exits 1 when one spills, keeps
locals in memory, or has more registers than its threads may have. It reads no speed out of them.
SPDX-License-Identifier: Apache-2.0"""
import pathlib
import re
import subprocess
import sys

# kernel name -> threads a block; the rest: what __launch_bounds__ lets ptxas use
THREADS = {"linear_kernel": 256, "grouped_kernel": 256, "attn_kernel": 128, "gdn_kernel": 128}
REGISTERS = 65536  # of an SM
ONCE = {"pack_codes"}  # runs while a checkpoint is loaded: locals in memory do not matter


def kernels(build):
    for log in sorted((build / "cuda-objects").glob("*.ptxas")):
        name = arch = None
        frame = spilled = 0
        for line in log.read_text().splitlines():
            if m := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
                name, arch = m.groups()
            elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
                frame, spilled = map(int, m.groups())
            elif (m := re.search(r"Used (\d+) registers", line)) and name:
                yield name, arch, int(m.group(1)), frame, spilled
                name = None


def main():
    rows = list(kernels(pathlib.Path(sys.argv[1])))
    if not rows:
        sys.exit("cuda_budget: no *.ptxas in this build; is it one with CUDA?")
    plain = subprocess.run(["c++filt"], input="\n".join(r[0] for r in rows), capture_output=True, text=True,
                           check=True).stdout.splitlines()
    rows = [(re.sub(r"^void |\(.*", "", p), *r[1:]) for p, r in zip(plain, rows)]
    bad = 0
    for name, arch, registers, frame, spilled in sorted(rows, key=lambda r: (r[1], -r[2])):
        over = registers * THREADS.get(name.split("<")[0], 1) > REGISTERS
        is_bad = bool((frame and name not in ONCE) or spilled or over)
        bad += is_bad
        if is_bad or "--all" in sys.argv or registers > 120:
            print(f"{arch:8} {name:44} {registers:4} registers" + (f", {spilled} bytes spilled, frame {frame}" if frame or spilled else ""))
    print(f"{len(rows)} kernels, {bad} over budget")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
