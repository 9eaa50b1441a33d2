"""Rules a request brings: words and tokens it forbids, prompts it cuts, structural tags, thinking that must come to an end.

On models/mini (it writes text) and on a tiny model with random weights (it wants garbage), with and without speculation.
SPDX-License-Identifier: Apache-2.0
"""
import json
import re
import subprocess

import pytest

import folder
from conftest import BUILD, ROOT, Server, say, user

MINI = ROOT / "models" / "mini"
WEATHER = [{"type": "function", "function": {"name": "get_weather", "description": "Get the weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}, "days": {"type": "integer"},
                                     "note": {"type": "string"}, "options": {"type": "object"}},
    "required": ["city", "unit", "note", "options"]}}}]


@pytest.fixture(scope="module", params=["off", "4"])
def mini(request):
    s = Server("quern", MINI, "--mtp", request.param, "--context", "2048", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="module", params=["off", "4"])
def noise(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    subprocess.run([BUILD / "quern", "synth", "tiny", str(path)], check=True, capture_output=True, timeout=60)
    s = Server("quern", path, "--mtp", request.param, "--context", "2048", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


SEEN = {}


def same_at_every_depth(key, value):
    assert SEEN.setdefault(key, value) == value


def complete(server, **more):
    status, answer = server.post("/v1/completions", {"prompt": "The quick brown", "max_tokens": 60, "temperature": 0, "return_token_ids": True, **more})
    assert status == 200, answer
    return answer["choices"][0]


def test_bad_words(mini):
    free = complete(mini)
    words = [w for w in re.findall(r"[A-Za-z]{3,}", free["text"])][:3]
    assert words
    kept = complete(mini, bad_words=words)
    for word in words:
        assert f" {word} " not in " " + kept["text"] + " "
    pair = free["token_ids"][2:4]
    text = mini.post("/detokenize", {"tokens": pair})[1]["prompt"].lstrip(" ")
    assert text not in complete(mini, bad_words=[text])["text"][:len(free["text"]) // 2] or text == ""
    same_at_every_depth("bad", kept["token_ids"])
    for bad in ([""], ["  "], "x", [1]):
        assert mini.post("/v1/completions", {"prompt": "x", "bad_words": bad})[0] == 400


def test_allowed_token_ids(mini):
    ids = mini.post("/tokenize", {"prompt": "a b c the of"})[1]["tokens"]
    choice = complete(mini, allowed_token_ids=ids, temperature=1, seed=3)
    assert set(choice["token_ids"]) <= set(ids) and choice["finish_reason"] == "length"
    same_at_every_depth("allowed", choice["token_ids"])
    status, answer = mini.post("/v1/completions", {"prompt": "x", "allowed_token_ids": ids, "guided_regex": "[0-9]{3}"})
    assert status >= 400 and "allowed_token_ids" in answer["error"]["message"]
    for bad in ([], [-1], [10 ** 9], ["a"], 3):
        assert mini.post("/v1/completions", {"prompt": "x", "allowed_token_ids": bad})[0] == 400, bad


def test_truncated_prompts(mini):
    ids = list(range(100, 160))
    status, answer = mini.post("/v1/completions", {"prompt": ids, "truncate_prompt_tokens": 7, "max_tokens": 8, "temperature": 0})
    assert status == 200 and answer["usage"]["prompt_tokens"] == 7
    assert answer["choices"][0]["text"] == mini.post("/v1/completions", {"prompt": ids[-7:], "max_tokens": 8, "temperature": 0})[1]["choices"][0]["text"]
    long = [100] * 5000
    assert mini.post("/v1/completions", {"prompt": long})[0] == 400
    status, answer = mini.post("/v1/completions", {"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 8})
    assert status == 200 and answer["usage"]["prompt_tokens"] == 2040
    status, answer = mini.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello " * 300}], "truncate_prompt_tokens": 50,
                                                        "max_tokens": 4})
    assert status == 200 and answer["usage"]["prompt_tokens"] == 50


@pytest.mark.parametrize("question", ["What is the weather in Paris?", "Weather in Oslo tomorrow please", "Tell me the weather in Rome"])
def test_calls_end_although_the_model_leaves_out_what_is_required(mini, question):
    status, answer = mini.post("/v1/chat/completions", {"messages": [{"role": "user", "content": question}], "tools": WEATHER, "max_tokens": 1200,
                                                        "temperature": 0, "tool_choice": "required"})
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls", choice
    for call in choice["message"]["tool_calls"]:
        arguments = json.loads(call["function"]["arguments"])
        assert {"city", "unit", "note", "options"} <= set(arguments) <= {"city", "unit", "days", "note", "options"}
        assert len(arguments["city"]) < 200
    same_at_every_depth(question, [c["function"] for c in choice["message"]["tool_calls"]])


TAG = {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<v"], "at_least_one": True, "stop_after_first": True, "tags": [
    {"begin": "<v>", "content": {"type": "json_schema", "json_schema": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}, "end": "</v>"}]}}


@pytest.mark.parametrize("thinking", [False, True])
def test_structural_tags(noise, thinking):
    body = {"messages": [{"role": "user", "content": "go"}], "seed": 5, "temperature": 1, "max_tokens": 120,
            "chat_template_kwargs": {"enable_thinking": thinking}, "thinking_token_budget": 10 if thinking else None}
    texts = []
    for more in ({"response_format": TAG}, {"structured_outputs": {"structural_tag": json.dumps(TAG)}}):
        status, answer = noise.post("/v1/chat/completions", {**body, **more})
        assert status == 200, answer
        text = answer["choices"][0]["message"]["content"]
        match = re.fullmatch(r"<v>(.*)</v>", text, re.S)
        assert match and all(type(v) is bool for v in json.loads(match[1])), text
        texts.append(text)
    assert texts[0] == texts[1]
    same_at_every_depth(("tags", thinking), texts)
    # the older shape: free text with triggers
    status, answer = noise.post("/v1/chat/completions", {**body, "max_tokens": 30, "response_format": {
        "type": "structural_tag", "triggers": ["<v>"], "structures": [{"begin": "<v>", "schema": {"type": "integer"}, "end": "</v>"}]}})
    assert status == 200
    for bad in ({}, {"format": {"type": "nothing"}}, {"format": {"type": "token", "token": 3}}, {"structures": [], "triggers": []}):
        status, answer = noise.post("/v1/chat/completions", {**body, "response_format": {"type": "structural_tag", **bad}})
        assert status == 400 and "structural tag" in answer["error"]["message"], answer


def test_thinking_leaves_room_for_an_answer(noise):
    # a model that never closes its thought; the room of the answer is a quarter
    (closer,) = noise.post("/tokenize", {"prompt": "</think>"})[1]["tokens"]
    body = {"messages": [{"role": "user", "content": "go"}], "seed": 9, "temperature": 1, "max_tokens": 400,
            "chat_template_kwargs": {"enable_thinking": True}, "logit_bias": {str(closer): -100}}
    status, answer = noise.post("/v1/chat/completions", body)
    message = answer["choices"][0]["message"]
    assert message["content"] and message["reasoning_content"].endswith("based on the thinking directly now.")
    reasoning = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 295 <= reasoning <= 301
    same_at_every_depth("room", message)
    # no stop token ends a thought: the model cannot fall silent there
    assert answer["usage"]["completion_tokens"] > reasoning
    # with little room the limit is the limit
    answer = noise.post("/v1/chat/completions", {**body, "max_tokens": 40})[1]
    assert answer["choices"][0]["finish_reason"] == "length" and answer["choices"][0]["message"]["content"] is None


def test_loops_end(noise):
    # one token pushed up says itself for ever: a thought is closed, constrained output ends
    status, answer = noise.post("/tokenize", {"prompt": "a"})
    token = answer["tokens"][0]
    body = {"messages": [{"role": "user", "content": "go"}], "temperature": 0, "max_tokens": 1800, "logit_bias": {str(token): 100},
            "return_token_ids": True}
    status, answer = noise.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 1000})
    ids = answer["choices"][0]["token_ids"]
    assert ids[:208] == [token] * 208 and ids[208] != token
    assert answer["choices"][0]["message"]["reasoning_content"].startswith("aaaa")
    status, answer = noise.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"enable_thinking": False},
                                                         "guided_regex": "a+b"})
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "length" and choice["stop_reason"] == "repetition"
    assert answer["usage"]["completion_tokens"] < 1200
    same_at_every_depth("loop", choice["token_ids"])
    # free content may repeat itself
    status, answer = noise.post("/v1/chat/completions", {**body, "chat_template_kwargs": {"enable_thinking": False}})
    assert answer["usage"]["completion_tokens"] == 1800


