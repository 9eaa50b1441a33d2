"""A constraint is never ignored: each spelling that clients send is honoured or refused by name.

The model has random weights, so nothing but a constraint makes it answer so. SPDX-License-Identifier: Apache-2.0
"""
import json
import re
import subprocess

import pytest

from conftest import BUILD, Server

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
OTHER = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"], "additionalProperties": False}
YES = "yes|no"
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    subprocess.run([BUILD / "quern", "synth", "tiny", str(path)], check=True, capture_output=True, timeout=60)
    s = Server("quern", path, "--mtp", "off", "--context", "2048", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


def ask(server, more, status=200):
    got, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "go"}], "temperature": 1, "seed": 1,
                                                       "max_tokens": 200, "enable_thinking": False, **more})
    assert got == status, (more, answer)
    return answer["choices"][0]["message"]["content"] if status == 200 else answer["error"]["message"]


def is_a(text):
    value = json.loads(text)
    return list(value) == ["a"] and isinstance(value["a"], int)


SCHEMAS = [
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json_object", "json_schema": SCHEMA}},
    {"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"response_format": {"type": "json_object", "value": SCHEMA}},
    {"response_format": {"type": "json", "value": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema_definition": SCHEMA}}},
    {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": json.dumps(SCHEMA)}}},
    {"json_schema": SCHEMA}, {"json_schema": json.dumps(SCHEMA)}, {"guided_json": SCHEMA}, {"guided_json": json.dumps(SCHEMA)},
    {"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json_schema": SCHEMA}}, {"format": SCHEMA},
    {"response_schema": SCHEMA}, {"extra_body": {"guided_json": SCHEMA}}, {"guided_decoding": {"json": SCHEMA}},
    # the same twice is one; a schema says more than "an object"
    {"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}},
    {"guided_json": json.dumps(SCHEMA), "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"response_format": {"type": "json_object"}, "guided_json": SCHEMA},
    {"response_format": {"type": "json_object"}, "json_schema": SCHEMA, "grammar": "", "regex": None},
    {"structured_outputs": {"json": SCHEMA, "json_object": True}},
]
TEXTS = [
    {"regex": YES}, {"ebnf": GBNF}, {"guided_regex": YES}, {"grammar": GBNF}, {"guided_grammar": GBNF}, {"guided_choice": ["yes", "no"]},
    {"structured_outputs": {"regex": YES}}, {"structured_outputs": {"grammar": GBNF}}, {"structured_outputs": {"choice": ["yes", "no"]}},
    {"structured_outputs": {"ebnf": GBNF}},
    {"response_format": {"type": "regex", "pattern": YES}}, {"response_format": {"type": "regex", "value": YES}},
    {"response_format": {"type": "grammar", "grammar": GBNF}}, {"response_format": {"type": "ebnf", "ebnf": GBNF}},
    {"response_format": {"type": "choice", "choices": ["yes", "no"]}}, {"extra_body": {"regex": YES}},
    {"regex": YES, "structured_outputs": {"regex": YES}},
    {"grammar": LARK}, {"guided_grammar": "%llguidance {}\n\n" + LARK}, {"structured_outputs": {"grammar": LARK}},
    {"response_format": {"type": "lark", "lark": LARK}},
    {"grammar": json.dumps({"grammars": [{"lark_grammar": LARK}]})},
]
REFUSED = [
    ({"regex": YES, "ebnf": GBNF}, ("regex", "ebnf")),
    ({"guided_json": SCHEMA, "structured_outputs": {"json": OTHER}}, ("structured_outputs", "guided_json")),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "regex": YES}, ("response_format", "regex")),
    ({"structured_outputs": {"json": SCHEMA, "regex": YES}}, ("structured_outputs",)),
    ({"structured_outputs": {"jsn": SCHEMA}}, ("structured_outputs", "jsn")),
    ({"response_format": {"type": "xml"}}, ("response_format", "type")),
    ({"response_format": {"type": "regex"}}, ("response_format", "regex")),
    ({"response_format": {"type": "json_schema"}}, ("json_schema needs a schema",)),
    ({"regex": "(?<=a)b"}, ("look-behind",)),
    ({"grammar": "start: /a/i \"b\"\nlazy[stop=\"x\"]: /a/"}, ("stop",)),
]


@pytest.mark.parametrize("at", range(len(SCHEMAS)))
def test_schemas(random_model, at):
    assert is_a(ask(random_model, SCHEMAS[at]))


@pytest.mark.parametrize("at", range(len(TEXTS)))
def test_texts(random_model, at):
    assert ask(random_model, TEXTS[at]) in ("yes", "no")


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_refused_by_name(random_model, at):
    more, words = REFUSED[at]
    message = ask(random_model, more, 400)
    for word in words:
        assert word in message, message


def test_an_object(random_model):
    for more in ({"response_format": {"type": "json_object"}}, {"format": "json"}, {"structured_outputs": {"json_object": True}},
                 {"guided_json_object": True}):
        text = ask(random_model, {**more, "max_tokens": 12})
        assert text.startswith("{"), text


def test_other_dialects(random_model):
    status, answer = random_model.post("/v1/responses", {"input": "go", "temperature": 1, "max_output_tokens": 200, "enable_thinking": False,
                                                         "text": {"format": {"type": "json_object", "schema": SCHEMA}}})
    assert status == 200 and is_a(answer["output"][-1]["content"][0]["text"])
    status, answer = random_model.post("/v1/responses", {"input": "go", "temperature": 1, "max_output_tokens": 200, "enable_thinking": False,
                                                         "regex": YES})
    assert status == 200 and answer["output"][-1]["content"][0]["text"] in ("yes", "no")
    for more in ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, {"output_format": {"type": "json_schema", "schema": SCHEMA}},
                 {"guided_json": SCHEMA}):
        status, answer = random_model.post("/v1/messages", {"messages": [{"role": "user", "content": "go"}], "max_tokens": 200, "temperature": 1,
                                                            "thinking": {"type": "disabled"}, **more})
        assert status == 200 and is_a(answer["content"][-1]["text"]), answer
    status, answer = random_model.post("/v1/completions", {"prompt": "go", "max_tokens": 50, "temperature": 1, "regex": YES})
    assert status == 200 and re.fullmatch(YES, answer["choices"][0]["text"])


def test_a_keyword_that_is_not_supported_is_not_tried_again(random_model):
    """A 501 would be: SDKs try each 5xx again, two or three times."""
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=random_model.url + "/v1", api_key="x", max_retries=2)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "go"}], response_format={
            "type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"not": {"type": "null"}}}})
    assert "'not'" in str(caught.value)
