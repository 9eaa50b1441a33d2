"""Requests from the field that were answered wrongly: each gives its right answer, with siblings of other dialects.

tests/e2e/cases holds the inputs. The model is the small one of the repository; prompts are read from the trace folder.
SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import subprocess

import pytest

from conftest import BUILD, ROOT, Server

CASES = pathlib.Path(__file__).parent / "cases"


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def mini(traces):
    s = Server("quern", ROOT / "models/mini", "--trace", str(traces), "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


def load(name):
    return json.loads((CASES / name).read_text())


def post(server, path, body, status=200):
    got, answer = server.post(path, body)
    assert got == status, answer
    return answer


def prompt(server, path, body):
    """The rendered prompt of a request that is answered with 200."""
    mark = "request-%d" % len(prompt.seen)
    prompt.seen.append(mark)
    status, headers, answer = server.request("POST", path, {**body, "temperature": 0}, {"x-request-id": mark, "request-id": mark})
    assert status == 200, answer
    return trace_of(mark)["prompt"]


prompt.seen = []
FOLDER = []


@pytest.fixture(autouse=True)
def remember(traces):
    FOLDER[:] = [traces]


def trace_of(mark):
    for file in sorted(FOLDER[0].iterdir(), key=lambda f: f.stat().st_mtime, reverse=True):
        if mark in file.name or mark in file.read_text():
            return json.loads(file.read_text())
    raise AssertionError("no trace of " + mark)


def calls_of(answer):
    return [i for i in answer["output"] if i["type"] == "function_call"]


# ---------------------------------------------------------------- namespaces


def test_namespace_comes_back(mini):
    call, = calls_of(post(mini, "/v1/responses", load("01-namespace-tools/request.json")))
    assert (call["namespace"], call["name"]) == ("mcp__files", "read_file")
    assert call["call_id"].startswith("call_")


def test_namespace_streamed(mini):
    events = mini.events("/v1/responses", {**load("01-namespace-tools/request.json"), "stream": True}, timeout=60)
    for kind in ("response.output_item.added", "response.output_item.done"):
        item = [d["item"] for n, d in events if n == kind and d["item"]["type"] == "function_call"][0]
        assert (item["namespace"], item["name"]) == ("mcp__files", "read_file")
    done, = [d for n, d in events if n == "response.function_call_arguments.done"]
    assert done["name"] == "read_file"
    assert calls_of(events[-1][1]["response"])[0]["namespace"] == "mcp__files"


def test_namespace_in_history(mini):
    text = prompt(mini, "/v1/responses", load("01-namespace-tools/request2.json"))
    assert "<function=mcp__files__read_file>" in text and '"name": "mcp__files__read_file"' in text
    # without the namespace, and with the flattened name, as older sessions have it
    body = load("01-namespace-tools/request2.json")
    del body["input"][1]["namespace"]
    assert "<function=mcp__files__read_file>" in prompt(mini, "/v1/responses", body)
    body["input"][1]["name"] = "mcp__files__read_file"
    assert "<function=mcp__files__read_file>" in prompt(mini, "/v1/responses", body)


@pytest.mark.parametrize("choice", [
    None, {"type": "function", "name": "mcp__files__read_file"},
    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "read_file", "namespace": "mcp__files"}]}])
def test_namespace_in_choice(mini, choice):
    body = load("01-namespace-tools/request3.json")
    call, = calls_of(post(mini, "/v1/responses", {**body, **({"tool_choice": choice} if choice else {})}))
    assert (call["namespace"], call["name"]) == ("mcp__files", "read_file")


def test_namespaces_with_equal_names(mini):
    body = load("01-namespace-tools/request.json")
    other = json.loads(json.dumps(body["tools"][0]).replace("mcp__files", "mcp__web"))
    custom = {"type": "namespace", "name": "edit", "tools": [{"type": "custom", "name": "patch", "description": "Free text."}]}
    body["tools"] += [other, custom]
    for space in ("mcp__files", "mcp__web"):
        body["tool_choice"] = {"type": "function", "name": "read_file", "namespace": space}
        call, = calls_of(post(mini, "/v1/responses", body))
        assert (call["namespace"], call["name"]) == (space, "read_file")
    body["tool_choice"] = {"type": "custom", "name": "patch", "namespace": "edit"}
    answer = post(mini, "/v1/responses", body)
    call = [i for i in answer["output"] if i["type"] == "custom_tool_call"][0]
    assert (call["namespace"], call["name"]) == ("edit", "patch")
    text = prompt(mini, "/v1/responses", {**body, "tool_choice": "none", "input": [
        {"role": "user", "content": "go"}, {"type": "custom_tool_call", "call_id": "c", "name": "patch", "namespace": "edit", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}]})
    assert "<function=edit__patch>" in text


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("name,words", [
    ("document", ["hello doc", "Doc"]), ("search_result", ["found", "T (http://x)"]), ("tool_reference", ["TaskStop"]),
    ("user-document-content", ["T\ninner\nSum up."]), ("user-search_result", ["T (http://x)\nfound\nSum up."]),
    ("user-pdf", ["[document application/pdf: left out, not readable here]\nSum up."])])
def test_blocks_of_messages(mini, name, words):
    text = prompt(mini, "/v1/messages", load(f"02-messages-blocks-lost/{name}.json"))
    for word in words:
        assert word in text, text


RESULT = [{"role": "user", "content": "go"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]
TEXT64 = "aGVsbG8gZG9j"


@pytest.mark.parametrize("block,word", [
    ({"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": TEXT64}}, "hello doc"),
    ({"type": "document", "source": {"type": "url", "url": "http://x/y.pdf"}, "title": "Y"}, "[document Y http://x/y.pdf: left out"),
    ({"type": "document", "source": {"type": "file", "file_id": "file_1"}}, "file_1"),
    ({"type": "document", "context": "from mail", "source": {"type": "content", "content": "plain"}}, "from mail\nplain"),
    ({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "http://u", "title": "Title", "encrypted_content": "E"}]},
     "Title (http://u)"),
    ({"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}}, "max_uses_exceeded"),
    ({"type": "code_execution_tool_result", "content": {"type": "code_execution_result", "stdout": "out!", "stderr": "err!", "return_code": 0}}, "out!"),
    ({"type": "mcp_tool_result", "tool_use_id": "m", "content": [{"type": "text", "text": "from mcp"}]}, "from mcp"),
    ({"type": "container_upload", "file_id": "file_7"}, "file_7"),
    ({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}}, "[image image/png: left out, not readable here]"),
    ({"type": "hologram", "data": {"a": 1}}, "hologram"),
    ({"type": "hologram", "text": "seen"}, "seen"),
])
@pytest.mark.parametrize("where", ["user", "result", "assistant"])
def test_no_block_disappears(mini, block, word, where):
    if where == "user":
        messages = [{"role": "user", "content": [block, {"type": "text", "text": "go"}]}]
    elif where == "result":
        messages = RESULT + [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [block]}]}]
    else:
        messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": [{"type": "text", "text": "well"}, block]}, {"role": "user", "content": "on"}]
    assert word in prompt(mini, "/v1/messages", {"messages": messages, "max_tokens": 1})


def test_calls_of_servers(mini):
    text = prompt(mini, "/v1/messages", {"max_tokens": 1, "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "mills"}},
                                          {"type": "mcp_tool_use", "id": "m", "name": "find", "server_name": "box", "input": {}},
                                          {"type": "text", "text": "So."}]},
        {"role": "user", "content": "on"}]})
    assert '[called web_search with {"query": "mills"}]' in text and "[called box find with {}]" in text and "So." in text


@pytest.mark.parametrize("item,words", [
    ({"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls", "-l"]}}, ["local_shell", '"ls"']),
    ({"type": "local_shell_call_output", "call_id": "c", "output": "shell says"}, ["<tool_response>", "shell says"]),
    ({"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "so", "stderr": "se", "outcome": {"type": "exit", "exit_code": 0}}]}, ["so", "se"]),
    ({"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no file"}, ["no file"]),
    ({"type": "mcp_call", "server_label": "box", "name": "find", "arguments": "{\"q\":1}", "output": "42 mills"}, ["box find", "42 mills"]),
    ({"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "mills"}}, ["web_search", "mills"]),
    ({"type": "code_interpreter_call", "code": "print(1)", "outputs": [{"type": "logs", "logs": "1!"}]}, ["print(1)", "1!"]),
    ({"type": "file_search_call", "queries": ["q"], "results": [{"filename": "f.txt", "text": "inside"}]}, ["inside", "f.txt"]),
    ({"type": "hologram_call", "name": "beam"}, ["beam"]),
    ({"type": "hologram"}, ["hologram"]),
    ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}]}, ["a.pdf", "left out"]),
    ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64," + TEXT64}]}, ["hello doc"]),
    ({"type": "message", "role": "user", "content": [{"type": "search_result", "title": "T", "content": [{"type": "text", "text": "deep"}]}]}, ["deep"]),
])
def test_no_item_disappears(mini, item, words):
    text = prompt(mini, "/v1/responses", {"input": [{"role": "user", "content": "go"}, item, {"role": "user", "content": "on"}], "max_output_tokens": 1})
    for word in words:
        assert word in text, text


def test_parts_of_chat(mini):
    call = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    text = prompt(mini, "/v1/chat/completions", {"max_tokens": 1, "messages": [
        {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "doc text"}}, {"type": "text", "text": "go"}]}, call,
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "shot"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                                                           {"type": "hologram"}]}]})
    assert "doc text\ngo" in text and "shot\n[image: left out, this model reads text only]" in text and "hologram" in text


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("name,path", [("request", "/v1/messages"), ("later", "/v1/messages"), ("responses", "/v1/responses")])
def test_a_picture_in_a_result(mini, name, path):
    text = prompt(mini, path, load(f"11-image-in-tool-result/{name}.json"))
    assert "shot" in text and "[image" in text and "reads text only]" in text


def test_a_picture_of_the_user_is_named(mini):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    answer = post(mini, "/v1/messages", {"max_tokens": 1, "system": "S", "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": [{"type": "text", "text": "see"}, image]}]}, 400)
    assert "messages[2].content[1]" in answer["error"]["message"] and "'image'" in answer["error"]["message"]
    answer = post(mini, "/v1/responses", {"instructions": "S", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]}, 400)
    assert "input[0].content[1]" in answer["error"]["message"] and "'input_image'" in answer["error"]["message"]


# ---------------------------------------------------------------- tools


@pytest.mark.parametrize("name", ["any", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_parameters_combined_at_the_top(mini, name, seed):
    answer = post(mini, "/v1/chat/completions", {**load(f"07-top-level-anyof-allof/{name}.json"), "seed": seed, "max_tokens": 200})
    arguments = json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
    if name == "all":
        assert set(arguments) == {"n", "m"}
    assert arguments and type(arguments.get("n", 0)) is int and type(arguments.get("m", True)) is bool


def parse(case, name="call.txt"):
    out = subprocess.run([BUILD / "quern", "parse", "--tools", CASES / case / "tools.json"], input=(CASES / case / name).read_bytes(),
                         capture_output=True, check=True, timeout=20).stdout
    return json.loads(out)


def arguments_of(call):
    return json.loads(call["arguments"]) if isinstance(call["arguments"], str) else call["arguments"]


def test_types_behind_combinations():
    assert arguments_of(parse("07-top-level-anyof-allof")["tool_calls"][0]) == {"n": 1, "m": True}


def test_an_untyped_parameter():
    assert arguments_of(parse("09-untyped-parameter")["tool_calls"][0]) == {"x": {"a": 1}}


@pytest.mark.parametrize("name,path,param", [("request", "/v1/messages", None), ("responses", "/v1/responses", "tool_choice")])
def test_a_server_tool_is_forced(mini, name, path, param):
    answer = post(mini, path, load(f"10-websearch-forced/{name}.json"), 400)
    assert "web_search" in answer["error"]["message"] and "not run here" in answer["error"]["message"]
    assert answer["error"].get("param") == param


@pytest.mark.parametrize("path,body", [
    ("/v1/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}, "max_tokens": 5}),
    ("/v1/responses", {"tools": [{"type": "image_generation"}], "tool_choice": "required"}),
    ("/v1/responses", {"tools": [{"type": "mcp", "server_label": "box"}], "tool_choice": {"type": "mcp", "server_label": "box"}}),
    ("/v1/chat/completions", {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}),
    ("/v1/chat/completions", {"tools": [{"type": "web_search_preview"}], "tool_choice": "required"}),
])
def test_other_server_tools_forced(mini, path, body):
    said = {"input": "go"} if path.endswith("responses") else {"messages": [{"role": "user", "content": "go"}]}
    assert "not run here" in post(mini, path, {**said, **body}, 400)["error"]["message"]


def test_another_tool_than_the_servers_is_forced(mini):
    """The request has a tool, so the error does not say that it has none."""
    body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 2, "tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "find"}}
    assert "'find', which is not among the tools" in post(mini, "/v1/messages", body, 400)["error"]["message"]
    body = {"input": "go", "tools": [{"type": "web_search"}], "tool_choice": {"type": "image_generation"}}
    assert "'image_generation', which is not among the tools" in post(mini, "/v1/responses", body, 400)["error"]["message"]


def test_server_tools_not_forced(mini):
    post(mini, "/v1/messages", {"messages": [{"role": "user", "content": "go"}], "max_tokens": 2, "tools": [{"type": "web_search_20250305", "name": "web_search"}]})


# ---------------------------------------------------------------- errors, usage, truncation, compaction


def test_should_retry(mini, traces):
    for path, body, status in (("/v1/messages", {"max_tokens": 1}, 400), ("/v1/nothing", {}, 404), ("/v1/embeddings", {"input": "x"}, 501)):
        got, headers, _ = mini.request("POST", path, body)
        assert got == status and headers["x-should-retry"] == "false"


def test_a_wrong_key_is_not_tried_again(model):
    anthropic = pytest.importorskip("anthropic")
    s = Server("quern-fake", model, "--api-key", "right")
    try:
        status, headers, _ = s.request("POST", "/v1/messages", {}, {"x-api-key": "wrong"})
        assert status == 401 and headers["x-should-retry"] == "false"
        before = s.metric("quern_http_requests_total") if "quern_http_requests_total" in s.get("/metrics")[1] else None
        with pytest.raises(anthropic.AuthenticationError):
            anthropic.Anthropic(base_url=s.url, api_key="wrong", max_retries=5).messages.create(
                model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        if before is not None:
            assert s.metric("quern_http_requests_total") - before <= 2
    finally:
        s.stop()


def test_usage_of_thinking(mini):
    answer = post(mini, "/v1/messages", {"messages": [{"role": "user", "content": "What is quern?"}], "max_tokens": 60, "thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert 0 <= answer["usage"]["output_tokens_details"]["thinking_tokens"] <= answer["usage"]["output_tokens"]


def test_truncation():
    s = Server("quern", ROOT / "models/mini", "--context", "256", "--threads", "1", "--log-level", "warn")
    try:
        long = [{"role": r, "content": "word " * 30} for _ in range(8) for r in ("user", "assistant")] + [{"role": "user", "content": "What is quern?"}]
        body = {"input": long, "instructions": "Be brief.", "max_output_tokens": 10, "enable_thinking": False}
        error = post(s, "/v1/responses", body, 400)["error"]
        assert error["code"] == "context_length_exceeded" and error["param"] == "input"
        answer = post(s, "/v1/responses", {**body, "truncation": "auto"})
        assert answer["usage"]["input_tokens"] <= 246 and answer["truncation"] == "auto"
        post(s, "/v1/responses", {**body, "truncation": "some"}, 400)
    finally:
        s.stop()


def test_compaction(mini):
    said = [{"role": "user", "content": "What is quern?"}, {"role": "assistant", "content": "A server."}]
    answer = post(mini, "/v1/responses/compact", {"model": "m", "input": said, "instructions": "Be brief."})
    assert answer["object"] == "response.compaction" and answer["usage"]["total_tokens"] > 0
    assert answer["output"][0]["role"] == "user" and answer["output"][-1]["type"] == "compaction"
    text = prompt(mini, "/v1/responses", {"input": answer["output"] + [{"role": "user", "content": "Go on."}], "max_output_tokens": 2})
    assert "Summary of the conversation so far" in text and "Go on." in text
    broken = {**answer["output"][-1], "encrypted_content": "x" + answer["output"][-1]["encrypted_content"]}
    assert "input[0]" in post(mini, "/v1/responses", {"input": [broken]}, 400)["error"]["message"]
    post(mini, "/v1/responses/compact", {"model": "m"}, 400)
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=mini.url + "/v1", api_key="x")
    if hasattr(client.responses, "compact"):
        assert client.responses.compact(model="m", input="What is quern?").output[-1].type == "compaction"


# ---------------------------------------------------------------- calls without their wrapper


BARE = "<function=get_weather>\n<parameter=location>\nTokyo\n</parameter>\n</function>"


@pytest.mark.parametrize("text,n_call,content", [
    (None, 0, "The tags are XML-like."),
    (BARE, 1, None), ("I look.\n\n" + BARE, 1, "I look."), (BARE + "\n\n", 1, None), (BARE + "\n</tool_call>", 1, None),
    (BARE + "\n" + BARE, 2, None), ("Both:\n" + BARE + "\n<tool_call>\n" + BARE + "\n</tool_call>", 2, "Both:"),
    (BARE + "\nThat was it.", 0, "That was it."), ("See:\n" + BARE + "\n" + BARE + "\nTwo examples.", 0, "Two examples."),
    ("<tool_call>\n" + BARE + "\n</tool_call>\nDone.", 1, "Done."), ("See <function=get_weather> in a line.", 0, "in a line"),
])
@pytest.mark.parametrize("chunks", ["whole", "char", "3"])
def test_a_bare_block_counts_where_nothing_but_calls_follows(text, n_call, content, chunks):
    case = CASES / "24-function-line-in-prose"
    data = (case / "out.txt").read_bytes() if text is None else text.encode()
    out = json.loads(subprocess.run([BUILD / "quern", "parse", "--tools", case / "tools.json", "--chunks", chunks], input=data, capture_output=True,
                                    check=True, timeout=20).stdout)
    assert len(out["tool_calls"]) == n_call, out
    assert (content in out["content"]) if content else not out["content"]
    if not n_call:
        assert "<function=get_weather>" in out["content"]


# ---------------------------------------------------------------- tools that load late


def tool(name, parameter, kind, deferred=True, **more):
    schema = {"type": "object", "properties": {parameter: {"type": kind}}, "required": [parameter], "additionalProperties": False}
    return {"name": name, "description": "Does " + name + ".", "input_schema": schema, **({"defer_loading": True} if deferred else {}), **more}


SEARCH = tool("ToolSearch", "query", "string", deferred=False)
SEARCH["input_schema"]["properties"]["query"]["enum"] = ["box", "lid"]
PLACEHOLDER = {"name": "DeferredToolPlaceholder", "description": "Never called.", "input_schema": {"type": "object"}, "defer_loading": True}
ALPHA, BETA = tool("mcp__box__alpha", "n", "integer"), tool("mcp__box__beta", "m", "boolean")
FIRST = [{"role": "user", "content": "word " * 300 + "Find the box."}]
THEN = FIRST + [
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "box"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "tool_reference", "tool_name": "mcp__box__alpha"}]}]}]


def test_tool_search(mini):
    """Turns as Claude Code records them: the tools found join the list, and a reference stands in the result."""
    body = {"max_tokens": 8, "messages": FIRST, "tools": [SEARCH, PLACEHOLDER]}
    first = prompt(mini, "/v1/messages", body)
    assert "ToolSearch" in first and "Placeholder" not in first
    tokens = post(mini, "/v1/messages/count_tokens", body)["input_tokens"]
    body = {"max_tokens": 300, "messages": THEN, "tools": [SEARCH, PLACEHOLDER, ALPHA, BETA]}
    then = prompt(mini, "/v1/messages", {**body, "max_tokens": 8})
    shared = first[:first.rindex("<|im_start|>assistant")]
    assert then.startswith(shared)
    assert '<tool_response>\nThis function can be called from here on:\n<tools>\n{"type": "function", "function": {"name": "mcp__box__alpha"' in then
    assert "beta" not in then and "defer_loading" not in then and "Placeholder" not in then
    usage = post(mini, "/v1/messages", {**body, "max_tokens": 8, "cache_salt": None})["usage"]
    assert usage["cache_read_input_tokens"] >= 0.9 * tokens
    # callable and constrained from there on
    answer = post(mini, "/v1/messages", {**body, "tool_choice": {"type": "tool", "name": "mcp__box__alpha"}, "temperature": 1})
    assert type(answer["content"][-1]["input"]["n"]) is int
    # one that nobody has found cannot be called, unless it is forced by name
    answer = post(mini, "/v1/messages", {"max_tokens": 300, "messages": FIRST, "tools": [SEARCH, ALPHA, BETA], "tool_choice": {"type": "any"}, "temperature": 1})
    assert answer["content"][-1]["name"] == "ToolSearch"
    forced = {"max_tokens": 300, "messages": FIRST, "tools": [SEARCH, ALPHA, BETA], "tool_choice": {"type": "tool", "name": "mcp__box__beta"}}
    assert type(post(mini, "/v1/messages", forced)["content"][-1]["input"]["m"]) is bool
    # a second reference does not repeat the definition; one that was not sent says so
    more = THEN + [{"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_2", "name": "ToolSearch", "input": {"query": "box"}}]},
                   {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_2", "content": [
                       {"type": "tool_reference", "tool_name": "mcp__box__alpha"}, {"type": "tool_reference", "tool_name": "gone"}]}]}]
    text = prompt(mini, "/v1/messages", {**body, "messages": more, "max_tokens": 2})
    assert text.count('"name": "mcp__box__alpha"') == 1 and text.startswith(then[:then.rindex("<|im_start|>assistant")])
    assert "The function mcp__box__alpha can be called." in text and "gone: its definition was not sent" in text


def test_deferred_tools_that_nobody_could_find(mini):
    for tools in ([ALPHA, BETA], [SEARCH, ALPHA, BETA, {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}]):
        text = prompt(mini, "/v1/messages", {"max_tokens": 2, "messages": FIRST, "tools": tools})
        assert "mcp__box__alpha" in text and "mcp__box__beta" in text


def test_tool_search_in_chat(mini):
    def openai(t):
        return {"type": "function", "function": {"name": t["name"], "parameters": t["input_schema"], **({"defer_loading": True} if "defer_loading" in t else {})}}
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "ToolSearch", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "tool_reference", "tool_name": "mcp__box__alpha"}]}]
    body = {"max_tokens": 200, "messages": messages, "tools": [openai(t) for t in (SEARCH, ALPHA, BETA)]}
    text = prompt(mini, "/v1/chat/completions", {**body, "max_tokens": 2})
    assert text.index("</tools>") < text.index('"name": "mcp__box__alpha"') and "beta" not in text


def test_tool_search_of_responses(mini):
    found = {"type": "namespace", "name": "box", "tools": [{"type": "function", "name": "alpha", "parameters": ALPHA["input_schema"], "defer_loading": True}]}
    search = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {"type": "object", "properties": {"q": {"type": "string", "maxLength": 9}}, "required": ["q"]}}
    answer = post(mini, "/v1/responses", {"input": "Find the box.", "tools": [search], "tool_choice": "required", "max_output_tokens": 300})
    call = answer["output"][-1]
    assert call["type"] == "tool_search_call" and call["execution"] == "client" and isinstance(call["arguments"], dict)
    items = [{"role": "user", "content": "Find the box."}, call, {"type": "tool_search_output", "call_id": call["call_id"], "execution": "client", "tools": [found]}]
    body = {"input": items, "tools": [search], "max_output_tokens": 300}
    text = prompt(mini, "/v1/responses", {**body, "max_output_tokens": 2})
    assert text.index("</tools>") < text.index('"name": "box__alpha"') and "<function=tool_search>" in text
    call, = calls_of(post(mini, "/v1/responses", {**body, "tool_choice": {"type": "function", "name": "alpha", "namespace": "box"}}))
    assert (call["namespace"], call["name"]) == ("box", "alpha") and type(json.loads(call["arguments"])["n"]) is int


def test_strict_tools_of_chat(mini):
    """strict stays beside the function for the constraint, and out of the prompt."""
    t = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}
    assert "'not'" in post(mini, "/v1/chat/completions", {"messages": [{"role": "user", "content": "go"}], "tools": [t]}, 400)["error"]["message"]
    t["function"]["parameters"] = {"type": "object", "properties": {}}
    assert "strict" not in prompt(mini, "/v1/chat/completions", {"messages": [{"role": "user", "content": "go"}], "tools": [t], "max_tokens": 2})