def test_every_spelling_of_thinking(server):
    def opens(path="/v1/chat/completions", **more):
        body = {"messages": user("x"), "max_tokens": 400, **more}
        answer = server.post("/apply-template" if path.endswith("completions") else path, body)[1]
        return answer["is_thinking"] if "is_thinking" in answer else answer
    dflt = opens()
    assert opens(enable_thinking=True) and not opens(enable_thinking=False)
    assert opens(chat_template_kwargs={"enable_thinking": True}) and not opens(chat_template_kwargs={"enable_thinking": False})
    assert not opens(chat_template_kwargs={"enable_thinking": "false"})
    assert not opens(chat_template_kwargs={"enable_thinking": False}, enable_thinking=True)
    assert opens(reasoning_effort="low") and not opens(reasoning_effort="none")
    assert opens(reasoning={"effort": "high"}) and not opens(reasoning={"effort": "none"}) and not opens(reasoning={"enabled": False})
    assert opens(thinking={"type": "enabled"}) and not opens(thinking={"type": "disabled"}) and opens(thinking={"type": "adaptive"}) == dflt
    assert not opens(extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    for name in ("thinking_token_budget", "thinking_budget", "reasoning_budget"):
        assert not opens(enable_thinking=True, **{name: 0})
        assert opens(enable_thinking=True, **{name: 5})


def test_tags_of_thinking_in_other_dialects(server):
    for body in ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, {"extra_body": {"enable_thinking": False}},
                 {"chat_template_kwargs": {"enable_thinking": False}}):
        answer = server.post("/v1/messages", {"messages": user("plain"), "max_tokens": 300, **body})[1]
        assert [b["type"] for b in answer["content"]] == ["text"], body
    for body in ({"reasoning": {"effort": "none"}}, {"enable_thinking": False}, {"extra_body": {"enable_thinking": False}}):
        answer = server.post("/v1/responses", {"input": say("plain"), **body})[1]
        assert [i["type"] for i in answer["output"]] == ["message"], body


