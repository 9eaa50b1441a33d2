"""Memory of requests: allocations that fail, the budget, and a server whose address space is limited.

SPDX-License-Identifier: Apache-2.0
"""
import http.client
import json
import mmap
import os
import pathlib
import re
import resource
import struct
import subprocess
import threading
import time

import pytest

from conftest import ROOT, Server, user

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"where": {"type": "string"}, "n": {"type": "integer"}}, "required": ["where"]}}}]
CALL = "<tool_call>\n<function=look>\n<parameter=where>\nhere\n</parameter>\n</function>\n</tool_call>"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {
    "type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"], "additionalProperties": False}}}
REQUESTS = {
    "chat": ("/v1/chat/completions", {"messages": user("plain answer"), "seed": 1}),
    "stream": ("/v1/chat/completions", {"messages": user("a streamed answer"), "stream": True, "logprobs": True, "top_logprobs": 3}),
    "tools": ("/v1/chat/completions", {"messages": user(CALL), "tools": TOOLS, "return_token_ids": True}),
    "schema": ("/v1/chat/completions", {"messages": user('{"a": "yy"}'), "response_format": SCHEMA}),
    "choices": ("/v1/completions", {"prompt": ["[[say:one:yas]]", "[[say:two:yas]]"], "n": 2, "logprobs": 2, "echo": True, "seed": 1}),
    "ids": ("/v1/completions", {"prompt": list(range(97, 117)) * 20, "max_tokens": 3, "seed": 1, "temperature": 0, "bad_words": ["zzz"], "logit_bias": {"5": -1}}),
    "messages": ("/v1/messages", {"max_tokens": 50, "messages": user("anthropic"), "stream": True}),
    "responses": ("/v1/responses", {"input": "[[say:stored:yas]]"}),
    "responses tools": ("/v1/responses", {"input": "[[say:" + CALL + ":yas]]", "stream": True,
                                          "tools": [{"type": "function", **TOOLS[0]["function"]}]}),
    "tokenize": ("/tokenize", {"messages": user("count"), "return_token_strs": True}),
    "count": ("/v1/messages/count_tokens", {"messages": user("count")}),
    "broken": ("/v1/chat/completions", {"messages": [{"role": "user", "content": 3}]}),
}


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    out = tmp_path_factory.mktemp("preload") / "fail_alloc.so"
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", out, ROOT / "tests" / "soak" / "fail_alloc.c", "-ldl"],
                   check=True)
    return out


class Counter:
    def __init__(self, path):
        path.write_bytes(struct.pack("qq", -1, 0) + bytes(4080))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 4096)

    def arm(self, k):
        self.map[:8] = struct.pack("q", k)

    @property
    def seen(self):
        return struct.unpack("q", self.map[8:16])[0]


