# Trains quern-mini. Resumable; a GPU or one CPU core is enough.
# SPDX-License-Identifier: Apache-2.0
"""Usage: train.py --work FOLDER ...  keeps its state in FOLDER/state.pt and goes on from there."""

import argparse
import os
import signal
import time

import numpy as np
import torch

import model as M
from step import Average, Optimiser, Step
from stream import Stream


def save(path, m, opt, average, info):
    torch.save({"model": m.state_dict(), "average": average.weights, "average_steps": average.steps, "state": opt.state, "step": opt.step_count,
                "info": info}, path + ".tmp")
    os.replace(path + ".tmp", path)


def run(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    gpu = a.device != "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    m = M.Mini(fast=not gpu and not a.plain).to(a.device)
    opt = Optimiser(m)
    spent, tokens = 0.0, 0
    ck = os.path.join(a.work, "state.pt")
    z = torch.load(ck, weights_only=False, map_location=a.device) if os.path.exists(ck) else None
    if z:
        m.load_state_dict(z["model"])
        opt.state, opt.step_count = z["state"], z["step"]
        spent, tokens = z["info"]["spent"], z["info"]["tokens"]
        print("resumed at step", opt.step_count, flush=True)
    elif a.start:
        from export import load
        load(m, a.start)
    average = Average(m, a.horizon)
    if z:
        average.weights, average.steps = z["average"], z["average_steps"]
    m.train()
    step = Step(m, opt, average, a)
    seed = a.seed + opt.step_count
    stream = Stream(a.jobs, a.tokenizer, seed, 1.0 if a.easy else 0.0, tokens=a.tokens, pad=64 if gpu else 16, drill=a.drill, everyday=a.everyday, echo=a.echo, swap=a.swap,
                    prompt_share=a.prompt_share)
    pick = np.random.default_rng(seed)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    t_last = t_save = t_log = time.time()
    seen = waited = 0
    while not stop:
        now = time.time()
        spent += now - t_last
        t_last = now
        # progress against the wall clock: the end is a time of day, so a busy machine shortens the run, not the schedule
        whole = spent + max(0.0, a.until - now) if a.until else a.seconds
        done = min(1.0, spent / whole)
        if done >= 1:
            break
        stream.easy.value = max(0.0, 1 - done / a.easy) if a.easy else 0.0
        warm = min(1.0, (opt.step_count + 1) / 60)
        lr = warm * min(1.0, (1 - done) / (1 - a.flat)) if done > a.flat else warm
        t = time.time()
        echoed, ids, target = stream.next()
        waited += time.time() - t
        step(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(target), bool(pick.random() < a.mtp_share), echoed, a.lr * lr, a.lr_adam * lr)
        tokens += ids.size
        seen += ids.size
        if opt.step_count % 5 == 0 and not gpu and a.threads == 2:  # two threads in step lose on a machine that others use
            torch.set_num_threads(1 if os.getloadavg()[0] > a.busy else 2)
        if time.time() - t_log > a.log:
            f, spell = step.figures(), time.time() - t_log
            print("step %d  %.1f Mtok  done %.3f  %s  %.0f tok/s, waited %.0f %%" % (opt.step_count, tokens / 1e6, done, "  ".join(
                "%s %.4f" % x for x in f.items()), seen / spell, 100 * waited / spell), flush=True)
            seen, waited, t_log = 0, 0, time.time()
        if time.time() - t_save > a.save:
            save(ck, m, opt, average, {"spent": spent, "tokens": tokens})
            t_save = time.time()
    stream.close()
    save(ck, m, opt, average, {"spent": spent, "tokens": tokens})
    print("saved at step", opt.step_count, flush=True)


def main():
    r = argparse.ArgumentParser()
    r.add_argument("--work", required=True)
    r.add_argument("--start", help="exported checkpoint to begin from")
    r.add_argument("--tokenizer", default="models/mini/tokenizer.json")
    r.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    r.add_argument("--plain", action="store_true", help="plain torch in fp32 on a CPU too")
    r.add_argument("--seconds", type=float, default=7200)
    r.add_argument("--until", type=float, default=0, help="end at this time (seconds since 1970) instead")
    r.add_argument("--jobs", type=int, default=1, help="processes that make dialogues; one makes half a million tokens a second")
    r.add_argument("--threads", type=int, default=2)
    r.add_argument("--busy", type=float, default=3.3, help="load above which one thread is used instead of two")
    r.add_argument("--tokens", type=int, default=4096, help="tokens a batch")
    r.add_argument("--lr", type=float, default=0.02)
    r.add_argument("--lr-adam", dest="lr_adam", type=float, default=0.003)
    r.add_argument("--flat", type=float, default=0.35, help="share of the run before the rate falls")
    r.add_argument("--easy", type=float, default=0.15, help="share of the run over which easy dialogues fade out")
    r.add_argument("--swap", type=float, default=0.35, help="share of dialogues whose rare pieces change places")
    r.add_argument("--horizon", type=float, default=600, help="steps the average of the weights reaches back")
    r.add_argument("--echo", type=float, default=0.08, help="share of batches that are random pieces to copy")
    r.add_argument("--drill", type=float, default=0.45, help="share of tokens from the dense dialogues")
    r.add_argument("--everyday", type=float, default=0.2, help="share of tokens about tools that people have, in many forms")
    r.add_argument("--deep", type=int, default=1, help="train drafts of drafts")
    r.add_argument("--mtp-share", dest="mtp_share", type=float, default=0.2, help="share of batches that train the draft layer")
    r.add_argument("--mtp-weight", dest="mtp_weight", type=float, default=0.3)
    r.add_argument("--prompt-share", dest="prompt_share", type=float, default=0.15, help="share of the prompt's tokens that are targets too")
    r.add_argument("--prompt-weight", dest="prompt_weight", type=float, default=0.3)
    r.add_argument("--seed", type=int, default=1)
    r.add_argument("--log", type=float, default=20, help="seconds between lines")
    r.add_argument("--save", type=float, default=120, help="seconds between saves")
    a = r.parse_args()
    if a.drill < 0 or a.everyday < 0 or a.drill + a.everyday > 1:
        r.error("--drill and --everyday are shares of one whole: %g and %g are more, or below 0" % (a.drill, a.everyday))
    os.makedirs(a.work, exist_ok=True)
    run(a)


if __name__ == "__main__":
    main()