def test_preserve_thinking(tmp_path):
    """At the top of a request as in chat_template_kwargs, in every dialect: the thought of an earlier turn is in the prompt or is not."""
    path, thought = folder.make(tmp_path / "model"), "a thought of an earlier turn"
    template = path / "chat_template.jinja"
    old = template.read_text()
    template.write_text(old.replace("if loop.index0 > ns.last ", "if loop.index0 > ns.last or preserve_thinking is defined and preserve_thinking is true "))
    assert template.read_text() != old
    chat = {"messages": [*user("q"), {"role": "assistant", "content": "a", "reasoning_content": thought}, *user("plain")]}
    blocks = {"messages": [*user("q"), {"role": "assistant", "content": [
        {"type": "thinking", "thinking": thought, "signature": ""}, {"type": "text", "text": "a"}]}, *user("plain")]}
    items = {"input": [{"role": "user", "content": "q"},
                       {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": thought}]},
                       {"role": "assistant", "content": "a"}, {"role": "user", "content": "plain"}]}
    sizes = {
        "template": lambda s, more: len(s.post("/apply-template", {**chat, **more})[1]["prompt"]),
        "chat": lambda s, more: s.post("/v1/chat/completions", {**chat, **more})[1]["usage"]["prompt_tokens"],
        "count": lambda s, more: s.post("/v1/messages/count_tokens", {**blocks, **more})[1]["input_tokens"],
        "messages": lambda s, more: s.post("/v1/messages", {**blocks, "max_tokens": 300, **more})[1]["usage"]["input_tokens"],
        "responses": lambda s, more: s.post("/v1/responses", {**items, **more})[1]["usage"]["input_tokens"],
    }

    def check(server, silent):
        for name, size in sizes.items():
            # one salt a request where the cache would change the count
            got = [size(server, {**more, "cache_salt": name + str(i)}) for i, more in enumerate((
                {}, {"preserve_thinking": False}, {"preserve_thinking": True}, {"preserve_thinking": "true"}, {"preserve_thinking": None},
                {"extra_body": {"preserve_thinking": True}}, {"chat_template_kwargs": {"preserve_thinking": True}},
                {"chat_template_kwargs": {"preserve_thinking": False}, "preserve_thinking": True}))]
            off, on = got[1], got[2]
            assert on - off >= len(thought), (name, got)
            assert got == [on if silent else off, off, on, on, on if silent else off, on, on, off], (name, got)
        status, answer = server.post("/v1/chat/completions", {**chat, "preserve_thinking": 3})
        assert status == 400 and "preserve_thinking" in answer["error"]["message"]

    servers = [Server("quern-fake", path), Server("quern-fake", path, "--template-kwargs", '{"preserve_thinking": true}')]
    try:
        for i, server in enumerate(servers):
            check(server, silent=i == 1)
    finally:
        assert [s.stop() for s in servers] == [0, 0]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_responses(server, stream):
    body = {"input": say("thought</think>\n\nHello world"), "reasoning": {"effort": "low"}, "top_logprobs": 2,
            "include": ["message.output_text.logprobs"]}
    if stream:
        events = [d for _, d in server.events("/v1/responses", {**body, "stream": True})]
        answer = events[-1]["response"]
        deltas = [e for e in events if e["type"] == "response.output_text.delta"]
        sent = [entry for e in deltas for entry in e["logprobs"]]
        done = next(e for e in events if e["type"] == "response.output_text.done")
        assert sent == done["logprobs"]
    else:
        answer = server.post("/v1/responses", body)[1]
    message = next(i for i in answer["output"] if i["type"] == "message")
    entries = message["content"][0]["logprobs"]
    text = b"".join(bytes(e["bytes"]) for e in entries).decode()
    assert text.strip() == message["content"][0]["text"] == "Hello world"
    assert all(len(e["top_logprobs"]) == 2 for e in entries)
    assert server.post("/v1/responses", {"input": "x", "top_logprobs": 99})[0] == 400
    plain = server.post("/v1/responses", {"input": say("x")})[1]
    assert next(i for i in plain["output"] if i["type"] == "message")["content"][0]["logprobs"] == []


def test_a_half_closed_peer_gets_its_answer(server):
    import socket
    body = json.dumps({"messages": user("still here"), "max_tokens": 300}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        s.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: s.recv(65536), b""))
    assert b" 200 OK" in data and b"still here" in data


