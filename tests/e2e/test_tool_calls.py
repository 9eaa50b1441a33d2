"""Tool calls do not depend on how they were made: for every draft depth, streamed or whole, over each of the three
dialects, models/mini gives the same calls with the same arguments, text and thinking, at temperature 0 and with a seed.

SPDX-License-Identifier: Apache-2.0
"""
import json

import pytest

from conftest import ROOT, Server

MINI = ROOT / "models" / "mini"
DEPTHS = ["off", "1", "2", "3", "4", "5", "6", "7", "8", "auto"]
DIALECTS = ["chat", "responses", "messages"]

TOOLS = [
    ("get_weather", "Get the weather of a city", {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer"}}, ["city"]),
    ("send_message", "Send a message to a person", {
        "to": {"type": "string"}, "text": {"type": "string"}, "urgent": {"type": "boolean"},
        "options": {"type": "object", "properties": {"retries": {"type": "integer"}, "via": {"enum": ["mail", "sms", None]}},
                    "required": ["retries", "via"], "additionalProperties": False}}, ["to", "text"]),
    ("add_rows", "Add rows to a table", {
        "table": {"type": "string", "maxLength": 12}, "rows": {"type": "array", "minItems": 2, "maxItems": 3, "items": {
            "type": "object", "properties": {"k": {"type": "string", "maxLength": 8}, "v": {"type": ["number", "null"]}},
            "required": ["k", "v"], "additionalProperties": False}}}, ["table", "rows"]),
]
# text, choice (None: auto), thinking, sampling
CASES = {
    "auto": ("What is the weather in Paris?", None, True, {"temperature": 0}),
    # with a call made, only another one may come until there are 100 tokens
    "several": ("What is the weather in Lima and in Cairo?", "required", False, {"temperature": 0, "min_tokens": 100}),
    "sampled": ("Please add some rows to the table mills", "add_rows", False, {"temperature": 1.5, "top_p": 1, "top_k": 0, "seed": 11}),
    "named": ("Send a message to Ada: the bread is ready", "send_message", True, {"temperature": 0.3, "top_k": 20, "seed": 5}),
}


def schema(tool):
    _, _, properties, required = tool
    return {"type": "object", "properties": properties, "required": required}


def body_of(dialect, case):
    text, choice, thinking, sampling = CASES[case]
    body = {"model": "m", "chat_template_kwargs": {"enable_thinking": thinking}, **sampling}
    if dialect == "chat":
        body |= {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}], "max_tokens": 300,
                 "tools": [{"type": "function", "function": {"name": t[0], "description": t[1], "parameters": schema(t)}} for t in TOOLS]}
        named = {"type": "function", "function": {"name": choice}}
    elif dialect == "responses":
        body |= {"instructions": "Be brief.", "input": text, "max_output_tokens": 300, "store": False,
                 "tools": [{"type": "function", "name": t[0], "description": t[1], "parameters": schema(t), "strict": False} for t in TOOLS]}
        named = {"type": "function", "name": choice}
    else:
        body |= {"system": "Be brief.", "messages": [{"role": "user", "content": text}], "max_tokens": 300,
                 "tools": [{"name": t[0], "description": t[1], "input_schema": schema(t)} for t in TOOLS]}
        named = {"type": "tool", "name": choice}
    if choice == "required":
        body["tool_choice"] = {"type": "any"} if dialect == "messages" else "required"
    elif choice:
        body["tool_choice"] = named
    return body


# Each reader gives (thinking, text, calls), calls being (name, arguments as text). Whole messages carry arguments as an
# object, whose numbers a parser here would change; so they are compared as parsed, and texts where both have texts.


def whole_chat(server, body):
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200, answer
    m = answer["choices"][0]["message"]
    return m.get("reasoning_content") or "", m["content"] or "", [(c["function"]["name"], c["function"]["arguments"]) for c in m.get("tool_calls", [])]


