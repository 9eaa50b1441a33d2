"""quern pull against a hub of our own on the loopback.

SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERN = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build")) / "quern"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Two servers: the hub, and the one that holds large files and is redirected to."""

    def __init__(self, files):
        self.files = files  # path -> bytes
        self.listing = None  # instead of the one made from files
        self.needs_token = None
        self.no_ranges = False
        self.cut_after = []  # bytes after which the next answers of the store break off
        self.statuses = []  # answered instead, in order
        self.seen = []  # (server, path, headers)
        self.servers = [self._serve("hub"), self._serve("store")]
        self.url, self.store = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def _serve(hub, name):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.seen.append((name, self.path, dict(self.headers)))
                hub.answer(self, name)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self):
        for s in self.servers:
            s.shutdown()
            s.server_close()

    def entries(self):
        out = []
        for path, data in self.files.items():
            if path.endswith(".safetensors"):
                out.append({"rfilename": path, "size": len(data), "blobId": "f" * 40,
                            "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}})
            else:
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                out.append({"rfilename": path, "size": len(data), "blobId": blob})
        return out

    def answer(self, r, name):
        def send(status, body=b"", **headers):
            r.send_response(status)
            for key, value in headers.items():
                r.send_header(key.replace("_", "-"), value)
            r.send_header("Content-Length", str(len(body)))
            r.end_headers()
            r.wfile.write(body)

        if self.statuses and self.statuses[0]:
            return send(self.statuses.pop(0), b"an error page", Retry_After="1")
        if self.statuses:
            self.statuses.pop(0)
        if name == "hub":
            if self.needs_token and r.headers.get("Authorization") != "Bearer " + self.needs_token:
                return send(401, b'{"error":"Invalid username or password."}')
            if r.path.startswith("/api/models/me/model/revision/"):
                if r.path.split("/revision/")[1] != "main?blobs=true":
                    return send(404, b"no")
                listing = self.listing or {"id": "me/model", "sha": COMMIT, "siblings": self.entries()}
                return send(200, listing if isinstance(listing, bytes) else json.dumps(listing).encode(),
                            Content_Type="application/json")
            prefix = f"/me/model/resolve/{COMMIT}/"
            if not r.path.startswith(prefix):
                return send(404, b"no such path")
            path = r.path[len(prefix):].replace("%20", " ")
            if path.endswith(".safetensors"):
                return send(302, b"see there", Location=f"{self.store}/blob/{path}")
        else:
            path = r.path[len("/blob/"):]
        data = self.files.get(path)
        if data is None:
            return send(404, b"gone")
        span = re.fullmatch(r"bytes=(\d+)-", r.headers.get("Range", ""))
        at = int(span[1]) if span and not self.no_ranges else 0
        if at > len(data):
            return send(416)
        r.send_response(206 if at else 200)
        if at:
            r.send_header("Content-Range", f"bytes {at}-{len(data) - 1}/{len(data)}")
        r.send_header("Content-Length", str(len(data) - at))
        r.end_headers()
        part = data[at:]
        if name == "store" and self.cut_after:
            part = part[:self.cut_after.pop(0)]
            r.close_connection = True
        r.wfile.write(part)


FILES = {
    "config.json": b'{"model_type": "qwen3_5"}\n',
    "tokenizer.json": b"{}" * 5000,
    "empty.txt": b"",
    "sub/dir/with blank.json": b"[]",
    "model-00001-of-00002.safetensors": os.urandom(3_000_000),
    "model-00002-of-00002.safetensors": os.urandom(100_001),
    "model.gguf": b"GGUF" * 100,
    "original/weights.pth": b"x" * 100,
    ".gitattributes": b"*.safetensors filter=lfs\n",
}
WANTED = [p for p in FILES if not p.endswith((".gguf", ".pth", ".gitattributes"))]


@pytest.fixture
def hub():
    h = Hub(dict(FILES))
    yield h
    h.close()


def pull(hub, folder, *args, repo="me/model", **env):
    clean = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")}
    return subprocess.run([QUERN, "pull", repo, folder, "--endpoint", hub.url, *args], capture_output=True, text=True,
                          timeout=60, env={**clean, "no_proxy": "127.0.0.1", **env})


def check(folder, files, names):
    have = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert have == sorted(names)
    for name in names:
        assert (folder / name).read_bytes() == files[name], name


def test_whole_and_again(hub, tmp_path):
    out = tmp_path / "m"
    first = pull(hub, out)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    check(out, FILES, WANTED)
    assert "quern serve" in first.stderr and "6 files" in first.stderr
    n = len(hub.seen)
    again = pull(hub, out)
    assert again.returncode == 0, again.stderr
    assert len(hub.seen) == n + 1, "only the list is asked for when every file is there and right"
    # one wrong byte is found and fetched again
    data = bytearray((out / "config.json").read_bytes())
    data[3] ^= 1
    (out / "config.json").write_bytes(data)
    assert pull(hub, out).returncode == 0
    check(out, FILES, WANTED)


def test_default_folder_is_the_name(hub, tmp_path):
    r = subprocess.run([QUERN, "pull", "me/model", "--endpoint", hub.url, "-q", "--include", "config.json"], cwd=tmp_path,
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stderr == "", r.stderr
    check(tmp_path / "model", FILES, ["config.json"])


def test_resumes_after_a_cut(hub, tmp_path):
    hub.cut_after = [1_000_000, 500_000]
    r = pull(hub, tmp_path)
    assert r.returncode == 0, r.stderr
    check(tmp_path, FILES, WANTED)
    ranges = [h.get("Range") for name, path, h in hub.seen if name == "store" and "00001" in path]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_resumes_after_a_kill(hub, tmp_path):
    hub.cut_after = [1_000_000]
    r = pull(hub, tmp_path, "--tries", "1")
    assert r.returncode == 1 and "the same command goes on" in r.stderr
    name = "model-00001-of-00002.safetensors"
    assert not (tmp_path / name).exists()
    assert (tmp_path / (name + ".part")).stat().st_size == 1_000_000
    assert pull(hub, tmp_path).returncode == 0
    assert ("store", "bytes=1000000-") in [(s, h.get("Range")) for s, _, h in hub.seen]
    check(tmp_path, FILES, WANTED)


def test_hub_without_ranges(hub, tmp_path):
    hub.no_ranges = True
    hub.cut_after = [1_000_000]
    r = pull(hub, tmp_path)
    assert r.returncode == 0, r.stderr
    check(tmp_path, FILES, WANTED)


def test_part_of_an_older_file(hub, tmp_path):
    name = "model-00002-of-00002.safetensors"
    (tmp_path / (name + ".part")).write_bytes(b"old" * 100)
    assert pull(hub, tmp_path).returncode == 0
    check(tmp_path, FILES, WANTED)
    (tmp_path / name).unlink()
    (tmp_path / (name + ".part")).write_bytes(b"old" * 100_000)  # longer than the file
    assert pull(hub, tmp_path).returncode == 0
    check(tmp_path, FILES, WANTED)


def test_wrong_bytes_get_no_name(hub, tmp_path):
    for name in ("config.json", "model-00002-of-00002.safetensors"):
        hub.listing = {"sha": COMMIT, "siblings": hub.entries()}
        good = hub.files[name]
        hub.files[name] = bytes([good[0] ^ 1]) + good[1:]
        r = pull(hub, tmp_path)
        assert r.returncode == 1 and name in r.stderr and "is not the one the hub lists" in r.stderr
        assert not (tmp_path / name).exists()
        hub.files[name] = good
    assert pull(hub, tmp_path).returncode == 0
    check(tmp_path, FILES, WANTED)


def test_longer_than_listed(hub, tmp_path):
    hub.listing = {"sha": COMMIT, "siblings": hub.entries()}
    hub.files["config.json"] += b" " * 100
    r = pull(hub, tmp_path)
    assert r.returncode == 1 and "more bytes come" in r.stderr
    assert not (tmp_path / "config.json").exists()


def test_busy_hub_is_asked_again(hub, tmp_path):
    hub.statuses = [503, 0, 429]
    start = time.monotonic()
    r = pull(hub, tmp_path)
    assert r.returncode == 0, r.stderr
    assert "the hub answers 503; again in 1 s" in r.stderr and "429" in r.stderr
    assert time.monotonic() - start >= 2
    check(tmp_path, FILES, WANTED)


def test_token_goes_to_the_hub_only(hub, tmp_path):
    hub.needs_token = "secret-token"
    r = pull(hub, tmp_path)
    assert r.returncode == 1 and "401" in r.stderr and "HF_TOKEN" in r.stderr
    r = pull(hub, tmp_path, HF_TOKEN="secret-token")
    assert r.returncode == 0, r.stderr
    assert "secret-token" not in r.stderr
    assert all("Authorization" not in h for name, _, h in hub.seen if name == "store")
    check(tmp_path, FILES, WANTED)
    r = pull(hub, tmp_path, HF_TOKEN="a\r\nX-Injected: 1")
    assert r.returncode == 2 and "control character" in r.stderr


@pytest.mark.parametrize("path", ["../evil", "a/../../evil", "/etc/evil", "a//b", "./a", "a/.", "a\\..\\b", "x\u0000y", "a\nb", "",
                                  "..", "a/..", "x" * 300, "b.part"])
def test_path_that_leaves_the_folder(hub, tmp_path, path):
    hub.listing = {"sha": COMMIT, "siblings": [{"rfilename": path, "size": 2, "blobId": "0" * 40}] + hub.entries()}
    out = tmp_path / "in"
    r = pull(hub, out)
    assert r.returncode == 1 and "leave the folder" in r.stderr
    assert not list(tmp_path.rglob("*evil*")) and not out.exists()


def test_link_is_not_written_through(hub, tmp_path):
    out, victim = tmp_path / "in", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / "config.json.part").symlink_to(victim)
    r = pull(hub, out)
    assert r.returncode == 1 and "config.json.part" in r.stderr
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "config.json.part"])
def test_fifo_in_the_way(hub, tmp_path, name):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    done = pull(hub, tmp_path / "out")
    assert done.returncode == 1 and "no file" in done.stderr and name in done.stderr


