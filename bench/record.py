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

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = ["machine", "version", "model", "bench", "threads", "isa", "kv", "mtp", "runs", "read_gbs", "prompt", "context",
           "generated", "streams", "shared", "turn", "cached", "tok_s", "min", "max", "bytes_per_token", "limit_tok_s",
           "of_limit", "tok_per_step", "ttft_ms", "ttft_p50_ms", "itl_p50_ms", "itl_p99_ms", "long_prompt"]


def machine():
    fields = {}
    for line in subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return f"{fields.get('Model name', '?')} family {fields.get('CPU family', '?')}, {fields.get('CPU(s)', '?')} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--threads", default="1,2")
    here = sys.argv[1:]
    at = here.index("--") if "--" in here else len(here)
    args, options = parser.parse_args(here[:at]), here[at + 1:]
    with open(args.out, "w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for threads in args.threads.split(","):
            command = [ROOT / "build/quern", "bench", args.model, "--json", "--threads", threads, *options]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for line in run.stdout.splitlines():
                row = json.loads(line)
                row["machine"] = machine()
                writer.writerow(row)
                limit = f"  {100 * row['of_limit']:.0f} % of limit" if "of_limit" in row else ""
                print(f"{row['bench']:12} threads {row['threads']}  prompt {row.get('prompt', '-')} "
                      f"context {row.get('context', '-')}  {row['tok_s']:.2f} tok/s{limit}", flush=True)


if __name__ == "__main__":
    main()
