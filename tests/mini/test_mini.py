# The shipped model's files: template, generator, tokenizer and checkpoint layout. Needs no torch.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct
import sys

import jinja2
import jinja2.sandbox
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MINI = os.path.join(ROOT, "models", "mini")
sys.path.insert(0, os.path.join(ROOT, "tools", "mini"))
import everyday  # noqa: E402
import generate  # noqa: E402


def template():
    def fail(text):
        raise jinja2.TemplateError(text)
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False, **kw)
    env.globals["raise_exception"] = fail
    with open(os.path.join(MINI, "chat_template.jinja"), encoding="utf-8") as f:
        return env.from_string(f.read())


def call(args):
    return {"type": "function", "function": {"name": "f", "arguments": args}}


def test_golden_conversation():
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1", "reasoning_content": "old"}, {"role": "user", "content": "q2"},
        {"role": "assistant", "reasoning_content": "X", "tool_calls": [
            call({"n": 3, "b": True, "z": None, "f": 1.0, "o": {"k": [1, "\u00e9"]}}), call({})]},
        {"role": "tool", "content": "R1"}, {"role": "tool", "content": "R2"}]
    want = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n<think>\nX\n</think>\n\n"
        "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=b>\nTrue\n</parameter>\n<parameter=z>\nNone\n</parameter>\n"
        "<parameter=f>\n1.0\n</parameter>\n<parameter=o>\n{\"k\": [1, \"\u00e9\"]}\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=f>\n</function>\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nR1\n</tool_response>\n<tool_response>\nR2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n")
    t = template()
    assert t.render(messages=messages, add_generation_prompt=True) == want + "<think>\n"
    assert t.render(messages=messages, add_generation_prompt=True, enable_thinking=True) == want + "<think>\n"
    assert t.render(messages=messages, add_generation_prompt=True, enable_thinking=False) == want + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("messages", [
    [], [{"role": "assistant", "content": "a"}], [{"role": "user", "content": "q"}, {"role": "system", "content": "late"}],
    [{"role": "developer", "content": "d"}, {"role": "user", "content": "q"}]])
def test_bad_conversations_raise(messages):
    with pytest.raises(jinja2.TemplateError):
        template().render(messages=messages)


def test_generator_renders_as_the_template():
    if not any(os.path.exists(p) for p in generate.WORD_FILES):
        pytest.skip("no word list (Debian package wamerican)")
    t, g = template(), generate.Generator(11)
    for _ in range(200):
        d = g.dialogue(easy=0.3)
        want = t.render(messages=d["messages"], tools=d["tools"])
        assert "".join(text for text, _ in generate.render(d)) == want.rstrip("\n")


def test_everyday_calls_fit_their_schemas():
    if not any(os.path.exists(p) for p in generate.WORD_FILES):
        pytest.skip("no word list (Debian package wamerican)")
    jsonschema = pytest.importorskip("jsonschema")
    t, g, calls, refused = template(), generate.Generator(12), 0, 0
    for n in range(300):
        d = everyday.everyday(g, n % 2 == 0)
        want = t.render(messages=d["messages"], tools=d["tools"])
        assert "".join(text for text, _ in generate.render({**d, "every": False})) == want.rstrip("\n")
        schemas = {x["function"]["name"]: x["function"].get("parameters", {}) for x in d["tools"]}
        assert len(schemas) == len(d["tools"])
        for m in d["messages"]:
            refused += m["role"] == "assistant" and m["content"].startswith("I have no function to")
            for c in m.get("tool_calls") or []:
                schema = schemas[c["function"]["name"]]
                jsonschema.validate(c["function"]["arguments"], schema)
                assert set(c["function"]["arguments"]) <= set(schema["properties"])
                calls += 1
    assert calls > 300 and refused > 50


def test_held_out_words_never_occur_in_training():
    if not any(os.path.exists(p) for p in generate.WORD_FILES):
        pytest.skip("no word list (Debian package wamerican)")
    sets = []
    for held in (False, True):
        w = generate.Words(generate.random.Random(1), held)
        sets.append(set(w.dictionary) | set(w.common))
    assert not sets[0] & sets[1] and len(sets[1]) > 1000
    assert not set(generate.ONSETS[False]) & set(generate.ONSETS[True])


def test_checkpoint_layout():
    path = os.path.join(MINI, "model.safetensors")
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    assert sum(os.path.getsize(os.path.join(MINI, n)) for n in os.listdir(MINI)) <= 12_000_000
    with open(os.path.join(MINI, "config.json"), encoding="utf-8") as f:
        c = json.load(f)["text_config"]
    h, e, i = c["hidden_size"], c["num_experts"], c["moe_intermediate_size"]
    p = "model.language_model."
    assert header[p + "embed_tokens.weight"]["shape"] == header["lm_head.weight"]["shape"] == [c["vocab_size"], h]
    for n, kind in enumerate(c["layer_types"]):
        assert kind == ("full_attention" if n % 4 == 3 else "linear_attention")
        assert header["%slayers.%d.mlp.experts.gate_up_proj" % (p, n)]["shape"] == [e, 2 * i, h]
        part = "self_attn.q_proj.weight" if n % 4 == 3 else "linear_attn.in_proj_qkv.weight"
        assert "%slayers.%d.%s" % (p, n, part) in header
    assert header["mtp.fc.weight"]["shape"] == [h, 2 * h] and "mtp.layers.0.mlp.gate.weight" in header


def test_tokenizer_has_the_familys_tokens():
    with open(os.path.join(MINI, "tokenizer.json"), encoding="utf-8") as f:
        t = json.load(f)
    added = {a["content"]: a for a in t["added_tokens"]}
    assert len(added) == 33 and min(a["id"] for a in added.values()) == len(t["model"]["vocab"])
    assert added["<|im_end|>"]["special"] and not added["<tool_call>"]["special"] and not added["<think>"]["special"]
    assert r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+" in json.dumps(t["pre_tokenizer"]).replace("\\\\", "\\")
