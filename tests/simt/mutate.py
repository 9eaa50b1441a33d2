#!/usr/bin/env python3
"""Mutation run: takes one barrier, warp barrier or copy wait out of the shipped kernels at a time and wants the tests to
say so: a finding of the emulator, or a result that is not ref's.

Usage: mutate.py BUILD [FILE.cu ...]      BUILD: a build folder with simt_kern_checked; default: all files
Prints a line a mutant and the score; exits 1 when one went unseen that is not listed as harmless.
SPDX-License-Identifier: Apache-2.0"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "src/backend/cuda"
CUT = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|cp_async_wait<\d+>\(\);|cp_async_commit\(\);")
# file, line's text -> why nothing can be seen
HARMLESS = {}


def command_of(build, source):
    """The compiler call of the checked object, from ninja."""
    calls = subprocess.run(["ninja", "-C", build, "-t", "commands", "simt_kern_checked"], capture_output=True, text=True,
                           check=True).stdout.splitlines()
    compile_ = next(c for c in calls if f"cuda_checked.dir/src/backend/cuda/{source}.o" in c and " -c " in c)
    link = next(c for c in calls if "-o tests/simt_kern_checked" in c)
    return compile_, link


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    names = sys.argv[2:] or sorted(p.name for p in KERNELS.glob("*.cu"))
    n, missed = 0, []
    for name in names:
        text = (KERNELS / name).read_text()
        cuts = [m for m in CUT.finditer(text)]
        if not cuts:
            continue
        compile_, link = command_of(build, name)
        for m in cuts:
            line = text.count("\n", 0, m.start()) + 1
            mutant = build / "mutant.cu"
            mutant.write_text(text[:m.start()] + ";" + text[m.end():])
            obj = f"CMakeFiles/cuda_checked.dir/src/backend/cuda/{name}.o"
            call = compile_.replace(str(KERNELS / name), str(mutant)).replace(f"-o {obj}", "-o mutant.o")
            run = link.replace(obj, "mutant.o").replace("-o tests/simt_kern_checked", "-o tests/mutant")
            subprocess.run(call, shell=True, cwd=build, check=True, capture_output=True)
            subprocess.run(run, shell=True, cwd=build, check=True, capture_output=True)
            seen = ""
            for seed in ("0", "1"):
                try:
                    r = subprocess.run([build / "tests/mutant", "cuda"], capture_output=True, text=True, timeout=900,
                                       env={"SIMT_SEED": seed, "PATH": "/usr/bin:/bin"})
                except subprocess.TimeoutExpired:
                    seen = "by hanging"
                    break
                if r.returncode:
                    found = [x for x in (r.stderr + r.stdout).splitlines() if x.startswith("simt:")]
                    seen = "by check: " + found[0].split(": ", 2)[-1][:90] if found else "by result"
                    break
            n += 1
            own = text.splitlines()[line - 1].strip()
            if not seen and (name, own) not in HARMLESS:
                missed.append((name, line))
            print(f"{name}:{line} {m.group(0):24} {seen or 'UNSEEN'}", flush=True)
    print(f"{n} mutants, {n - len(missed)} seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
