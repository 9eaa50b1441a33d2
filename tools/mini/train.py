# Trains quern-mini. Resumable; one CPU core or more is enough.
# SPDX-License-Identifier: Apache-2.0
"""Usage: train.py data ...  writes token files from the generator;  train.py run ...  trains on them."""

import argparse
import json
import math
import multiprocessing
import os
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F

import model as M
from generate import Generator, render


KINDS = ("easy", "main", "drill")


# ---- data -----------------------------------------------------------------------------------------------------------
def encode(tok, d):
    """(ids, weight of each id as a target)"""
    ids, weight = [], []
    for text, w in render(d):
        e = tok.encode(text, add_special_tokens=False).ids
        ids += e
        weight += [w] * len(e)
    return ids, weight


def shard(job):
    from tokenizers import Tokenizer
    tok_path, seed, count, kind, limit, path = job
    tok = Tokenizer.from_file(tok_path)
    g = Generator(seed)
    if kind == "drill":
        g.w.glue, g.opaque = 0.3, 0.45
    ids, weight, ends = [], [], [0]
    while len(ends) <= count:
        d = g.drill() if kind == "drill" else g.dialogue(1.0 if kind == "easy" else 0.0)
        i, w = encode(tok, d)
        if len(i) <= limit:
            ids += i
            weight += w
            ends.append(len(ids))
    np.savez(path, ids=np.array(ids, np.uint16), weight=np.array(weight, np.uint8), ends=np.array(ends, np.int64))
    return len(ids)


def rare(paths, tok, share=0.02):
    """Pieces of made-up words: lower case letters, in few of the dialogues, and no words that have another piece with a space or a capital."""
    text = {tok.decode([i], skip_special_tokens=False): i for i in range(tok.get_vocab_size())}
    seen, n = np.zeros(max(text.values()) + 1, np.int64), 0
    for path in paths:
        z = np.load(path)
        ids, ends = z["ids"], z["ends"]
        for i in range(min(3000, len(ends) - 1)):
            seen[np.unique(ids[ends[i]:ends[i + 1]])] += 1
            n += 1
    return np.array(sorted(i for t, i in text.items() if t.isascii() and t.isalpha() and t.islower() and len(t) > 1 and seen[i] < share * n
                           and not any(x in text for x in (" " + t, t.capitalize(), " " + t.capitalize()))))


