"""lm-evaluation-harness, its own program code, on models/mini: scoring over completions with token ids from the server's
tokenizer, and answers over chat completions. What it gets equals what the endpoints say.

SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import shutil
import sys

import pytest

from conftest import ROOT, Server

STAND_IN = str(pathlib.Path(__file__).parent / "stand_in")
sys.path.append(STAND_IN)  # last: what is installed goes first
pytest.importorskip("lm_eval")
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

sys.path.remove(STAND_IN)
if (getattr(sys.modules.get("pandas"), "__file__", None) or "").startswith(STAND_IN):
    del sys.modules["pandas"]  # other packages look whether it is there

MINI = ROOT / "models" / "mini"
TASKS = pathlib.Path(__file__).parent / "lm_eval_tasks"
QUESTIONS = ["The miller said that the", "One and two and three and", "Please tell me what", "It is a small", "The function", "I have no"]
WORDS = ["What is 2 plus 3?", "Hello", "What is quern?", "Repeat the word: flour"]


@pytest.fixture(scope="module")
def mini():
    s = Server("quern", MINI, "--context", "2048", "--threads", "1", "--log-level", "warn")
    yield s
    assert s.stop() == 0


@pytest.fixture
def evaluate(mini, tmp_path, monkeypatch):
    """Runs a task of TASKS over documents; gives its metrics and samples. Nothing is fetched."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TASKS, tmp_path / "tasks")

    def run(task, documents, model, path, **more):
        (tmp_path / (task.removeprefix("mill_") + ".json")).write_text(json.dumps(documents))
        arguments = {"model": "mini", "base_url": mini.url + path, "num_concurrent": 1, "max_retries": 1, **more.pop("model_args", {})}
        results = simple_evaluate(model=model, model_args=arguments, tasks=[task], bootstrap_iters=0, **more,
                                          task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False))
        return results["results"][task], sorted(results["samples"][task], key=lambda s: s["doc_id"])

    return run


def tokens(server, text):
    return server.post("/tokenize", {"prompt": text})[1]["tokens"]


def score(server, context, continuation):
    """Log-probability of a continuation, and whether greedy decoding gives it, by our own request."""
    ids, n = tokens(server, context + continuation), len(tokens(server, context))
    status, answer = server.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0})
    assert status == 200
    lps = answer["choices"][0]["logprobs"]
    given, best = lps["token_logprobs"][n:], [max(t.values()) for t in lps["top_logprobs"][n:]]
    return sum(given), given == best


def test_scores(mini, evaluate):
    documents = []
    for question in QUESTIONS:
        answer = mini.post("/v1/completions", {"prompt": question, "max_tokens": 2, "temperature": 0, "return_token_ids": True})[1]["choices"][0]
        # the harness cuts the joined text into tokens again; keep what survives that
        if tokens(mini, question + answer["text"]) == tokens(mini, question) + answer["token_ids"] and answer["text"].strip():
            documents.append({"question": question, "choices": [answer["text"], " quite another wheel"], "answer": 0})
    assert len(documents) >= 2
    metrics, samples = evaluate("mill_choice", documents, "local-completions", "/v1/completions", batch_size=3,
                                model_args={"tokenizer_backend": "remote", "max_length": 2048})
    for document, sample in zip(documents, samples, strict=True):
        for choice, (logprob, is_greedy) in zip(document["choices"], sample["filtered_resps"], strict=True):
            want, greedy = score(mini, document["question"], choice)
            assert abs(logprob - want) < 1e-3 and is_greedy == greedy, (document, choice)
        assert sample["filtered_resps"][0][1], "the greedy continuation is not seen as one"
        assert not sample["filtered_resps"][1][1]
    assert 0 <= metrics["acc,none"] <= 1


def test_answers(mini, evaluate):
    documents = []
    for question in WORDS:
        status, answer = mini.post("/v1/chat/completions", {"messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0,
                                                            "stop": ["\n\n", "<|im_end|>"], "seed": 1234})
        assert status == 200
        documents.append({"question": question, "answer": answer["choices"][0]["message"]["content"] or ""})
    metrics, samples = evaluate("mill_words", documents, "local-chat-completions", "/v1/chat/completions", apply_chat_template=True,
                                model_args={"eos_string": "<|im_end|>"})
    assert [s["filtered_resps"][0] for s in samples] == [d["answer"] for d in documents]
    assert metrics["exact_match,none"] == 1


def test_answers_of_plain_text(mini, evaluate):
    documents = []
    for question in QUESTIONS[:3]:
        answer = mini.post("/v1/completions", {"prompt": tokens(mini, question), "max_tokens": 60, "temperature": 0, "stop": ["\n\n", "<|im_end|>"]})[1]
        documents.append({"question": question, "answer": answer["choices"][0]["text"]})
    _, samples = evaluate("mill_words", documents, "local-completions", "/v1/completions", batch_size=2,
                          model_args={"tokenizer_backend": "remote", "max_length": 2048})
    assert [s["filtered_resps"][0] for s in samples] == [d["answer"] for d in documents]
