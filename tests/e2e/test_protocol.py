"""HTTP: state, keys, CORS, ids, bad input, leaving and slow clients, many at once, drain.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import http.client
import json
import re
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, ROOT, say, user


def chat(text, **more):
    return {"model": "fake", "messages": user(text), **more}


# what vLLM's boards ask for, in its present and its older names
DASHBOARDS = """num_requests_running num_requests_waiting kv_cache_usage_perc gpu_cache_usage_perc cache_config_info lora_requests_info
    prompt_tokens_total generation_tokens_total request_success_total num_preemptions_total prefix_cache_queries_total prefix_cache_hits_total
    spec_decode_num_drafts_total spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total
    spec_decode_num_accepted_tokens_per_pos_total time_to_first_token_seconds inter_token_latency_seconds time_per_output_token_seconds
    request_time_per_output_token_seconds e2e_request_latency_seconds request_queue_time_seconds request_inference_time_seconds
    request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens request_generation_tokens
    request_max_num_generation_tokens request_params_n request_params_max_tokens iteration_tokens_total"""


def test_health_metrics_version(server):
    assert server.get("/health")[1]["status"] == "ok"
    assert server.get("/ping")[0] == 200
    assert server.get("/version")[1]["version"]
    server.post("/v1/chat/completions", chat("x"))
    _, text = server.get("/metrics")
    for name in DASHBOARDS.split():
        assert re.search("^vllm:" + name + r"(_bucket)?\{", text, re.M), name
    assert re.search(r"^quern_up\{", text, re.M)
    for line in text.splitlines():
        assert re.match(r"^(# (HELP|TYPE) .*|[a-z0-9_:]+(\{[^}]*\})? [-+0-9.eInf]+)$", line), line


def test_metrics_of_steps_and_choices(start):
    """Tokens that steps read, by step; the longest of several choices."""
    s = start()
    s.post("/v1/chat/completions", chat("one two three", n=3))
    s.post("/v1/chat/completions", chat("x"))
    assert s.metric("vllm:iteration_tokens_total_count") == s.metric("quern_steps_total") > 2
    assert s.metric("vllm:iteration_tokens_total_sum") >= s.metric("quern_prompt_tokens_total")
    assert s.metric("vllm:request_max_num_generation_tokens_count") == 2
    assert s.metric("vllm:request_generation_tokens_count") == 4
    assert s.metric("vllm:request_max_num_generation_tokens_sum") < s.metric("vllm:request_generation_tokens_sum")
    assert s.metric("vllm:time_per_output_token_seconds_count") == s.metric("vllm:inter_token_latency_seconds_count") > 0


def test_progress(start):
    """return_progress: chunks in llama.cpp's form while the prompt is read, the last with all of it; else none."""
    s = start("--context", "32768", "--step-tokens", "64", FAKE_STEP_US=40000)
    body = chat("Fine.", messages=user("Fine.", "word " * 1000), stream=True)
    plain = s.events("/v1/chat/completions", body)
    assert not any("prompt_progress" in data for _, data in plain if data != "[DONE]")
    chunks = [data for _, data in s.events("/v1/chat/completions", body | {"return_progress": True, "cache_salt": "x"}) if data != "[DONE]"]
    parts = [c["prompt_progress"] for c in chunks if "prompt_progress" in c]
    assert len(parts) > 1 and all(set(p) == {"total", "cache", "processed", "time_ms"} for p in parts)
    assert parts[-1]["processed"] == parts[-1]["total"] == parts[0]["total"] > 1000 and parts[-1]["cache"] == 0
    assert sorted(p["processed"] for p in parts) == [p["processed"] for p in parts]
    assert sorted(p["time_ms"] for p in parts) == [p["time_ms"] for p in parts]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Fine."
    again = [data["prompt_progress"] for _, data in s.events("/v1/chat/completions", body | {"return_progress": True})
             if data != "[DONE]" and "prompt_progress" in data]
    assert again[-1]["cache"] > 900 and again[-1]["processed"] == again[-1]["total"]