class Data:
    """Batches of dialogues of similar length, at most `tokens` tokens with the padding. In a share `swap` of the dialogues the pieces
    in `swapped` change places, each for the same other one everywhere, so that no name is seen twice."""

    def __init__(self, paths, tokens, seed, swap=0.0, swapped=()):
        self.paths, self.tokens, self.rng = paths, tokens, np.random.default_rng(seed)
        self.swap, self.swapped = swap, np.array(swapped, np.int64)
        self.batches = []

    def names(self, ids):
        if self.rng.random() >= self.swap:
            return ids
        table = np.arange(4096)
        table[self.swapped] = self.rng.permutation(self.swapped)
        return table[ids]

    def fill(self):
        path = self.paths[self.rng.integers(len(self.paths))]
        z = np.load(path)
        ids, weight, ends = z["ids"], z["weight"], z["ends"]
        n = len(ends) - 1
        pick = self.rng.permutation(n)[:4000]
        length = ends[pick + 1] - ends[pick]
        pick = pick[np.argsort(length + self.rng.random(len(pick)) * 8, kind="stable")]
        group, longest = [], 0
        out = []
        for i in pick:
            t = -(-int(ends[i + 1] - ends[i]) // 8) * 8
            if group and max(longest, t) * (len(group) + 1) > self.tokens:
                out.append((group, longest))
                group, longest = [], 0
            group.append(i)
            longest = max(longest, t)
        out.append((group, longest))
        for k in self.rng.permutation(len(out)):
            group, t = out[k]
            a, w = np.zeros((len(group), t), np.int64), np.full((len(group), t), -1, np.int8)
            for r, i in enumerate(group):
                s = ids[ends[i]:ends[i + 1]]
                a[r, :len(s)], w[r, :len(s)] = self.names(s), weight[ends[i]:ends[i + 1]]
            self.batches.append((torch.from_numpy(a), torch.from_numpy(w)))

    def next(self):
        if not self.batches:
            self.fill()
        return self.batches.pop()


def echo(tokens, vocab, rng):
    """Random pieces in chunks, then the same chunks in another order: pure practice in copying any piece."""
    n, size = 4, int(torch.randint(4, 13, (1,), generator=rng))
    b = tokens // (2 * n * size)
    x = torch.randint(0, vocab, (b, n, size), generator=rng)
    order = torch.rand(b, n, generator=rng).argsort(1)
    y = torch.gather(x, 1, order[..., None].expand(-1, -1, size))
    w = torch.ones(b, n, size, dtype=torch.int8)
    w[:, :, 0] = -1
    return torch.cat([x, y], 1).view(b, -1), torch.cat([torch.full_like(w, -1), w], 1).view(b, -1)


# ---- optimiser ------------------------------------------------------------------------------------------------------
def orthogonal(g, steps=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrix; g [n, rows, cols]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    if not wide:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * (y @ y)) @ x
    return (x if wide else x.mT).float()


class Optimiser:
    """Muon for the matrices of the blocks, Adam for the rest."""

    def __init__(self, model):
        self.muon, self.adam = {}, []
        for name, p in model.named_parameters():
            small = p.dim() < 2 or "embed_tokens" in name or "conv1d" in name or p.shape[-2] < 16
            if small:
                self.adam.append((name, p))
            else:
                self.muon.setdefault(tuple(p.shape[-2:]), []).append((name, p))
        self.state = {}
        self.step_count = 0

    def step(self, lr_muon, lr_adam, decay=0.01):
        self.step_count += 1
        for shape, group in self.muon.items():
            gs, group = [], [(name, p) for name, p in group if p.grad is not None]
            if not group:
                continue
            for name, p in group:
                g = p.grad.float().reshape(-1, *shape)
                m = self.state.setdefault(name, torch.zeros_like(g))
                m.lerp_(g, 0.05)
                gs.append(g.lerp(m, 0.95))
            u = orthogonal(torch.cat(gs)) * (max(1.0, shape[0] / shape[1]) ** 0.5 * lr_muon)
            at = 0
            for name, p in group:
                n = p.numel() // (shape[0] * shape[1])
                p.data.mul_(1 - lr_muon * decay).sub_(u[at:at + n].view(p.shape))
                at += n
        b1, b2 = 0.9, 0.98
        c1, c2 = 1 - b1 ** self.step_count, 1 - b2 ** self.step_count
        for name, p in self.adam:
            if p.grad is None:
                continue
            m, v = self.state.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p)])
            m.lerp_(p.grad, 1 - b1)
            v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            p.data.sub_(lr_adam * (m / c1) / ((v / c2).sqrt() + 1e-8))


# ---- training -------------------------------------------------------------------------------------------------------
def losses(m, ids, weight, rng, a, drafted=True):
    """Main and draft losses of a batch, both per token, and the share of right argmaxes on the assistant's tokens."""
    b, t = ids.shape
    h = m.hidden(ids)
    hs = h.shape[-1]
    n = m.mtp_hidden(ids.roll(-1, 1), h) if drafted else None
    w = torch.where(weight == 1, 1.0, torch.where((weight == 0) & (torch.rand(b, t, generator=rng).to(ids.device) < a.prompt_share), a.prompt_weight, 0.0))
    def head(states, shift):
        target, wt = ids[:, shift:].reshape(-1), w[:, shift:].reshape(-1)
        at = wt.nonzero()[:, 0]
        loss, right = m.loss(states[:, :-shift].reshape(-1, hs)[at], target[at], wt[at])
        mine = wt[at] == 1
        return loss / wt.sum(), right[mine].mean()
    main, acc = head(h, 1)
    out = [main, acc]
    if drafted:
        out += head(n, 2)
        if a.deep and n.shape[1] > 4:
            n2 = m.mtp_hidden(ids.roll(-2, 1), n)
            out += head(n2, 3)
    return out


class Average:
    """Exponential average of the weights, over a tenth of the steps so far and at most `horizon` of them."""

    def __init__(self, model, horizon):
        self.weights = {k: v.detach().clone() for k, v in model.named_parameters()}
        self.horizon, self.steps = horizon, 0

    def step(self, model):
        self.steps += 1
        share = 1 / min(self.horizon, 1 + self.steps / 10)
        for k, v in model.named_parameters():
            self.weights[k].lerp_(v.detach(), share)