def test_endless_file_without_a_size(hub, tmp_path):
    """A file whose size is not listed may not fill the disk."""
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}
    hub.listing = json.dumps(listing).encode()
    hub.files["config.json"] = b" " * (300 << 20)
    done = pull(hub, tmp_path / "out")
    assert done.returncode == 1 and "lists no size" in done.stderr
    assert (tmp_path / "out" / "config.json.part").stat().st_size <= 256 << 20


def test_hub_answers_are_escaped(hub, tmp_path):
    hub.listing = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "a\x1b[31m.json", "size": 3}]}).encode()
    done = pull(hub, tmp_path / "out")
    assert done.returncode == 1 and "\x1b" not in done.stderr and "\\x1b" in done.stderr


def test_include_exclude_list(hub, tmp_path):
    r = pull(hub, tmp_path / "a", "--list", "--include", "*")
    assert r.returncode == 0 and len(r.stdout.splitlines()) == len(FILES) and not (tmp_path / "a").exists()
    r = pull(hub, tmp_path / "b", "--include", "*.json,*.gguf", "--exclude", "token*")
    assert r.returncode == 0
    check(tmp_path / "b", FILES, ["config.json", "model.gguf", "sub/dir/with blank.json"])
    r = pull(hub, tmp_path / "c", "--include", "*.nothing")
    assert r.returncode == 1 and "none of its 9 files" in r.stderr


