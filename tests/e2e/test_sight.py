"""Models that see: prompts, logits and answers of chat requests with pictures and video, on tiny checkpoints that transformers
saved (tests/golden/vision). SPDX-License-Identifier: Apache-2.0"""
import base64
import http.server
import json
import os
import subprocess
import threading

import anthropic
import numpy as np
import openai
import pytest

from conftest import BUILD, ROOT, Server

VISION = ROOT / "tests/golden/vision"
FILES = ROOT / "tests/golden/media/files"


class Seeing(Server):
    """Stops at the end of a with block; post gives the answer alone."""

    def __enter__(self):
        return self

    def __exit__(self, *args):
        assert self.stop() == 0

    def post(self, path, body, **headers):
        status, answer = super().post(path, body, **headers)
        assert status == 200, (status, answer)
        return answer

    def refused(self, path, body):
        status, answer = super().post(path, body)
        return status, json.dumps(answer)


def start(binary, model, *args):
    return Seeing(binary, model, *args)


def golden(name):
    return json.loads((VISION / name / "golden.json").read_text())


def url(name, mime="image/png"):
    return f"data:{mime};base64," + base64.b64encode((FILES / name).read_bytes()).decode()


def picture(name="q75_s2.jpg"):
    return {"type": "image_url", "image_url": {"url": url(name)}}


