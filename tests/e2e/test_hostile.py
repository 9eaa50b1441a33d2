"""Hostile and unlucky peers: framing with two readings, connections that hold places, pages of other sites.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import resource
import socket
import stat
import threading
import time

import pytest

from conftest import user

BODY = b'{"prompt":"a"}'


def raw(server, data, wait=3.0):
    """What a peer reads: (first line, closed, all of it)."""
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(wait)
        s.sendall(data)
        out, is_closed = b"", False
        try:
            while not is_closed:
                part = s.recv(65536)
                out, is_closed = out + part, not part
        except socket.timeout:
            pass
        except ConnectionError:
            is_closed = True
    return out.split(b"\r\n")[0].decode(), is_closed, out


def post(*headers, body=BODY, path="/tokenize", version="1.1"):
    head = "".join(f"{h}\r\n" for h in headers)
    return f"POST {path} HTTP/{version}\r\nHost: localhost\r\n{head}\r\n".encode() + body


LENGTH = f"Content-Length: {len(BODY)}"
CHUNKS = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("data", [
    post(LENGTH, "Content-Length: 3"), post("Content-Length: 0", LENGTH), post("Content-Length: 14, 14"), post("Content-Length: +14"),
    post("Content-Length: -1"), post("Content-Length: 0xe"), post("Content-Length: "), post("Content-Length: 14 14"),
    post(LENGTH, "Transfer-Encoding: chunked", body=CHUNKS), post("Transfer-Encoding: chunked", LENGTH, body=CHUNKS),
    post("Transfer-Encoding: gzip, chunked", body=CHUNKS), post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS),
    post("Transfer-Encoding: x"), post(LENGTH, "Transfer-Encoding: identity"), post("Transfer-Encoding: chunked, chunked", body=CHUNKS),
    post("Transfer-Encoding:\x0bchunked", LENGTH), post("Transfer-Encoding: chunked", body=CHUNKS, version="1.0"),
    post("Content-Length : 14"), post("Content-Length\t: 14"), post(LENGTH, "Transfer-Encoding : chunked"), post(LENGTH, "X y: z"),
    post("Content-Length:\r\n 14"), post("Content-Length: 1\r\n 4"), post("X: a\r\n Transfer-Encoding: chunked", LENGTH),
    post("X: a\rTransfer-Encoding: chunked", LENGTH), post(LENGTH, "X: a\x01b"), post(LENGTH, "Host: other"), post(LENGTH, "no colon"),
    post("Transfer-Encoding: chunked", body=b"-e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    post("Transfer-Encoding: chunked", body=b"0xe\r\n" + BODY + b"\r\n0\r\n\r\n"),
    post("Transfer-Encoding: chunked", body=b"e\r\n" + BODY + b"XX0\r\n\r\n"),
], ids=range(31))
def test_framing_with_two_readings_is_refused_and_closed(server, data):
    line, is_closed, text = raw(server, data + b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert line.startswith("HTTP/1.1 400") and is_closed, text
    assert b" 200 " not in text, "what follows is no request"


@pytest.mark.parametrize("data", [
    post(LENGTH), post(LENGTH, LENGTH), post("Transfer-Encoding: chunked", body=CHUNKS), post("transfer-encoding: CHUNKED", body=CHUNKS),
    post("Transfer-Encoding: chunked", body=CHUNKS.replace(b"e\r\n", b"e;a=b\r\n", 1)), post(LENGTH, "Content-Encoding: identity"),
    post(LENGTH, version="1.0"),
], ids=range(7))
def test_framing_with_one_reading_is_read(server, data):
    line, _, text = raw(server, data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    assert line.startswith("HTTP/1.1 200") and b'"tokens":[97]' in text, text


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "identity, gzip", "compress"])
def test_coded_bodies_are_415(server, coding):
    status, _, answer = server.request("POST", "/tokenize", BODY, {"Content-Encoding": coding})
    assert status == 415 and coding in answer["error"]["message"]


# --- pages ---

ORIGIN = "https://evil.example"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1",
                                  "[::2]:80", "0.0.0.0", "localhost:80:80", ""])
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/"])
def test_rebound_names_are_not_served(server, host, path):
    status, _, answer = server.request("GET", path, None, {"Host": host})
    assert status == 403 and "--allowed-hosts" in answer["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "127.9.9.9", "[::1]:8", "a.localhost", "localhost."])
def test_names_of_this_machine_are_served(server, host):
    assert server.request("GET", "/v1/models", None, {"Host": host})[0] == 200


def test_pages_of_other_sites(server, start):
    body = json.dumps({"messages": user("x")})
    own = f"http://127.0.0.1:{server.port}"
    for headers in ({"Origin": ORIGIN}, {"Origin": "null"}, {"Origin": "http://localhost:1"}, {"Sec-Fetch-Site": "cross-site"}):
        status, _, answer = server.request("POST", "/v1/chat/completions", body, headers)
        assert status == 403 and "--allowed-origins" in answer["error"]["message"], headers
    assert server.request("GET", "/v1/models", None, {"Origin": ORIGIN})[0] == 403
    assert server.request("OPTIONS", "/v1/chat/completions", None, {"Origin": ORIGIN})[0] == 403
    assert server.request("POST", "/v1/chat/completions", body, {"Origin": own})[0] == 200
    # what a form of a page can send without being asked first
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        status, _, answer = server.request("POST", "/v1/chat/completions", body, {"Origin": own, "Content-Type": kind})
        assert status == 415 and "application/json" in answer["error"]["message"], kind
        assert server.request("POST", "/v1/chat/completions", body, {"Content-Type": kind})[0] == 200, "no browser: curl -d"
    assert server.request("POST", "/v1/chat/completions", body, {"Origin": own, "Content-Type": "application/json; charset=utf-8"})[0] == 200

    opened = start("--allowed-origins", ORIGIN + ",http://b.example", "--allowed-hosts", "box.example")
    status, headers, _ = opened.request("POST", "/v1/chat/completions", body, {"Origin": ORIGIN})
    assert status == 200 and headers["Access-Control-Allow-Origin"] == ORIGIN and headers["Vary"] == "Origin"
    assert opened.request("OPTIONS", "/v1/chat/completions", None, {"Origin": "http://b.example"})[0] == 204
    assert opened.request("POST", "/v1/chat/completions", body, {"Origin": "http://c.example"})[0] == 403
    assert opened.request("GET", "/v1/models", None, {"Host": "box.example:99"})[0] == 200
    assert opened.request("GET", "/v1/models", None, {"Host": "other.example"})[0] == 403
    anyone = start("--allowed-origins", '["*"]', "--allowed-hosts", "*")
    status, headers, _ = anyone.request("POST", "/v1/chat/completions", body, {"Origin": ORIGIN, "Host": "any.example"})
    assert status == 200 and headers["Access-Control-Allow-Origin"] == "*"
    keyed = start("--api-key", "k")
    status, headers, _ = keyed.request("POST", "/v1/chat/completions", body,
                                       {"Origin": ORIGIN, "Host": "any.example", "Authorization": "Bearer k"})
    assert status == 200 and headers["Access-Control-Allow-Origin"] is None, "a key is a right, reading needs the list"


def test_keys_from_a_file_and_hidden(start, tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\none, with a comma\n\n  two  \r\n")
    file.chmod(0o600)
    s = start("--api-key-file", str(file), "--api-key", "three-secret", "four-secret")
    for key in ("one, with a comma", "two", "three-secret", "four-secret"):
        assert s.get("/v1/models", Authorization="Bearer " + key)[0] == 200, key
    assert s.get("/v1/models", Authorization="Bearer # ours")[0] == 401
    arguments = open(f"/proc/{s.process.pid}/cmdline", "rb").read()
    assert b"secret" not in arguments and b"--api-key\0xxxx" in arguments
    other = start("--api-key=five-secret")
    assert other.get("/v1/models", Authorization="Bearer five-secret")[0] == 200
    assert b"secret" not in open(f"/proc/{other.process.pid}/cmdline", "rb").read()
    file.write_text("# none\n")
    with pytest.raises(RuntimeError, match="holds no key"):
        start("--api-key-file", str(file))
    with pytest.raises(RuntimeError, match="No such file"):
        start("--api-key-file", str(tmp_path / "nowhere"))


# --- connections ---

def slow_body(server, *headers):
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(post("Content-Length: 100000", "Content-Type: application/json", *headers, body=b"{", path="/v1/chat/completions"))
    return s


def ask(server, **headers):
    return server.post("/v1/chat/completions", {"messages": user("ok")}, **headers)


def raise_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


def test_slow_bodies_without_a_key_take_no_place(start):
    raise_files()
    s = start("--api-key", "k")
    held = [slow_body(s) for _ in range(600)]
    assert ask(s, Authorization="Bearer k")[0] == 200
    assert s.get("/ready")[0] == 200 and s.get("/health")[0] == 200
    for one in held:
        one.close()


def test_slow_bodies_with_a_key_take_no_place_of_a_whole_one(start):
    """Nor where no key is needed: bodies that are on their way are not requests at work."""
    raise_files()
    s = start("--max-requests", "32")
    held = [slow_body(s) for _ in range(100)]
    for _ in range(5):
        assert ask(s)[0] == 200
    for one in held:
        one.close()


def test_idle_connections_do_not_shut_out_health(start):
    raise_files()
    s = start()
    held = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(2200)]
    time.sleep(0.2)
    assert s.get("/health")[0] == 200 and s.get("/metrics")[0] == 200 and ask(s)[0] == 200
    half = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(300)]
    for one in half:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
    assert s.get("/health")[0] == 200 and ask(s)[0] == 200
    for one in held + half:
        one.close()


def test_few_files(model):
    """Where the system gives few files, fewer requests run at once, and health still answers."""
    from conftest import Server
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    class Few(Server):
        pass
    import subprocess
    real = subprocess.Popen
    try:
        subprocess.Popen = lambda *a, **k: real(*a, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1200, 1200)), **k)
        s = Few("quern-fake", model)
    finally:
        subprocess.Popen = real
    assert hard >= 1200
    try:
        raise_files()
        held = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(1300)]
        assert s.get("/health")[0] == 200 and ask(s)[0] == 200
        assert any("ulimit -n" in line for line in s.log)
        for one in held:
            one.close()
    finally:
        assert s.stop() == 0


def test_a_body_has_a_minimum_rate(start):
    """A byte a second is no rate: the body ends long before --body-timeout, and a page that loads fast stays."""
    s = start()
    slow = slow_body(s)
    slow.settimeout(1)
    begin, told = time.monotonic(), b""
    while time.monotonic() - begin < 40:
        try:
            slow.sendall(b" ")
            told = slow.recv(1000)
            break
        except socket.timeout:
            continue
        except ConnectionError:
            break
    assert 8 < time.monotonic() - begin < 20
    assert told.startswith(b"HTTP/1.1 408") or not told


def test_refused_bodies_are_read_so_that_the_answer_is(start):
    s = start("--api-key", "k", "--max-body", "64K")
    body = json.dumps({"messages": user("x" * 500000)})
    status, _, answer = s.request("POST", "/v1/chat/completions", body)
    assert status == 401, "half a megabyte without a key: the peer sees why"
    status, _, answer = s.request("POST", "/v1/chat/completions", body[:100000], {"Authorization": "Bearer k"})
    assert status == 413
    # asked first, nothing is read
    line, is_closed, _ = raw(s, post("Content-Length: 100000000", "Expect: 100-continue", body=b"", path="/v1/chat/completions"))
    assert line.startswith("HTTP/1.1 401") and is_closed


# --- long texts, odd values ---

def test_a_prompt_that_cannot_fit_is_refused_while_it_is_tokenised(start):
    s = start("--request-memory", "1G")
    text = "word " * 4000000
    for path, body, field in (("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}, "message"),
                              ("/v1/completions", {"prompt": text}, "message"), ("/v1/completions", {"prompt": [97] * 200000}, "message"),
                              ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": text}]}, "message")):
        begin = time.monotonic()
        status, _, answer = s.request("POST", path, body, timeout=60)
        assert status == 400 and "at least 24576 " in answer["error"][field], answer
        assert time.monotonic() - begin < 10
    # what may be cut is read whole
    status, answer = s.post("/v1/completions", {"prompt": "word " * 20000, "max_tokens": 1, "truncate_prompt_tokens": 50})
    assert status == 200 and answer["usage"]["prompt_tokens"] == 50


def test_deadlines_count_before_the_engine(start):
    s = start(FAKE_STEP_US=300)
    status, answer = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 200000}], "timeout": 0.001})
    assert status == 504 and "deadline" in answer["error"]["message"]


@pytest.mark.parametrize("name", ["namespace", "raise_exception", "range", "strftime_now", "dict", "cycler", "joiner", "lipsum"])
@pytest.mark.parametrize("value", ["x", 1, None, [], {}])
def test_a_variable_that_hides_a_function_is_the_clients(server, name, value):
    body = {"messages": user("x"), "chat_template_kwargs": {name: value}, "max_tokens": 3}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200 or (status == 400 and name in answer["error"]["message"]), answer
    if name == "namespace":
        assert status == 400


def test_ids_that_stand_for_nothing(server):
    for ids in ([300], [97, 265], [2 ** 31 - 1]):
        status, answer = server.post("/detokenize", {"tokens": ids})
        assert status == 400 and str(ids[-1]) in answer["error"]["message"], answer


@pytest.mark.parametrize("extra", [
    {"structured_outputs": {"choice": [f"w{i}" + "x" * 200 for i in range(100000)]}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {
        "type": "object", "properties": {"a": {"enum": [f"w{i}" + "x" * 200 for i in range(100000)]}}, "required": ["a"]}}}},
], ids=["choice", "enum"])
def test_a_refused_grammar_names_its_cap(server, extra):
    status, _, answer = server.request("POST", "/v1/chat/completions", {"messages": user("x"), **extra}, timeout=60)
    assert status == 400 and "needs more than 16777216 bytes of fixed texts" in answer["error"]["message"], answer