def save(path, m, opt, average, info):
    torch.save({"model": m.state_dict(), "average": average.weights, "average_steps": average.steps, "state": opt.state, "step": opt.step_count,
                "info": info}, path + ".tmp")
    os.replace(path + ".tmp", path)


def run(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    m = M.Mini(fast=not a.plain).to(a.device)
    opt = Optimiser(m)
    spent, tokens = 0.0, 0
    ck = os.path.join(a.work, "state.pt")
    if os.path.exists(ck):
        z = torch.load(ck, weights_only=False, map_location=a.device)
        m.load_state_dict(z["model"])
        opt.state, opt.step_count = z["state"], z["step"]
        spent, tokens = z["info"]["spent"], z["info"]["tokens"]
        print("resumed at step", opt.step_count, flush=True)
    elif a.start:
        from export import load
        load(m, a.start)
    average = Average(m, a.horizon)
    if os.path.exists(ck) and "average" in z:
        average.weights, average.steps = z["average"], z["average_steps"]
    m.train()
    files = sorted(f for f in os.listdir(a.work) if f.endswith(".npz"))
    easy, main, drill = ([os.path.join(a.work, f) for f in files if f.startswith(kind)] for kind in KINDS)
    swapped = ()
    if a.swap:
        from tokenizers import Tokenizer
        swapped = rare([p[0] for p in (main, drill) if p], Tokenizer.from_file(a.tokenizer))
        print("pieces that change places:", len(swapped), flush=True)
    d_easy, d_main, d_drill = (Data(p or main, a.tokens, a.seed + i + opt.step_count, a.swap, swapped) for i, p in enumerate((easy, main, drill)))
    rng = torch.Generator().manual_seed(a.seed + opt.step_count)
    pick = np.random.default_rng(a.seed + opt.step_count)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    t_last = t_save = t_log = time.time()
    log, echoes, seen = [], [], 0
    while not stop:
        now = time.time()
        spent += now - t_last
        t_last = now
        # progress against the wall clock: the end is a time of day, so a busy machine shortens the run, not the schedule
        whole = spent + max(0.0, a.until - now) if a.until else a.seconds
        done = min(1.0, spent / whole)
        if done >= 1:
            break
        if os.path.exists(os.path.join(a.work, "options.json")):
            with open(os.path.join(a.work, "options.json")) as f:
                text = f.read()
            if text.rstrip().endswith("}"):  # else it is being written
                vars(a).update(json.loads(text))
        warm = min(1.0, (opt.step_count + 1) / 60)
        lr = warm * min(1.0, (1 - done) / (1 - a.flat)) if done > a.flat else warm
        echoed = pick.random() < a.echo
        source = d_easy if pick.random() < 1 - done / a.easy else d_drill if pick.random() < a.drill else d_main
        ids, weight = echo(a.tokens, 4056, rng) if echoed else source.next()
        ids, weight = ids.to(a.device), weight.to(a.device)
        m.zero_grad(set_to_none=True)
        drafted = a.mtp and pick.random() < a.mtp_share
        out = losses(m, ids, weight, rng, a, drafted)
        total = out[0] + sum(a.mtp_weight * x for x in out[2::2])
        balance = sum(x.mlp.balance for x in list(m.model.layers) + list(m.mtp.layers if drafted else []))
        (total + 0.003 * balance).backward()
        opt.step(a.lr * lr, a.lr_adam * lr)
        average.step(m)
        tokens += ids.numel()
        seen += ids.numel()
        if echoed:
            echoes.append(out[1].item())
        else:
            log.append([x.item() for x in out] + [np.nan] * (6 - len(out)))
        if opt.step_count % 5 == 0 and a.threads == 2:  # two threads in step lose on a machine that others use
            torch.set_num_threads(1 if os.getloadavg()[0] > a.busy else 2)
        if time.time() - t_log > a.log and log:
            r = [np.mean([y for y in x if y == y] or [0.0]) for x in zip(*log)]
            print("step %d  %.1f Mtok  done %.3f  loss %.4f right %.4f  draft %.4f %.4f  deep %.4f %.4f  balance %.2f  echo %.3f  %.0f tok/s" % (
                opt.step_count, tokens / 1e6, done, *r, balance.item() / (8 + bool(drafted)), np.mean(echoes or [0]), seen / (time.time() - t_log)), flush=True)
            log, echoes, seen, t_log = [], [], 0, time.time()
        if time.time() - t_save > a.save:
            save(ck, m, opt, average, {"spent": spent, "tokens": tokens})
            t_save = time.time()
    save(ck, m, opt, average, {"spent": spent, "tokens": tokens})
    print("saved at step", opt.step_count, flush=True)


def main():
    ap = argparse.ArgumentParser()
    sub = ap.add_subparsers(dest="what", required=True)
    d = sub.add_parser("data")
    d.add_argument("--tokenizer", default="models/mini/tokenizer.json")
    d.add_argument("--work", required=True)
    d.add_argument("--easy", type=int, default=2)
    d.add_argument("--main", type=int, default=6)
    d.add_argument("--drill", type=int, default=8)
    d.add_argument("--count", type=int, default=20000, help="dialogues a file")
    d.add_argument("--limit", type=int, default=512, help="longest dialogue in tokens")
    d.add_argument("--seed", type=int, default=100)
    d.add_argument("--jobs", type=int, default=1)
    r = sub.add_parser("run")
    r.add_argument("--work", required=True)
    r.add_argument("--start", help="exported checkpoint to begin from")
    r.add_argument("--seconds", type=float, default=7200)
    r.add_argument("--until", type=float, default=0, help="end at this time (seconds since 1970) instead")
    r.add_argument("--threads", type=int, default=2)
    r.add_argument("--busy", type=float, default=3.3, help="load above which one thread is used instead of two")
    r.add_argument("--tokens", type=int, default=6144)
    r.add_argument("--lr", type=float, default=0.02)
    r.add_argument("--lr-adam", dest="lr_adam", type=float, default=0.003)
    r.add_argument("--flat", type=float, default=0.35, help="share of the run before the rate falls")
    r.add_argument("--easy", type=float, default=0.15, help="share of the run over which easy dialogues fade out")
    r.add_argument("--swap", type=float, default=0.0, help="share of dialogues whose rare pieces change places")
    r.add_argument("--tokenizer", default="models/mini/tokenizer.json", help="for --swap")
    r.add_argument("--horizon", type=float, default=600, help="steps the average of the weights reaches back")
    r.add_argument("--echo", type=float, default=0.0, help="share of batches that are random pieces to copy")
    r.add_argument("--drill", type=float, default=0.6, help="share of batches from the dense dialogues")
    r.add_argument("--mtp", type=int, default=1)
    r.add_argument("--deep", type=int, default=0)
    r.add_argument("--mtp-share", dest="mtp_share", type=float, default=1.0, help="share of batches that train the draft layer")
    r.add_argument("--mtp-weight", dest="mtp_weight", type=float, default=0.3)
    r.add_argument("--prompt-share", dest="prompt_share", type=float, default=0.15)
    r.add_argument("--prompt-weight", dest="prompt_weight", type=float, default=0.3)
    r.add_argument("--device", default="cpu")
    r.add_argument("--plain", action="store_true", help="plain torch in fp32 (GPU or any CPU)")
    r.add_argument("--seed", type=int, default=1)
    r.add_argument("--log", type=float, default=20)
    r.add_argument("--save", type=float, default=120)
    a = ap.parse_args()
    os.makedirs(a.work, exist_ok=True)
    if a.what == "data":
        kinds = ["easy"] * a.easy + ["main"] * a.main + ["drill"] * a.drill
        limits = {"easy": a.limit // 2, "main": a.limit, "drill": a.limit * 3 // 2}
        jobs = [(a.tokenizer, a.seed + i, a.count, kind, limits[kind], os.path.join(a.work, "%s%03d.npz" % (kind, a.seed % 1000 + i)))
                for i, kind in enumerate(kinds)]
        with multiprocessing.Pool(a.jobs) as pool:
            for n in pool.imap(shard, jobs):
                print("tokens", n, flush=True)
    else:
        run(a)


if __name__ == "__main__":
    main()