def user(*parts):
    return [{"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}]


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_logits(tmp_path, name):
    """Ids and logits of every request are transformers': ref within 1e-4 of the largest; chunks cut pictures."""
    data = golden(name)
    for row in data["requests"]:
        (tmp_path / "request.json").write_text(json.dumps(row["request"]))
        for device, most in (("ref", 1e-4), ("cpu", max(row["bf16"], 0.6))):
            done = subprocess.run([BUILD / "quern", "eval", "logits", VISION / name, "--chat", tmp_path / "request.json", "--out",
                                   tmp_path / "logits.npy", "--ids-out", tmp_path / "ids.json", "--device", device, "--chunk", "37"],
                                  capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert json.loads((tmp_path / "ids.json").read_text()) == row["ids"], row["name"]
            got = np.load(tmp_path / "logits.npy")[:, :: data["each"]]
            want = np.frombuffer(base64.b64decode(row["logits"]), "<f4").reshape(got.shape)
            assert np.abs(got - want).max() <= most * row["largest"], (row["name"], device)


def test_render_shows_placeholders():
    row = next(r for r in golden("dense")["requests"] if r["name"] == "video")
    for args in ([], ["--tokens"]):
        done = subprocess.run([BUILD / "quern", "render", VISION / "dense", *args], input=json.dumps(row["request"]),
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if args:
            assert json.loads(done.stdout) == row["ids"]
        else:
            assert "Look: <|vision_start|><0.0 seconds><|vision_start|><|video_pad|><|vision_end|><0.1 seconds>" in done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    (folder / "shot.png").write_bytes((FILES / "scene_48x80.png").read_bytes())
    (folder / "out").symlink_to("/etc")
    with start("quern", str(VISION / "dense"), "--allowed-local-media-path", str(folder), "--limit-mm-per-prompt",
               '{"image": 3, "video": 1}') as s:
        s.folder = folder
        yield s


def chat(server, messages=None, **more):
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, **more}
    return server.post("/v1/chat/completions", body)


def test_same_answer_and_no_second_look(server):
    """The same picture again costs no encode and no prefill; another picture of its size is not taken for it."""
    first = chat(server, user(picture("turned1.jpg"), "What?"))
    again = chat(server, user(picture("turned1.jpg"), "What?"))
    other = chat(server, user(picture("turned3.jpg"), "What?"))
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    n = first["usage"]["prompt_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == n - 1
    assert other["usage"]["prompt_tokens"] == n
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] < 20
    encoded, hits = server.metric("quern_sight_encoded_total"), server.metric("quern_sight_hits_total")
    assert encoded >= 2 and hits >= 1 and server.metric("quern_sight_cache_bytes") > 0
    turn = user(picture("turned1.jpg"), "What?") + [{"role": "assistant", "content": "That."}] + user("And?")
    assert chat(server, turn)["usage"]["prompt_tokens_details"]["cached_tokens"] > 64


def test_counts(server):
    data = golden("dense")
    for row in data["requests"]:
        out = server.post("/apply-template", row["request"])
        assert out["n_tokens"] == len(row["ids"])
        assert server.post("/tokenize", row["request"])["tokens"] == row["ids"]
        if row["name"] not in ("mixed",):
            assert chat(server, **row["request"], max_completion_tokens=2)["usage"]["prompt_tokens"] == len(row["ids"])


def test_openai_package(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x")
    messages = user(picture(), "What?")
    whole = client.chat.completions.create(model="m", messages=messages, max_tokens=8, temperature=0)
    text = whole.choices[0].message.model_dump()
    streamed = ""
    for chunk in client.chat.completions.create(model="m", messages=messages, max_tokens=8, temperature=0, stream=True):
        delta = chunk.choices[0].delta.model_dump() if chunk.choices else {}
        streamed += (delta.get("reasoning_content") or "") + (delta.get("content") or "")
    assert streamed == (text.get("reasoning_content") or "") + (text["content"] or "")
    answer = client.responses.create(model="m", max_output_tokens=16, input=[{"role": "user", "content": [
        {"type": "input_image", "image_url": url("q75_s2.jpg"), "detail": "low"}, {"type": "input_text", "text": "What?"}]}])
    assert answer.usage.input_tokens == whole.usage.prompt_tokens
    answer = client.responses.create(model="m", max_output_tokens=16, input=[{"role": "user", "content": [
        {"type": "input_file", "filename": "a.jpg", "file_data": url("q75_s2.jpg", "image/jpeg")},
        {"type": "input_text", "text": "What?"}]}])
    assert answer.usage.input_tokens == whole.usage.prompt_tokens


def test_anthropic_package(server):
    client = anthropic.Anthropic(base_url=server.url, api_key="x")
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg",
                                         "data": base64.b64encode((FILES / "411.jpg").read_bytes()).decode()}}
    messages = [{"role": "user", "content": [block, {"type": "text", "text": "What?"}]}]
    n = client.messages.count_tokens(model="m", messages=messages).input_tokens
    out = client.messages.create(model="m", max_tokens=8, messages=messages)
    assert out.usage.input_tokens + out.usage.cache_read_input_tokens == n > 60
    with client.messages.stream(model="m", max_tokens=8, messages=messages) as s:
        s.until_done()
    # in a tool result it stands where the client put it
    row = next(r for r in golden("dense")["requests"] if r["name"] == "tool")
    tools = [{"name": "shot", "description": "Takes a screenshot.", "input_schema": {"type": "object", "properties": {}}}]
    turns = [{"role": "user", "content": "Take a shot."},
             {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "shot", "input": {}}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": [
                 {"type": "text", "text": "here "}, block, {"type": "text", "text": " end"}]}]}]
    assert client.messages.count_tokens(model="m", messages=turns, tools=tools).input_tokens == len(row["ids"])


def test_pixels_and_detail(server):
    big = url("stripes_900x600.png")
    n = lambda **more: server.post("/apply-template", {"messages": user({"type": "image_url", "image_url": {"url": big}}), **more})["n_tokens"]
    assert n() - n(mm_processor_kwargs={"max_pixels": 65536}) == 532 - 54
    assert n(extra_body={"x": 1}) == n()
    low = server.post("/apply-template", {"messages": user({"type": "image_url", "image_url": {"url": big, "detail": "low"}})})
    assert n() - low["n_tokens"] == 532 - 247


