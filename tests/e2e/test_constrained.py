"""Constrained output from a model with random weights, which wants garbage. SPDX-License-Identifier: Apache-2.0"""
import json
import re
import subprocess

import pytest

from conftest import BUILD, Server

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 2, "maxItems": 4},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, 2]}}]},
    {"type": "object", "properties": {"p": {"$ref": "#/$defs/point"}, "q": {"$ref": "#/$defs/point"}}, "required": ["p"],
     "additionalProperties": False, "$defs": {"point": {"type": "object", "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
                                                        "required": ["x", "y"], "additionalProperties": False}}},
    {"type": "string", "pattern": "^[a-f]{2}-[0-9]{3}$"},
]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMAS[i]}} for name, i in (("person", 0), ("shape", 3))]


@pytest.fixture(scope="module", params=["off", "3"])
def random_model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    subprocess.run([BUILD / "quern", "synth", "tiny", str(path)], check=True, capture_output=True, timeout=60)
    s = Server("quern", path, "--mtp", request.param, "--context", "2048", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


def ask(server, seed, thinking=False, **more):
    status, answer = server.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "go"}], "seed": seed, "temperature": 1, "max_tokens": 400,
        "chat_template_kwargs": {"enable_thinking": thinking}, "thinking_token_budget": 10 if thinking else None, **more})
    assert status == 200, answer
    return answer["choices"][0]


SEEN = {}


@pytest.mark.parametrize("at", range(len(SCHEMAS)))
def test_schema(random_model, at):
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMAS[at], "strict": True}}
    texts = []
    for seed in range(4):
        choice = ask(random_model, seed, thinking=seed % 2 == 1, response_format=form)
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[at])
        texts.append(choice["message"]["content"])
    # the same at every depth
    assert SEEN.setdefault(at, texts) == texts


def test_other_forms(random_model):
    assert re.fullmatch("[ab]{3}x?", ask(random_model, 1, guided_regex="[ab]{3}x?")["message"]["content"])
    assert ask(random_model, 2, structured_outputs={"choice": ["yes", "no"]})["message"]["content"] in ("yes", "no")
    assert ask(random_model, 3, grammar='root ::= "a" ("b" | "c") "d"')["message"]["content"] in ("abd", "acd")


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "shape"}},
                                    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
                                        {"type": "function", "function": {"name": "person"}}]}}])
def test_forced_calls(random_model, choice, thinking):
    for seed in range(2):
        answer = ask(random_model, seed, thinking=thinking, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
        if answer["finish_reason"] == "length":  # garbage may fill a free string to the limit
            continue
        call, = answer["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if isinstance(choice, dict):
            assert call["function"]["name"] == ("shape" if choice["type"] == "function" else "person")
            assert answer["finish_reason"] == ("stop" if choice["type"] == "function" else "tool_calls")
        if call["function"]["name"] == "shape":
            jsonschema.validate(arguments, SCHEMAS[3])
        else:
            assert isinstance(arguments["age"], int) and isinstance(arguments["name"], str)


@pytest.mark.parametrize("thinking", [False, True])
def test_markers_are_tokens(random_model, thinking):
    """Where only the marker of a call may come, its token does, not its characters: the next turn renders that token."""
    ids = {}
    for name in "<tool_call>", "</tool_call>", "</think>":
        status, answer = random_model.post("/tokenize", {"prompt": name})
        assert status == 200 and len(answer["tokens"]) == 1
        ids[name], = answer["tokens"]
    tag = {"type": "structural_tag", "format": {"type": "tag", "begin": "<tool_call>", "content": {
        "type": "regex", "pattern": "[0-9]{2}"}, "end": "</tool_call>"}}
    whole = 0
    for seed in range(6):
        forced = {"tools": TOOLS[1:], "tool_choice": "required"} if seed < 4 else {"response_format": tag}
        answer = ask(random_model, seed, thinking=thinking, return_token_ids=True, **forced)
        tokens = answer["token_ids"]
        if thinking:
            tokens = tokens[tokens.index(ids["</think>"]) + 1:]
        _, text = random_model.post("/detokenize", {"tokens": tokens})
        begin = tokens.index(ids["<tool_call>"])
        assert not random_model.post("/detokenize", {"tokens": tokens[:begin]})[1]["prompt"].strip("\n")
        assert tokens.count(ids["<tool_call>"]) == text["prompt"].count("<tool_call>")
        if answer["finish_reason"] != "length":
            assert tokens.count(ids["</tool_call>"]) == tokens.count(ids["<tool_call>"]) == text["prompt"].count("</tool_call>")
            whole += 1
    assert whole


def test_none_makes_no_call(random_model):
    for seed in range(3):
        assert not ask(random_model, seed, tools=TOOLS, tool_choice="none")["message"].get("tool_calls")


def test_parse_helpers_of_the_openai_package(random_model):
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")
    from typing import Literal

    class Light(pydantic.BaseModel):
        colour: Literal["red", "amber", "green"]
        is_on: bool

    client = openai.OpenAI(base_url=random_model.url + "/v1", api_key="k", max_retries=0, timeout=30)
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    answer = client.chat.completions.parse(model="m", messages=[{"role": "user", "content": "go"}], response_format=Light, seed=1,
                                           max_tokens=200, extra_body=off)
    assert isinstance(answer.choices[0].message.parsed, Light)
    response = client.responses.parse(model="m", input="go", text_format=Light, max_output_tokens=200, extra_body={**off, "seed": 2})
    assert isinstance(response.output_parsed, Light)
    tool = openai.pydantic_function_tool(Light)
    answer = client.chat.completions.parse(model="m", messages=[{"role": "user", "content": "go"}], tools=[tool], tool_choice="required",
                                           parallel_tool_calls=False, seed=3, max_tokens=200, extra_body=off)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Light)
