"""litellm as a library: chat, tools in a stream, responses, the messages dialect both directly and translated to ours,
and the errors it recognises, against scripted answers; streams with tools and a conversation against models/mini.

SPDX-License-Identifier: Apache-2.0
"""
import asyncio
import json
import os

import pytest

from conftest import Server, say
from test_tool_calls import CASES, MINI, TOOLS as TOOL_LIST, body_of, whole_chat

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import fetches a list of prices
litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:coroutine 'Logging:RuntimeWarning")

CALL = "I will look.\n\n<tool_call>\n<function=ls>\n<parameter=path>\na \"b\"\n</parameter>\n<parameter=depth>\n3\n</parameter>\n</function>\n</tool_call>"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "depth": {"type": "integer"}}, "required": ["path"]}
TOOLS = [{"type": "function", "function": {"name": "ls", "description": "Lists", "parameters": SCHEMA}}]
THOUGHT = "Short.</think>\n\n"


@pytest.fixture
def ask(server):
    def run(text, provider="openai", **more):
        return litellm.completion(model=provider + "/m", api_base=server.url + "/v1", api_key="x", timeout=20,
                                  messages=[{"role": "user", "content": say(text)}], **more)
    return run


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_chat(ask, provider):
    answer = ask(THOUGHT + "Fine.", provider, reasoning_effort="low", allowed_openai_params=["reasoning_effort"])
    message = answer.choices[0].message
    assert message.content == "Fine." and message.reasoning_content == "Short." and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    chunks = list(ask(THOUGHT + "Fine.", provider, reasoning_effort="low", allowed_openai_params=["reasoning_effort"], stream=True,
                      stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks)
    assert whole.choices[0].message.content == "Fine." and whole.choices[0].message.reasoning_content == "Short."
    assert whole.usage.completion_tokens == answer.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_tools(ask, server, stream):
    answer = ask(CALL, tools=TOOLS, tool_choice="auto", stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls" and message.content == "I will look."
    call, = message.tool_calls
    assert call.function.name == "ls" and json.loads(call.function.arguments) == {"path": 'a "b"', "depth": 3}
    # the answer goes back as litellm writes it
    history = [{"role": "user", "content": say(CALL)}, message.model_dump(),
               {"role": "tool", "tool_call_id": call.id, "content": say("Two files.")}]
    again = litellm.completion(model="openai/m", api_base=server.url + "/v1", api_key="x", messages=history, tools=TOOLS)
    assert again.choices[0].message.content == "Two files." and again.usage.prompt_tokens_details.cached_tokens > 0


def test_responses(server):
    answer = litellm.responses(model="openai/m", api_base=server.url + "/v1", api_key="x", input=say(CALL),
                               tools=[{"type": "function", "name": "ls", "description": "Lists", "parameters": SCHEMA}])
    call = next(i for i in answer.output if i.type == "function_call")
    assert call.name == "ls" and json.loads(call.arguments) == {"path": 'a "b"', "depth": 3}


# the library's own stream of the first needs more packages than the library asks for, that of the last loses the blocks'
# starts; both work in its proxy (recorded/litellm_*.json has what that sends)
@pytest.mark.parametrize("provider, stream", [("anthropic", False), ("hosted_vllm", False), ("hosted_vllm", True), ("openai", False)])
def test_messages(server, provider, stream):
    """As Claude Code behind litellm: messages in, messages out; to us as messages, as chat completions, or as responses."""
    base = server.url if provider == "anthropic" else server.url + "/v1"
    body = {"model": provider + "/m", "api_base": base, "api_key": "x", "max_tokens": 1000, "stream": stream,
            "messages": [{"role": "user", "content": say(CALL)}], "tools": [{"name": "ls", "description": "Lists", "input_schema": SCHEMA}]}

    async def run():
        answer = await litellm.anthropic.messages.acreate(**body)
        if not stream:
            return answer["content"], answer["stop_reason"]
        events, blocks, reason, data = [], [], None, b""
        async for chunk in answer:
            data += chunk if isinstance(chunk, bytes) else chunk.encode()
        events = [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]
        for event in events:
            if event["type"] == "content_block_start":
                blocks.append({**event["content_block"], "input": ""})
            elif event["type"] == "content_block_delta":
                delta = event["delta"]
                if "partial_json" in delta:
                    blocks[event["index"]]["input"] += delta["partial_json"]
                elif "text" in delta:
                    blocks[event["index"]]["text"] = blocks[event["index"]].get("text", "") + delta["text"]
            elif event["type"] == "message_delta":
                reason = event["delta"]["stop_reason"]
        for block in blocks:
            block["input"] = json.loads(block["input"] or "{}")
        return blocks, reason

    blocks, reason = asyncio.run(run())
    text = "".join(b.get("text") or "" for b in blocks if b["type"] == "text")
    call, = [b for b in blocks if b["type"] == "tool_use"]
    assert text == "I will look." and reason == "tool_use"
    assert call["name"] == "ls" and call["input"] == {"path": 'a "b"', "depth": 3}


@pytest.fixture(scope="module")
def mini():
    s = Server("quern", MINI, "--context", "4096", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


def through(server, provider, body, stream):
    """As whole_chat of a body, by litellm; and the usage."""
    body = {k: v for k, v in body.items() if k != "model"}
    ours = {k: body.pop(k) for k in ("chat_template_kwargs", "min_tokens", "top_k") if k in body}
    answer = litellm.completion(model=provider + "/m", api_base=server.url + "/v1", api_key="x", timeout=60, extra_body=ours, stream=stream,
                                **({"stream_options": {"include_usage": True}} if stream else {}), **body)
    if stream:
        chunks = list(answer)
        assert len(chunks) > 5
        answer = litellm.stream_chunk_builder(chunks, messages=body["messages"])
    message = answer.choices[0].message
    calls = [(c.function.name, c.function.arguments) for c in message.tool_calls or []]
    return getattr(message, "reasoning_content", None) or "", message.content or "", calls, answer


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("case", CASES)
def test_live_stream(mini, provider, case):
    """What comes through, streamed or whole, is what plain HTTP gives: thinking, text and calls, argument by argument."""
    body = body_of("chat", case)
    want = whole_chat(mini, body)
    assert want[2] or case == "auto", "the case makes a call"
    usage = []
    for stream in False, True:
        *got, answer = through(mini, provider, body, stream)
        assert tuple(got) == want
        assert answer.choices[0].finish_reason in ("tool_calls", "stop")
        usage.append(answer.usage.completion_tokens)
    assert usage[0] == usage[1] > 0


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_live_conversation(mini, provider):
    """Question, call, result and answer, all streamed: the history that litellm sends back is the one that is in the cache."""
    body = body_of("chat", "named") | {"max_tokens": 600}
    *_, calls, first = through(mini, provider, body, True)
    assert len(calls) == 1
    body["tool_choice"] = "auto"
    message = first.choices[0].message
    body["messages"] += [message.model_dump(exclude_none=True),
                         {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Done."}]
    _, text, more, second = through(mini, provider, body, True)
    assert text or more
    known = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.usage.prompt_tokens > known - 2
    assert second.usage.prompt_tokens_details.cached_tokens >= known - 80  # a page, and what ends the turn
    assert (text, more) == whole_chat(mini, body)[1:]


def test_live_messages(mini):
    """Claude Code's dialect, which litellm makes chat completions of, in a stream."""
    body = body_of("messages", "named") | {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    plain = {k: v for k, v in body.items() if k not in ("model", "top_k", "chat_template_kwargs")}

    async def run():
        data = b""
        async for chunk in await litellm.anthropic.messages.acreate(
                model="hosted_vllm/m", api_base=mini.url + "/v1", api_key="x", stream=True,
                extra_body={k: body[k] for k in ("top_k", "chat_template_kwargs")}, **plain):
            data += chunk if isinstance(chunk, bytes) else chunk.encode()
        return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]

    events = asyncio.run(run())
    name, = [e["content_block"]["name"] for e in events if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use"]
    arguments = json.loads("".join(e["delta"]["partial_json"] for e in events
                                   if e["type"] == "content_block_delta" and "partial_json" in e["delta"]))
    assert name in [t[0] for t in TOOL_LIST] and set(next(t for t in TOOL_LIST if t[0] == name)[3]) <= set(arguments)
    assert next(e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta") == "tool_use"


def test_errors(ask, start):
    small = start("--context", "256", "--api-key", "k", "--max-queue", "1")
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model="openai/m", api_base=small.url + "/v1", api_key="k", max_retries=0,
                           messages=[{"role": "user", "content": "long " * 300}])
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model="openai/m", api_base=small.url + "/v1", api_key="wrong", max_retries=0, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(litellm.BadRequestError):
        ask("x", temperature=9, max_retries=0)
