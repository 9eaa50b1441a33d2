"""What agents and pages send, turn after turn, against quern-mini: recorded/*.json holds their bodies, written from the
formats they document; this file holds what each makes of an answer before it sends the next one.

No request may be refused, an answer is the same streamed and whole, and the next turn finds the previous one in the
prefix cache. Traces of the server tell which tokens a prompt shares with what was there before.
SPDX-License-Identifier: Apache-2.0
"""
import copy
import json
import pathlib

import pytest

from conftest import ROOT, Server

MINI = ROOT / "models" / "mini"
RECORDED = pathlib.Path(__file__).parent / "recorded"
PAGE = 64
CALL_OPEN = next(t["id"] for t in json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"] if t["content"] == "<tool_call>")
LIMIT = 400


class Answer:
    """reasoning, content, calls [{id, name, arguments}] (arguments as text), prompt and cached tokens, why it ended."""

    def __init__(self):
        self.reasoning, self.content, self.calls = "", "", []
        self.prompt = self.cached = 0
        self.finish = None

    def same_as(self, other):
        def plain(a):
            return a.reasoning, a.content, [(c["name"], c["arguments"]) for c in a.calls], a.finish
        return plain(self) == plain(other)


def is_json(text):
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


def drop_unfinished(answer):
    """A call that the limit cut is no call; in a whole answer it is not there."""
    if answer.calls and not is_json(answer.calls[-1]["arguments"]):
        assert answer.finish == "length"
        answer.calls.pop()


# ---------------------------------------------------------------- chat completions


def read_usage(answer, usage):
    answer.prompt = usage["prompt_tokens"]
    answer.cached = usage["prompt_tokens_details"]["cached_tokens"]


def chat_whole(body):
    answer, choice = Answer(), body["choices"][0]
    message = choice["message"]
    assert body["object"] == "chat.completion" and message["role"] == "assistant"
    answer.reasoning, answer.content = message.get("reasoning_content") or "", message["content"] or ""
    answer.calls = [{"id": c["id"], **c["function"]} for c in message.get("tool_calls", [])]
    answer.finish = choice["finish_reason"]
    read_usage(answer, body["usage"])
    return answer


def chat_stream(events):
    answer, usage = Answer(), None
    assert events[-1][1] == "[DONE]"
    for _, chunk in events[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            # clients that read one kind a delta lose nothing
            assert sum(bool(delta.get(k)) for k in ("content", "reasoning_content", "tool_calls")) <= 1
            answer.reasoning += delta.get("reasoning_content") or ""
            answer.content += delta.get("content") or ""
            for part in delta.get("tool_calls", []):
                if part["index"] == len(answer.calls):
                    assert isinstance(part["id"], str) and part["type"] == "function"
                    answer.calls.append({"id": part["id"], "name": part["function"]["name"], "arguments": ""})
                call = answer.calls[part["index"]]
                # a client that takes a call as done when its arguments parse must not be early
                with pytest.raises(ValueError):
                    json.loads(call["arguments"])
                call["arguments"] += part["function"].get("arguments", "")
            answer.finish = choice["finish_reason"] or answer.finish
    drop_unfinished(answer)
    read_usage(answer, usage)
    return answer


class Chat:
    """The bodies of a conversation over chat completions. Subclasses: what their client does differently."""
    does_both = False  # streamed and whole
    returns_reasoning = True

    def __init__(self, recorded):
        self.recorded = recorded
        self.messages = copy.deepcopy(recorded["body"]["messages"])
        self.calls = []

    def body(self, number, forced, stream):
        body = {**copy.deepcopy(self.recorded["body"]), "messages": copy.deepcopy(self.messages)}
        if forced:  # the model is small; this makes sure that there is a call
            body["tool_choice"] = "required"
        if not stream:
            body["stream"] = False
            body.pop("stream_options", None)
        return body

    def keep(self, answer):
        self.calls = answer.calls
        message = self.assistant(answer)
        if message:
            self.messages.append(message)

    def answer_calls(self, texts, turn):
        for i, call in enumerate(self.calls):
            self.messages.append(self.result(call, texts[i % len(texts)]))
        self.calls = []

    def user(self, message):
        self.messages.append(copy.deepcopy(message))

    def result(self, call, text):
        return {"role": "tool", "tool_call_id": call["id"], "content": text}

    read_whole = staticmethod(chat_whole)
    read_stream = staticmethod(chat_stream)


class OpenCode(Chat):
    def assistant(self, answer):
        # arguments go through an object and back: no blanks, and 1.0 is 1
        calls = [{"id": c["id"], "type": "function", "function": {
            "name": c["name"], "arguments": json.dumps(json.loads(c["arguments"]), separators=(",", ":"), ensure_ascii=False)}}
            for c in answer.calls]
        return {"role": "assistant", "content": answer.content, **({"reasoning_content": answer.reasoning} if answer.reasoning else {}),
                **({"tool_calls": calls} if calls else {})}


class Crush(Chat):
    def assistant(self, answer):
        if not answer.content and not answer.calls:
            return None  # a turn of nothing but reasoning is dropped
        calls = [{"id": c["id"], "function": {"arguments": c["arguments"] or "{}", "name": c["name"]}, "type": "function"} for c in answer.calls]
        return {**({"content": answer.content} if answer.content else {}), **({"tool_calls": calls} if calls else {}),
                "reasoning_content": answer.reasoning, "role": "assistant"}

    def result(self, call, text):
        return {"content": text, "tool_call_id": call["id"], "role": "tool"}


class QwenCode(Chat):
    does_both = True

    def body(self, number, forced, stream):
        body = super().body(number, forced, stream)
        mark = {"cache_control": {"type": "ephemeral"}}
        body["messages"][0]["content"][-1].update(mark)
        if stream:
            content = body["messages"][-1]["content"]
            content[-1].update(mark)
            body["tools"][-1].update(mark)
        body["metadata"]["promptId"] = f"5e0f2c1a########{number}"
        return body

    def assistant(self, answer):
        calls = [{"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(json.loads(c["arguments"]))}}
                 for c in answer.calls]
        return {"role": "assistant", "content": answer.content or None, **({"tool_calls": calls} if calls else {}),
                **({"reasoning_content": answer.reasoning} if answer.reasoning else {})}

    def result(self, call, text):
        return {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": text}]}


class OpenWebUI(Chat):
    does_both = True

    def assistant(self, answer):
        thought = f"<think>\n{answer.reasoning}\n</think>\n" if answer.reasoning else ""
        calls = [{"index": i, "id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                 for i, c in enumerate(answer.calls)]
        return {"role": "assistant", "content": thought + answer.content, **({"tool_calls": calls} if calls else {})}

    def result(self, call, text):
        return {"role": "tool", "tool_call_id": call["id"], "content": text}


class LitellmChat(Chat):
    """A proxy in between: another dialect's conversation, written as chat completions."""
    does_both = True

    def body(self, number, forced, stream):
        body = super().body(number, forced, stream)
        header = body["messages"][0]["content"][0]
        header["text"] = header["text"].replace("cch=00000", f"cch={(number * 7919 + 12345) % 65536:05x}")
        return body

    def assistant(self, answer):
        parts = [{"type": "thinking", "thinking": answer.reasoning}] if answer.reasoning else []
        if parts and answer.content:
            parts.append({"type": "text", "text": answer.content})
        calls = [{"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(json.loads(c["arguments"]))}}
                 for c in answer.calls]
        return {"role": "assistant", "content": parts or answer.content or None, **({"tool_calls": calls} if calls else {})}


# ---------------------------------------------------------------- responses


def items_of(response):
    answer = Answer()
    for item in response["output"]:
        if item["type"] == "reasoning":
            answer.reasoning += item["content"][0]["text"]
        elif item["type"] == "message":
            answer.content += "".join(part["text"] for part in item["content"])
        elif item["status"] == "completed":
            answer.calls.append({"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]})
    answer.finish = response["status"]
    answer.prompt = response["usage"]["input_tokens"]
    answer.cached = response["usage"]["input_tokens_details"]["cached_tokens"]
    return answer


def response_stream(events):
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert events[-1][0] in ("response.completed", "response.incomplete")
    answer = items_of(events[-1][1]["response"])
    text = "".join(data["delta"] for name, data in events if name == "response.output_text.delta")
    sent = {}
    for name, data in events:
        if name == "response.function_call_arguments.delta":
            sent[data["item_id"]] = sent.get(data["item_id"], "") + data["delta"]
    assert text == answer.content and [a for a in sent.values() if is_json(a)] == [c["arguments"] for c in answer.calls]
    return answer


class LitellmResponses(Chat):
    """The same proxy's other route. What was thought comes back as text, so only prompts are found again."""
    does_both, returns_reasoning = True, False

    def __init__(self, recorded):
        self.recorded, self.calls = recorded, []
        self.messages = copy.deepcopy(recorded["body"]["input"])

    def body(self, number, forced, stream):
        body = {**copy.deepcopy(self.recorded["body"]), "input": copy.deepcopy(self.messages)}
        body["instructions"] = body["instructions"].replace("cch=00000", f"cch={(number * 7919 + 12345) % 65536:05x}")
        if forced:
            body["tool_choice"] = "required"
        if not stream:
            del body["stream"]
        return body

    def keep(self, answer):
        self.calls = answer.calls
        self.messages += [{"type": "function_call", "call_id": c["id"], "name": c["name"], "arguments": json.dumps(json.loads(c["arguments"]))}
                          for c in answer.calls]
        texts = [{"type": "output_text", "text": text} for text in (answer.reasoning, answer.content) if text]
        if texts:
            self.messages.append({"type": "message", "role": "assistant", "content": texts})

    def result(self, call, text):
        return {"type": "function_call_output", "call_id": call["id"], "output": text}

    read_whole = staticmethod(items_of)
    read_stream = staticmethod(response_stream)


# ---------------------------------------------------------------- messages


def blocks_of(answer, content):
    answer.blocks = content
    for block in content:
        if block["type"] == "thinking":
            assert isinstance(block["signature"], str)
            answer.reasoning += block["thinking"]
        elif block["type"] == "text":
            answer.content += block["text"]
        else:
            assert block["type"] == "tool_use" and block["id"].startswith("toolu_")
            answer.calls.append({"id": block["id"], "name": block["name"], "arguments": json.dumps(block["input"], sort_keys=True)})


def message_usage(answer, usage):
    answer.cached = usage["cache_read_input_tokens"]
    answer.prompt = usage["input_tokens"] + answer.cached + usage["cache_creation_input_tokens"]


class ClaudeCode(Chat):
    does_both = True

    @staticmethod
    def read_whole(body):
        answer = Answer()
        assert body["type"] == "message" and body["role"] == "assistant"
        blocks_of(answer, body["content"])
        answer.finish = body["stop_reason"]
        message_usage(answer, body["usage"])
        return answer

    @staticmethod
    def read_stream(events):
        answer, content, partial, cut = Answer(), [], "", None
        assert events[0][0] == "message_start" and events[-1][0] == "message_stop"
        for name, data in events:
            assert name == data["type"]
            if name == "content_block_start":
                assert data["index"] == len(content)
                content.append(dict(data["content_block"]))
                partial = ""
            elif name == "content_block_delta":
                block, delta = content[data["index"]], data["delta"]
                if delta["type"] == "input_json_delta":
                    partial += delta["partial_json"]
                else:
                    key = delta["type"].removesuffix("_delta")
                    block[key] = block.get(key, "") + delta[key]
            elif name == "content_block_stop" and content[data["index"]]["type"] == "tool_use":
                if is_json(partial):
                    content[data["index"]]["input"] = json.loads(partial)
                else:
                    cut = content.pop()
            elif name == "message_delta":
                answer.finish = data["delta"]["stop_reason"]
                message_usage(answer, data["usage"])
        assert not cut or answer.finish == "max_tokens"
        blocks_of(answer, content)
        return answer

    def body(self, number, forced, stream):
        body = {**copy.deepcopy(self.recorded["body"]), "messages": copy.deepcopy(self.messages)}
        if forced:
            body["tool_choice"] = {"type": "any"}
        body["system"][0]["text"] = body["system"][0]["text"].replace("cch=00000", f"cch={(number * 7919 + 12345) % 65536:05x}")
        # the newest user message carries the mark, as the last of its blocks
        last = [m for m in body["messages"] if m["role"] == "user"][-1]
        if isinstance(last["content"], str):
            last["content"] = [{"type": "text", "text": last["content"]}]
        last["content"][-1]["cache_control"] = {"type": "ephemeral", "ttl": "1h"}
        if not stream:
            del body["stream"]
        return body

    def assistant(self, answer):
        blocks = copy.deepcopy(answer.blocks)
        for block in blocks:
            block.pop("caller", None)
        return {"role": "assistant", "content": blocks or [{"type": "text", "text": "(no content)"}]}

    def answer_calls(self, texts, turn):
        results = [{"tool_use_id": c["id"], "type": "tool_result", "content": texts[i % len(texts)],
                    **({"is_error": True} if "error" in texts[i % len(texts)] else {})} for i, c in enumerate(self.calls)]
        # parallel results may arrive in any order
        self.messages.append({"role": "user", "content": results[::-1] + copy.deepcopy(turn.get("after", []))})
        if "system" in turn:
            self.messages.append({"role": "system", "content": turn["system"]})
        self.calls = []


# ---------------------------------------------------------------- the tests

CLIENTS = {"opencode": OpenCode, "crush": Crush, "qwen_code": QwenCode, "open_webui": OpenWebUI, "claude_code": ClaudeCode,
           "litellm_chat": LitellmChat, "litellm_responses": LitellmResponses}


def load(name):
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    assert recorded["client"] == name
    return recorded


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def mini(traces):
    s = Server("quern", MINI, "--context", "8192", "--threads", "1", "--log-level", "warn", "--trace", traces)
    yield s
    assert s.stop() == 0


def limit_of(body):
    return next((key for key in ("max_completion_tokens", "max_output_tokens") if key in body), "max_tokens")


def send(server, recorded, client, body, name, seed=7):
    """Sends a body, streamed if it says so. A plain request id finds its trace.

    Two members are the test's own: a seed, for the same answers each time, and a limit, since so small a model may not
    find an end."""
    headers = {**recorded["headers"], "x-request-id": name}
    limit = limit_of(body)
    body = {**body, "seed": seed, limit: min(body.get(limit, LIMIT), LIMIT)}
    if body.get("stream"):
        return client.read_stream(server.events(recorded["path"], body, headers, timeout=120))
    status, _, answer = server.request("POST", recorded["path"], body, headers, timeout=120)
    assert status == 200, answer
    return client.read_whole(answer)


def trace(traces, name):
    file, = traces.glob(f"*-{name}.json")
    choice = json.loads(file.read_text())["choices"][0]
    return choice["prompt_ids"], choice["sampled_ids"]


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@pytest.mark.parametrize("name", CLIENTS)
def test_accepted_as_recorded(mini, name):
    """Nothing added: 200 and a first event, then the client leaves."""
    recorded = load(name)
    client = CLIENTS[name](recorded)
    for stream in (True, False)[:1 + client.does_both]:
        body = client.body(0, False, stream)
        if not stream:
            body[limit_of(body)] = 1  # or this takes as long as the model likes
        connection = mini.connect()
        connection.request("POST", recorded["path"], json.dumps(body), {"Content-Type": "application/json", **recorded["headers"]})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        if stream:
            assert response.readline().startswith((b"data: {", b"event: message_start", b"event: response.created"))
        connection.close()
    assert mini.wait_idle()


@pytest.mark.parametrize("name", CLIENTS)
def test_conversation(mini, traces, name):
    recorded = load(name)
    client = CLIENTS[name](recorded)
    last, query, has_lookalike = None, None, False  # prompt and output of the turn before; prompt of the last turn that began with a user message
    for number, turn in enumerate(recorded["turns"]):
        if "results" in turn:
            assert client.calls, "the turn before was to make a call"
            client.answer_calls(turn["results"], turn)
        elif client.calls:
            client.answer_calls(["Interrupted by the user"], turn)
        if "user" in turn:
            client.user(turn["user"])
        forced, cached = turn.get("forced"), None
        for seed in range(7, 27):  # a call may run into the limit
            key = f"{name}-{number}-{seed}"
            answer = send(mini, recorded, client, client.body(number, forced, True), key, seed)
            prompt, sampled = trace(traces, key)
            assert answer.prompt == len(prompt)
            cached = answer.cached if cached is None else cached
            if answer.calls or not forced:
                break
        assert answer.calls or not forced
        if client.does_both:
            whole = send(mini, recorded, client, client.body(number, forced, False), f"{key}-whole", seed)
            assert answer.same_as(whole)
        # Results extend what was read and sampled, token by token, although the model's tokens are not always those that
        # the tokenizer cuts its text into. A user message takes the thinking out of the turns since the last one, so
        # what remains is the prompt of that one. Resuming is possible a few tokens before that ends, less than a page away.
        if last:
            extends = "results" in turn and client.returns_reasoning and not has_lookalike
            whose, known = (last if "results" in turn else query)
            wanted = len(whose) + len(known) if extends else len(whose) - 8
            print(name, number, len(whose), len(known), common(prompt, whose + known), cached, len(prompt))
            assert common(prompt, whose + known) >= wanted, "the history is not rendered as it was"
            assert cached >= wanted - PAGE, (number, cached, wanted)
        last = prompt, sampled
        # A forced call begins with the token of the marker, also where the model would rather not make one.
        assert not forced or sampled.count(CALL_OPEN) >= len(answer.calls)
        has_lookalike = sampled.count(CALL_OPEN) > len(answer.calls)  # a value with a marker in it: such ids are not remembered
        if ("user" in turn and "results" not in turn) or not query:
            query = last
        client.keep(answer)


@pytest.mark.parametrize("name", CLIENTS)
def test_side_requests(mini, name):
    recorded = load(name)
    client = CLIENTS[name](recorded)
    for number, side in enumerate(recorded["side"]):
        answer = send(mini, recorded, client, side["body"], f"{name}-side-{number}")
        if "json" in side:
            assert list(json.loads(answer.content)) == side["json"]
        for key, allowed in side.get("arguments", {}).items():
            assert json.loads(answer.calls[0]["arguments"])[key] in allowed
        if name == "claude_code":
            status, count = mini.post("/v1/messages/count_tokens", {k: v for k, v in side["body"].items() if k not in ("max_tokens", "stream")})
            assert status == 200 and count["input_tokens"] == answer.prompt
