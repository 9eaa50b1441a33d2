#!/usr/bin/env python3
"""Makes tests/golden/templates/*.jsonl: what the reference implementation of Jinja renders.

Usage: make_template_golden.py [--family FILE]   (needs jinja2)

FILE is the published template, by default ../shared/data/templates/qwen3.5.jinja (or under $QUERN_SHARED); without it the
hashes of that template are taken over from the file there is: the conversations are the same for a given seed.

The environment is the one that chat templates are written for: sandboxed, trim_blocks, lstrip_blocks, loop
controls, tojson without HTML escaping, raise_exception, strftime_now (here at a fixed time, in UTC).

features.jsonl       {"t": template, "o": text} | {"t", "x": 1}: refused | {"t", "r": message}: raised; the
                     variables are those of data.json
ours.jsonl           {"t", "o"}: where ours is meant to differ from the reference
conversations.jsonl  {"v": variables, "h": {template: hash}, "o": {template: text}}; a hash is qn_hash_bytes of the
                     text in hexadecimal, "raise" when the template raises, "fail" when it fails. The template
                     "qwen3.5" is a published one that is tested only where it is present.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

import template_cases

os.environ["TZ"] = "UTC"
time.tzset()
NOW = 1735732800
ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/templates"
N_CONVERSATION = 320
N_FULL = 12  # conversations whose texts are stored as well
SEED = 20250101
MASK = (1 << 64) - 1


class Generation(jinja2.ext.Extension):
    """The training-time tag: here its body is simply printed."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    pass


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: datetime.datetime.fromtimestamp(NOW).strftime(fmt)
    return env


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hash_bytes(data):
    """qn_hash_bytes(0, data) of src/base/hash.h"""
    h = mix64(len(data))
    while len(data) >= 8:
        h = mix64(h ^ int.from_bytes(data[:8], "little"))
        data = data[8:]
    return mix64(h ^ int.from_bytes(data, "little"))


# --- generated conversations ---

WORDS = ["the", "file", "main.c", "Überprüfung", "naïve", "日本語", "测试", "مرحبا", "ไทย", "😀", "👩‍👩‍👧", "e\u0301", "<b>", "&amp;", "\"quoted\"",
         "it's", "a\\b", "{}", "{{ x }}", "{% if %}", "<|im_end|>", "<|im_start|>user", "<think>", "</think>", "<tool_call>", "</tool_call>",
         "</parameter>", "null", "None", "1.0", "\u200b", "\u00a0", "`code`", "```", "$x", "tab\there"]
NAMES = ["get_weather", "read_file", "mcp__fs__list", "run", "Bash"]


def text(rng, lo=0, hi=12):
    out = ""
    for _ in range(rng.randint(lo, hi)):
        out += rng.choice(WORDS) + rng.choice([" ", " ", " ", "\n", "\n\n", "  ", ", "])
    if rng.random() < 0.2:
        out = rng.choice(["\n", "  ", "\t", "\u3000", "\r\n"]) + out
    if rng.random() < 0.3:
        out = out.rstrip()
    return out


def value(rng, depth=0):
    kind = rng.randrange(12 if depth < 3 else 8)
    if kind == 0:
        return rng.choice([0, 1, -7, 42, 2 ** 31, 2 ** 63, -2 ** 63, 123456789012345678901234567890])
    if kind == 1:
        return rng.choice([1.0, 0.1, -2.5, 1e-7, 1e22, 3.141592653589793, 1e16, 100.0])
    if kind == 2:
        return rng.choice([True, False, None])
    if kind < 8:
        return text(rng, 0, 4)
    if kind < 10:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(["a", "b", "key", "é", "x y"]) + str(i): value(rng, depth + 1) for i in range(rng.randint(0, 3))}


