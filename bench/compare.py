#!/usr/bin/env python3
"""quern and other servers' llama-bench on the same shapes, turn by turn, as rows of one CSV.

    bench/compare.py OUT.csv --model qwen3.5-0.8b --format AWQ --quern CHECKPOINT --peer NAME=LLAMA_BENCH ...
        --run NAME:LABEL:FILE.gguf[:options of llama-bench] ...

One call is one model in one format. A round runs quern and then every --run, each with the prefills and decodes
asked for; read bandwidth is measured before and after each round. Every other round runs backwards. Rows of the same
model and format already in OUT.csv are replaced, with --add their samples are counted in; the others are kept. So a
comparison grows call by call, each as short as one round. A prompt length given more than once is measured as often in
a round, and the median of those is the round's sample.

    tok_s, min, max   median and extremes over the rounds
    bytes_per_token   of decode: weights read for one token, KV once, state twice. Of a peer: the weights of its file
                      and quern's caches, which hold the same numbers in as many bytes
    limit_tok_s       of decode: read bandwidth / bytes_per_token. Of quern the median of limit_samples, for which quern bench
                      reads the memory every few tokens; of a peer from the median of the reads around the rounds
    of_limit          tok_s by limit_tok_s; of quern the median of samples by limit_samples
    of_best_peer      quern's tok_s by that of the fastest peer whose file has at most --equal (10) percent other bytes;
                      of_best_any by that of the fastest of all

Needs nothing beyond Python. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import csv
import json
import os
import pathlib
import platform
import re
import statistics
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = ["machine", "model", "format", "engine", "version", "weights", "options", "activations", "kv", "threads", "test",
           "tokens", "context", "rounds", "tok_s", "min", "max", "file_bytes", "bytes_per_token", "read_gbs", "read_min",
           "read_max", "limit_tok_s", "of_limit", "of_best_peer", "best_peer", "of_best_any", "samples", "read_samples", "limit_samples"]
# Block types of GGUF by their number: name, weights and bytes of a block, further bytes of a row.
GGUF_TYPES = {0: ("F32", 1, 4, 0), 1: ("F16", 1, 2, 0), 2: ("Q4_0", 32, 18, 0), 8: ("Q8_0", 32, 34, 0), 12: ("Q4_K", 256, 144, 0),
              14: ("Q6_K", 256, 210, 0), 20: ("IQ4_NL", 32, 18, 0), 30: ("BF16", 1, 2, 0), 39: ("MXFP4", 32, 17, 0),
              40: ("NVFP4", 64, 36, 0), 144: ("IQ4_KS", 256, 136, 4)}


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(str(c) for c in command)}\nfailed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def machine():
    """Name, family and model of the processor, as far as the kernel tells; cores that may be used."""
    with open("/proc/cpuinfo") as f:
        fields = dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", f.read().split("\n\n")[0], re.M))
    return (f"{fields.get('model name', platform.machine())} family {fields.get('cpu family', '?')} "
            f"model {fields.get('model', '?')}, {len(os.sched_getaffinity(0))} cores")


def gguf_bytes(path):
    """Bytes of a GGUF's tensors, and those one token reads: no embedding beside a head of its own, experts by share."""
    kinds = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    with open(path, "rb") as f:
        def number(kind):
            return struct.unpack("<" + kind, f.read(struct.calcsize(kind)))[0]

        def text():
            return f.read(number("Q")).decode()

        def value(kind):
            if kind == 8:
                return text()
            if kind == 9:
                inner, n = number("I"), number("Q")
                return [value(inner) for _ in range(n)]
            return number(kinds[kind])

        if f.read(4) != b"GGUF":
            sys.exit(f"{path}: no GGUF file")
        number("I")
        n_tensor, n_key = number("Q"), number("Q")
        keys = {}
        for _ in range(n_key):
            name = text()
            keys[name] = value(number("I"))
        sizes = {}
        for _ in range(n_tensor):
            name, shape = text(), [0] * number("I")
            for i in range(len(shape)):
                shape[i] = number("Q")
            kind = number("I")
            number("Q")
            if kind not in GGUF_TYPES:
                sys.exit(f"{path}: {name} has type {kind}, whose size this script does not know")
            _, block, size, extra = GGUF_TYPES[kind]
            rows = 1
            for n in shape[1:]:
                rows *= n
            sizes[name] = rows * (shape[0] // block * size + extra)
    arch = keys["general.architecture"]
    share = keys.get(f"{arch}.expert_used_count", 1) / keys.get(f"{arch}.expert_count", 1)
    read = sum(size * (share if "_exps." in name else 1) for name, size in sizes.items()
               if name != "token_embd.weight" or "output.weight" not in sizes)
    return sum(sizes.values()), read


class Quern:
    name, kv = "quern", "BF16"

    def __init__(self, args, options):
        self.args, self.label, self.options = args, args.format, options
        self.activations = "8 bits in blocks of 32" if "--activations int8" in options else "BF16"
        self.version = run([args.binary, "version"]).split()[1]
        self.file_bytes = sum(p.stat().st_size for p in pathlib.Path(args.quern).glob("*.safetensors"))
        self.bytes, self.limits = {}, {}
        self.weight_bytes = None

    def measure(self):
        a, out = self.args, {}
        text = run([a.binary, "bench", a.quern, "speed", "--json", "--threads", a.threads, "--prompt", a.prompt, "--context",
                    a.context, "--gen", a.gen, "--runs", 1, *self.options.split()])
        for row in map(json.loads, text.splitlines()):
            if row["bench"] == "prefill":
                out.setdefault(("prefill", row["prompt"], 0), []).append(row["tok_s"])
            elif row["bench"] == "decode":
                out["decode", row["generated"], row["context"]] = [row["tok_s"]]
                self.bytes[row["context"]] = row["bytes_per_token"]
                self.limits.setdefault(row["context"], []).append(row["limit_tok_s"])
                self.weight_bytes = row["weight_bytes"]
        return {test: statistics.median(values) for test, values in out.items()}


class Peer:
    kv = "F16"

    def __init__(self, args, spec, binaries, quern):
        parts = spec.split(":", 3)
        if len(parts) < 3 or parts[0] not in binaries:
            sys.exit(f"--run {spec}: want NAME:LABEL:FILE[:options], NAME being that of a --peer")
        self.args, self.quern, self.name, self.label, self.file = args, quern, parts[0], parts[1], parts[2]
        self.binary, _, self.version = binaries[self.name].partition("@")
        self.has_version, self.options = bool(self.version), parts[3] if len(parts) > 3 else ""
        # llama-bench of llama.cpp has depths; that of ik_llama.cpp has prompts that are not timed
        self.has_depth = "--n-depth" in run([self.binary, "--help"])
        self.file_bytes, self.weight_bytes = gguf_bytes(self.file)
        self.limits = {}
        self.activations = args.peer_activations if self.label not in ("BF16", "F16", "F32") else self.label

    @property
    def bytes(self):
        return {c: b - self.quern.weight_bytes + self.weight_bytes for c, b in self.quern.bytes.items()}

    def measure(self):
        a, out = self.args, {}
        contexts = [int(c) for c in a.context.split(",")]
        common = [self.binary, "-m", self.file, "-t", a.threads, "-r", 1, "-o", "json", *self.options.split()]
        calls = [(0, ["-p", a.prompt, "-n", a.gen if 0 in contexts else 0])]
        for c in filter(None, contexts):
            calls.append((c, ["-p", 0, "-n", a.gen, "-d", c] if self.has_depth else ["-p", 0, "-n", 0, "-gp", f"{c},{a.gen}"]))
        for context, options in calls:
            text = run(common + options)
            for row in json.loads(text[text.index("["):]):
                if not self.has_version:
                    self.version = str(row.get("build_commit", ""))
                if context == 0 and row["n_gen"] == 0:
                    out.setdefault(("prefill", row["n_prompt"], 0), []).append(row["avg_ts"])
                else:
                    out["decode", row["n_gen"], context] = [row["avg_ts"]]
        return {test: statistics.median(values) for test, values in out.items()}


def read_bandwidth(args):
    # the largest, of all threads
    return max(float(x) for x in re.findall(r"([\d.]+) GB/s read", run([args.binary, "doctor"])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("--model", required=True, help="name of the shape in the CSV")
    parser.add_argument("--format", required=True, help="name of the format in the CSV")
    parser.add_argument("--quern", required=True, metavar="CHECKPOINT")
    parser.add_argument("--binary", default=ROOT / "build/quern")
    parser.add_argument("--quern-run", action="append", default=[], metavar="OPTIONS",
                        help="runs quern bench with these options as well, --quern-run='--activations int8'")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=LLAMA_BENCH[@VERSION]",
                        help="VERSION where the binary does not know its own")
    parser.add_argument("--peer-activations", default="8 bits in blocks of 32", help="of their quantised layers, for the CSV")
    parser.add_argument("--run", action="append", default=[], metavar="NAME:LABEL:FILE[:OPTIONS]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", default="512,2048")
    parser.add_argument("--context", default="0,4096")
    parser.add_argument("--gen", type=int, default=48)
    parser.add_argument("--equal", type=float, default=10, metavar="PERCENT")
    parser.add_argument("--add", action="store_true", help="to the samples that OUT.csv has")
    args = parser.parse_args()
    binaries = dict(p.split("=", 1) for p in args.peer)
    own = [Quern(args, options) for options in ["", *args.quern_run]]
    quern = own[0]
    sides = own + [Peer(args, spec, binaries, quern) for spec in args.run]
    kept, before = [], []
    if pathlib.Path(args.csv).exists():
        with open(args.csv, newline="", encoding="utf-8") as f:
            for r in csv.DictReader(f):
                (before if (r["model"], r["format"]) == (args.model, args.format) else kept).append(r)
    figures, bandwidth, n_before = [{} for _ in sides], [read_bandwidth(args)], 0
    known_bytes = {}  # a token, at contexts that only earlier rounds had
    if args.add and before:
        if {r["machine"] for r in before} != {machine()}:
            sys.exit(f"{args.csv}: rows of another machine are not added to")
        lost = {(r["engine"], r["weights"], r["options"]) for r in before} - {(s.name, s.label, s.options) for s in sides}
        if lost:
            sys.exit(f"{args.csv}: --add without a --run of {' '.join(sorted(lost)[0])} would drop its rows")
        bandwidth = [float(x) for x in before[0]["read_samples"].split()] + bandwidth
        for side, values in zip(sides, figures):
            for r in before:
                if (r["engine"], r["weights"], r["options"]) == (side.name, side.label, side.options):
                    samples = [float(x) for x in r["samples"].split()]
                    values[r["test"], int(r["tokens"]), int(r["context"])] = samples
                    n_before = max(n_before, len(samples))
                    if r["test"] == "decode" and r.get("limit_samples"):
                        side.limits[int(r["context"])] = [float(x) for x in r["limit_samples"].split()]
                    if r["test"] == "decode":
                        known_bytes[id(side), int(r["context"])] = int(float(r["bytes_per_token"]))
    for k in range(n_before, n_before + args.rounds):
        order = list(range(len(sides)))
        for i in order if k % 2 == 0 else reversed(order):
            for test, value in sides[i].measure().items():
                figures[i].setdefault(test, []).append(value)
        bandwidth.append(read_bandwidth(args))
        print(f"round {k + 1} of {n_before + args.rounds}, {bandwidth[-1]:.1f} GB/s", file=sys.stderr, flush=True)

    read = statistics.median(bandwidth)
    rows = []
    for side, values in zip(sides, figures):
        for (test, tokens, context), tok_s in sorted(values.items(), reverse=True):
            row = {"machine": machine(), "model": args.model, "format": args.format, "engine": side.name,
                   "version": side.version, "weights": side.label, "options": side.options, "activations": side.activations,
                   "kv": side.kv, "threads": args.threads, "test": test, "tokens": tokens, "context": context,
                   "rounds": len(tok_s), "tok_s": statistics.median(tok_s), "min": min(tok_s), "max": max(tok_s),
                   "file_bytes": side.file_bytes, "read_gbs": read, "read_min": min(bandwidth), "read_max": max(bandwidth),
                   "samples": " ".join(f"{x:.5g}" for x in tok_s), "read_samples": " ".join(f"{x:.4g}" for x in bandwidth)}
            if test == "decode":
                row["bytes_per_token"] = round(side.bytes[context]) if context in side.bytes else known_bytes[id(side), context]
                row["limit_tok_s"] = read * 1e9 / row["bytes_per_token"]
                row["of_limit"] = row["tok_s"] / row["limit_tok_s"]
                limits = side.limits.get(context, [])
                if len(limits) == len(tok_s):  # older rounds have none
                    row["limit_tok_s"] = statistics.median(limits)
                    row["of_limit"] = statistics.median(x / limit for x, limit in zip(tok_s, limits))
                    row["limit_samples"] = " ".join(f"{x:.5g}" for x in limits)
            rows.append(row)
    weights = {id(s): s.weight_bytes for s in sides}
    for row in (r for r in rows if r["engine"] == "quern"):
        best, best_any, test = None, None, (row["test"], row["tokens"], row["context"])
        for side, values in list(zip(sides, figures))[len(own):]:
            if test not in values:
                continue
            found = (statistics.median(values[test]), f"{side.name} {side.label}")
            best_any = max(best_any or found, found)
            if abs(weights[id(side)] / quern.weight_bytes - 1) * 100 <= args.equal:
                best = max(best or found, found)
        if best:
            row["of_best_peer"], row["best_peer"] = row["tok_s"] / best[0], best[1]
        if best_any:
            row["of_best_any"] = row["tok_s"] / best_any[0]
    with open(args.csv, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    for r in rows:
        print(f"{r['engine']:14} {r['weights']:8} {r['options']:16} {r['test']:8} {r['tokens']:5} at {r['context']:5} "
              f"{r['tok_s']:8.1f} ({r['min']:.1f} to {r['max']:.1f})  limit {r.get('of_limit', 0):.2f}  "
              f"peer {r.get('of_best_peer', 0):.2f}")


if __name__ == "__main__":
    main()
