"""Files that are not files, limits and full disks, names with control characters, traces, what one key stored.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import resource
import signal
import subprocess
import time

import pytest

from conftest import BUILD, ROOT, user

QUERN = BUILD / "quern"
MINI = ROOT / "models" / "mini"


def quern(*args, timeout=30, preexec_fn=None):
    return subprocess.run([QUERN, *map(str, args)], capture_output=True, timeout=timeout, preexec_fn=preexec_fn)


@pytest.fixture
def mini(tmp_path):
    """A checkpoint folder of links to the shipped one, to be spoiled."""
    out = tmp_path / "mini"
    out.mkdir()
    for f in MINI.iterdir():
        (out / f.name).symlink_to(f)
    return out


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                  "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("command", ["inspect", "serve"])
def test_checkpoint_file_that_is_none(mini, name, kind, command):
    if command == "inspect" and ("token" in name or "template" in name):
        return  # it does not open these
    path = mini / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    r = quern(command, mini, *(["--port", "0", "--context", "256"] if command == "serve" else []))
    text = r.stderr.decode()
    assert r.returncode == 1 and name in text, (r.returncode, text)


def test_sigterm_while_a_file_hangs_the_load(mini):
    """A FIFO that a user names on purpose is read; while it brings nothing, SIGTERM ends the process."""
    template = mini / "pipe"
    os.mkfifo(template)
    keeper = os.open(template, os.O_RDWR)
    read = os.open(template, os.O_RDONLY | os.O_NONBLOCK)
    p = subprocess.Popen([QUERN, "serve", str(MINI), "--port", "0", "--template", f"/dev/fd/{read}"], stderr=subprocess.PIPE, pass_fds=[read])
    try:
        time.sleep(1)
        assert p.poll() is None, p.stderr.read()
        p.send_signal(signal.SIGTERM)
        assert p.wait(5) == 130 and b"interrupted while loading" in p.stderr.read()
    finally:
        p.kill()
        os.close(keeper)
        os.close(read)


def small_files(n):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))


def test_file_size_limit_is_an_error_with_the_name(tmp_path):
    out = tmp_path / "out"
    r = quern("quantize", MINI, out, "--format", "int8", timeout=120, preexec_fn=small_files(1 << 20))
    assert r.returncode == 1 and b"too large" in r.stderr.lower() and b"safetensors" in r.stderr, r
    r = subprocess.run(f"{QUERN} inspect {MINI} > {tmp_path}/text", shell=True, capture_output=True, preexec_fn=small_files(64))
    assert r.returncode == 1 and b"standard output" in r.stderr


def test_output_folder_that_is_a_link(tmp_path):
    real = tmp_path / "elsewhere" / "real"
    real.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(real)
    r = quern("quantize", MINI, link, "--format", "int8", timeout=120)
    assert r.returncode == 0, r.stderr
    assert link.is_symlink() and (real / "config.json").exists() and not list(tmp_path.glob("*.partial"))
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "missing")
    r = quern("quantize", MINI, nowhere, "--format", "int8", timeout=120)
    assert r.returncode == 1 and b"link to nothing" in r.stderr and b"nowhere" in r.stderr


def test_control_characters_are_escaped(tmp_path, mini):
    evil = "m\x1b[31mred\nerror http: faked line\x7f\u009b"
    bad = tmp_path / evil
    mini.rename(bad)
    for command in (["inspect", bad], ["plan", bad], ["inspect", str(bad) + "-missing"], ["parse", "--tools", str(bad) + "-x"], [evil],
                    ["serve", bad, "--bad\x1b"], ["render", bad, "nothing"]):
        r = quern(*command)
        both = (r.stdout + r.stderr).decode()
        assert not any(c in both for c in "\x1b\x7f\u009b") and "\nerror http: faked" not in both, both
    (bad / "config.json").unlink()
    config = json.loads((MINI / "config.json").read_text())
    config["architectures"] = ["Qwen3_5\x1b[2J"]
    (bad / "config.json").write_text(json.dumps(config))
    r = quern("inspect", bad)
    assert b"\x1b" not in r.stdout + r.stderr and b"\\x1b" in r.stdout + r.stderr


def test_log_lines_are_one_line_a_request(start):
    s = start()
    s.request("GET", "/v1/%0a%1b[31mfaked", None)
    s.post("/v1/chat/completions", {"model": "a\nb\x1b", "messages": user("x")})
    s.stop()
    text = "".join(s.log)
    assert "\x1b" not in text and "\\n\\x1b[31mfaked" in text and "model=a\\nb\\x1b" in text


# --- traces ---

def traces(path, n):
    for _ in range(100):
        files = sorted(path.glob("*.json"))
        if len(files) >= n:
            return [json.loads(f.read_text()) for f in files]
        time.sleep(0.05)
    raise AssertionError(files)


def test_traces_of_refused_requests_and_of_one_id(start, tmp_path):
    where = tmp_path / "new" / "folder"
    s = start("--trace", str(where), "--api-key", "k")
    key = {"Authorization": "Bearer k"}
    assert where.stat().st_mode & 0o777 == 0o700
    for _ in range(3):
        s.request("POST", "/v1/chat/completions", {"messages": user("x")}, {"x-request-id": "same", **key})
    s.request("POST", "/v1/chat/completions", {"messages": user("x"), "temperature": 9}, {"x-request-id": "same", **key})
    s.request("POST", "/v1/chat/completions", b'{"broken', {"x-request-id": "same", **key})
    s.request("POST", "/v1/chat/completions", {"messages": user("word " * 20000)}, {"x-request-id": "long", **key})
    s.request("POST", "/v1/chat/completions", {"messages": user("no key")}, {"x-request-id": "stranger"})
    s.request("GET", "/v1/models", None, key)
    found = traces(where, 6)
    time.sleep(0.2)
    assert len(list(where.glob("*.json"))) == 6
    assert sum(bool(t["choices"]) for t in found) == 3
    refused = [t for t in found if not t["choices"]]
    assert {t["status"] for t in refused} == {400} and all(t["error"] for t in refused)
    assert any(t["body"] == '{"broken' for t in refused) and any("temperature" in t["error"] for t in refused)
    path = next(f for f in where.glob("*.json") if not json.loads(f.read_text())["choices"])
    r = quern("replay", path)
    assert r.returncode == 1 and b"was refused" in r.stderr


def test_a_trace_that_cannot_be_written_costs_nothing(model, tmp_path):
    from conftest import Server
    where = tmp_path / "t"
    s = Server("quern-fake", model, "--trace", str(where))
    try:
        resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (100, 100))
        assert s.post("/v1/chat/completions", {"messages": user("x")})[0] == 200
        time.sleep(0.3)
        assert s.process.poll() is None and not list(where.glob("*")) and any("is not written" in line for line in s.log)
    finally:
        assert s.stop() == 0
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RuntimeError, match="file"):
        Server("quern-fake", model, "--trace", str(file))


# --- what one key stored ---

def test_isolated_keys_share_no_stored_responses(start):
    s = start("--api-key", "one,two", "--isolate-keys")
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    status, first = s.post("/v1/responses", {"input": "[[say:mine:yas]]"}, **one)
    assert status == 200
    path = "/v1/responses/" + first["id"]
    more = {"input": "[[say:more:yas]]", "previous_response_id": first["id"]}
    assert s.get(path, **two)[0] == 404
    assert s.post("/v1/responses", more, **two)[0] == 404
    assert s.request("DELETE", path, None, two)[0] == 404
    assert s.get(path, **one)[0] == 200 and s.post("/v1/responses", more, **one)[0] == 200
    assert s.request("DELETE", path, None, one)[0] == 200 and s.get(path, **one)[0] == 404
    shared = start("--api-key", "one,two")
    first = shared.post("/v1/responses", {"input": "[[say:ours:yas]]"}, **one)[1]
    assert shared.get("/v1/responses/" + first["id"], **two)[0] == 200, "without the option keys share"


# --- the disk tier's folder ---

def test_tier_folder_with_what_is_no_file(tmp_path):
    from conftest import Server
    tier = tmp_path / "tier"

    def serve():
        return Server("quern", MINI, "--context", "2048", "--disk-tier", str(tier), "--max-seqs", "2", "--mtp", "off")

    def ask(s):
        status, answer = s.post("/v1/completions", {"prompt": "A story of a river. " * 40, "max_tokens": 4, "temperature": 0})
        assert status == 200
        return answer["choices"][0]["text"]

    s = serve()
    text = ask(s)
    for _ in range(100):
        if list(tier.glob("*.qkv")):
            break
        time.sleep(0.1)
    assert s.stop() == 0
    files = sorted(tier.glob("*.qkv"))
    assert files
    for i, f in enumerate(files):
        f.unlink()
        if i % 3 == 0:
            os.mkfifo(f)
        elif i % 3 == 1:
            f.symlink_to("/dev/zero")
        else:
            f.mkdir()
    os.mkfifo(str(files[0])[:-4] + ".tmp")
    s = serve()
    assert ask(s) == text
    assert s.stop() == 0 and any("damaged files" in line for line in s.log)
    for name, kind in (("fifo", os.mkfifo), ("file", lambda p: open(p, "w").close())):
        kind(tmp_path / name)
        with pytest.raises(RuntimeError, match=name):
            Server("quern", MINI, "--context", "2048", "--disk-tier", str(tmp_path / name))
