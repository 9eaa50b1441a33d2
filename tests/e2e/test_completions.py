"""Completions as lm-evaluation-harness uses them: token-id prompts in batches, echo, log-probabilities.

SPDX-License-Identifier: Apache-2.0
"""
import math

from conftest import say


def score(server, prompts, **more):
    status, answer = server.post("/v1/completions", {"model": "fake", "prompt": prompts, "max_tokens": 1, "temperature": 0,
                                                     "logprobs": 1, "echo": True, "seed": 1234, **more})
    assert status == 200, answer
    return answer


def test_loglikelihood_of_a_batch(server):
    texts = ["The quick brown fox", "jumps", "over the lazy dog, again and again", "é"]
    ids = [server.post("/tokenize", {"prompt": t})[1]["tokens"] for t in texts]
    answer = score(server, ids)
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    for text, tok, choice in zip(texts, ids, answer["choices"]):
        lp = choice["logprobs"]
        assert choice["text"].startswith(text)
        n = len(tok) + 1
        assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"]) == len(lp["text_offset"]) == n
        assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
        assert all(x <= 0 for x in lp["token_logprobs"][1:])
        # what the harness computes: sum of the continuation, and whether each token was the likeliest
        for own, top in zip(lp["token_logprobs"][1:], lp["top_logprobs"][1:]):
            assert max(top.values()) >= own - 1e-6
        # greedy: the sampled token is the likeliest
        assert math.isclose(max(lp["top_logprobs"][-1].values()), lp["token_logprobs"][-1])
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert answer["usage"]["completion_tokens"] == 4


def test_scores_do_not_depend_on_the_batch(server):
    ids = [server.post("/tokenize", {"prompt": t})[1]["tokens"] for t in ("one two three", "four five")]
    together = score(server, ids)["choices"]
    for i, tok in enumerate(ids):
        assert score(server, [tok])["choices"][0]["logprobs"] == together[i]["logprobs"]
        assert score(server, tok)["choices"][0]["logprobs"] == together[i]["logprobs"]


def test_pure_scoring(server):
    answer = score(server, "abc", max_tokens=0)
    assert answer["choices"][0]["text"] == "abc"
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 3
    assert answer["usage"]["completion_tokens"] == 0


def test_large_batch(server):
    answer = score(server, [f"prompt {i}" for i in range(100)])
    assert [c["index"] for c in answer["choices"]] == list(range(100))
    assert [c["text"][:len(f"prompt {i}")] for i, c in enumerate(answer["choices"])] == [f"prompt {i}" for i in range(100)]


def test_stop_and_default_length(server):
    status, answer = server.post("/v1/completions", {"prompt": say("line one\nline two"), "stop": ["\n"]})
    assert answer["choices"][0]["text"] == "line one" and answer["choices"][0]["stop_reason"] == "\n"
    status, answer = server.post("/v1/completions", {"prompt": say("a" * 40)})
    assert answer["choices"][0]["text"] == "a" * 16 and answer["choices"][0]["finish_reason"] == "length"


def test_several_prompts_and_choices_streamed(server):
    texts = {}
    for _, data in server.events("/v1/completions", {"prompt": [say("first"), say("second")], "n": 2, "stream": True,
                                                     "max_tokens": 50}):
        if data != "[DONE]":
            for choice in data["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "first", 1: "first", 2: "second", 3: "second"}


def test_refused(server):
    for body in ({"prompt": "x", "suffix": "y"}, {"prompt": "x", "best_of": 3}, {"prompt": "x", "suffix": 1},
                 {"prompt": []}, {"prompt": ""}, {}, {"prompt": [1, "a"]}, {"prompt": [10 ** 12]}, {"prompt": "x", "logprobs": 50}):
        assert server.post("/v1/completions", body)[0] == 400, body
