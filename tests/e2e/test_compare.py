"""bench/compare.py: quern beside a llama-bench, here one of the test's own that answers in fixed figures."""
import csv
import pathlib
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAKE = """#!{python}
import json, sys
a = sys.argv
if "--help" in a:
    print("  -d, --n-depth <n>" if {has_depth} else "  -gp")
    sys.exit()
rows = []
if "-gp" in a:
    c, g = a[a.index("-gp") + 1].split(",")
    rows.append(dict(n_prompt=int(c), n_gen=int(g), avg_ts=4.0))
elif "-d" in a:
    rows.append(dict(n_prompt=0, n_gen=int(a[a.index("-n") + 1]), avg_ts=4.0))
else:
    rows += [dict(n_prompt=int(p), n_gen=0, avg_ts=ts) for p, ts in zip(a[a.index("-p") + 1].split(","), (2.0, 8.0, 9.0, 8.0))]
    rows.append(dict(n_prompt=0, n_gen=int(a[a.index("-n") + 1]), avg_ts=5.0))
print(json.dumps([dict(r, build_commit="abc") for r in rows]))
"""


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(path, bf16_values, expert_rows=4):
    """An embedding, a head and eight experts of which two are read, as a file's header. Returns the bytes a token reads."""
    keys = [("general.architecture", 8, text("x")), ("x.expert_count", 4, struct.pack("<I", 8)),
            ("x.expert_used_count", 4, struct.pack("<I", 2))]
    tensors = [("token_embd.weight", (64, 10), 30), ("output.weight", (64, bf16_values // 64), 30),
               ("blk.0.ffn_up_exps.weight", (64, expert_rows, 8), 2)]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name) + struct.pack("<I", kind) + value
    for name, shape, kind in tensors:
        out += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        out += struct.pack("<IQ", kind, 0)
    path.write_bytes(out)
    return (bf16_values * 2) + 64 * expert_rows * 8 // 32 * 18 * 2 // 8


@pytest.mark.parametrize("has_depth", [True, False])
def test_rows_of_both_sides(tmp_path, has_depth):
    quern = ROOT / "build/quern"
    model, out = tmp_path / "model", tmp_path / "out.csv"
    subprocess.run([quern, "synth", "tiny", model], check=True, capture_output=True)
    fake = tmp_path / "llama-bench"
    fake.write_text(FAKE.format(python=sys.executable, has_depth=has_depth))
    fake.chmod(0o755)
    call = [sys.executable, ROOT / "bench/compare.py", out, "--model", "tiny", "--quern", model, "--binary", quern,
            "--peer", f"other={fake}", "--rounds", "2", "--prompt", "16,16,16,32", "--context", "0,64", "--gen", "8"]
    far = gguf(tmp_path / "far.gguf", 64 << 20)
    subprocess.run([*call, "--format", "A", "--run", f"other:BF16:{tmp_path}/far.gguf"], check=True, capture_output=True)
    rows = list(csv.DictReader(out.open()))
    assert [(r["engine"], r["test"], r["tokens"], r["context"]) for r in rows] == [
        (e, *t) for e in ("quern", "other") for t in (("prefill", "32", "0"), ("prefill", "16", "0"), ("decode", "8", "64"),
                                                      ("decode", "8", "0"))]
    mine, theirs = rows[:4], rows[4:]
    assert [float(r["tok_s"]) for r in theirs] == [8, 8, 4, 5]
    assert all(r["version"] == "abc" for r in theirs)
    assert not any(r["of_best_peer"] for r in mine), "a file many times as large is no equal"
    for r, other in zip(mine, (8, 8, 4, 5)):
        assert float(r["of_best_any"]) == pytest.approx(float(r["tok_s"]) / other, rel=0.002)
        assert float(r["min"]) <= float(r["tok_s"]) <= float(r["max"])
    # bytes: quern's caches beside the peer's weights; at a context there are more of them
    caches = [float(r["bytes_per_token"]) - far for r in theirs[2:]]
    assert 0 < caches[1] < caches[0] < float(mine[2]["bytes_per_token"])
    limit = float(theirs[2]["read_gbs"]) * 1e9 / float(theirs[2]["bytes_per_token"])
    assert float(theirs[2]["of_limit"]) == pytest.approx(float(theirs[2]["tok_s"]) / limit, rel=0.01)
    # of quern the limit of each sample is measured beside it
    samples, limits = ([float(x) for x in mine[2][c].split()] for c in ("samples", "limit_samples"))
    assert len(limits) == 2
    assert float(mine[2]["of_limit"]) == pytest.approx(sum(x / y for x, y in zip(samples, limits)) / 2, rel=0.01)
    assert float(mine[2]["limit_tok_s"]) == pytest.approx(sum(limits) / 2, rel=0.01)

    # an equal one, another format: rows are added, then replaced
    own = float(mine[2]["bytes_per_token"]) - caches[0]
    half = int(own / 4) // 64 * 64
    near = gguf(tmp_path / "near.gguf", half, half * 2 // (64 * 8 // 32 * 18 * 2 // 8))
    assert 0.9 < near / own < 1.1
    for add in ([], ["--add"], []):
        subprocess.run([*call, *add, "--format", "B", "--run", f"other:BF16:{tmp_path}/near.gguf"], check=True, capture_output=True)
        rows = list(csv.DictReader(out.open()))
        assert [r["format"] for r in rows] == ["A"] * 8 + ["B"] * 8
        assert all(r["rounds"] == str(len(r["samples"].split())) == ("4" if add else "2") for r in rows[8:])
        assert all(len(r["limit_samples"].split()) == int(r["rounds"]) for r in rows[10:12])
        assert len(rows[8]["read_samples"].split()) == (6 if add else 3)
        assert float(rows[14]["bytes_per_token"]) - near == pytest.approx(caches[0]), "experts count by their share"
        assert all(r["best_peer"] == "other BF16" and r["of_best_peer"] == r["of_best_any"] for r in rows[8:12])


def test_what_is_wrong_is_said(tmp_path):
    (tmp_path / "none.gguf").write_bytes(b"nothing")
    call = [sys.executable, ROOT / "bench/compare.py", tmp_path / "out.csv", "--model", "m", "--format", "f", "--quern",
            tmp_path, "--binary", ROOT / "build/quern", "--peer", f"other={sys.executable}"]
    done = subprocess.run([*call, "--run", "another:X:file"], capture_output=True, text=True)
    assert done.returncode and "--run another:X:file: want NAME:LABEL:FILE" in done.stderr
    done = subprocess.run([*call, "--run", f"other:X:{tmp_path}/none.gguf"], capture_output=True, text=True)
    assert done.returncode and "no GGUF file" in done.stderr
    assert not (tmp_path / "out.csv").exists()
