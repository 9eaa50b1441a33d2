"""The openai package, unmodified. SPDX-License-Identifier: Apache-2.0"""
import json
import time

import pytest

openai = pytest.importorskip("openai")
from conftest import say, user  # noqa: E402

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["place"]}}}
ONE_CALL = "<tool_call>\n<function=weather>\n<parameter=place>\nParis \"8e\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="dummy", max_retries=0, timeout=20)


def test_models(client):
    names = [m.id for m in client.models.list()]
    assert names == ["fake"]
    assert client.models.retrieve("fake").id == "fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_chat(client):
    answer = client.chat.completions.create(model="fake", messages=user("Grüße, 世界 👋"))
    choice = answer.choices[0]
    assert choice.message.content == "Grüße, 世界 👋"
    assert choice.finish_reason == "stop"
    assert answer.usage.completion_tokens == len("Grüße, 世界 👋".encode())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_streamed_chat_with_usage(client):
    text, usage, reasons, roles = "", None, [], []
    for chunk in client.chat.completions.create(model="fake", messages=user("one 二 🐘 three"), stream=True,
                                                stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
            assert not chunk.choices
        for choice in chunk.choices:
            text += choice.delta.content or ""
            roles.append(choice.delta.role)
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    assert text == "one 二 🐘 three"
    assert reasons == ["stop"]
    assert roles[0] == "assistant" and not any(roles[1:])
    assert usage.completion_tokens == len(text.encode())


def test_no_usage_chunk_unless_asked(client):
    chunks = list(client.chat.completions.create(model="fake", messages=user("abc"), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_cancelled_stream_frees_its_work(client, server):
    done = server.metric("quern_requests_total")
    stream = client.chat.completions.create(model="fake", messages=user("x" * 4000), stream=True)
    for i, _ in enumerate(stream):
        if i == 5:
            break
    assert server.metric("quern_requests_running") == 1
    begin = time.monotonic()
    stream.close()
    assert server.wait_idle(5)
    assert time.monotonic() - begin < 2
    assert server.metric("quern_requests_total") == done + 1


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_reasoning(client, stream):
    script = "let me see</think>\n\nI will look.\n" + ONE_CALL
    if stream:
        message = {"content": "", "reasoning": "", "name": "", "arguments": "", "ids": []}
        for chunk in client.chat.completions.create(model="fake", messages=user(script), tools=[WEATHER], stream=True,
                                                    extra_body=THINKING):
            delta = chunk.choices[0].delta
            message["content"] += delta.content or ""
            message["reasoning"] += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or []:
                assert call.index == 0
                if call.id:
                    message["ids"].append(call.id)
                message["name"] += call.function.name or ""
                message["arguments"] += call.function.arguments or ""
            reason = chunk.choices[0].finish_reason
        assert len(message["ids"]) == 1
    else:
        choice = client.chat.completions.create(model="fake", messages=user(script), tools=[WEATHER],
                                                extra_body=THINKING).choices[0]
        call = choice.message.tool_calls[0]
        message = {"content": choice.message.content, "reasoning": choice.message.reasoning_content,
                   "name": call.function.name, "arguments": call.function.arguments}
        reason = choice.finish_reason
    assert message["content"] == "I will look."
    assert message["reasoning"] == "let me see"
    assert message["name"] == "weather"
    assert json.loads(message["arguments"]) == {"place": 'Paris "8e"', "days": 3}
    assert reason == "tool_calls"


def test_parallel_calls_and_their_results(client):
    script = ONE_CALL + "\n" + ONE_CALL.replace("Paris", "Rome")
    first = client.chat.completions.create(model="fake", messages=user(script), tools=[WEATHER])
    calls = first.choices[0].message.tool_calls
    assert [json.loads(c.function.arguments)["place"][:4] for c in calls] == ["Pari", "Rome"]
    assert len({c.id for c in calls}) == 2
    history = [*user(script), first.choices[0].message.model_dump(),
               *({"role": "tool", "tool_call_id": c.id, "content": "rain"} for c in calls),
               *user("It rains.")]
    second = client.chat.completions.create(model="fake", messages=history, tools=[WEATHER])
    assert second.choices[0].message.content == "It rains."
    # the first turn is a prefix of the second: only its tail is computed again
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens // 2


def test_logprobs(client):
    answer = client.chat.completions.create(model="fake", messages=user("hello"), logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == "hello"
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in tokens)
    streamed = []
    for chunk in client.chat.completions.create(model="fake", messages=user("é!</think>x"), logprobs=True, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in streamed) == "é!</think>x".encode()


def test_stop_strings_and_length(client):
    answer = client.chat.completions.create(model="fake", messages=user("one two three"), stop=["wo t"])
    assert answer.choices[0].message.content == "one t"
    assert answer.choices[0].finish_reason == "stop"
    answer = client.chat.completions.create(model="fake", messages=user("one two three"), max_tokens=4)
    assert answer.choices[0].message.content == "one "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def test_stop_strings_leave_reasoning_alone(client):
    answer = client.chat.completions.create(model="fake", messages=user("a STOP b</think>\n\nc STOP d"), stop="STOP",
                                            extra_body=THINKING)
    assert answer.choices[0].message.reasoning_content == "a STOP b"
    assert answer.choices[0].message.content == "c "


def test_n_and_seed(client):
    babble = [{"role": "user", "content": "say what you like"}]
    a = client.chat.completions.create(model="fake", messages=babble, n=3, seed=7, max_tokens=20)
    b = client.chat.completions.create(model="fake", messages=babble, n=3, seed=7, max_tokens=20)
    assert [c.index for c in a.choices] == [0, 1, 2]
    assert [c.message.content for c in a.choices] == [c.message.content for c in b.choices]
    assert a.usage.completion_tokens <= 60


def test_cut_call_is_not_shown(client):
    answer = client.chat.completions.create(model="fake", messages=user(ONE_CALL), tools=[WEATHER], max_tokens=60)
    assert answer.choices[0].finish_reason == "length"
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content is None


def test_cut_behind_a_complete_call(client):
    """The limit inside what follows a call (its closing tag, the next call's head) shows none of it, streamed or whole."""
    script, n_call = ONE_CALL + "\n" + ONE_CALL, []
    for limit in range(60, 2 * len(ONE_CALL)):
        args = {"model": "fake", "messages": user(script), "tools": [WEATHER], "max_tokens": limit}
        choice = client.chat.completions.create(**args).choices[0]
        calls = choice.message.tool_calls or []
        n_call.append(len(calls))
        assert choice.message.content is None, (limit, choice.message.content)
        if limit % 4 == 0:
            deltas = [c.choices[0].delta for c in client.chat.completions.create(**args, stream=True) if c.choices]
            assert not any(d.content for d in deltas), limit
        if choice.finish_reason != "length":
            break
    assert len(calls) == 2 and n_call.count(1) > 50


def test_responses(client):
    script = "hm</think>\n\nLooking.\n" + ONE_CALL
    tool = {"type": "function", **WEATHER["function"]}
    whole = client.responses.create(model="fake", input=say(script), tools=[tool], reasoning={"effort": "high"})
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    assert whole.output_text == "Looking." and whole.status == "completed"
    assert json.loads(whole.output[2].arguments)["days"] == 3
    events = list(client.responses.create(model="fake", input=say(script), tools=[tool], reasoning={"effort": "high"},
                                          stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output[2].arguments == whole.output[2].arguments
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "Looking."


def test_responses_streamed_with_tools(client):
    """The package's own accumulation of a stream with two calls, then their results in whatever order the items are sent."""
    script = "hm\n</think>\n\nLooking.\n\n" + ONE_CALL + "\n" + ONE_CALL.replace("Paris", "Oslo")
    tool = {"type": "function", **WEATHER["function"]}
    more = {"model": "fake", "tools": [tool], "reasoning": {"effort": "high"}, "store": False}
    with client.responses.stream(input=say(script), **more) as stream:
        events = list(stream)
        answer = stream.get_final_response()
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    calls, sent, done = answer.output[2:], {}, {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            with pytest.raises(ValueError):  # no proper prefix is JSON
                json.loads(sent.get(event.item_id) or "{")
            sent[event.item_id] = sent.get(event.item_id, "") + event.delta
        elif event.type == "response.function_call_arguments.done":
            done[event.item_id] = event.arguments
    assert list(sent) == [c.id for c in calls] and sent == done == {c.id: c.arguments for c in calls}
    assert [json.loads(c.arguments) for c in calls] == [{"place": 'Paris "8e"', "days": 3}, {"place": 'Oslo "8e"', "days": 3}]
    whole = client.responses.create(input=say(script), **more)
    assert [(c.name, c.arguments) for c in whole.output[2:]] == [(c.name, c.arguments) for c in calls]

    ask, items = {"role": "user", "content": say(script)}, [i.model_dump(exclude_none=True) for i in answer.output]
    results = [{"type": "function_call_output", "call_id": c.call_id, "output": say("done</think>\n\nFair.")} for c in calls]
    thought, text, first, second = items
    sizes = set()
    for order in ([thought, text, first, second], [thought, first, second, text], [thought, first, text, second]):
        history = [ask, *order, *results]
        count = client.responses.input_tokens.count(model="fake", input=history, tools=[tool], reasoning={"effort": "high"})
        final = client.responses.create(input=history, **more)
        assert final.output_text == "Fair."
        assert count.input_tokens == final.usage.input_tokens and count.object == "response.input_tokens"
        # one assistant turn, as it was sampled: all of it is in the cache
        assert final.usage.input_tokens_details.cached_tokens > answer.usage.input_tokens + answer.usage.output_tokens - 64
        sizes.add(final.usage.input_tokens)
    assert len(sizes) == 1
    split = [{"type": "message", "role": "assistant", "content": "Look"}, first, second, {"role": "assistant", "content": [{"type": "output_text", "text": "ing."}]}]
    joined = [{"type": "message", "role": "assistant", "content": "Look\ning."}, first, second]
    counts = [client.responses.input_tokens.count(model="fake", input=[ask, *order, *results], tools=[tool]).input_tokens for order in (split, joined)]
    assert counts[0] == counts[1]
    with pytest.raises(openai.BadRequestError, match="input is missing"):
        client.responses.input_tokens.count(model="fake", input=[])


def test_responses_are_stored(client):
    first = client.responses.create(model="fake", input=say("first answer"), instructions="Be brief.")
    assert client.responses.retrieve(first.id).output_text == "first answer"
    second = client.responses.create(model="fake", input=say("second answer"), previous_response_id=first.id)
    assert second.output_text == "second answer"
    assert second.usage.input_tokens > first.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    unstored = client.responses.create(model="fake", input=say("x"), store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="fake", input="y", previous_response_id=unstored.id)


def test_responses_cut_by_length(client):
    whole = client.responses.create(model="fake", input=say("a long answer"), max_output_tokens=6)
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.output_text == "a long"


def test_legacy_completion(client):
    answer = client.completions.create(model="fake", prompt=say("raw <think> text"), max_tokens=100)
    assert answer.choices[0].text == "raw <think> text"
    text = "".join(c.choices[0].text for c in
                   client.completions.create(model="fake", prompt=say("one two"), max_tokens=100, stream=True))
    assert text == "one two"
