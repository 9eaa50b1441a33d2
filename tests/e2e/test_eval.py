"""quern eval and quern bench as a user runs them, on the shipped model."""
import json
import math
import pathlib
import struct
import subprocess

from conftest import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERN = ROOT / "build/quern"
MINI = ROOT / "models/mini"


def run(*args, ok=True):
    done = subprocess.run([QUERN, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def read_npy(path):
    data = pathlib.Path(path).read_bytes()
    assert data[:6] == b"\x93NUMPY"
    n = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10:10 + n].decode(), {})
    rows, cols = header["shape"]
    values = struct.unpack(f"<{rows * cols}f", data[10 + n:])
    return [values[i * cols:(i + 1) * cols] for i in range(rows)]


def log_softmax(row):
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row))
    return [x - top - total for x in row]


def test_kld_equals_the_sum_over_logits(tmp_path):
    ids = [17, 300, 42, 512, 900, 77, 1024, 5]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    run("quantize", MINI, tmp_path / "q", "--format", "int8")
    rows = {}
    for name, model in (("p", MINI), ("q", tmp_path / "q")):
        run("eval", "logits", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / f"{name}.npy", "--device", "ref",
            "--activations", "f32")
        rows[name] = [log_softmax(row) for row in read_npy(tmp_path / f"{name}.npy")]
    want = [sum(math.exp(a) * (a - b) for a, b in zip(p, q)) for p, q in zip(rows["p"], rows["q"])]
    done = run("eval", "kld", tmp_path / "q", "--reference", MINI, tmp_path / "ids.json", "--device", "ref", "--activations",
               "f32", "--json")
    got = json.loads(done.stdout)
    assert got["n_tokens"] == len(ids)
    assert math.isclose(got["mean_kld"], sum(want) / len(want), rel_tol=1e-3, abs_tol=1e-7)
    assert math.isclose(got["max_kld"], max(want), rel_tol=1e-3, abs_tol=1e-7)
    ppl = math.exp(-sum(row[t] for row, t in zip(rows["q"], ids[1:])) / (len(ids) - 1))
    assert math.isclose(got["ppl"], ppl, rel_tol=1e-4)
    assert {"median_kld", "p95_kld", "p99_kld", "top1"} <= set(got)


