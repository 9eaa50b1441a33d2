#!/usr/bin/env python3
"""Runs `quern bench` with several thread counts and keeps the results as CSV.

    bench/record.py MODEL OUT.csv [--threads 1,2] [-- bench options]

Each row is one result of quern bench with its options, the machine and the version, so that only equal runs are
compared. Needs nothing beyond Python.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import csv
import json
import pathlib
import subprocess
import sys

from compare import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--threads", default="1,2")
    here = sys.argv[1:]
    at = here.index("--") if "--" in here else len(here)
    args, options = parser.parse_args(here[:at]), here[at + 1:]
    rows, columns = [], ["machine"]
    for threads in args.threads.split(","):
        command = [ROOT / "build/quern", "bench", args.model, "--json", "--threads", threads, *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            for line in run.stdout:
                row = {"machine": machine(), **json.loads(line)}
                rows.append(row)
                columns += [name for name in row if name not in columns]
                print(" ".join(f"{k}={v}" for k, v in row.items() if k not in ("machine", "version", "model", "device", "isa")),
                      flush=True)
        if run.returncode:
            sys.exit(run.returncode)
    with open(args.out, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)



if __name__ == "__main__":
    main()