def ask(server, path, body):
    """(status or None when the connection ended, text)"""
    connection = server.connect(30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (http.client.HTTPException, ConnectionError):
        return None, ""
    finally:
        connection.close()


def plain(text):
    """What was said: texts, names and numbers of tokens, however it was cut into events."""
    return "".join(json.loads(f'"{v}"') for _, v in re.findall(r'"(content|text|partial_json|delta|arguments|name|reasoning_content)": ?"((?:[^"\\\\]|\\\\.)*)"', text)) + \
        "".join(re.findall(r'"(?:count|input_tokens|completion_tokens)": ?\d+', text))


@pytest.mark.parametrize("name", REQUESTS)
def test_every_allocation_fails_once(model, tmp_path, preload, name):
    path, body = REQUESTS[name]
    counter = Counter(tmp_path / "count")
    s = Server("quern-fake", model, "--max-seqs", "4", "--log-level", "error", LD_PRELOAD=preload, FAIL_ALLOC=tmp_path / "count",
               ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    try:
        for _ in range(3):
            status, right = ask(s, path, body)
        before = counter.seen
        ask(s, path, body)
        n = counter.seen - before
        assert n > 10
        seen = {}
        for k in list(range(1, min(n, 150))) + list(range(150, n + 20, max(1, n // 100))):
            counter.arm(k)
            got, text = ask(s, path, body)
            counter.arm(-1)
            assert s.process.poll() is None, f"allocation {k} of {n} ended the server: " + "".join(s.log[-5:])
            is_cut = got == 200 and path != "/tokenize" and '"error"' in text or got is None
            seen[got] = seen.get(got, 0) + 1
            if got == status and not is_cut and status == 200:
                assert plain(text) == plain(right), f"allocation {k}: a wrong answer"
            elif not is_cut:
                assert got in (status, 413, 429, 500, 503), (k, got, text)
        assert ask(s, path, body)[0] == status and ask(s, *REQUESTS["chat"])[0] == 200
        assert s.wait_idle()
    finally:
        assert s.stop() == 0, "".join(s.log[-10:])


# --- the budget ---

def rss(server):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{server.process.pid}/status").read_text())[1]) * 1024


def vm(server):
    return int(re.search(r"VmSize:\s+(\d+)", pathlib.Path(f"/proc/{server.process.pid}/status").read_text())[1]) * 1024


def test_a_request_over_its_share_is_413_with_the_figure(start):
    """31 million zeros took 1.17 GB; here a request may have 32 MiB, and the server stays small."""
    s = start("--request-memory", "128M")
    before = rss(s)
    # announced: refused before the body is read
    connection = s.connect()
    connection.putrequest("POST", "/tokenize")
    connection.putheader("Content-Length", "62000000")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 413 and str(32 << 20) in answer["error"]["message"] and "--request-memory" in answer["error"]["message"]
    # small, and large once parsed
    body = b'{"prompt":[' + b"0," * 1500000 + b"0]}"
    status, _, answer = s.request("POST", "/v1/completions", body, timeout=60)
    assert status == 413 and str(32 << 20) in answer["error"]["message"], answer
    # of unknown length
    connection = s.connect(60)
    connection.request("POST", "/v1/completions", iter([b'{"prompt":"'] + [b"x" * (1 << 20)] * 60), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413 and b"request-memory" in response.read()
    assert rss(s) - before < 100 << 20
    assert ask(s, *REQUESTS["chat"])[0] == 200


def test_many_large_requests_share_the_budget(start):
    """What does not fit waits outside with 429 or 503 and the figures; small requests find their part."""
    s = start("--request-memory", "64M", "--max-seqs", "8", FAKE_STEP_US=2000)
    seen, texts = {}, []
    body = {"prompt": "x" * 1000000, "max_tokens": 1, "truncate_prompt_tokens": 100}

    def one():
        for _ in range(4):
            status, text = ask(s, "/v1/completions", body)
            seen[status] = seen.get(status, 0) + 1
            texts.append(text)

    threads = [threading.Thread(target=one) for _ in range(24)]
    for t in threads:
        t.start()
    small = [ask(s, *REQUESTS["chat"])[0] for _ in range(20)]
    for t in threads:
        t.join()
    assert set(small) == {200}, small
    assert seen.get(200), seen
    assert set(seen) <= {200, 429, 503}, seen
    assert s.process.poll() is None and s.wait_idle()
    assert ask(s, "/v1/completions", body)[0] == 200, "all of it came back"


GUILTY = {
    "choices with log-probabilities": ("/v1/completions", {"prompt": "tell", "n": 64, "logprobs": 20, "max_tokens": 20, "ignore_eos": True}),
    "scored prompts": ("/v1/completions", {"prompt": ["word " * 300] * 1024, "max_tokens": 0, "echo": True, "logprobs": 20}),
    "many numbers": ("/v1/completions", {"prompt": [0] * 2000000}),
    "deep answers": ("/tokenize", {"prompt": "word " * 800000, "return_token_strs": True}),
}


@pytest.mark.parametrize("name", GUILTY)
def test_limited_address_space(model, name):
    """Under ulimit -v the guilty requests may fail; the others do not, and the server stays."""
    s = Server("quern-fake", model, "--request-memory", "96M", "--log-level", "error", FAKE_STEP_US=200)
    try:
        ask(s, *REQUESTS["chat"])
        limit = vm(s) + (320 << 20)
        resource.prlimit(s.process.pid, resource.RLIMIT_AS, (limit, limit))
        path, body = GUILTY[name]
        stop, seen, honest = threading.Event(), [], []

        def attack():
            while not stop.is_set():
                seen.append(ask(s, path, body)[0])

        def work():
            while not stop.is_set():
                status, text = ask(s, *REQUESTS["chat"])
                honest.append((status, "plain answer" in text, text))

        threads = [threading.Thread(target=attack) for _ in range(6)] + [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        time.sleep(5)
        stop.set()
        for t in threads:
            t.join(60)
        assert s.process.poll() is None, "".join(s.log[-5:])
        # a limit on addresses knows no owner: an honest request or its connection may meet it too;
        # seldom, and no answer is wrong
        refused = [h for h in honest if h[0] != 200]
        assert len(honest) > 10 and all(h[1] for h in honest if h[0] == 200), honest[:3]
        assert all(h[0] in (503, None) for h in refused) and len(refused) <= 1 + len(honest) // 100, refused[:3]
        assert set(seen) <= {200, 400, 408, 413, 429, 503, None}, set(seen)
        assert s.wait_idle()
    finally:
        assert s.stop() == 0
