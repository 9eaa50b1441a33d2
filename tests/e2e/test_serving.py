"""The engine as a user sees it: deadlines, tenants, tiers over a restart, readiness under load, the cache's own words.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import re
import time

from conftest import say, user


def chat(text, **more):
    return {"model": "fake", "messages": user(text), **more}


def long_chat(text, n=60, **more):
    return {"model": "fake", "messages": [{"role": "user", "content": "The same words again. " * n + say(text)}], **more}


def cached(answer):
    return (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def metric(s, name):
    found = re.search("^" + name + r"\{[^}]*\} (\S+)$", s.get("/metrics")[1], re.M)
    assert found, name
    return float(found.group(1))


def test_deadline_of_a_request(start):
    s = start("--request-timeout", "20", FAKE_STEP_US=20000)
    for more, headers in (({"timeout": 0.4}, {}), ({}, {"x-request-timeout": "0.4"})):
        begin = time.time()
        status, _, answer = s.request("POST", "/v1/chat/completions", chat("d" * 2000, **more), headers)
        assert status == 504 and "deadline" in answer["error"]["message"], answer
        assert time.time() - begin < 5
    status, answer = s.post("/v1/messages", {"model": "m", "max_tokens": 3000, "timeout": 0.4, "messages": user("e" * 2000)})
    assert status == 504 and answer["type"] == "error"
    status, answer = s.post("/v1/chat/completions", chat("x", timeout=-1))
    assert status == 400 and answer["error"]["param"] == "timeout"
    assert s.post("/v1/chat/completions", chat("x", timeout=30))[0] == 200
    assert s.wait_idle()


def test_default_deadline(start):
    s = start("--request-timeout", "0.4", FAKE_STEP_US=20000)
    assert s.post("/v1/chat/completions", chat("d" * 2000, timeout=500))[0] == 504
    assert s.post("/v1/chat/completions", chat("x", max_tokens=1))[0] == 200


def test_keys_share_nothing_when_isolated(start):
    for flags, shared in (((), True), (("--isolate-keys",), False)):
        s = start("--api-key", "anna,bert", *flags)

        def ask(key, **more):
            status, _, answer = s.request("POST", "/v1/chat/completions", long_chat("hello", **more),
                                          {"Authorization": f"Bearer {key}"})
            assert status == 200
            return cached(answer)

        assert ask("anna") == 0
        assert ask("anna") > 100
        assert (ask("bert") > 100) == shared
        assert ask("anna", cache_salt="other") == 0
        assert ask("anna", cache_salt="other") > 100


def test_debug_cache_says_why(start):
    s = start()
    s.post("/v1/chat/completions", long_chat("one"))
    s.post("/v1/chat/completions", long_chat("one"))
    s.request("POST", "/v1/chat/completions", long_chat("two", prompt_logprobs=1), {"x-request-id": "scored"})
    status, cache = s.get("/debug/cache")
    assert status == 200 and cache["pages"] > 0 and cache["snapshots_made"] > 0
    third, second, first = cache["admissions"]
    assert third["id"] == "scored" and third["cached"] == 0 and "log-probabilities" in third["miss"]
    assert second["cached"] > 100 and second["cached"] <= second["known"] <= second["prompt"]
    assert first["cached"] == 0
    assert metric(s, "quern_snapshots_made_total") == cache["snapshots_made"]


def test_disk_tier_over_a_restart(start, tmp_path):
    flags = ("--disk-tier", str(tmp_path / "tier"), "--disk-tier-size", "64M", "--disk-tier-writes", "1G")
    s = start(*flags)
    assert cached(s.post("/v1/chat/completions", long_chat("kept"))[1]) == 0
    for _ in range(100):
        if metric(s, "quern_tier_writes_total") > 2:
            break
        time.sleep(0.05)
    assert metric(s, "quern_tier_files") > 2 and metric(s, "quern_tier_write_bytes_total") > 0
    assert metric(s, "quern_tier_disk_budget_bytes") == 64 << 20
    s.process.terminate()
    assert s.process.wait(20) == 0
    s = start(*flags)
    assert metric(s, "quern_tier_files") > 2
    assert cached(s.post("/v1/chat/completions", long_chat("kept"))[1]) > 100
    assert metric(s, "quern_tier_hits_total") == 1 and metric(s, "quern_tier_read_bytes_total") > 0
    cache = s.get("/debug/cache")[1]
    assert cache["admissions"][0]["from_tiers"] > 100 and cache["tiers"]["hits"] == 1


def test_ready_under_load(start):
    s = start("--max-queue", "2", "--max-seqs", "1", "--log-level", "warn", FAKE_STEP_US=5000)
    assert s.get("/ready")[0] == 200
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(s.request, "POST", "/v1/chat/completions", chat("z" * 300)) for _ in range(3)]
        for _ in range(200):
            status, ready = s.get("/ready")
            if ready["status"] == "overloaded":
                break
            time.sleep(0.01)
        assert status == 503 and ready["waiting"] == 2 and ready["queue"] == 2
        status, health = s.get("/health")  # alive: nothing to restart
        assert status == 200 and health["status"] == "overloaded"
        for r in running:
            assert r.result(60)[0] == 200
    assert s.get("/ready")[0] == 200