def test_page_and_paths(server):
    status, headers, text = server.request("GET", "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and "quern" in text
    assert server.request("HEAD", "/")[0] == 200
    status, error = server.get("/v1/nothing")
    assert status == 404 and error["error"]["type"] == "not_found_error"
    status, error = server.get("/v1/chat/completions")
    assert status == 405 and error["error"]["type"] == "invalid_request_error"
    status, error = server.post("/v1/messages/nothing", {})
    assert status == 404 and error["type"] == "error" and error["error"]["type"] == "not_found_error"
    for path in ("/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/"):
        assert server.post(path, chat("x"))[0] == 200, path
    assert server.post("/v1/embeddings", {"input": "x"})[0] == 501


def test_request_ids(server):
    _, headers, _ = server.request("POST", "/v1/chat/completions", chat("x"), {"x-request-id": "my-id_1"})
    assert headers["x-request-id"] == "my-id_1"
    _, headers, _ = server.request("POST", "/v1/chat/completions", chat("x"), {"x-request-id": "a b\tc"})
    assert headers["x-request-id"].startswith("req_")
    _, headers, body = server.request("POST", "/v1/messages", {})
    assert headers["request-id"] == body["request_id"]


def test_keys_and_cors(start):
    s = start("--api-key", "one,two", "--cors", "*")
    assert s.post("/v1/chat/completions", chat("x"))[0] == 401
    assert s.post("/v1/chat/completions", chat("x"), Authorization="Bearer wrong")[1]["error"]["code"] == "invalid_api_key"
    assert s.post("/v1/chat/completions", chat("x"), Authorization="Bearer two")[0] == 200
    assert s.post("/v1/messages", {}, **{"x-api-key": "three"})[1]["error"]["type"] == "authentication_error"
    body = {"model": "m", "max_tokens": 9, "messages": user("x")}
    assert s.post("/v1/messages", body, **{"x-api-key": "one"})[0] == 200
    assert s.get("/health")[0] == 200 and s.get("/v1/models")[0] == 401
    status, headers, _ = s.request("OPTIONS", "/v1/chat/completions")
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in headers["Access-Control-Allow-Headers"]


DEEP = "[" * 100000


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses",
                                  "/v1/messages/count_tokens", "/tokenize", "/detokenize", "/apply-template"])
@pytest.mark.parametrize("body", [
    b"", b"{", b"not json", b"\xff\xfe{}", b"[]", b"3", b'{"messages": ', DEEP.encode(), b'{"a":' * 600, b"{} x",
    b'{"messages": 3, "prompt": {}, "input": 3, "tokens": 3, "max_tokens": 5}',
    b'{"messages": [3], "prompt": [[3, "x"]], "input": [3], "tokens": ["x"], "max_tokens": 5}',
    b'{"messages": [{"role": "user", "content": 3}], "max_tokens": 5, "prompt": [{}], "input": [{"type": "message"}], "tokens": [-1]}',
])
def test_bad_bodies(server, path, body):
    status, _, answer = server.request("POST", path, body)
    assert 400 <= status < 500, answer
    assert answer["error"]["message"]


@pytest.mark.parametrize("field,value", [
    ("temperature", "hot"), ("temperature", 9), ("top_p", -1), ("max_tokens", 0), ("max_tokens", 1.5), ("n", 1000), ("stop", 3),
    ("stop", [3]), ("logit_bias", {"x": 1}), ("logit_bias", {"1": 200}), ("top_logprobs", 3), ("stream", "yes"),
    ("tools", 3), ("tools", {"a": 1}), ("tool_choice", "perhaps"), ("tool_choice", "required"), ("seed", "x"),
    ("response_format", {"type": "poem"}), ("stop_token_ids", [10 ** 9]), ("modalities", ["audio"]),
    ("stream_options", []), ("chat_template", "{{ 1 }}"), ("chat_template_kwargs", 3),
])
def test_bad_fields_are_named(server, field, value):
    status, answer = server.post("/v1/chat/completions", chat("x", **{field: value}))
    assert status == 400, answer
    assert field.split("_")[0] in answer["error"]["message"] + str(answer["error"]["param"])


def test_unknown_fields_are_ignored(server):
    status, answer = server.post("/v1/chat/completions", chat("ok", frobnicate={"a": [1]}, user="u", metadata={}, store=True,
                                                              service_tier="auto", top_k=None, stop=None))
    assert status == 200 and answer["choices"][0]["message"]["content"] == "ok"


