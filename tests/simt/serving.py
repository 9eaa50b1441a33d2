#!/usr/bin/env python3
"""The server over the emulated device: 16 streams, cancels, kill -9 with a disk tier; every whole answer is the one the
request gets alone. Usage: serving.py QUERN_SIMT MODEL
SPDX-License-Identifier: Apache-2.0"""
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

QUESTIONS = [f"Count from {i}." for i in range(6)] + ["What is quern?", "List two colours, one a line."]
TOKENS = 8


def body(text, stream):
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "temperature": 0,
                       "stream": stream})


class Server:
    def __init__(self, binary, model, tier, alone=False):
        options = ["--max-seqs", "1", "--mtp", "off", "--no-prefix-cache"] if alone else ["--max-seqs", "16", "--disk-tier", tier]
        self.process = subprocess.Popen(
            [binary, "serve", model, "--device", "cuda", "--port", "0", "--context", "512", "--log-level", "warn", *options],
            stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("ready "):
                self.port = int(line.rsplit(":", 1)[1].strip().strip("/"))
                return
        sys.exit("no server")

    def ask(self, text, leave_after=None):
        """The answer; None when the stream is left after so many chunks."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        c.request("POST", "/v1/chat/completions", body(text, True), {"Content-Type": "application/json"})
        r = c.getresponse()
        assert r.status == 200, (r.status, r.read())
        answer, n = "", 0
        for line in r:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event.get("choices", []):
                delta = choice["delta"]
                answer += delta.get("content") or ""
                answer += delta.get("reasoning_content") or ""
            n += 1
            if leave_after and n >= leave_after:
                c.close()
                return None
        return answer

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(60)


def burst(server, want, n):
    """n streams at once; every third leaves early."""
    wrong = []

    def one(i):
        text = QUESTIONS[i % len(QUESTIONS)]
        try:
            got = server.ask(text, 2 if i % 3 == 2 else None)
            if got is not None and got != want[text]:
                wrong.append((text, got, want[text]))
        except Exception as e:  # noqa: BLE001
            wrong.append((text, repr(e)))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong


def main():
    binary, model = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="quern-simt-") as tier:
        alone = Server(binary, model, tier, alone=True)
        want = {text: alone.ask(text) for text in QUESTIONS}
        assert alone.stop() == 0
        server = Server(binary, model, tier)
        burst(server, want, 16)
        burst(server, want, 5)
        server.stop(signal.SIGKILL)
        server = Server(binary, model, tier)
        burst(server, want, 16)
        assert server.stop() == 0
        n_file = sum(1 for p in pathlib.Path(tier).rglob("*") if p.is_file())
    print(f"{len(want)} questions alone, 37 streams, a third of them left, kill -9 and a restart on {n_file} files of the tier: "
          "every answer the same")


if __name__ == "__main__":
    main()
