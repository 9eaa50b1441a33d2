#!/usr/bin/env python3
"""All attacks at once beside honest streams: none of these fails or waits much longer than alone, memory stays inside the plan.

    tests/soak/attack.py [--seconds 600] [--streams 16] [--binary quern-fake|quern] [--model FOLDER] [--ratio 1.25]

Honest streams run all the time, alone and beside the attacks by turns of some seconds; gaps between their tokens are compared
turn by turn. Attackers are processes of their own: bodies that drip, with and without a key, idle and half-open
connections, framing with two readings, bodies of zeros and of 30 MB, requests of 64 choices with log-probabilities, prompts that
are scored, hostile schemas, peers that do not read. Exit code 0 when all of it held. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
KEY = "honest-key"
TURN_S = 4


# --- attackers: one process a kind, until it is killed ---

def connect(port):
    s = socket.create_connection(("127.0.0.1", port), timeout=20)
    return s


def post(port, path, body, key=KEY, read=True):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    s = connect(port)
    try:
        s.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % (path.encode(), key.encode(), len(data)) + data)
        return s.recv(1 << 16) if read else s
    finally:
        if read:
            s.close()


def head(length, key):
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n{" % (key, length))


def drip(port, key):
    held = []
    while True:
        for _ in range(40):
            s = connect(port)
            s.sendall(head(100000, key))
            held.append(s)
        for s in list(held):
            try:
                s.send(b" ")
            except OSError:
                held.remove(s)
        time.sleep(0.5)
        while len(held) > 700:
            held.pop(0).close()


def idle(port):
    held = []
    while True:
        for _ in range(50):
            s = connect(port)
            if random.random() < 0.5:
                s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: lo")
            held.append(s)
        time.sleep(0.2)
        while len(held) > 1000:
            held.pop(0).close()


def framing(port):
    while True:
        s = connect(port)
        s.sendall(random.choice([
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\n{}",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"POST /x HTTP/1.1\r\nA : b\r\n\r\n", os.urandom(300)]))
        s.settimeout(1)
        try:
            s.recv(1000)
        except OSError:
            pass
        s.close()
        time.sleep(0.01)


def word(i):
    out, x = "", i * 7919 + 13
    for _ in range(7):
        out += "abcdefghijklmnopqrstuvwxyz"[x % 26]
        x = x // 3 + i * 31
    return f"{out}{i}"


def schemas(port):
    say = [{"role": "user", "content": "x"}]

    def form(value):
        return {"messages": say, "max_tokens": 16, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": value}}}

    made = [json.dumps(b).encode() for k in range(2) for b in (
        form({"type": "object", "properties": {word(i + k): {"type": "string"} for i in range(18000)}}),
        form({"enum": [word(i + k) for i in range(15000)]}),
        form({"type": "object", "properties": {"a": {"type": "string", "minLength": 99999}}, "required": ["a"]}),
        {"messages": say, "max_tokens": 16, "structured_outputs": {"regex": "|".join(word(i + k) for i in range(25000))}})]
    while True:
        post(port, "/v1/chat/completions", random.choice(made))


def bodies(port):
    zeros = b'{"prompt":[' + b"0," * 8000000 + b"0]}"
    long = json.dumps({"messages": [{"role": "user", "content": "word " * 6000000}]}).encode()
    deep = b"[" * 200000
    while True:
        try:
            post(port, "/v1/chat/completions" if (b := random.choice([zeros, long, deep])) is long else "/v1/completions", b)
        except OSError:
            pass
        time.sleep(0.2)


def choices(port):
    while True:
        try:
            post(port, "/v1/completions", {"prompt": "tell", "n": 64, "logprobs": 20, "max_tokens": 8, "ignore_eos": True, "priority": 1})
            post(port, "/v1/completions", {"prompt": ["word " * 50] * 64, "max_tokens": 0, "echo": True, "logprobs": 20, "priority": 1})
        except OSError:
            pass


def deaf(port):
    held = []
    while True:
        held.append(post(port, "/v1/completions", {"prompt": "tell", "n": 4, "max_tokens": 400, "ignore_eos": True, "stream": True, "logprobs": 5,
                                                   "priority": 1}, read=False))
        time.sleep(1)
        if len(held) > 10:
            held.pop(0).close()


ATTACKS = {"drip": lambda p: drip(p, b"none"), "drip with a key": lambda p: drip(p, b"evil-key"), "idle": idle, "framing": framing,
           "schemas": schemas, "bodies": bodies, "choices": choices, "deaf": deaf}


def attack(kind, port):
    global KEY
    KEY = "evil-key"
    while True:
        try:
            ATTACKS[kind](port)
        except OSError:
            time.sleep(0.1)


# --- honest streams ---

class Honest:
    def __init__(self, port):
        self.port = port
        self.phase = None  # "alone", "beside" or None
        self.gaps = {"alone": [], "beside": []}
        self.n_stream = 0
        self.faults = []
        self.is_over = False

    async def stream(self, n):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"prompt": f"tell {n}", "max_tokens": 150, "ignore_eos": True, "stream": True, "return_token_ids": True}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(body)) + body)
        at, phase, n_event, text = None, None, 0, b""
        while line := await asyncio.wait_for(reader.readline(), 60):
            text += line
            if line.startswith(b"data: {"):
                now = time.monotonic()
                if at and phase == self.phase and phase:
                    self.gaps[phase].append((now - at) * 1000)
                at, phase, n_event = now, self.phase, n_event + 1
        writer.close()
        self.n_stream += 1
        if b"[DONE]" not in text or b'"error"' in text:
            self.faults.append(text[:300])

    async def run(self, n):
        while not self.is_over:
            try:
                await self.stream(n)
            except (OSError, asyncio.TimeoutError) as e:
                self.faults.append(repr(e))
                await asyncio.sleep(0.1)


def p99(gaps):
    gaps = sorted(gaps)
    return gaps[int(len(gaps) * 0.99)] if gaps else 0


def rss(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024


async def run(args, port, pid):
    honest = Honest(port)
    tasks = [asyncio.create_task(honest.run(i)) for i in range(args.streams)]
    await asyncio.sleep(2)
    start, before, plan = time.monotonic(), rss(pid), args.request_memory << 20
    while time.monotonic() - start < args.seconds:
        honest.phase = "alone"
        await asyncio.sleep(TURN_S)
        honest.phase = None
        crowd = [subprocess.Popen([sys.executable, __file__, "--attack", kind, "--port", str(port)]) for kind in ATTACKS]
        await asyncio.sleep(3)  # they make their bodies
        honest.phase = "beside"
        await asyncio.sleep(TURN_S)
        honest.phase = None
        for p in crowd:
            p.kill()
            p.wait()
        await asyncio.sleep(1.5)
    honest.is_over = True
    await asyncio.gather(*tasks)
    alone, beside = p99(honest.gaps["alone"]), p99(honest.gaps["beside"])
    grown = rss(pid) - before
    print(f"{honest.n_stream} honest streams, {len(honest.faults)} failed; p99 of gaps alone {alone:.1f} ms, beside {beside:.1f} ms "
          f"({beside / max(alone, 1e-9):.2f}); memory grew {grown >> 20} MiB of {plan >> 20}")
    for fault in honest.faults[:5]:
        print("FAULT", fault)
    good = not honest.faults and beside <= args.ratio * alone and grown <= plan + (96 << 20)
    return 0 if good else 1


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--binary", default="quern-fake")
    p.add_argument("--model")
    p.add_argument("--ratio", type=float, default=1.25)
    p.add_argument("--request-memory", type=int, default=256, help="MiB")
    p.add_argument("--attack")
    p.add_argument("--port", type=int)
    args = p.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if args.attack:
        attack(args.attack, args.port)
        return 0
    with tempfile.TemporaryDirectory() as made:
        if not args.model:
            import folder
            args.model = folder.make(pathlib.Path(made) / "fake")
        server = subprocess.Popen([BUILD / args.binary, "serve", args.model, "--port", "0", "--log-level", "error", "--max-seqs", str(args.streams + 8),
                                   "--api-key", f"{KEY},evil-key", "--request-memory", f"{args.request_memory}M"],
                                  stdout=subprocess.PIPE, text=True, env=dict(os.environ, FAKE_STEP_US="8000"))
        try:
            line = server.stdout.readline()
            code = asyncio.run(run(args, int(line.rsplit(":", 1)[1]), server.pid))
            if server.poll() is not None:
                print("FAULT the server ended", server.returncode)
                code = 1
            server.send_signal(signal.SIGTERM)
            if server.wait(60):
                print("FAULT exit code", server.returncode)
                code = 1
        finally:
            server.kill()
    return code


if __name__ == "__main__":
    sys.exit(main())
