"""Random schemas, random tokens: what the masks let through validates, by an independent validator.

build/tests/prop_grammar --walk takes random allowed tokens until the grammar ends; here the schemas are made and the
results checked. Calls go through the output parser, and their arguments are checked. Then the same over HTTP: a model with
random weights at temperature 1, several requests at a time, at every draft depth.

QUERN_SCHEMAS=500 tries that many schemas instead of 100; QUERN_SEED=2 tries others.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import json
import os
import random
import subprocess

import pytest

from conftest import BUILD, Server

jsonschema = pytest.importorskip("jsonschema")

N_SCHEMA = int(os.environ.get("QUERN_SCHEMAS", "100"))
KEYS = ["s", "n", "e", "o", "l", "p", "d", "u", "v"]
SEED = int(os.environ.get("QUERN_SEED", "1"))


def scalar(r):
    kind = r.randrange(11)
    if kind == 0:
        return {"type": "string"}
    if kind == 1:
        low = r.randint(0, 4)
        return {"type": "string", "minLength": low, "maxLength": low + r.randint(0, 12)}
    if kind == 2:
        return {"type": "string", "pattern": r.choice([
            "^[a-z]{2,4}$", "^(ab|cd)+[0-9]?$", "^\\d{3}-\\d{4}$", "x", "^[^\"\\\\a-f]{1,3}$", "a|b$", "^é+$", "^\\w+\\s\\w+$"])}
    if kind == 3:
        return {"type": "string", "format": r.choice(["date", "time", "date-time", "uuid", "email", "ipv4", "hostname", "duration"])}
    if kind == 4:
        low = r.randint(-300, 300)
        return {"type": "integer", "minimum": low, "maximum": low + r.randint(0, 400)}
    if kind == 5:
        return {"type": "integer", r.choice(["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"]): r.randint(-50, 50)}
    if kind == 6:
        low = r.randint(-500, 500) / r.choice([1, 10, 100])
        return {"type": "number", r.choice(["minimum", "exclusiveMinimum"]): low,
                r.choice(["maximum", "exclusiveMaximum"]): low + r.choice([0.25, 1, 7.5, 100])}
    if kind == 7:
        return {"type": r.choice(["boolean", "null", "number", "integer"])}
    if kind == 8:
        return {"enum": r.sample(["a", "b c", "é\n", 1, 2.5, None, True, {"k": [1]}, "</parameter>"], r.randint(1, 4))}
    if kind == 9:
        return {"const": r.choice(["x", 7, None, [1, "y"]])}
    return {"type": r.sample(["string", "null", "integer", "boolean"], 2)}


def schema(r, depth, defs):
    kind = r.randrange(10) if depth > 0 else 0
    if kind <= 3:
        return scalar(r)
    if kind <= 6:
        keys = r.sample(KEYS, r.randint(1, 4))
        out = {"type": "object", "properties": {k: schema(r, depth - 1, defs) for k in keys},
               "required": r.sample(keys, r.randint(0, len(keys)))}
        more = r.randrange(4)
        if more < 2:
            out["additionalProperties"] = False
        elif more == 2:
            out["additionalProperties"] = scalar(r)
        return out
    if kind == 7:
        low = r.randint(0, 2)
        out = {"type": "array", "items": schema(r, depth - 1, defs), "minItems": low, "maxItems": low + r.randint(0, 3)}
        if r.random() < 0.3:
            out["prefixItems"] = [scalar(r) for _ in range(r.randint(1, 2))]
        return out
    if kind == 8:
        choice = r.randrange(3)
        if choice == 0:
            return {"anyOf": [schema(r, depth - 1, defs) for _ in range(r.randint(1, 3))]}
        if choice == 1:
            return {"oneOf": [{"type": "string", "maxLength": 4}, {"type": "integer"}, {"type": "null"}]}
        return {"allOf": [{"type": "object", "properties": {"n": {"type": "integer", "minimum": 2}}, "required": ["n"]},
                          {"properties": {"n": {"maximum": 9}, "s": {"type": "string"}}}]}
    return {"$ref": "#/$defs/" + r.choice(defs)}


def make(seed, nesting=3):
    r = random.Random(seed)
    out = schema(r, nesting, ["leaf", "tree"])
    if "$ref" in out or out.get("type") != "object":
        out = {"type": "object", "properties": {"s": out, "n": schema(r, max(nesting - 1, 0), ["leaf", "tree"])}, "required": ["s"],
               "additionalProperties": False}
    out["$defs"] = {
        "leaf": scalar(r),
        "tree": {"type": "object", "properties": {"v": {"type": "integer"}, "l": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                 "required": ["v"], "additionalProperties": False}}
    return out


def walk(requests):
    text = "".join(json.dumps(q) + "\n" for q in requests)
    out = subprocess.run([BUILD / "tests/prop_grammar", "--walk"], input=text.encode(), capture_output=True, timeout=300)
    assert out.returncode == 0, out.stderr.decode()
    return [json.loads(line) for line in out.stdout.decode().split("\n") if line]


@pytest.mark.parametrize("tool", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_walks_validate(tool, strict):
    requests = [{"schema": make(SEED * 1000 + i), "tool": tool, "strict": strict, "seed": i + 1, "walks": 3} for i in range(N_SCHEMA)]
    answers = walk(requests)
    assert len(answers) == 3 * len(requests), "a schema was refused"
    # the walk is steered to its end by simple preferences; it may fail to find one, but rarely
    lost = [a for a in answers if a.get("error") == "no end in sight"]
    assert len(lost) <= len(answers) // 50, lost[0]
    for i, answer in enumerate(answers):
        request = requests[i // 3]
        if answer in lost:
            continue
        assert "error" not in answer, (answer, request)
        if tool:
            assert answer["n_call"] == 1 and answer["name"] == "f" and answer["content"] == "", (answer, request)
            value = answer["arguments"]
        else:
            value = json.loads(answer["text"])
        try:
            jsonschema.Draft202012Validator(request["schema"]).validate(value)
        except jsonschema.ValidationError as e:
            raise AssertionError(f"{e.message}\n{json.dumps(request)}\n{json.dumps(answer)}") from None


N = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
M = {"type": "object", "properties": {"m": {"type": "boolean"}, "t": {"type": "string"}}, "required": ["m"], "additionalProperties": False}
TOPS = [
    {"anyOf": [N, M]},
    {"oneOf": [N, {"$ref": "#/$defs/m"}], "$defs": {"m": M}},
    {"allOf": [{"properties": N["properties"], "required": ["n"]}, {"properties": M["properties"], "required": ["m"]}]},
    {"$ref": "#/definitions/top", "definitions": {"top": {"anyOf": [N, M]}}},
    {"allOf": [{"$ref": "#/$defs/base"}, {"type": "object", "properties": {"m": {"type": "boolean"}}, "required": ["m"]}],
     "$defs": {"base": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"type": "object", "properties": {"op": {"const": "add"}, "n": {"type": "integer"}}, "required": ["op", "n"], "additionalProperties": False},
               {"type": "object", "properties": {"op": {"const": "say"}, "t": {"type": "string", "maxLength": 9}}, "required": ["op", "t"], "additionalProperties": False}]},
    {"anyOf": [{"type": "null"}, {"allOf": [{"anyOf": [N, M]}]}]},
]


@pytest.mark.parametrize("strict", [False, True])
def test_parameters_combined_at_the_top(strict):
    lost = 0
    for top in TOPS:
        for answer in walk([{"schema": top, "tool": True, "strict": strict, "seed": s, "walks": 4} for s in range(6)]):
            if answer.get("error") == "no end in sight":
                lost += 1
                continue
            assert "error" not in answer, (top, answer)
            jsonschema.Draft202012Validator(top).validate(answer["arguments"])
    assert lost <= 24 * len(TOPS) // 20


# ---------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    subprocess.run([BUILD / "quern", "synth", "tiny", str(path)], check=True, capture_output=True, timeout=60)
    return path


def ask(server, i):
    """The schema of an answer, of an answer behind a thought, or of the arguments of a call, in turn."""
    wanted, kind = make(SEED * 1000 + i, nesting=i % 6), i % 3
    body = {"messages": [{"role": "user", "content": "go"}], "seed": i, "temperature": 1.0, "max_tokens": 600,
            "chat_template_kwargs": {"enable_thinking": kind == 1}, "thinking_token_budget": 7}
    if kind == 2:
        body |= {"tools": [{"type": "function", "function": {"name": "f", "parameters": wanted, "strict": True}}],
                 "tool_choice": {"type": "function", "function": {"name": "f"}}}
    else:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": wanted, "strict": True}}
    status, _, answer = server.request("POST", "/v1/chat/completions", body, timeout=120)
    assert status == 200, (answer, wanted)
    choice = answer["choices"][0]
    message = choice["message"]
    for call in message.get("tool_calls", []):
        call.pop("id")
    if choice["finish_reason"] == "length":
        return "length", message
    assert choice["finish_reason"] == "stop"
    value = json.loads(message["tool_calls"][0]["function"]["arguments"] if kind == 2 else message["content"])
    try:
        jsonschema.Draft202012Validator(wanted).validate(value)
    except jsonschema.ValidationError as e:
        raise AssertionError(f"{e.message}\n{json.dumps(body)}\n{json.dumps(message)}") from None
    return "stop", message


SEEN = {}


@pytest.mark.parametrize("depth", ["off", "1", "2", "3", "4", "5"])
def test_answers_of_a_model_validate(tiny, depth):
    server = Server("quern", tiny, "--mtp", depth, "--context", "16384", "--memory", "512M", "--threads", "1", "--log-level", "warn")
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: ask(server, i), range(N_SCHEMA)))
        n_long = sum(kind == "length" for kind, _ in answers)
        print(f"depth {depth}: {len(answers) - n_long} valid, {n_long} without an end in 600 tokens")
        assert n_long <= len(answers) // 5 # free text of random weights
        for i, answer in enumerate(answers):
            assert SEEN.setdefault(i, answer) == answer, f"schema {i} has another answer at depth {depth}"
    finally:
        assert server.stop() == 0
