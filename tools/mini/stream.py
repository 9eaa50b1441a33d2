# Batches made while training goes on, of a fixed shape for each length.
# SPDX-License-Identifier: Apache-2.0
"""Processes generate dialogues, encode them and put them together: ids [B, T] and the class of each id as a target [B, T] (0 none,
1 the assistant's, 2 a part of the prompt), with T a multiple of `pad` and B = tokens // T. No dialogue is seen twice."""

import multiprocessing
import queue

import numpy as np

from everyday import everyday
from generate import Generator, render

LONGEST = {"easy": 256, "main": 768, "drill": 1024, "everyday": 1024}  # tokens; longer dialogues are left out


def encode(tok, d):
    """(ids, weight of each id as a target)"""
    ids, weight = [], []
    for text, w in render(d):
        e = tok.encode(text, add_special_tokens=False).ids
        ids += e
        weight += [w] * len(e)
    return ids, weight


class Source:
    """Encoded dialogues of one kind: easy (short), main (as in the evaluation), drill (dense practice), everyday (tools that people have)."""

    def __init__(self, tok, seed, kind):
        self.tok, self.kind, self.g = tok, kind, Generator(seed)
        if kind == "drill":
            self.g.w.glue, self.g.opaque = 0.3, 0.45

    def make(self):
        if self.kind == "drill":
            return self.g.drill()
        if self.kind == "everyday":
            return everyday(self.g, self.g.r.random() < 0.4)
        return self.g.dialogue(1.0 if self.kind == "easy" else 0.0)

    def next(self):
        while True:
            ids, weight = encode(self.tok, self.make())
            if len(ids) <= LONGEST[self.kind]:
                return ids, weight


def rare(tok, sample, share=0.02):
    """Pieces of made-up words: lower case letters, in few of the dialogues, and no words that have another piece with a space or a capital.
    sample: ids of some dialogues."""
    text = {tok.decode([i], skip_special_tokens=False): i for i in range(tok.get_vocab_size())}
    seen, n = np.zeros(max(text.values()) + 1, np.int64), 0
    for ids in sample:
        seen[np.unique(ids)] += 1
        n += 1
    return np.array(sorted(i for t, i in text.items() if t.isascii() and t.isalpha() and t.islower() and len(t) > 1 and seen[i] < share * n
                           and not any(x in text for x in (" " + t, t.capitalize(), " " + t.capitalize()))))


def swapped(ids, pieces, rng):
    """ids with `pieces` exchanged among each other, each for the same other one throughout."""
    table = np.arange(4096)
    table[pieces] = rng.permutation(pieces)
    return table[ids]


def echo(tokens, vocab, rng):
    """Random pieces in chunks, then the same chunks in another order: pure practice in copying any piece. Two lengths."""
    n, size = ((4, 8), (8, 4), (8, 8), (4, 16), (16, 4))[rng.integers(5)]
    b = tokens // (2 * n * size)
    x = rng.integers(0, vocab, (b, n, size), np.int16)
    order = rng.random((b, n)).argsort(1)
    y = np.take_along_axis(x, order[..., None], 1)
    w = np.ones((b, n, size), np.uint8)
    w[:, :, 0] = 0
    return np.concatenate([x, y], 1).reshape(b, -1), np.concatenate([np.zeros_like(w), w], 1).reshape(b, -1)


def produce(out, easy, tok_path, seed, a):
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(tok_path)
    rng = np.random.default_rng(seed)
    sources = {kind: Source(tok, seed * 4 + i, kind) for i, kind in enumerate(LONGEST)}
    pieces = rare(tok, (sources[k].next()[0] for k in ("main", "drill") for _ in range(1500))) if a["swap"] else None
    share = {"main": 1 - a["drill"] - a["everyday"], "drill": a["drill"], "everyday": a["everyday"]}
    share = {kind: x for kind, x in share.items() if x > 1e-6}
    made, groups = dict.fromkeys(share, 0), {}
    while True:
        if rng.random() < a["echo"]:
            out.put((True, *echo(a["tokens"], 4056, rng)))
        while True:
            kind = min(share, key=lambda k: made[k] / share[k])
            if rng.random() < easy.value:
                kind = "easy"
            ids, weight = sources[kind].next()
            if kind != "easy":
                made[kind] += len(ids)
            t = -(-len(ids) // a["pad"]) * a["pad"]
            group = groups.setdefault(t, [])
            group.append((ids, weight))
            if len(group) == a["tokens"] // t:
                break
        x, target = np.zeros((len(group), t), np.int16), np.zeros((len(group), t), np.uint8)
        for r, (ids, weight) in enumerate(group):
            w = np.array(weight)
            x[r, :len(ids)] = swapped(ids, pieces, rng) if a["swap"] and rng.random() < a["swap"] else ids
            target[r, :len(ids)] = np.where(w == 1, 1, np.where((w == 0) & (rng.random(len(ids)) < a["prompt_share"]), 2, 0))
        groups[t] = []
        out.put((False, x, target))


class Stream:
    """`jobs` processes; next() gives (is an echo batch, ids, class of each target) as numpy arrays, in the order they are finished.
    `easy.value` is the share of easy dialogues among those made from now on."""

    def __init__(self, jobs, tok_path, seed, easy, **a):
        context = multiprocessing.get_context("spawn")
        self.queue, self.easy = context.Queue(16 * jobs), context.Value("d", easy)
        self.jobs = [context.Process(target=produce, args=(self.queue, self.easy, tok_path, 1000 * seed + i, a), daemon=True) for i in range(jobs)]
        for j in self.jobs:
            j.start()

    def next(self):
        while True:
            try:
                return self.queue.get(timeout=30)
            except queue.Empty:
                if not any(j.is_alive() for j in self.jobs):
                    raise SystemExit("stream: the generating processes ended") from None

    def close(self):
        for j in self.jobs:
            j.terminate()
