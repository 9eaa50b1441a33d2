"""quern serve with a real checkpoint: a synthesised tiny one (random weights), and models/mini where it is in the tree.

SPDX-License-Identifier: Apache-2.0
"""
import json
import subprocess

import pytest

from conftest import BUILD, ROOT, Server

MINI = ROOT / "models" / "mini"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    subprocess.run([BUILD / "quern", "synth", "tiny", str(path)], check=True, capture_output=True, timeout=60)
    return path


def answers(server):
    """What a few requests get, at temperature 1 with a seed."""
    out = []
    for i, text in enumerate(("Hello", "Write a haiku about rivers and boats", "1 2 3 4 5 6 7")):
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "seed": i, "temperature": 1, "max_tokens": 40}
        status, answer = server.post("/v1/chat/completions", body)
        assert status == 200, answer
        m = answer["choices"][0]["message"]
        streamed = {"content": "", "reasoning_content": ""}
        for _, data in server.events("/v1/chat/completions", {**body, "stream": True}):
            if data != "[DONE]":
                for k, v in data["choices"][0]["delta"].items():
                    if k in streamed:
                        streamed[k] += v or ""
        assert streamed == {"content": m["content"] or "", "reasoning_content": m.get("reasoning_content") or ""}
        out.append((m["content"], m.get("reasoning_content"), answer["usage"]["completion_tokens"]))
    return out


def test_same_tokens_at_every_depth(tiny):
    seen = []
    for depth in ("off", "1", "4", "auto"):
        s = Server("quern", tiny, "--mtp", depth, "--context", "2048", "--threads", "1", "--log-level", "warn")
        try:
            seen.append(answers(s))
        finally:
            assert s.stop() == 0
    assert all(x == seen[0] for x in seen[1:])


def test_prefix_cache_and_table(tiny):
    s = Server("quern", tiny, "--context", "2048", "--threads", "1")
    try:
        body = {"messages": [{"role": "user", "content": "the same long prompt again and again " * 10}], "max_tokens": 4}
        first = s.post("/v1/chat/completions", body)[1]["usage"]
        second = s.post("/v1/chat/completions", body)[1]["usage"]
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert second["prompt_tokens_details"]["cached_tokens"] > first["prompt_tokens"] - 70
        table = "".join(s.log)
        for row in ("model", "formats", "memory", "context", "compute", "KV cache", "speculation", "template", "parsers", "sampling"):
            assert f"\n  {row} " in table
    finally:
        assert s.stop() == 0


@pytest.mark.skipif(not (MINI / "config.json").exists(), reason="models/mini is not in this tree")
def test_mini_answers():
    s = Server("quern", MINI, "--threads", "1", "--log-level", "warn")
    try:
        status, answer = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40,
                                                         "temperature": 0})
        message = answer["choices"][0]["message"]
        assert status == 200 and (message["content"] or message.get("reasoning_content"))
    finally:
        assert s.stop() == 0


def test_trace_and_replay(tiny, tmp_path):
    """A sampled, streamed request with a tool runs again to the same tokens, at another depth, too."""
    s = Server("quern", tiny, "--context", "2048", "--threads", "1", "--trace", tmp_path)
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}}
    s.events("/v1/messages", {"model": "m", "max_tokens": 60, "stream": True, "temperature": 1, "tools": [tool],
                              "tool_choice": {"type": "any"}, "thinking": {"type": "disabled"},
                              "messages": [{"role": "user", "content": "call it"}]})
    assert s.stop() == 0
    file, = tmp_path.glob("*.json")
    for depth in ("off", "3"):
        result = subprocess.run([BUILD / "quern", "replay", file, "--mtp", depth, "--threads", "1"], capture_output=True, text=True,
                                timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "prompt 0: same" in result.stdout and "output 0: same" in result.stdout
    wrong = file.read_text().replace('"sampled_ids":[', '"sampled_ids":[1,')
    (tmp_path / "wrong.json").write_text(wrong)
    result = subprocess.run([BUILD / "quern", "replay", tmp_path / "wrong.json", "--threads", "1"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "output 0: differs at token 0" in result.stdout
    for damage in ({"choices": "x" * 9}, {"choices": {"a": 1}}, {"choices": [{"prompt_ids": "12", "sampled_ids": []}]},
                   {"choices": [{"prompt_ids": [], "sampled_ids": [None]}]}, {"body": "[]"}):
        (tmp_path / "damaged.json").write_text(json.dumps({**json.loads(file.read_text()), **damage}))
        result = subprocess.run([BUILD / "quern", "replay", tmp_path / "damaged.json"], capture_output=True, text=True, timeout=60)
        assert result.returncode == 1 and "damaged.json" in result.stderr, result