def schema(rng, depth=0):
    kind = rng.choice(["string", "integer", "number", "boolean", "array", "object", "enum", "union", "nothing"])
    if kind == "array" and depth < 2:
        return {"type": "array", "items": schema(rng, depth + 1)}
    if kind == "object" and depth < 2:
        names = rng.sample(["path", "text", "limit", "größe", "tags"], rng.randint(0, 3))
        return {"type": "object", "properties": {n: schema(rng, depth + 1) for n in names}, "required": names[:1]}
    if kind == "enum":
        return {"type": "string", "enum": rng.sample(["celsius", "kelvin", "low", "high"], 2), "description": text(rng, 1, 4)}
    if kind == "union":
        return {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    if kind == "nothing":
        return {}
    return {"type": kind if kind not in ("array", "object") else "string", "description": text(rng, 0, 3)}


def tool(rng, name):
    fn = {"name": name, "description": text(rng, 1, 8)}
    if rng.random() < 0.9:
        names = rng.sample(["path", "text", "limit", "unit", "flag"], rng.randint(0, 4))
        fn["parameters"] = {"type": "object", "properties": {n: schema(rng) for n in names}, "required": names[:2]}
    return {"type": "function", "function": fn}


def content(rng):
    if rng.random() < 0.15:
        return [{"type": "text", "text": text(rng, 0, 5)} for _ in range(rng.randint(0, 3))]
    return text(rng)


def conversation(rng):
    messages = []
    if rng.random() < 0.6:
        messages.append({"role": "system", "content": rng.choice(["", "  ", text(rng, 1, 10), text(rng, 1, 4)])})
    for _ in range(rng.choice([1, 1, 2, 3])):
        messages.append({"role": "user", "content": content(rng)})
        for _ in range(rng.choice([0, 1, 1, 2])):
            answer = {"role": "assistant", "content": rng.choice([None, "", text(rng), content(rng)])}
            if rng.random() < 0.4:
                answer["reasoning_content"] = text(rng, 0, 8)
            elif rng.random() < 0.3:
                answer["content"] = rng.choice(["<think>", "<think>\n", ""]) + text(rng, 1, 3) + "\n</think>\n\n" + text(rng, 0, 3)
            if rng.random() < 0.5:
                calls = []
                for k in range(rng.choice([1, 1, 2, 3])):
                    args = {rng.choice(["path", "text", "n", "größe", "a.b"]) + str(i): value(rng) for i in range(rng.randint(0, 3))}
                    call = {"name": rng.choice(NAMES), "arguments": args}
                    calls.append({"id": f"call_{k:05d}", "type": "function", "function": call} if rng.random() < 0.9 else call)
                answer["tool_calls"] = calls
                messages.append(answer)
                for call in calls:
                    messages.append({"role": "tool", "tool_call_id": call.get("id", ""), "content": content(rng)})
            else:
                messages.append(answer)
    if rng.random() < 0.5:
        messages.append({"role": "user", "content": content(rng)})
    if rng.random() < 0.06:
        messages.insert(rng.randint(1, len(messages)), {"role": "system", "content": "late"})
    if rng.random() < 0.04:
        messages = [m for m in messages if m["role"] != "user"]
    if rng.random() < 0.05:
        messages.append({"role": "user", "content": "<tool_response>\nfaked\n</tool_response>"})
    v = {"messages": messages, "add_generation_prompt": rng.random() < 0.8, "tools": None, "documents": None,
         "bos_token": "<s>", "eos_token": "</s>"}
    if rng.random() < 0.5:
        v["tools"] = [tool(rng, n) for n in rng.sample(NAMES, rng.randint(0, 3))]
    if rng.random() < 0.5:
        v["enable_thinking"] = rng.choice([True, False, None, "false", 0])
    if rng.random() < 0.2:
        v["preserve_thinking"] = rng.choice([True, False])
    if rng.random() < 0.1:
        v["date_string"] = "26 Jul 2024"
    if rng.random() < 0.15:
        v["documents"] = [{"title": text(rng, 0, 2), "text": text(rng, 1, 5)} for _ in range(2)]
    return v


def render(template, variables):
    try:
        return template.render(**variables), None
    except Raised as e:
        return None, str(e)
    except Exception:  # whatever Python makes of it
        return None, False


def write(name, rows):
    path = OUT / name
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    print(f"{path.relative_to(ROOT)}: {len(rows)} cases, {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser()
    shared = pathlib.Path(os.environ.get("QUERN_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--family", default=str(shared / "data/templates/qwen3.5.jinja"),
                        help="the published template (chat_template.jinja of a Qwen3.5 checkpoint)")
    args = parser.parse_args()
    env = environment()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "data.json").write_text(json.dumps(template_cases.DATA, ensure_ascii=False) + "\n", encoding="utf-8")

    rows = []
    for source in template_cases.FEATURES:
        try:
            got, why = render(env.from_string(source), template_cases.DATA)
        except Exception:  # "break" outside of a loop is a SyntaxError of Python
            got, why = None, False
        rows.append({"t": source, "o": got} if got is not None else {"t": source, "r": why} if why else {"t": source, "x": 1})
    write("features.jsonl", rows)
    write("ours.jsonl", [{"t": t, "o": o} for t, o in template_cases.OURS])

    templates = {"family": env.from_string((OUT / "family.jinja").read_text())}
    for path in sorted((OUT / "styles").glob("*.jinja")):
        templates["styles/" + path.stem] = env.from_string(path.read_text())
    old = []
    if pathlib.Path(args.family).exists():
        templates["qwen3.5"] = env.from_string(pathlib.Path(args.family).read_text())
    elif (OUT / "conversations.jsonl").exists():
        old = [json.loads(line) for line in (OUT / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    rng = random.Random(SEED)
    rows, tally = [], {}
    for i in range(N_CONVERSATION):
        v = conversation(rng)
        row = {"v": v, "h": {}}
        full = {}
        for name, template in templates.items():
            got, why = render(template, v)
            row["h"][name] = "raise" if why else "fail" if got is None else f"{hash_bytes(got.encode()):016x}"
            kind = row["h"][name] if got is None else "text"
            tally[name, kind] = tally.get((name, kind), 0) + 1
            if i < N_FULL and got is not None and name == "family":
                full[name] = got
        if i < len(old) and old[i]["v"] == v and "qwen3.5" in old[i]["h"]:
            row["h"]["qwen3.5"] = old[i]["h"]["qwen3.5"]
        if full:
            row["o"] = full
        rows.append(row)
    write("conversations.jsonl", rows)
    for key in sorted(tally):
        print("  %s %s: %d" % (*key, tally[key]))


if __name__ == "__main__":
    main()
