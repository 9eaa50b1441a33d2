"""quern parse: the golden messages, in every way of cutting; streamed deltas add up to the same message.

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
GOLDEN = json.loads((ROOT / "tests/golden/parser/messages.json").read_text())
CHUNKS = ["whole", "char", "1", "3", "7", "random:1", "random:2"]


def run(case, tools, chunks, *more):
    args = [BUILD / "quern", "parse", "--think", "on" if case["think"] else "off", "--finish", case["end"], "--chunks", chunks, *more]
    if case["tools"]:
        args += ["--tools", tools]
    out = subprocess.run(args, input=case["input"].encode(), capture_output=True, timeout=60)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.decode().split("\n") if line]


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    path = tmp_path_factory.mktemp("parse") / "tools.json"
    path.write_text(json.dumps(GOLDEN["tools"]))
    return path


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["name"])
def test_message(case, tools):
    for chunks in CHUNKS:
        assert run(case, tools, chunks) == [case["expect"]], chunks


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["name"])
def test_deltas_add_up(case, tools):
    reasoning, content, calls, finish = "", "", [], None
    for delta in run(case, tools, "char", "--events"):
        assert len(delta) == 1 and finish is None
        reasoning += delta.get("reasoning_content", "")
        content += delta.get("content", "")
        finish = delta.get("finish_reason")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(calls) and call["type"] == "function" and call["function"]["arguments"] == ""
                calls.append([call["function"]["name"], ""])
                continue
            text = calls[call["index"]][1] = calls[call["index"]][1] + call["function"]["arguments"]
            for n in range(len(text) - len(call["function"]["arguments"]) + 1, len(text)):
                with pytest.raises(ValueError):
                    json.loads(text[:n])
    want = case["expect"]
    assert (reasoning or None, content or None, finish) == (want["reasoning"], want["content"], want["finish_reason"])
    complete = calls if finish != "length" else calls[:len(want["tool_calls"])]
    assert [{"name": n, "arguments": json.loads(a)} for n, a in complete] == want["tool_calls"]


def test_usage_errors(tools):
    for args in (["--think", "maybe"], ["--chunks", "0"], ["--finish", "x"], ["--nonsense"]):
        out = subprocess.run([BUILD / "quern", "parse", *args], input=b"", capture_output=True, timeout=20)
        assert out.returncode == 2 and out.stderr, args
    out = subprocess.run([BUILD / "quern", "parse", "--tools", "/nonexistent"], input=b"", capture_output=True, timeout=20)
    assert out.returncode == 1 and b"/nonexistent" in out.stderr
