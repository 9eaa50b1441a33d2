"""Servers for the end-to-end tests: quern-fake on a free port, the whole server without a model.

SPDX-License-Identifier: Apache-2.0
"""
import http.client
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

import folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))


class Server:
    """A running server; requests by the plain HTTP client."""

    def __init__(self, binary, model, *args, **env):
        self.log = []
        self.process = subprocess.Popen(
            [BUILD / binary, "serve", str(model), "--port", "0", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **{k: str(v) for k, v in env.items()}})
        reader = threading.Thread(target=self._read_log, daemon=True)
        reader.start()
        line = self.process.stdout.readline()
        if not line.startswith("ready http://"):
            self.process.wait(10)
            reader.join(5)
            raise RuntimeError("not ready: " + line + "".join(self.log))
        self.url = line.split()[1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def connect(self, timeout=20):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=20):
        """Status, headers, and the body: parsed when it is JSON."""
        connection = self.connect(timeout)
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        kind = response.getheader("Content-Type", "")
        return response.status, response.headers, json.loads(text) if kind.startswith("application/json") else text.decode()

    def post(self, path, body, **headers):
        status, _, answer = self.request("POST", path, body, headers)
        return status, answer

    def get(self, path, **headers):
        status, _, answer = self.request("GET", path, None, headers)
        return status, answer

    def events(self, path, body, headers=None, timeout=20):
        """(event, data) of a stream; data parsed, but for [DONE]. Comments are left out."""
        connection = self.connect(timeout)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("Content-Type").startswith("text/event-stream")
        name, out = None, []
        for line in response.read().decode().split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                out.append((name, line[6:] if line[6:] == "[DONE]" else json.loads(line[6:])))
            elif not line:
                name = None
        connection.close()
        return out

    def metric(self, name):
        _, text = self.get("/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.startswith(name + "{") or line.startswith(name + " "))

    def wait_idle(self, timeout=10):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.metric("quern_requests_running") + self.metric("quern_requests_waiting") == 0:
                return True
            time.sleep(0.05)
        return False

    def stop(self, timeout=15):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def say(text, prompt=""):
    """A user message that makes the scripted model answer text."""
    return f"{prompt}[[say:{text}:yas]]"


def user(text, prompt=""):
    return [{"role": "user", "content": say(text, prompt)}]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return folder.make(tmp_path_factory.mktemp("model") / "fake")


@pytest.fixture(scope="session")
def server(model):
    """The server most tests share: a step takes a millisecond."""
    s = Server("quern-fake", model, FAKE_STEP_US=500)
    yield s
    code = s.stop()
    assert code == 0, "".join(s.log[-20:])


@pytest.fixture
def start(model):
    """Starts servers of one's own: start("--api-key", "k", FAKE_STEP_US=1000)."""
    running = []

    def run(*args, binary="quern-fake", **env):
        running.append(Server(binary, model, *args, **env))
        return running[-1]

    yield run
    for s in running:
        if s.process.poll() is None:
            s.process.send_signal(signal.SIGTERM)
            try:
                s.process.wait(10)
            except subprocess.TimeoutExpired:
                s.process.kill()
