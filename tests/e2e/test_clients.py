"""Request bodies in the shapes agents and pages send, written from their documented formats: none may be refused, and
the next turn of a conversation must find the previous one in the prefix cache.

SPDX-License-Identifier: Apache-2.0
"""
import json

import pytest

from conftest import say

EDIT = {"type": "object", "properties": {"filePath": {"type": "string", "description": "The file"},
                                         "oldString": {"type": "string"}, "newString": {"type": "string"},
                                         "replaceAll": {"type": "boolean"}},
        "required": ["filePath", "oldString", "newString"], "additionalProperties": False,
        "$schema": "http://json-schema.org/draft-07/schema#"}
BASH = {"type": "object", "properties": {"command": {"type": "string"}, "timeout": {"type": "number", "default": 120000}},
        "required": ["command"]}
CALL = ("I will look.\n\n<tool_call>\n<function=bash>\n<parameter=command>\nls -l \"a b\"\n</parameter>\n<parameter=timeout>\n"
        "5000\n</parameter>\n</function>\n</tool_call>")


def openai_tools(**more):
    return [{"type": "function", "function": {"name": name, "description": "Does " + name, "parameters": schema, **more}}
            for name, schema in (("edit", EDIT), ("bash", BASH))]


def opencode():
    """AI SDK, OpenAI-compatible provider."""
    return {"model": "qwen3.6", "max_tokens": 4000, "temperature": 0.55, "top_p": 1, "stream": True,
            "stream_options": {"include_usage": True}, "tool_choice": "auto", "tools": openai_tools(),
            "messages": [{"role": "system", "content": "You are opencode.\n<env>\n  Platform: linux\n</env>"},
                         {"role": "user", "content": [{"type": "text", "text": "List the files. " + say(CALL)}]}]}


def crush():
    return {"model": "qwen3.6", "max_tokens": 4000, "stream": True, "stream_options": {"include_usage": True},
            "tools": openai_tools(strict=False), "reasoning_effort": "none", "parallel_tool_calls": True, "user": "crush",
            "messages": [{"role": "system", "content": "You are Crush."}, {"role": "developer", "content": "Be kind."},
                         {"role": "user", "content": say(CALL)}]}


def qwen_code():
    return {"model": "qwen3.6", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "top_p": 0.95,
            "max_tokens": 4000, "tools": openai_tools(), "metadata": {"sessionId": "s", "promptId": "p"},
            "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}, "vl_high_resolution_images": True,
            "messages": [{"role": "system", "content": [{"type": "text", "text": "You are an agent.",
                                                         "cache_control": {"type": "ephemeral"}}]},
                         {"role": "user", "content": [{"type": "text", "text": say(CALL)}]}]}


def open_webui():
    return {"model": "qwen3.6", "stream": True, "max_tokens": 2000, "tools": openai_tools(), "params": {}, "files": [], "features": {"web_search": False},
            "chat_id": "c", "session_id": "s", "id": "m", "background_tasks": {"title_generation": True}, "tool_servers": [],
            "variables": {"{{USER_NAME}}": "U"}, "model_item": {"id": "x", "preset": True}, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": say(CALL)}]}


def litellm():
    return {"model": "openai/qwen3.6", "stream": True, "tools": openai_tools(), "max_completion_tokens": 4000, "max_tokens": 10,
            "thinking": {"type": "disabled"}, "drop_params": True, "frequency_penalty": None, "n": 1, "logit_bias": None,
            "extra_headers": {}, "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": say(CALL), "name": None}]}


def merge(events):
    """What a client has after a stream."""
    message, usage, reason = {"role": "assistant", "content": "", "tool_calls": []}, None, None
    for _, data in events:
        if data == "[DONE]":
            continue
        usage = data.get("usage") or usage
        for choice in data["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls", []):
                if call["index"] == len(message["tool_calls"]):
                    assert isinstance(call["id"], str) and call["function"]["name"]
                    message["tool_calls"].append({"id": call["id"], "type": "function",
                                                  "function": {"name": call["function"]["name"], "arguments": ""}})
                function = message["tool_calls"][call["index"]]["function"]
                for prefix_end in (function["arguments"],):
                    with pytest.raises(ValueError):
                        json.loads(prefix_end)
                function["arguments"] += call["function"].get("arguments", "")
            reason = choice["finish_reason"] or reason
    return message, usage, reason