def test_body_too_large(start):
    s = start("--max-body", "64K")
    status, answer = s.post("/v1/chat/completions", chat("x" * 70000))
    assert status == 413 and "--max-body" in answer["error"]["message"]
    assert s.post("/v1/chat/completions", chat("ok"))[0] == 200


def test_chunked_body(server):
    body = json.dumps(chat("chunks")).encode()
    connection = server.connect()
    connection.request("POST", "/v1/chat/completions", iter([body[:10], body[10:50], body[50:]]), encode_chunked=True)
    assert json.loads(connection.getresponse().read())["choices"][0]["message"]["content"] == "chunks"


def test_context_overflow_in_the_words_agents_know(server):
    status, answer = server.post("/v1/chat/completions", chat("x", max_tokens=100, messages=[
        {"role": "user", "content": "long " * 4000}]))
    error = answer["error"]
    assert status == 400 and error["code"] == "context_length_exceeded" and error["param"] == "messages"
    assert re.fullmatch(r"This model's maximum context length is 8192 tokens\. However, you requested \d+ tokens \(\d+ in "
                        r"the messages, 100 in the completion\)\. Please reduce the length of the messages or completion\.",
                        error["message"])
    status, answer = server.post("/v1/chat/completions", chat("fits", max_tokens=10 ** 9))
    assert status == 200 and answer["choices"][0]["message"]["content"] == "fits"


def test_template_errors_are_the_clients(server):
    status, answer = server.post("/v1/chat/completions", {"messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]})
    assert status == 400 and "image" in answer["error"]["message"]


def aborted(server):
    return float(re.search(r'^quern_requests_total\{[^}]*finished_reason="abort"\} (\S+)$', server.get("/metrics")[1], re.M)[1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step_tokens", ["16", "16384"])
def test_client_that_leaves(start, stream, step_tokens):
    """Without a reset, while its prompt is read (16 tokens a step) or its answer made: either would take many seconds more."""
    s = start("--context", "32768", "--step-tokens", step_tokens, "--mtp", "off", FAKE_STEP_US=20000)
    connection = s.connect()
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("y" * 6000, stream=stream)))
    end = time.monotonic() + 5
    while time.monotonic() < end and s.metric("quern_requests_running") != 1:
        time.sleep(0.05)
    time.sleep(0.5)
    assert s.metric("quern_requests_running") == 1
    assert (s.metric("quern_generation_tokens_total") > 0) == (step_tokens != "16")
    connection.close()
    begin = time.monotonic()
    assert s.wait_idle(5) and time.monotonic() - begin < 4
    assert aborted(s) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_client_that_only_stops_sending(start, path, stream):
    """It has said all it had to say, and gets its answer, looked at every 0.2 s for more than a second."""
    s = start("--mtp", "off", FAKE_STEP_US=20000)
    body = chat("y" * 80, max_tokens=200, stream=stream)
    if path == "/v1/responses":
        body["input"] = body.pop("messages")
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", s.port), timeout=20) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
        connection.shutdown(socket.SHUT_WR)
        text = b""
        while more := connection.recv(65536):
            text += more
    text = text.decode()
    if not stream:
        answer = json.loads(text[text.index("{"):text.rindex("}") + 1])
        assert "y" * 80 in json.dumps(answer) and "HTTP/1.1 200" in text
    else:
        parts = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        deltas = [p["choices"][0]["delta"].get("content") or "" if "choices" in p else p.get("delta", "") for p in parts if "choices" in p or "delta" in p["type"]]
        deltas = [d.get("text", "") if isinstance(d, dict) else d for d in deltas]
        assert "".join(deltas) == "y" * 80
    assert s.wait_idle(5) and aborted(s) == 0


def test_client_that_resets(server):
    connection = socket.create_connection(("127.0.0.1", server.port))
    body = json.dumps(chat("y" * 6000, stream=True)).encode()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert server.wait_idle(5)


def test_slow_client_disturbs_nobody(start):
    s = start("--body-timeout", "2")
    slow = socket.create_connection(("127.0.0.1", s.port))
    slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n")
    stop = threading.Event()

    def drip():
        while not stop.wait(0.2):
            try:
                slow.send(b" ")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        for _ in range(5):
            begin = time.monotonic()
            assert s.post("/v1/chat/completions", chat("fast"))[0] == 200
            assert time.monotonic() - begin < 1
        slow.settimeout(8)
        try:
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        except ConnectionError:
            pass
    finally:
        stop.set()
        thread.join()
        slow.close()


def test_two_hundred_at_once(start):
    s = start("--max-queue", "1000", "--log-level", "warn")
    words = [f"answer number {i}" for i in range(200)]

    def one(word):
        out = "".join(data["choices"][0]["delta"].get("content") or "" for _, data in
                      s.events("/v1/chat/completions", chat(word, stream=True), timeout=60) if data != "[DONE]")
        return out == word

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        assert all(pool.map(one, words))
    assert s.wait_idle()


def test_queue_full_is_429(start):
    s = start("--max-queue", "1", "--max-seqs", "1", "--log-level", "warn", FAKE_STEP_US=2000)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda i: s.request("POST", "/v1/chat/completions", chat("z" * 200)), range(12)))
    refused = [(headers, body) for status, headers, body in codes if status == 429]
    assert refused and refused[0][0]["Retry-After"] and refused[0][1]["error"]["type"] == "rate_limit_error"
    assert any(status == 200 for status, _, _ in codes)