def test_video_kwargs(server):
    clip = {"type": "video_url", "video_url": {"url": url("plain.mp4", "video/mp4")}}
    prompt = lambda **more: server.post("/apply-template", {"messages": user(clip), **more})["prompt"]
    assert prompt().count("<|video_pad|>") == 2
    assert prompt(mm_processor_kwargs={"num_frames": 6}).count("<|video_pad|>") == 3
    assert prompt(mm_processor_kwargs={"fps": 8}).count("<|video_pad|>") == 6
    assert prompt(media_io_kwargs={"video": {"num_frames": 2}}).count("<|video_pad|>") == 1
    assert prompt(mm_processor_kwargs={"do_sample_frames": False}).count("<|video_pad|>") == 23
    frame = base64.b64encode((FILES / "411.jpg").read_bytes()).decode()
    frames = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frame},{frame},{frame}"}}
    shown = server.post("/apply-template", {"messages": user(frames), "media_io_kwargs": {"video": {"fps": 2, "frames_indices": [0, 4, 8]}}})
    assert shown["prompt"].count("<|video_pad|>") == 2 and "<1.0 seconds>" in shown["prompt"] and "<4.0 seconds>" in shown["prompt"]


def test_local_files(server):
    ok = {"type": "image_url", "image_url": {"url": f"file://{server.folder}/shot.png"}}
    assert "image_pad" in server.post("/apply-template", {"messages": user(ok)})["prompt"]
    for path in (f"{server.folder}/out/passwd", f"{server.folder}/../x", "/etc/passwd", f"{server.folder}", f"{server.folder}/none.png",
                 f"{server.folder}/%2e%2e/x", "relative.png", f"{server.folder}/shot.png%00.png"):
        status, text = server.refused("/v1/chat/completions", {"messages": user({"type": "image_url", "image_url": {"url": f"file://{path}"}})})
        assert status == 400, (path, text)


HOSTILE_URLS = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://0/", "http://[::1]/",
    "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[fe80::1]/", "http://[fd00::1]/",
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/", "http://100.64.0.1/",
    "http://224.0.0.1/", "http://255.255.255.255/", "http://localhost/", "http://LOCALHOST:1/", "https://127.0.0.1/",
    "http://user:pw@93.184.216.34/", "http://93.184.216.34\\@127.0.0.1/", "http:/\\127.0.0.1/", "http://", "http:///x", "//127.0.0.1/",
    "ftp://93.184.216.34/", "gopher://127.0.0.1/", "dict://127.0.0.1/", "javascript:1", "", " ", "x", "data:", "data:,", "data:image/png,x",
    "data:image/png;base64,", "data:image/png;base64,*", "data:image/png;base64,AAAA====", "http://127.0.0.1 /", "http://127.0.0.1/\n",
]
HOSTILE_BYTES = [
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM" + b"\xff" * 60, b"RIFF\x00\x00\x00\x00WEBP", b"<svg/>", b"%PDF-", b"II*\0",
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;", b"\0\0\0\x18ftypavif" + b"\0" * 12, b"\0\0\0\x18ftypheic" + b"\xff" * 40,
    b"\0\0\0\x18ftypisom" + b"\xff" * 100, b"\x1a\x45\xdf\xa3" + b"\xff" * 100, b"RIFF\xff\xff\xff\xffAVI LIST" + b"\xff" * 60, b"#EXTM3U\nfile:///etc/passwd",
    b"ffconcat version 1.0\nfile /etc/passwd", b"G" * 4000, b"\0" * 1000,
]


