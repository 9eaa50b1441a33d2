"""The anthropic package, unmodified. SPDX-License-Identifier: Apache-2.0"""
import pytest

anthropic = pytest.importorskip("anthropic")
from conftest import user  # noqa: E402

WEATHER = {"name": "weather", "description": "The weather.",
           "input_schema": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer"}}}}
CALL = "<tool_call>\n<function=weather>\n<parameter=place>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
ON = {"type": "enabled", "budget_tokens": 2000}


@pytest.fixture(scope="module")
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="dummy", max_retries=0, timeout=20)


def test_message(client):
    m = client.messages.create(model="claude-x", max_tokens=100, messages=user("Hello."), system="Be brief.")
    assert m.content[0].type == "text" and m.content[0].text == "Hello."
    assert m.stop_reason == "end_turn" and m.model == "claude-x"
    assert m.usage.output_tokens == 6


def test_thinking_and_tools(client):
    m = client.messages.create(model="m", max_tokens=4000, messages=user("why</think>\n\nSo.\n" + CALL), tools=[WEATHER],
                               thinking=ON)
    assert [b.type for b in m.content] == ["thinking", "text", "tool_use"]
    assert m.content[0].thinking == "why" and m.content[0].signature
    assert m.content[2].input == {"place": "Oslo", "days": 2}
    assert m.stop_reason == "tool_use"
    follow = client.messages.create(model="m", max_tokens=100, tools=[WEATHER], thinking=ON, messages=[
        *user("why</think>\n\nSo.\n" + CALL), {"role": "assistant", "content": [b.model_dump() for b in m.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": m.content[2].id,
                                      "content": [{"type": "text", "text": "snow"}]},
                                     {"type": "text", "text": "[[say:done</think>\n\nIt snows.:yas]]"}]}])
    assert follow.content[-1].text == "It snows."


def test_streamed(client):
    with client.messages.stream(model="m", max_tokens=4000, messages=user("why</think>\n\nSo.\n" + CALL),
                                tools=[WEATHER], thinking=ON) as stream:
        kinds = [event.type for event in stream]
        m = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [b.type for b in m.content] == ["thinking", "text", "tool_use"]
    assert m.content[0].thinking == "why"
    assert m.content[2].input == {"place": "Oslo", "days": 2}
    assert m.usage.output_tokens > 0 and m.stop_reason == "tool_use"


def test_only_thinking_still_has_a_text_block(client):
    m = client.messages.create(model="m", max_tokens=100, messages=user("hm</think>"), thinking=ON)
    assert [b.type for b in m.content] == ["thinking", "text"]
    with client.messages.stream(model="m", max_tokens=100, messages=user("hm</think>"), thinking=ON) as stream:
        assert [b.type for b in stream.get_final_message().content] == ["thinking", "text"]


def test_stop_sequence_and_length(client):
    m = client.messages.create(model="m", max_tokens=100, messages=user("one two"), stop_sequences=["tw"])
    assert (m.stop_reason, m.stop_sequence, m.content[0].text) == ("stop_sequence", "tw", "one ")
    m = client.messages.create(model="m", max_tokens=3, messages=user("one two"))
    assert (m.stop_reason, m.content[0].text) == ("max_tokens", "one")


def test_count_tokens_is_what_runs(client):
    body = {"model": "m", "messages": user("hi"), "system": "s", "tools": [WEATHER]}
    n = client.messages.count_tokens(**body).input_tokens
    usage = client.messages.create(max_tokens=10, **body).usage
    assert n == usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def test_models(client):
    assert [m.id for m in client.models.list()] == ["fake"]


def test_errors_have_the_shape(client):
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(model="m", max_tokens=10, messages=[{"role": "user", "content": "long " * 5000}])
    assert "prompt is too long: " in error.value.message and " maximum" in error.value.message
    assert error.value.body["type"] == "error"
    assert error.value.request_id


def test_billing_header_does_not_reach_the_prompt(client):
    def count(value):
        return client.messages.count_tokens(model="m", messages=user("x"), system=[
            {"type": "text", "text": "x-anthropic-billing-header: v=" + value},
            {"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}]).input_tokens
    assert count("1") == count("a-much-longer-value-that-would-show")


def test_prefill(client):
    m = client.messages.create(model="m", max_tokens=50, messages=[
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "[[say: and more:yas]]"}])
    assert m.stop_reason in ("end_turn", "max_tokens")