def stream_chat(server, body):
    thought, text, calls = "", "", []
    for _, data in server.events("/v1/chat/completions", {**body, "stream": True}):
        for choice in [] if data == "[DONE]" else data["choices"]:
            delta = choice["delta"]
            thought += delta.get("reasoning_content") or ""
            text += delta.get("content") or ""
            for part in delta.get("tool_calls", []):
                if part["index"] == len(calls):
                    calls.append((part["function"]["name"], ""))
                name, arguments = calls[part["index"]]
                calls[part["index"]] = name, arguments + part["function"].get("arguments", "")
    return thought, text, calls


def of_response(answer):
    thought, text, calls = "", "", []
    for item in answer["output"]:
        if item["type"] == "reasoning":
            thought += item["summary"][0]["text"]
        elif item["type"] == "message":
            text += item["content"][0]["text"]
        else:
            calls.append((item["name"], item["arguments"]))
    return thought, text, calls


def whole_responses(server, body):
    status, answer = server.post("/v1/responses", body)
    assert status == 200, answer
    return of_response(answer)


def stream_responses(server, body):
    events = [data for _, data in server.events("/v1/responses", {**body, "stream": True})]
    last = of_response(events[-1]["response"])
    parts, text, thought = {}, "", ""
    for data in events:
        if data["type"] == "response.function_call_arguments.delta":
            parts[data["output_index"]] = parts.get(data["output_index"], "") + data["delta"]
        elif data["type"] == "response.output_text.delta":
            text += data["delta"]
        elif data["type"] == "response.reasoning_summary_text.delta":
            thought += data["delta"]
    assert (thought, text, [parts[i] for i in sorted(parts)]) == (last[0], last[1], [a for _, a in last[2]])
    return last


def whole_messages(server, body):
    status, answer = server.post("/v1/messages", body)
    assert status == 200, answer
    return of_blocks(answer["content"])


def of_blocks(blocks):
    return ("".join(b["thinking"] for b in blocks if b["type"] == "thinking"), "".join(b["text"] for b in blocks if b["type"] == "text"),
            [(b["name"], b["input"] if isinstance(b["input"], str) else json.dumps(b["input"])) for b in blocks if b["type"] == "tool_use"])


def stream_messages(server, body):
    blocks = []
    for _, data in server.events("/v1/messages", {**body, "stream": True}):
        if data["type"] == "content_block_start":
            blocks.append(dict(data["content_block"]))
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = ""
        elif data["type"] == "content_block_delta":
            for key in ("text", "thinking", "partial_json"):
                if key in data["delta"]:
                    blocks[data["index"]]["input" if key == "partial_json" else key] += data["delta"][key]
    return of_blocks(blocks)


READERS = {("chat", False): whole_chat, ("chat", True): stream_chat, ("responses", False): whole_responses,
           ("responses", True): stream_responses, ("messages", False): whole_messages, ("messages", True): stream_messages}


def parsed(answer):
    thought, text, calls = answer
    return thought, text, [(name, json.loads(arguments)) for name, arguments in calls]


def finished(answer):
    """Without a call that the limit has cut: whole answers leave it out."""
    thought, text, calls = answer
    try:
        return parsed(answer) and answer
    except ValueError:
        return thought, text, calls[:-1]


SEEN = {}


@pytest.mark.parametrize("depth", DEPTHS)
def test_same_calls(depth):
    jsonschema = pytest.importorskip("jsonschema")
    server = Server("quern", MINI, "--mtp", depth, "--context", "2048", "--threads", "1", "--log-level", "warn")
    try:
        for case, (_, choice, thinking, _) in CASES.items():
            for dialect in DIALECTS:
                for stream in (False, True):
                    answer = finished(READERS[dialect, stream](server, body_of(dialect, case)))
                    first = SEEN.setdefault(case, answer)
                    assert parsed(answer) == parsed(first), (case, dialect, stream)
                    if (dialect, stream) != ("messages", False):
                        assert answer == first, (case, dialect, stream)
            thought, _, calls = SEEN[case]
            assert bool(thought) == thinking
            assert len(calls) >= {"several": 2}.get(case, 1), case
            for name, arguments in calls:
                tool = next(t for t in TOOLS if t[0] == name)
                assert choice in (None, "required", name)
                jsonschema.validate(json.loads(arguments), schema(tool))
    finally:
        assert server.stop() == 0