@pytest.mark.parametrize("body", [opencode, crush, qwen_code, open_webui, litellm])
def test_openai_agents(server, body):
    body = body()
    message, usage, reason = merge(server.events("/v1/chat/completions", body))
    assert reason == "tool_calls" and usage["completion_tokens"] > 0
    call = message["tool_calls"][0]
    assert call["function"]["name"] == "bash"
    assert json.loads(call["function"]["arguments"]) == {"command": 'ls -l "a b"', "timeout": 5000}
    # the next turn: history with the call, its result, an extra system message in the middle as some clients send
    body["messages"] += [message, {"role": "tool", "tool_call_id": call["id"], "name": "bash",
                                   "content": "total 0\n" + say("There are none.")}]
    if body["model"].startswith("openai/"):
        body["messages"] += [{"role": "system", "content": "Remember the time."}]
    message, second, reason = merge(server.events("/v1/chat/completions", body))
    assert message["content"] == "There are none." and reason == "stop"
    assert second["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] // 64 * 64 - 64


def test_thoughts_as_blocks(server):
    """What proxies make of another dialect's thinking: parts of the content (litellm's hosted_vllm route), a list beside it."""
    thought, call = "First, look.", {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command":"ls"}'}}

    def prompt(**message):
        status, answer = server.post("/apply-template", {"tools": openai_tools(), "messages": [
            {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call], **message}, {"role": "tool", "tool_call_id": "c1", "content": "r"}]})
        assert status == 200, answer
        return answer["prompt"]

    plain = prompt(content="Then this.", reasoning_content=thought)
    assert thought in plain
    block, text = {"type": "thinking", "thinking": thought, "signature": "s"}, {"type": "text", "text": "Then this."}
    assert prompt(content=[block, {"type": "redacted_thinking", "data": "x"}, text]) == plain
    assert prompt(content=[{"type": "reasoning", "text": thought}, text]) == plain
    assert prompt(content="Then this.", thinking_blocks=[block]) == plain
    assert prompt(content=[block]) == prompt(content=None, reasoning_content=thought)
    assert prompt(content=[{"type": "thinking", "thinking": "other"}, text], reasoning_content=thought) == plain


def test_broken_history_is_rendered(server):
    """Arguments that a truncated stream left behind, unknown roles, null contents, orphan results."""
    status, answer = server.post("/v1/chat/completions", {"model": "m", "tools": openai_tools(), "messages": [
        {"role": "system", "content": None}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls'}},
            {"id": "c2", "type": "function", "function": {"name": "bash", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "tool", "tool_call_id": "c1", "content": None}, {"role": "ctx", "content": "context"},
        {"role": "function", "name": "f", "content": "old"}, {"role": "user", "content": say("fine")}]})
    assert status == 200 and answer["choices"][0]["message"]["content"] == "fine"


def claude_code(text, more=()):
    return {"model": "claude-sonnet-4", "max_tokens": 32000, "stream": True, "temperature": 1,
            "metadata": {"user_id": "user_abc_account__session_def"}, "anthropic_beta": ["x"],
            "thinking": {"type": "disabled"}, "context_management": {"edits": []},
            "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=00000;"},
                       {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
                       {"type": "text", "text": "\n# Tone\nBe terse.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "tools": [{"name": "Bash", "description": "Runs", "input_schema": BASH, "defer_loading": False, "strict": False,
                       "cache_control": {"type": "ephemeral"}},
                      {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
            "messages": [{"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>\nToday is Monday.\n</system-reminder>"},
                {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}, *more]}


def test_claude_code(server):
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
               "authorization": "Bearer dummy"}
    call = CALL.replace("bash", "Bash")
    first = claude_code(say(call))
    events = server.events("/v1/messages?beta=true", first, headers)
    kinds = [name for name, _ in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert all(name == data["type"] for name, data in events)
    start = [d["content_block"] for n, d in events if n == "content_block_start" and d["content_block"]["type"] == "tool_use"]
    parts = "".join(d["delta"].get("partial_json", "") for n, d in events if n == "content_block_delta")
    assert json.loads(parts) == {"command": 'ls -l "a b"', "timeout": 5000}
    prompt = next(d["message"]["usage"] for n, d in events if n == "message_start")
    n_prompt = prompt["input_tokens"] + prompt["cache_read_input_tokens"]
    assistant = {"role": "assistant", "content": [{"type": "text", "text": "I will look."},
                                                  {"type": "tool_use", "id": start[0]["id"], "name": "Bash", "input": json.loads(parts)}]}
    result = {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": start[0]["id"], "is_error": True, "content": "no such file"},
        {"type": "text", "text": "<system-reminder>\nTodo list is empty.\n</system-reminder>"},
        {"type": "text", "text": say("Nothing there.")}]}
    second = claude_code(say(call), [assistant, {"role": "system", "content": "Date changed."}, result])
    second["system"][0]["text"] = "x-anthropic-billing-header: cc_version=2.1; cch=99999;"
    count = server.post("/v1/messages/count_tokens?beta=true", {k: v for k, v in second.items() if k not in ("max_tokens", "stream")})[1]
    events = server.events("/v1/messages?beta=true", second, headers)
    text = "".join(d["delta"].get("text", "") for n, d in events if n == "content_block_delta")
    assert text == "Nothing there."
    usage = next(d["usage"] for n, d in events if n == "message_delta")
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count["input_tokens"]
    assert usage["cache_read_input_tokens"] >= n_prompt // 64 * 64 - 64


def test_codex(server):
    body = {"model": "qwen", "instructions": "You are Codex.", "store": False, "stream": True, "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "k", "parallel_tool_calls": False, "reasoning": {"effort": "none", "summary": "auto"},
            "text": {"verbosity": "medium"}, "tool_choice": "auto",
            "tools": [{"type": "function", "name": "bash", "description": "", "strict": False, "parameters": BASH},
                      {"type": "custom", "name": "apply_patch", "description": "Patches", "format": {"type": "grammar"}},
                      {"type": "web_search"}, {"type": "local_shell"},
                      {"type": "namespace", "name": "mcp", "tools": [{"type": "function", "name": "x", "parameters": {}}]}],
            "input": [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
                      {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say(
                          "<tool_call>\n<function=apply_patch>\n<parameter=input>\n*** Begin Patch\n+x\n</parameter>\n</function>\n</tool_call>")}]}]}
    events = server.events("/v1/responses", body)
    item = next(d["item"] for n, d in events if n == "response.output_item.done")
    assert item["type"] == "custom_tool_call" and item["input"] == "*** Begin Patch\n+x"
    assert [d["sequence_number"] for _, d in events] == list(range(len(events)))
    body["input"] += [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": None},
                      item, {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "Done"},
                      {"type": "function_call", "call_id": "c9", "name": "bash", "arguments": '{"command":"ls"}'},
                      {"type": "function_call_output", "call_id": "c9", "output": [{"type": "input_text", "text": "a.txt"}]},
                      {"type": "web_search_call", "id": "ws", "status": "completed"},
                      {"role": "user", "content": say("patched")}]
    events = server.events("/v1/responses", body)
    assert events[-1][0] == "response.completed"
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == "patched"
