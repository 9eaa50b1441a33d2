"""Requests over raw sockets for the soak: what is asked, and what came back, whole or cut off.

SPDX-License-Identifier: Apache-2.0
"""
import asyncio
import json
import math
import random
import socket
import struct

TOOLS = [
    {"type": "function", "function": {"name": "read_file", "description": "Reads a file.", "parameters": {
        "type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}}, "required": ["path"]}}},
    {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
]
QUESTIONS = ["What is quern?", "Is it going to rain in Oslo today?", "Read the file notes/plan.txt", "What is 12 plus 30?",
             "Say the word lantern three times.", "Who wrote you?", "Give me JSON with name and size of the box Alder, 12.",
             "Which of these words is a fruit: apple, stone, river?"]
SYSTEM = "You are a careful assistant. " + "Answer briefly, in plain words, and use a tool only where one is needed. " * 12


class Question:
    """A request body for one of the endpoints, the same every time it is asked."""

    def __init__(self, number, say):
        rng = random.Random(number)
        text = rng.choice(QUESTIONS) + f" ({number})"
        if say:
            text = f"[[say:{' '.join(rng.choice(QUESTIONS) for _ in range(rng.randint(1, 12)))} #{number}:yas]]"
        self.kind = rng.choice(["chat", "chat", "chat", "completion", "message"])
        self.body = {"model": "m", "max_tokens": rng.choice([8, 24, 60, 120]), "temperature": rng.choice([0, 0.7, 1.0])}
        if self.kind == "completion":
            self.path = "/v1/completions"
            self.body.update(seed=number, prompt=SYSTEM[:rng.randint(1, len(SYSTEM))] + text)
        else:
            turns = []
            for i in range(rng.randint(0, 3)):
                turns += [{"role": "user", "content": rng.choice(QUESTIONS)}, {"role": "assistant", "content": f"Answer {i}."}]
            turns.append({"role": "user", "content": text})
            if self.kind == "message":
                self.path = "/v1/messages"
                self.body.update(system=SYSTEM, messages=turns, temperature=0)
            else:
                self.path = "/v1/chat/completions"
                self.body.update(seed=number, messages=turns)
                if rng.random() < 0.5:
                    self.body["messages"] = [{"role": "system", "content": SYSTEM}, *turns]
                if rng.random() < 0.4:
                    self.body["tools"] = TOOLS
                if rng.random() < 0.3:
                    self.body.update(presence_penalty=0.4, frequency_penalty=0.2)

    def data(self, stream):
        body = json.dumps({**self.body, "stream": stream}).encode()
        return request(self.path, body)


def request(path, body, method="POST"):
    return (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


BAD = [
    ("broken JSON", request("/v1/chat/completions", b'{"messages": [')),
    ("wrong types", request("/v1/chat/completions", b'{"messages": 7}')),
    ("no messages", request("/v1/chat/completions", b'{"messages": []}')),
    ("too long", request("/v1/completions", json.dumps({"prompt": "word " * 40000, "max_tokens": 4}).encode())),
    ("bad schema", request("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "x"}], "response_format": {
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}}).encode())),
    ("bad range", request("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"temperature":-4}')),
    ("unknown path", request("/v1/nothing", b"{}")),
    ("wrong method", request("/v1/chat/completions", b"", "DELETE")),
    ("no HTTP", b"hello there\r\n\r\n"),
]


class Answer:
    """What a response said: status, text, reasoning, calls, why it ended, and whether its end was seen."""

    def __init__(self, kind, raw):
        head, _, rest = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin1").split("\r\n")
        self.status = int(line.split()[1]) if line.startswith("HTTP/1.") else 0
        fields = dict(f.lower().split(": ", 1) for f in fields if ": " in f)
        self.text, self.reasoning, self.calls, self.finish, self.is_whole, self.error = "", "", {}, None, False, None
        if fields.get("transfer-encoding") == "chunked":
            rest = unchunk(rest)
        if "text/event-stream" in fields.get("content-type", ""):
            lines = rest.decode("utf-8", "ignore").split("\n")
            for line in lines[:-1]:  # the last one may be cut
                if line.startswith("data: "):
                    self._event(kind, line[6:])
        elif self.status == 200:
            try:
                self._whole(kind, json.loads(rest))
            except ValueError:  # cut off
                pass

    def key(self):
        """What has to be equal. A call that the token limit cut is only seen by those who stream."""
        calls = tuple((name, json.dumps(json.loads(a), sort_keys=True) if is_json(a) else a)
                      for name, a in (self.calls[i] for i in sorted(self.calls))
                      if is_json(a) or self.finish not in ("length", "max_tokens"))
        return self.text, self.reasoning, calls, self.finish

    def is_part_of(self, other):
        """So far the same as the other answer, which is whole."""
        return (other.text.startswith(self.text) and other.reasoning.startswith(self.reasoning)
                and (other.finish in ("length", "max_tokens") or all(i in other.calls and other.calls[i][0].startswith(c[0])
                                                                     for i, c in self.calls.items())))

    def _call(self, at, name, arguments):
        old = self.calls.get(at, ("", ""))
        self.calls[at] = (old[0] + (name or ""), old[1] + (arguments or ""))

    def _event(self, kind, data):
        if data == "[DONE]":
            self.is_whole = True
            return
        d = json.loads(data)
        if "error" in d:
            self.error = d["error"]
        elif kind == "message":
            if d["type"] == "content_block_start" and d["content_block"]["type"] == "tool_use":
                self._call(d["index"], d["content_block"]["name"], "")
            elif d["type"] == "content_block_delta":
                delta = d["delta"]
                self.text += delta.get("text", "")
                self.reasoning += delta.get("thinking", "")
                if "partial_json" in delta:
                    self._call(d["index"], "", delta["partial_json"])
            elif d["type"] == "message_delta":
                self.finish = d["delta"].get("stop_reason")
            elif d["type"] == "message_stop":
                self.is_whole = True
        else:
            for c in d.get("choices", []):
                self.finish = c.get("finish_reason") or self.finish
                delta = c.get("delta") or {}
                self.text += (c.get("text") if kind == "completion" else delta.get("content")) or ""
                self.reasoning += delta.get("reasoning_content") or ""
                for call in delta.get("tool_calls") or []:
                    self._call(call["index"], call["function"].get("name"), call["function"].get("arguments"))

    def _whole(self, kind, d):
        self.is_whole = True
        if kind == "message":
            for i, block in enumerate(d["content"]):
                self.text += block.get("text", "")
                self.reasoning += block.get("thinking", "")
                if block["type"] == "tool_use":
                    self._call(i, block["name"], json.dumps(block["input"]))
            self.finish = d["stop_reason"]
            return
        c = d["choices"][0]
        self.finish = c["finish_reason"]
        m = c.get("message") or {"content": c.get("text")}
        self.text = m.get("content") or ""
        self.reasoning = m.get("reasoning_content") or ""
        for i, call in enumerate(m.get("tool_calls") or []):
            self._call(i, call["function"]["name"], call["function"]["arguments"])


def is_json(text):
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


def unchunk(data):
    out, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            break
        size = int(data[at:end] or b"0", 16)
        if not size:
            break
        out.append(data[end + 2:end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(out)


async def receive(loop, sock, size, timeout):
    """As sock_recv; time in which this process was stopped does not count."""
    for left in range(math.ceil(timeout), 0, -1):
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, size), min(timeout, 1))
        except asyncio.TimeoutError:
            if left == 1:
                raise


async def exchange(port, data, *, leave_after=None, rudely=False, pause=0.0, timeout=120):
    """Sends data and reads to the end; or leaves after that many bytes, with a reset when rudely; or reads slowly,
    with a small window, `pause` seconds between pieces."""
    sock = socket.socket()
    sock.setblocking(False)
    if pause:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    raw = bytearray()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, data)
        while True:
            piece = await receive(loop, sock, 512 if pause else 65536, timeout)
            if not piece:
                break
            raw += piece
            if leave_after is not None and len(raw) >= leave_after:
                break
            if pause:
                await asyncio.sleep(pause)
        if rudely:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        sock.close()
    return bytes(raw)
