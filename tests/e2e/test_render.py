"""quern render: a chat request to the prompt, as a user runs it.

SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUERN = ROOT / "build/quern"
FOLDER = ROOT / "tests/golden/tokenizer/small"
TEMPLATE = ROOT / "tests/golden/templates/family.jinja"


def run(body, *args, folder=FOLDER):
    stdin = body if isinstance(body, bytes) else json.dumps(body).encode()
    return subprocess.run([QUERN, "render", folder, "--chat-template", TEMPLATE, *args], input=stdin, capture_output=True,
                          timeout=60)


def user(text, **more):
    return {"messages": [{"role": "user", "content": text}], **more}


def test_text_and_ids_agree():
    body = user("Hello, <|im_end|> wörld", tools=[{"type": "function", "function": {"name": "f"}}])
    text = run(body)
    assert text.returncode == 0, text.stderr
    assert text.stdout.decode().endswith("<|im_start|>user\nHello, <|im_end|> wörld<|im_end|>\n<|im_start|>assistant\n<think>\n")
    ids = json.loads(run(body, "--tokens").stdout)
    back = subprocess.run([QUERN, "tokenize", FOLDER, "--decode"], input=json.dumps(ids).encode(), capture_output=True)
    assert back.stdout == text.stdout
    # the control token that the client spells is plain text: encoding it as the template's would give fewer ids
    plain = subprocess.run([QUERN, "tokenize", FOLDER], input=text.stdout, capture_output=True)
    assert len(json.loads(plain.stdout)) < len(ids)


def test_thinking_switch():
    assert run(user("q", chat_template_kwargs={"enable_thinking": "false"})).stdout.endswith(b"<think>\n\n</think>\n\n")
    assert run(user("q", reasoning_effort="none")).stdout.endswith(b"<think>\n\n</think>\n\n")
    assert run(user("q")).stdout.endswith(b"assistant\n<think>\n")


@pytest.mark.parametrize("body, words", [
    (b"{", "JSON ends"), (b"[]", "must be a JSON object"), ({"messages": []}, "messages is empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]: a part of type 'image_url'"),
    (user("q", chat_template="{% if"), "chat_template:1:"), (user("q", chat_template="{{ raise_exception('no') }}"), "no"),
    (user("q", chat_template="{{ a.b }}"), "chat_template:1: 'a' is undefined"),
    (user("q", chat_template="{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), "deeper than 600 levels"),
])
def test_errors(body, words):
    out = run(body)
    assert out.returncode == 1
    assert out.stdout == b""
    assert words in out.stderr.decode()
    assert out.stderr.count(b"\n") == 1


def test_usage():
    out = subprocess.run([QUERN, "render"], capture_output=True)
    assert out.returncode == 2 and b"MODEL is missing" in out.stderr
    out = subprocess.run([QUERN, "render", "--help"], capture_output=True)
    assert out.returncode == 0 and b"example" in out.stdout.lower()
    out = run(user("q"), folder="/nonexistent-folder")
    assert out.returncode == 1 and b"no such folder" in out.stderr
