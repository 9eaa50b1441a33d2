#!/usr/bin/env python3
"""Mixed traffic for as long as wanted: no stream is lost or mixed up, memory stays flat, every pool is empty at the end.

    tests/soak/run.py [--seconds 600] [--streams 128] [--binary quern|quern-fake] [--model models/mini]
    tests/soak/run.py --kills 100          kill -9 while the disk tier is written, again and again

Every answer is compared with that of a run alone (one sequence, no prefix cache, no speculation). Of the clients most
read their stream to its end; others leave in the middle, politely or with a reset, read slowly through a small window,
ask for an answer in one piece, or send what is no request. At the end the clients stop, the pools have to be empty; then
all come back at once and SIGTERM meets them: every stream has to end whole, or with an error in it. Exit code 0 when all
of it held. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import folder  # noqa: E402
from client import BAD, Answer, Question, exchange  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUERN_BUILD", ROOT / "build"))
N_QUESTION = 48
N_KILL_QUESTION = 12


class Server:
    running = []  # for an end before theirs

    def __init__(self, args, *options, preload=None):
        env = dict(os.environ, FAKE_STEP_US="300")
        if preload:
            env["LD_PRELOAD"] = str(preload)
            env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        command = [BUILD / args.binary, "serve", args.model, "--port", "0", "--log-level", "warn", *options]
        start = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        Server.running = [s for s in Server.running if s.process.poll() is None] + [self]
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        line = self.process.stdout.readline()
        if not line.startswith("ready http://"):
            self.kill()
            raise RuntimeError("the server did not start: " + line + "".join(self.log[-10:]))
        self.port = int(line.rsplit(":", 1)[1].strip().rstrip("/"))
        self.start_s = time.monotonic() - start

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as r:
            out = collections.Counter()
            for line in r.read().decode().splitlines():
                if line and line[0] != "#":
                    name, _, value = line.rpartition(" ")
                    out[name.partition("{")[0]] += float(value)
            return out

    def rss_kib(self):
        for line in open(f"/proc/{self.process.pid}/status", encoding="ascii"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def stop(self, timeout):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @classmethod
    def kill_all(cls):
        for server in cls.running:
            if server.process.poll() is None:
                server.kill()


class Soak:
    def __init__(self, args):
        self.args = args
        self.seen = collections.Counter()
        self.faults = []
        self.samples = []  # (seconds, RSS in KiB)
        self.questions = [Question(i, args.binary == "quern-fake") for i in range(N_QUESTION)]
        self.alone = []

    def fault(self, text):
        self.seen["FAULTS"] += 1
        if len(self.faults) < 20:
            self.faults.append(text)
            print("FAULT " + text, flush=True)

    async def answer_alone(self):
        """The reference: every question on a server that does nothing else."""
        options = [] if self.args.binary == "quern-fake" else ["--mtp", "off", "--context", str(self.args.context)]
        server = Server(self.args, "--no-prefix-cache", "--max-seqs", "1", *options)
        for q in self.questions:
            a = Answer(q.kind, await exchange(server.port, q.data(False)))
            if a.status != 200 or not a.is_whole:
                raise RuntimeError(f"{q.path} alone: status {a.status}")
            self.alone.append(a)
        if server.stop(30):
            self.fault("the reference server's exit code is not 0")

    def check(self, at, raw, must_be_whole, what):
        q = self.questions[at]
        a = Answer(q.kind, raw)
        if a.status in (429, 503) and not must_be_whole:
            self.seen["refused"] += 1
        elif a.status == 429:
            self.seen["busy"] += 1
        elif a.status != 200:
            self.fault(f"{what}: question {at}: status {a.status} {raw[:200]!r}")
        elif must_be_whole and not a.is_whole:
            self.fault(f"{what}: question {at}: the stream is cut, {a.error} {raw[-200:]!r}")
        elif a.is_whole and a.key() != self.alone[at].key():
            self.fault(f"{what}: question {at}: {a.key()} instead of {self.alone[at].key()}")
        elif not a.is_whole and not a.is_part_of(self.alone[at]):
            self.fault(f"{what}: question {at}: {a.key()} is no part of {self.alone[at].key()}")
        else:
            self.seen[what] += 1
        return a

    async def one(self, rng, port):
        at, roll = rng.randrange(N_QUESTION), rng.random()
        q = self.questions[at]
        if roll < 0.55:
            self.check(at, await exchange(port, q.data(True)), True, "whole streams")
        elif roll < 0.65:
            self.check(at, await exchange(port, q.data(False)), True, "in one piece")
        elif roll < 0.80:
            rudely = rng.random() < 0.5
            raw = await exchange(port, q.data(True), leave_after=rng.randint(1, 6000), rudely=rudely)
            self.check(at, raw, False, "left with a reset" if rudely else "left politely")
        elif roll < 0.85:
            if rng.random() < 0.5:
                await exchange(port, q.data(True), leave_after=0, rudely=True)
            else:  # half a request, then silence, then gone
                try:
                    await exchange(port, q.data(True)[:rng.randint(10, 300)], timeout=0.3)
                except asyncio.TimeoutError:
                    pass
            self.seen["left at once"] += 1
        elif roll < 0.93:
            name, data = rng.choice(BAD)
            a = Answer("chat", await exchange(port, data))
            if 400 <= a.status < 500:
                self.seen["bad requests"] += 1
            else:
                self.fault(f"bad request '{name}': status {a.status}")
        else:
            self.check(at, await exchange(port, q.data(True), pause=rng.uniform(0.01, 0.1)), True, "slow readers")

    async def client(self, number, port, until):
        rng = random.Random(self.args.seed * 1000 + number)
        while time.monotonic() < until:
            try:
                await self.one(rng, port)
            except (asyncio.TimeoutError, OSError) as error:
                self.fault(f"connection: {error!r}")
                await asyncio.sleep(0.2)

    async def sample(self, server, until):
        start = time.monotonic()
        while time.monotonic() < until:
            self.samples.append((time.monotonic() - start, server.rss_kib()))
            await asyncio.sleep(max(0.5, self.args.seconds / 240))

    async def wait_empty(self, server):
        """Running, waiting, pages held, slots live: all zero within a minute."""
        names = ("quern_requests_running", "quern_requests_waiting", "quern_pages_referenced", "quern_slots_live")
        end = time.monotonic() + 60
        while True:
            m = await asyncio.to_thread(server.metrics)
            left = {n: m[n] for n in names if m[n]}
            if not left and m["quern_http_requests_running"] <= 1:
                return m
            if time.monotonic() > end:
                self.fault(f"not empty a minute after the last client: {left} {m['quern_http_requests_running']} connections")
                return m
            await asyncio.sleep(0.1)

    async def last(self, number, server):
        """A stream that SIGTERM meets: whole and right, or ended by an error that says so, or not let in."""
        at = (number * 7) % N_QUESTION
        try:
            raw = await exchange(server.port, self.questions[at].data(True))
        except (ConnectionError, OSError):
            self.seen["shutdown: not connected"] += 1
            return
        a = Answer(self.questions[at].kind, raw)
        if not raw:
            self.seen["shutdown: not connected"] += 1
        elif a.status in (429, 503):
            self.seen["shutdown: refused"] += 1
        elif a.status == 200 and a.error:
            if not a.is_part_of(self.alone[at]):
                self.fault(f"shutdown: question {at} mixed")
            self.seen["shutdown: ended with an error"] += 1
        else:
            self.check(at, raw, True, "shutdown: whole")

    def slope(self):
        """KiB a minute over the second half, least squares; and how much more the end holds than the middle."""
        half = [s for s in self.samples if s[0] >= self.samples[-1][0] / 2]
        n = len(half)
        if n < 3:
            return 0.0, 0
        mx, my = sum(x for x, _ in half) / n, sum(y for _, y in half) / n
        top = sum((x - mx) * (y - my) for x, y in half)
        return 60 * top / max(1e-9, sum((x - mx) ** 2 for x, _ in half)), half[-1][1] - half[0][1]

    async def run(self):
        args = self.args
        await self.answer_alone()
        options = ["--max-seqs", str(args.max_seqs), "--max-queue", "256"]
        if args.binary != "quern-fake":  # caches that are full long before the end: pages count as memory at first use
            options += ["--context", str(args.context), "--memory", "450M"]
        server = Server(args, *options, *args.options)
        until = time.monotonic() + args.seconds
        tasks = [self.client(i, server.port, until) for i in range(args.streams)]
        await asyncio.gather(*tasks, self.sample(server, until))
        m = await self.wait_empty(server)
        slope, growth = self.slope()
        burst = [asyncio.ensure_future(self.last(i, server)) for i in range(args.streams)]
        await asyncio.sleep(args.term_after)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*burst)
        code = await asyncio.to_thread(server.process.wait, 60)
        if code:
            self.fault(f"exit code {code} after SIGTERM: {''.join(server.log[-5:])}")
        for name, n in sorted(self.seen.items()):
            print(f"  {name:32} {n}")
        print(f"  {'generated tokens':32} {m['quern_generation_tokens_total']:.0f}, {m['quern_preemptions_total']:.0f} preemptions, "
              f"{m['quern_prefix_hits_total']:.0f} of {m['quern_prefix_queries_total']:.0f} prompt tokens cached")
        rss = [kib for _, kib in self.samples]
        print(f"  {'resident KiB':32} first {rss[0]}, middle {rss[len(rss) // 2]}, last {rss[-1]}; "
              f"slope of the second half {slope:.0f} KiB/min, growth {growth}")
        if args.seconds >= 300 and growth > 0.03 * rss[len(rss) // 2]:
            self.fault("memory grows")
        return not self.seen["FAULTS"]


async def stop_while_writing(server, tier, rng):
    """Lets it write for a while, then stops it at random moments until it is caught with a file half written."""
    await asyncio.sleep(rng.uniform(0.05, 0.5))
    until = time.monotonic() + 2
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.0002, 0.003))
        server.process.send_signal(signal.SIGSTOP)
        if any(n.endswith(".tmp") for n in os.listdir(tier)):
            return
        server.process.send_signal(signal.SIGCONT)


async def kills(args):
    """Killed in the middle of writing, started again: always clean, the answers equal, prefixes come back."""
    soak = Soak(args)
    await soak.answer_alone()
    tier = pathlib.Path(tempfile.mkdtemp(prefix="quern-soak-"))
    made = pathlib.Path(tempfile.mkdtemp(prefix="quern-soak-"))
    slow = made / "slow_write.so"
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", slow, pathlib.Path(__file__).with_name("slow_write.c"), "-ldl"],
                   check=True)
    rng = random.Random(args.seed)
    n_cut = n_cached = n_asked = n_file = 0
    slowest = 0.0
    options = ["--disk-tier", str(tier), "--max-seqs", "8"]
    if args.binary != "quern-fake":
        options += ["--context", str(args.context)]
    try:
        for number in range(args.kills):
            server = Server(args, *options, preload=slow)
            slowest = max(slowest, server.start_s)
            bad = [line for line in server.log if "damaged" in line]
            if bad:
                soak.fault(f"start {number}: {bad[0]}")
            for at in rng.sample(range(N_KILL_QUESTION), 3):
                q = soak.questions[at]
                raw = await exchange(server.port, q.data(False))
                soak.check(at, raw, True, "answers after a kill")
                usage = json.loads(raw.partition(b"\r\n\r\n")[2] if b"chunked" not in raw[:600] else b"{}").get("usage", {})
                n_asked += 1
                n_cached += ((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or
                             usage.get("cache_read_input_tokens") or 0) > 0
            load = [asyncio.ensure_future(exchange(server.port, soak.questions[(number * 5 + k) % N_KILL_QUESTION].data(True)))
                    for k in range(6)]
            # others that were never asked, so that there is something to write
            new = [Question(N_QUESTION + 6 * number + k, args.binary == "quern-fake") for k in range(6)]
            load += [asyncio.ensure_future(exchange(server.port, q.data(True))) for q in new]
            await stop_while_writing(server, tier, rng)
            server.kill()
            await asyncio.gather(*load, return_exceptions=True)
            left = os.listdir(tier)
            n_cut += any(n.endswith(".tmp") for n in left)
            n_file = len(left)
        server = Server(args, *options)
        if any("damaged" in line for line in server.log):
            soak.fault("damaged files at the end")
        if any(n.endswith(".tmp") for n in os.listdir(tier)):
            soak.fault("temporary files were left by a start")
        if server.stop(30):
            soak.fault("exit code")
    finally:
        shutil.rmtree(tier, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)
    print(f"  {args.kills} kills, {n_cut} of them with a file half written; {n_file} files at the end; slowest start {slowest:.2f} s")
    print(f"  {soak.seen['answers after a kill']} of {n_asked} answers right, {n_cached} resumed from a cached prefix")
    return not soak.seen["FAULTS"] and n_cached > (n_asked / 4 if args.kills >= 50 else 0) and n_cut >= args.kills / 2


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="quern", choices=["quern", "quern-fake"])
    parser.add_argument("--model", help="checkpoint folder (models/mini; one is made for quern-fake)")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--max-seqs", type=int, default=64, help="fewer than the streams, so that some wait (64)")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--term-after", type=float, default=0.3, help="seconds from the last burst to SIGTERM")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("options", nargs="*", help="more options of quern serve, behind --")
    args = parser.parse_args(argv)
    made = None
    if not args.model:
        args.model = str(ROOT / "models" / "mini")
        if args.binary == "quern-fake":
            made = tempfile.mkdtemp(prefix="quern-soak-")
            args.model = str(folder.make(pathlib.Path(made) / "fake"))
    print(f"soak: {args.binary}, seed {args.seed}", flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: terminated"))
    try:
        is_good = asyncio.run(kills(args) if args.kills else Soak(args).run())
    finally:
        Server.kill_all()
        signal.signal(signal.SIGTERM, before)
        if made:
            shutil.rmtree(made, ignore_errors=True)
    print("soak: " + ("held" if is_good else "BROKEN"))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