def test_stored_reference_gives_nearly_the_same(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("quern is a native server. " * 12)
    run("eval", "reference", MINI, text, "--out", tmp_path / "ref", "--top", "256", "--context", "64")
    stored = json.loads(run("eval", "kld", MINI, "--reference", tmp_path / "ref", "--json").stdout)
    assert stored["mean_kld"] < 1e-6 and stored["top1"] == 1.0
    run("quantize", MINI, tmp_path / "q", "--format", "nvfp4")
    part = json.loads(run("eval", "kld", tmp_path / "q", "--reference", tmp_path / "ref", "--json").stdout)
    full = json.loads(run("eval", "kld", tmp_path / "q", "--reference", MINI, text, "--context", "64", "--json").stdout)
    assert part["n_tokens"] == full["n_tokens"]
    assert 0.8 * full["mean_kld"] <= part["mean_kld"] <= full["mean_kld"] * 1.0001


def test_a_stored_reference_brings_its_own_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("quern is a native server. " * 4)
    run("eval", "reference", MINI, text, "--out", tmp_path / "ref")
    assert "leave out" in run("eval", "kld", MINI, text, "--reference", tmp_path / "ref", ok=False).stderr
    assert "unknown option" in run("eval", "ppl", MINI, text, "--out", "x", ok=False).stderr


def test_kld_between_any_two_ways_to_run(tmp_path):
    """KV formats, back ends, activations: against numpy over the logits of each."""
    import numpy as np
    ids = [17, 300, 42, 512, 900, 77, 1024, 5, 33, 60, 901, 14]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    ways = {"f32": ("ref", "f32", "F32"), "cpu": ("cpu", "bf16", "BF16"), "fp8": ("cpu", "bf16", "E4M3"), "e5m2": ("cpu", "f32", "E5M2")}
    logp = {}
    for name, (device, act, kv) in ways.items():
        run("eval", "logits", MINI, "--ids", tmp_path / "ids.json", "--out", tmp_path / "x.npy", "--device", device, "--activations", act,
            "--kv", kv)
        rows = np.load(tmp_path / "x.npy").astype(np.float64)
        rows -= rows.max(1, keepdims=True)
        logp[name] = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    for ref, tested in (("f32", "cpu"), ("cpu", "fp8"), ("f32", "e5m2")):
        p, q = logp[ref], logp[tested]
        want = (np.exp(p) * (p - q)).sum(1)
        rd, ra, rk = ways[ref]
        td, ta, tk = ways[tested]
        got = json.loads(run("eval", "kld", MINI, tmp_path / "ids.json", "--reference", MINI, "--device", td, "--activations", ta, "--kv", tk,
                             "--reference-device", rd, "--reference-activations", ra, "--reference-kv", rk, "--json").stdout)
        for key, value in (("mean_kld", want.mean()), ("median_kld", np.median(want)), ("p95_kld", np.percentile(want, 95)),
                           ("p99_kld", np.percentile(want, 99)), ("max_kld", want.max()),
                           ("mean_kld_error", want.std(ddof=1) / len(want) ** 0.5), ("top1", (p.argmax(1) == q.argmax(1)).mean())):
            assert math.isclose(got[key], value, rel_tol=2e-3, abs_tol=1e-9), key
        assert want.mean() > 0 and (got["device"], got["kv"], got["reference_device"], got["reference_kv"]) == (td, tk, rd, rk)


def test_int8_activations(tmp_path):
    """Rounded on cpu as on ref, and only before layers of small integers."""
    import numpy as np
    run("quantize", MINI, tmp_path / "q", "--format", "int4-ct", "--recipe", "linear", "-q")
    (tmp_path / "ids.json").write_text(json.dumps([17, 300, 42, 512, 900, 77, 1024, 5, 33, 60, 901, 14]))

    def logits(model, device, act):
        run("eval", "logits", model, "--ids", tmp_path / "ids.json", "--out", tmp_path / "x.npy", "--device", device, "--activations", act,
            "--kv", "F32")
        return np.load(tmp_path / "x.npy").astype(np.float64)

    cpu, ref, plain = (logits(tmp_path / "q", *way) for way in (("cpu", "int8"), ("ref", "int8"), ("cpu", "bf16")))
    assert 0 < np.abs(cpu - ref).mean() < np.abs(cpu - plain).mean() / 2
    assert (logits(MINI, "cpu", "int8") == logits(MINI, "cpu", "bf16")).all()
    got = json.loads(run("eval", "kld", tmp_path / "q", tmp_path / "ids.json", "--reference", MINI, "--activations", "int8",
                         "--reference-activations", "f32", "--json").stdout)
    assert (got["activations"], got["kv"], got["reference_activations"], got["reference_kv"]) == ("int8", "bf16", "f32", "f32")
    assert "none of bf16, f32 or int8" in run("eval", "kld", tmp_path / "q", tmp_path / "ids.json", "--reference", MINI, "--activations",
                                              "int4", ok=False).stderr


def test_int8_activations_served(tmp_path):
    """serve --activations reaches the model: log-probabilities are near those with bf16, and not the same."""
    run("quantize", MINI, tmp_path / "q", "--format", "int4-ct", "--recipe", "linear", "-q")
    found = {}
    for act in ("bf16", "int8"):
        server = Server("quern", tmp_path / "q", "--activations", act, "--context", "512", "--max-seqs", "2")
        try:
            status, _, reply = server.request("POST", "/v1/completions", {
                "model": "q", "prompt": [17, 300, 42, 512, 900, 77], "max_tokens": 8, "temperature": 0, "logprobs": 1, "ignore_eos": True})
            assert status == 200, reply
            found[act] = reply["choices"][0]["logprobs"]["token_logprobs"]
            assert any("activations " + act in line for line in server.log)
        finally:
            server.stop()
    assert found["bf16"] != found["int8"] and all(abs(a - b) < 0.5 for a, b in zip(found["bf16"][:1], found["int8"][:1]))


def test_eval_errors_name_the_object(tmp_path):
    (tmp_path / "short.json").write_text("[1]")
    assert "too few" in run("eval", "ppl", MINI, tmp_path / "short.json", ok=False).stderr
    (tmp_path / "big.json").write_text("[1, 99999]")
    assert "99999" in run("eval", "ppl", MINI, tmp_path / "big.json", ok=False).stderr
    assert "no part" in run("eval", "nothing", MINI, ok=False).stderr


def bench(*args):
    return [json.loads(line) for line in run("bench", MINI, *args, "--json").stdout.splitlines()]


def test_bench_prints_one_json_line_a_result():
    lines = bench("speed", "mixed", "--prompt", "32", "--gen", "8", "--runs", "1", "--long-prompt", "300", "--seconds", "1",
                  "--streams", "2", "--mtp", "off")
    assert [line["bench"] for line in lines] == ["prefill", "decode", "mixed"]
    assert all(line["tok_s"] > 0 for line in lines) and lines[1]["limit_tok_s"] > 0
    assert lines[2]["long_prompt"] == 300 and lines[2]["itl_p99_ms"] >= lines[2]["itl_p50_ms"] > 0


def test_bench_mixed_compares_streams_of_the_same_length():
    (line,) = bench("mixed", "--long-prompt", "4000", "--seconds", "3", "--streams", "2", "--mtp", "off")
    # an answer of one stream would go through 64 to 4000 tokens; those asked for again and again have the same mean
    assert 64 < line["context"] < 1200 and 64 < line["context_alone"] < 1200


def test_bench_loads():
    lines = bench("concurrency", "matrix", "--streams", "1,3", "--context", "100,1m", "--gen", "8", "--prompt-tokens", "300",
                  "--seconds", "1")
    assert [(x["bench"], x.get("prefix"), x["streams"]) for x in lines] == [
        ("concurrency", "unique", 1), ("concurrency", "unique", 3), ("concurrency", "shared", 1), ("concurrency", "shared", 3),
        ("matrix", "unique", 1), ("matrix", "unique", 3), ("matrix_left_out", None, 1), ("matrix_left_out", None, 3)]
    assert lines[1]["cached"] == 0 and lines[3]["cached"] > 0.6
    assert all(x["tok_s"] > 0 and x["steps_s"] > 0 for x in lines[:6])


def test_bench_agent_hits_also_after_a_restart():
    lines = bench("agent", "--turns", "5", "--first", "200", "--more", "40", "--gen", "20")
    assert [x["when"] for x in lines] == ["running"] * 5 + ["after a restart"] * 2
    assert all(x["reused"] >= 0.95 for x in lines[1:])


def test_bench_speculation_and_scenarios(tmp_path):
    lines = bench("speculation", "--streams", "2", "--depths", "0,2", "--gen", "16", "--runs", "1", "--csv", tmp_path / "out.csv")
    assert len(lines) == 15 and {x["depth"] for x in lines} == {"off", "2", "auto"}
    assert all(x["accepted_step"] == 0 for x in lines if x["depth"] == "off")
    assert any(x["accepted_step"] > 0.2 for x in lines if x["depth"] == "2")
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert len(rows) == 16 and rows[0].startswith("bench,version,model")
    plot = [ROOT / "bench/plot.py", tmp_path / "out.csv", tmp_path / "out.svg", "--x", "streams", "--y", "tok_s", "--by", "depth"]
    subprocess.run(plot, check=True, timeout=60)
    assert "<svg" in (tmp_path / "out.svg").read_text()
    names = [(x["scenario"], x["streams"], x["generated"]) for x in bench("scenarios")]
    assert names == [("algorithm", 1, 2048), ("algorithm", 4, 2048), ("debugging", 1, 1024), ("debugging", 8, 1024),
                     ("system design", 1, 1536), ("system design", 4, 1536), ("code review", 1, 512), ("mixed", 4, 1024)]


def test_bench_says_what_is_wrong():
    assert "no benchmark 'nothing'" in run("bench", MINI, "nothing", ok=False).stderr
    assert "--streams: '0'" in run("bench", MINI, "concurrency", "--streams", "0", ok=False).stderr
    assert "--mtp: '9'" in run("bench", MINI, "--mtp", "9", ok=False).stderr