def test_refusals(hub, tmp_path):
    r = pull(hub, tmp_path, "--revision", "nope")
    assert r.returncode == 1 and "404" in r.stderr and "--revision" in r.stderr
    for listing in (b"<html>", b"[]", b"{}", b'{"siblings": [{}]}', b'{"siblings": [{"rfilename": "a", "size": -1}]}',
                    b'{"siblings": [{"rfilename": "a", "size": 1, "lfs": {"sha256": "x", "size": 1}}]}',
                    b'{"siblings": [{"rfilename": "a", "size": 1}, {"rfilename": "a", "size": 1}]}'):
        hub.listing = listing
        r = pull(hub, tmp_path)
        assert r.returncode == 1 and r.stderr.startswith("quern pull: me/model: "), (listing, r.stderr)
    for repo in ("../x", "a/b/c", "", "a b", "/a", "a/", "-x/y", "a/.."):
        r = pull(hub, tmp_path, repo=repo)
        assert r.returncode == 2, (repo, r.stderr)
    r = subprocess.run([QUERN, "pull"], capture_output=True, text=True)
    assert r.returncode == 2 and "REPO is missing" in r.stderr
    r = subprocess.run([QUERN, "pull", "a/b", "--endpoint", "ftp://x"], capture_output=True, text=True)
    assert r.returncode == 2 and "ftp://x" in r.stderr
    r = subprocess.run([QUERN, "pull", "a/b", "--endpoint", "http://127.0.0.1:9", "--tries", "1"], capture_output=True, text=True,
                       cwd=tmp_path, timeout=60)
    assert r.returncode == 1 and "127.0.0.1:9" in r.stderr


def test_two_at_once(hub, tmp_path):
    """A second pull of the same folder does not write into the first one's part."""
    import fcntl
    with open(tmp_path / "config.json.part", "wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        r = pull(hub, tmp_path)
    assert r.returncode == 1 and "another process is writing it" in r.stderr
    assert pull(hub, tmp_path).returncode == 0
    check(tmp_path, FILES, WANTED)