def test_hostile(server):
    """Each is refused by name, as picture and as video; the server goes on."""
    assert len(HOSTILE_URLS) + len(HOSTILE_BYTES) >= 60
    bad = [u for u in HOSTILE_URLS] + ["data:image/png;base64," + base64.b64encode(b).decode() for b in HOSTILE_BYTES]
    for name in ("turned1.jpg", "noise_64x64.png", "lossy.webp", "plain.gif", "rgb.bmp", "plain.mp4"):
        whole = (FILES / name).read_bytes()
        bad.append("data:image/png;base64," + base64.b64encode(whole[: len(whole) // 8]).decode())
    for u in bad:
        for kind in ("image_url", "video_url"):
            status, text = server.refused("/v1/chat/completions", {"messages": user({"type": kind, kind: {"url": u}}), "max_tokens": 1})
            assert status == 400 and "content[0]" in text, (u[:60], kind, status, text)
    for part in ({"type": "image_url"}, {"type": "image_url", "image_url": 3}, {"type": "image_url", "image_url": {"url": None}},
                 {"type": "input_image", "file_id": "f"}, {"type": "image_url", "image_url": {"url": url("grey.jpg"), "detail": "huge"}}):
        assert server.refused("/v1/chat/completions", {"messages": user(part)})[0] == 400
    for more in ({"mm_processor_kwargs": {"fps": 0}}, {"mm_processor_kwargs": {"huge": 1}}, {"media_io_kwargs": {"x": {}}},
                 {"media_io_kwargs": {"image": {"rgba_background_color": [1]}}}, {"mm_processor_kwargs": 4}):
        assert server.refused("/v1/chat/completions", {"messages": user(picture()), **more})[0] == 400
    system = [{"role": "system", "content": [picture()]}, {"role": "user", "content": "x"}]
    assert server.refused("/v1/chat/completions", {"messages": system})[0] == 400
    assert server.refused("/v1/chat/completions", {"messages": user(*[picture()] * 4)})[0] == 400
    assert chat(server, user(picture(), "What?"))["usage"]["prompt_tokens"] > 64


def test_control_words_are_text(server):
    spelled = server.post("/tokenize", {"messages": user("<|image_pad|><|vision_start|>")})["tokens"]
    assert 4068 not in spelled and 4065 not in spelled


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = (FILES / "411.jpg").read_bytes()
        routes = {"/away": "http://169.254.169.254/", "/loop": "/loop", "/hop": "/picture", "/local": "http://localhost:1/"}
        if self.path in routes:
            self.send_response(302)
            self.send_header("Location", routes[self.path])
            self.end_headers()
            return
        self.send_response(200 if self.path in ("/picture", "/large", "/endless") else 404)
        if self.path == "/large":
            self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        if self.path == "/large":
            self.wfile.write(data)
        if self.path == "/endless":
            try:
                for _ in range(64):
                    self.wfile.write(b"\0" * (1 << 20))
            except OSError:
                pass
            return
        if self.path == "/picture":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_fetch():
    """An address that the operator lists is fetched from, with each hop of a redirect checked."""
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{site.server_port}"
    part = lambda path: user({"type": "image_url", "image_url": {"url": base + path}})
    with start("quern", str(VISION / "dense"), "--allowed-media-domains", "127.0.0.1,localhost") as s:
        n = s.post("/apply-template", {"messages": user(picture("411.jpg"))})["n_tokens"]
        assert s.post("/apply-template", {"messages": part("/picture")})["n_tokens"] == n
        assert s.post("/apply-template", {"messages": part("/hop")})["n_tokens"] == n
        for path, word in (("/away", "not among the hosts"), ("/loop", "redirected"), ("/none", "404"), ("/large", "larger"),
                           ("/endless", "larger"), ("/local", "private")):
            status, text = s.refused("/apply-template", {"messages": part(path)})
            assert status == 400 and word in text, (path, text)
    with start("quern", str(VISION / "dense")) as s:
        status, text = s.refused("/apply-template", {"messages": part("/picture")})
        assert status == 400 and "private" in text
    site.shutdown()


def test_text_only():
    with start("quern", str(VISION / "dense"), "--language-model-only") as s:
        status, text = s.refused("/v1/chat/completions", {"messages": user(picture())})
        assert status == 400 and "text only" in text


@pytest.mark.parametrize("args", [["--mm-processor-kwargs", "{"], ["--mm-processor-kwargs", '{"x": 1}'], ["--media-io-kwargs", '{"x": 1}'],
                                  ["--limit-mm-per-prompt", '{"image": -1}'], ["--limit-mm-per-prompt", "3"], ["--eyes", "x"], ["--upstream", "http://x"]])
def test_options(args):
    done = subprocess.run([BUILD / "quern", "serve", str(VISION / "dense"), *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and args[0] in done.stderr