def test_device_fault_reaches_the_client(start):
    s = start(FAKE_FAIL_AT=20, FAKE_STEP_US=1000)
    status, answer = s.post("/v1/chat/completions", chat("w" * 300))
    assert status == 500 and answer["error"]["type"] == "server_error"


def test_keep_alive_comments_while_prefilling(start):
    s = start(FAKE_ROW_US=40000, FAKE_STEP_US=1000)
    connection = s.connect(30)
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("k", stream=True, max_tokens=1, messages=[
        {"role": "user", "content": "p" * 140 + say("k")}])))
    text = connection.getresponse().read().decode()
    assert re.search(r"^: prefill \d+/\d+$", text, re.M), text[:300]
    assert text.endswith("data: [DONE]\n\n")


def test_drain_lets_running_requests_end(start):
    s = start("--drain", "10", FAKE_STEP_US=5000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(s.post, "/v1/chat/completions", chat("d" * 150))
        time.sleep(0.4)
        s.process.terminate()
        time.sleep(0.2)
        with pytest.raises((ConnectionError, http.client.HTTPException, OSError)):
            s.get("/health")
        status, answer = running.result(15)
    assert status == 200 and answer["choices"][0]["message"]["content"] == "d" * 150
    assert s.process.wait(10) == 0


def test_drain_has_an_end(start):
    s = start("--drain", "1", FAKE_STEP_US=20000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(s.request, "POST", "/v1/chat/completions", chat("d" * 2000, stream=True))
        time.sleep(0.4)
        s.process.terminate()
        _, _, text = running.result(15)
    assert "shutting down" in text and text.endswith("data: [DONE]\n\n")
    assert s.process.wait(10) == 0


def test_loading_is_said(model):
    import conftest
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([conftest.BUILD / "quern-fake", "serve", str(model), "--port", str(port)],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env={"FAKE_LOAD_US": "1500000"})
    try:
        for _ in range(50):
            time.sleep(0.05)
            try:
                c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                c.request("GET", "/health")
                r = c.getresponse()
                break
            except ConnectionError:
                continue
        assert r.status == 503 and json.loads(r.read())["status"] == "loading"
        c.request("POST", "/v1/chat/completions", json.dumps(chat("x")))
        r = c.getresponse()
        assert r.status == 503 and json.loads(r.read())["error"]["type"] == "unavailable_error"
        assert process.stdout.readline().startswith("ready ")
    finally:
        process.terminate()
        process.wait(10)


def test_refuses_quickly_when_it_cannot_run(model, server, tmp_path):
    import conftest
    for args, word in ((["/no/such/folder"], "folder"), ([str(model), "--port", str(server.port)], "--port"),
                       ([str(model), "--max-model-length", "5"], "--"), ([str(model), "--mtp", "99"], "--mtp")):
        begin = time.monotonic()
        result = subprocess.run([conftest.BUILD / "quern-fake", "serve", *args], capture_output=True, text=True, timeout=10)
        assert result.returncode in (1, 2) and word in result.stderr, (args, result.stderr)
        assert time.monotonic() - begin < 1


def test_flags_people_bring(start):
    s = start("--tensor-parallel-size", "1", "--max-model-len", "4096", "--max-num-seqs", "4", "--max_num_batched_tokens", "128",
              "--kv-cache-dtype", "auto", "--gpu-memory-utilization", "0.9", "--served-model-name", "a", "b",
              "--speculative-config", '{"method":"qwen3_next_mtp","num_speculative_tokens":2}', "--enable-prefix-caching",
              "--tool-call-parser", "qwen3_coder", "--reasoning-parser", "qwen3", "--enable-auto-tool-choice",
              "--default-chat-template-kwargs", '{"enable_thinking": true}', "--media-io-kwargs", "{}", "--quantization", "fp8",
              "--decode-context-parallel-size", "1", "--trust-remote-code")
    assert [m["id"] for m in s.get("/v1/models")[1]["data"]] == ["a", "b"]
    assert s.get("/v1/models")[1]["data"][0]["max_model_len"] == 4096
    answer = s.post("/v1/chat/completions", chat("why</think>\n\nbecause"))[1]
    assert answer["choices"][0]["message"]["reasoning_content"] == "why"
    assert answer["model"] == "fake"
    answer = s.post("/v1/chat/completions", chat("plain", enable_thinking=False))[1]
    assert answer["choices"][0]["message"]["content"] == "plain"
    log = "".join(s.log)
    for flag in ("--tool-call-parser:", "--trust-remote-code:", "--quantization:", "--enable-prefix-caching:"):
        assert flag in log


def test_stream_usage(start):
    """--stream-usage: a chunk with usage unless the request says no."""
    def has_usage(s, **more):
        return any(data != "[DONE]" and data.get("usage") for _, data in s.events("/v1/chat/completions", chat("x", stream=True, **more)))
    plain, told = start(), start("--enable-force-include-usage")
    assert not has_usage(plain) and has_usage(told)
    assert has_usage(plain, stream_options={"include_usage": True}) and not has_usage(told, stream_options={"include_usage": False})


def test_empty_texts_are_no_grammar(server):
    """llama.cpp's clients send all members."""
    status, answer = server.post("/v1/chat/completions", chat("plain", grammar="", json_schema="", guided_regex=""))
    assert status == 200 and answer["choices"][0]["message"]["content"] == "plain"


def test_strict_model(start):
    s = start("--strict-model", "--served-model-name", "only")
    status, answer = s.post("/v1/chat/completions", chat("x"))
    assert status == 404 and answer["error"]["code"] == "model_not_found"


def test_tokenize_round_trip(server):
    answer = server.post("/tokenize", {"prompt": "a é <|im_end|>"})[1]
    assert answer["count"] == len(answer["tokens"]) == 6
    assert server.post("/detokenize", {"tokens": answer["tokens"]})[1]["prompt"] == "a é <|im_end|>"
    plain = server.post("/tokenize", {"content": "<|im_end|>", "parse_special": False, "with_pieces": True})[1]["tokens"]
    assert len(plain) == 10 and plain[0]["piece"] == "<"
    count = server.post("/tokenize", {"messages": user("x")})[1]["count"]
    assert server.post("/apply-template", {"messages": user("x")})[1]["n_tokens"] == count


def test_trace(start, tmp_path):
    s = start("--trace", str(tmp_path))
    s.post("/v1/chat/completions", chat("traced"))
    for _ in range(50):
        files = list(tmp_path.glob("*.json"))
        if files:
            break
        time.sleep(0.05)
    trace = json.loads(files[0].read_text())
    assert trace["choices"][0]["content"] == "traced"
    assert len(trace["choices"][0]["sampled_ids"]) == 6
    assert trace["prompt"].endswith("<think>\n\n</think>\n\n")


def test_a_stuck_device_ends_the_process(start):
    s = start("--stuck", "1", "--log-level", "warn", FAKE_HANG_AT=10)
    with pytest.raises((ConnectionError, http.client.HTTPException, OSError)):
        s.post("/v1/chat/completions", chat("x" * 100))
    assert s.process.wait(10) not in (0, None)
    assert "the last steps" in "".join(s.log)