def test_tokenizer_info_has_the_template(server):
    info = server.get("/tokenizer_info")[1]
    assert "{%" in info["chat_template"] and info["eos_token"]


def test_defaults_can_be_read(server, start, tmp_path):
    defaults = server.get("/props")[1]["defaults"]
    thinking = defaults["thinking"]
    assert thinking["enabled"]["on"] and not thinking["disabled"]["on"]
    for more, said in (({}, "silent"), ({"enable_thinking": True}, "enabled"), ({"enable_thinking": False}, "disabled")):
        assert server.post("/apply-template", {"messages": user("x"), **more})[1]["is_thinking"] == thinking[said]["on"]
    for effort, what in thinking["efforts"].items():
        assert server.post("/apply-template", {"messages": user("x"), "reasoning_effort": effort})[1]["is_thinking"] == what["on"]
    assert [thinking["efforts"][e]["budget"] for e in ("none", "minimal", "low", "medium", "high")] == [None, 512, 2048, 8192, None]
    assert defaults["chat"]["temperature"] == 0.6 and defaults["chat"]["top_k"] == 20 and defaults["completions"]["max_tokens"] == 16
    # the model's own presence penalty is not for calls, the server's is
    path = folder.make(tmp_path / "model")
    config = path / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "presence_penalty": 1.5}))
    own = [Server("quern-fake", path, "--template-kwargs", '{"enable_thinking": true}'), Server("quern-fake", path, "--presence-penalty", "1")]
    try:
        model, option = (s.get("/props")[1]["defaults"] for s in own)
        assert (model["chat"]["presence_penalty"], model["chat_with_tools"]["presence_penalty"]) == (1.5, 0)
        assert (option["chat"]["presence_penalty"], option["chat_with_tools"]["presence_penalty"]) == (1, 1)
        assert model["thinking"]["silent"]["on"] and not option["thinking"]["silent"]["on"]
    finally:
        assert [s.stop() for s in own] == [0, 0]
