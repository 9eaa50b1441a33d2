# Measures quern-mini on held-out dialogues.
# SPDX-License-Identifier: Apache-2.0
"""The dialogues come from the generator with another seed and with words and syllables that training never uses.
The judge is the last assistant turn: calls must equal the expected ones, a plain answer must equal the expected text.

    evaluate.py --model models/mini                      reference implementation (the transformers package)
    evaluate.py --model models/mini --server URL         a running server, over its OpenAI chat API
    evaluate.py --model models/mini --drafts             also the acceptance of drafts, by position
    evaluate.py --everyday ...                           tools that people have, which training knows in other forms and with other values"""

import argparse
import collections
import json
import re
import time
import urllib.error
import urllib.request

from everyday import everyday
from generate import Generator

SEED = 20261


def items(count, limit, seed=SEED, known=False):
    """Held-out conversations without their last turn, and that turn."""
    from tokenizers import Tokenizer  # noqa: F401  (only the length limit needs it)
    g, out = Generator(seed, held=True), []
    while len(out) < count:
        d = everyday(g, g.r.random() < 0.4) if known else g.dialogue()
        if limit(d):
            out.append((d, d["messages"][:-1], d["messages"][-1]))
    return out


def typed(raw, schema):
    """A parameter's text as a value of its declared type."""
    t = (schema or {}).get("type", "string")
    try:
        if t == "boolean" and raw.strip().lower() in ("true", "false"):
            return raw.strip().lower() == "true"
        if t in ("integer", "number", "array", "object"):
            return json.loads(raw)
    except ValueError:
        pass
    return raw


def parse(text, tools):
    """(reasoning, content, calls or None when malformed) of generated text after an open or closed thinking block."""
    reasoning, content = "", text
    if "</think>" in text:
        reasoning, content = text.split("</think>", 1)
    if "<tool_call>" not in content and "<function" not in content:
        return reasoning.strip(), content.strip(), []
    shape = re.compile(r"<tool_call>\n<function=([^>\n]+)>\n((?:<parameter=[^>\n]+>\n.*?\n</parameter>\n)*)</function>\n</tool_call>", re.S)
    rest = shape.sub("", content)
    calls = []
    schemas = {t["function"]["name"]: t["function"].get("parameters", {}).get("properties", {}) for t in tools or []}
    for name, body in shape.findall(content):
        args = {k: typed(v, schemas.get(name, {}).get(k)) for k, v in re.findall(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>\n", body, re.S)}
        calls.append((name, args))
    if "<tool_call>" in rest or "<function" in rest or "</tool_call>" in rest:
        calls = None
    return reasoning.strip(), rest.strip(), calls


def by_reference(folder, work, batch, limit, threads):
    """Greedy answers of the transformers classes: (text, ended, generated ids, prompt ids) per item."""
    import torch
    import transformers
    torch.set_num_threads(threads)
    tok = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stop = model.generation_config.eos_token_id
    prompts = [tok.apply_chat_template(context, tools=d["tools"], enable_thinking=d["thinking"], add_generation_prompt=True, tokenize=False) for d, context, _ in work]
    ids = [tok(p, add_special_tokens=False)["input_ids"] for p in prompts]
    order = sorted(range(len(work)), key=lambda i: len(ids[i]))
    out = [None] * len(work)
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        x = tok.pad({"input_ids": [ids[i] for i in part]}, return_tensors="pt")
        with torch.no_grad():
            y = model.generate(**x, do_sample=False, max_new_tokens=limit, pad_token_id=stop[1], temperature=None, top_k=None, top_p=None)
        for i, row in zip(part, y[:, x["input_ids"].shape[1]:].tolist()):
            ends = [k for k, t in enumerate(row) if t in stop]
            row = row[:ends[0] + 1] if ends else row
            text = tok.decode(row[:-1] if ends else row, skip_special_tokens=False)
            out[i] = (text, bool(ends), row, ids[i])
    return out


def forced(source, work, tok, threads, show):
    """A quick look: the whole last turn, thought included, is the argmax at every token when the expected turn is fed.
    Greedy decoding then writes exactly that turn. Prints the share by skill and what the first wrong token belongs to."""
    import torch
    import export
    import model as M
    from generate import render
    torch.set_num_threads(threads)
    m = M.Mini(fast=True)
    if source.endswith(".pt"):
        m.load_state_dict(torch.load(source, weights_only=False)["model"])
    else:
        export.load(m, source)
    m.eval()
    sums = collections.defaultdict(lambda: [0, 0])
    where = collections.Counter()
    for d, _, _ in work:
        parts = [(tok.encode(t, add_special_tokens=False).ids, w) for t, w in render(d)]
        ids = [i for p, _ in parts for i in p]
        last = max(k for k, (_, w) in enumerate(parts) if w)
        at = sum(len(p) for p, _ in parts[:last])
        want = parts[last][0]
        with torch.no_grad():
            got = m.logits(m.hidden(torch.tensor([ids])))[0, at - 1:at - 1 + len(want)].argmax(-1).tolist()
        ok = got == want
        for key in ("skill " + d["skill"], "thinking on" if d["thinking"] else "thinking off", "all"):
            sums[key][0] += ok
            sums[key][1] += 1
        if not ok:
            k = next(i for i, (x, y) in enumerate(zip(got, want)) if x != y)
            before = tok.decode(want[:k], skip_special_tokens=False)
            inside = "a thought" if d["thinking"] and "</think>" not in before else "a name" if before.rfind("<function=") > before.rfind(">\n") else \
                "a value" if "<parameter=" in before and before.rfind("<parameter=") > before.rfind("</parameter>") else "the words"
            where[d["skill"] + ": " + inside] += 1
            if show > 0:
                show -= 1
                print("---", d["skill"], [t["function"]["name"] + ": " + t["function"]["description"] for t in d["tools"] or []], "\nasked:", d["messages"][-2]["content"],
                      "\nwant:", repr(tok.decode(want, skip_special_tokens=False)), "\ngot:", repr(before[-40:]), "+", repr(tok.decode(got[k:k + 8], skip_special_tokens=False)))
    for what in sorted(sums):
        print("%-22s %5.1f %%  (%d of %d)" % (what, 100 * sums[what][0] / sums[what][1], *sums[what]))
    print("first wrong token in", dict(where.most_common()))


def by_server(url, work, limit, key):
    """Answers of a server: (reasoning, content, calls or None, ended) per item, and its time."""
    out = []
    for d, context, _ in work:
        messages = []
        for n, m in enumerate(context):
            m = dict(m)
            if m.get("tool_calls"):
                m["tool_calls"] = [{"id": "call_%d_%d" % (n, k), "type": "function", "function": {"name": c["function"]["name"],
                                    "arguments": json.dumps(c["function"]["arguments"])}} for k, c in enumerate(m["tool_calls"])]
                ids = [c["id"] for c in m["tool_calls"]]
            if m["role"] == "tool":
                m["tool_call_id"] = ids.pop(0)
            messages.append(m)
        body = {"model": "mini", "messages": messages, "temperature": 0, "max_tokens": limit,
                "chat_template_kwargs": {"enable_thinking": bool(d["thinking"])}}
        if d["tools"]:
            body["tools"] = d["tools"]
        head = {"Content-Type": "application/json"}
        if key:
            head["Authorization"] = "Bearer " + key
        q = urllib.request.Request(url.rstrip("/") + "/v1/chat/completions", json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(q, timeout=300) as f:
                c = json.load(f)["choices"][0]
        except urllib.error.HTTPError as e:
            print("status %d: %s (skill %s; %s)" % (e.code, e.read().decode(errors="replace")[:300], d["skill"], context[-1]["content"]))
            out.append(("", "", None, False))
            continue
        m, calls = c["message"], []
        for t in m.get("tool_calls") or []:
            try:
                calls.append((t["function"]["name"], json.loads(t["function"]["arguments"])))
            except ValueError:
                calls = None
                break
        content = (m.get("content") or "").strip()
        if "<tool_call>" in content or "<function=" in content:
            calls = None
        out.append((m.get("reasoning_content") or "", content, calls, c["finish_reason"] != "length"))
    return out


def drafts(folder, answers, depth, threads):
    """Simulates speculation along greedy answers; accepted drafts by position and tokens a step."""
    import torch
    import torch.nn.functional as F
    import export
    import model as M
    torch.set_num_threads(threads)
    m = M.Mini()
    export.load(m, folder)
    m.eval()
    att = m.mtp.layers[0].self_attn
    layer = m.mtp.layers[0]
    hits, steps, made = [0] * depth, 0, 0
    with torch.no_grad():
        for _, _, row, prompt in answers:
            if len(row) < 2:
                continue
            ids = torch.tensor([prompt + row])
            n, first = ids.shape[1], len(prompt)
            h = m.hidden(ids)

            def join(tokens, hidden):
                _, e = m.norm(F.embedding(tokens, m.model.embed_tokens.weight), None, m.mtp.pre_fc_norm_embedding.weight)
                _, g = m.norm(hidden, None, m.mtp.pre_fc_norm_hidden.weight)
                return F.linear(torch.cat([e, g], -1), m.mtp.fc.weight)

            def finish(x, y):
                x, g = m.norm(x, y, layer.post_attention_layernorm.weight)
                return m.norm(x, layer.mlp(g, False), m.mtp.norm.weight)[1]

            cache = []
            x = join(ids[:, 1:], h[:, :-1])
            _, g = m.norm(x, None, layer.input_layernorm.weight)
            state = finish(x, att(g, False, cache=cache))[0]           # slot p: states [n-1, H]
            keys, values = cache                                        # [1, nkv, n-1, hd]
            slots = torch.arange(first - 1, n - 2)                      # drafting after token slots+1 is known
            if not len(slots):
                continue
            state, guess, own = state[slots], [], []
            r, hd = att.nh // att.nkv, att.hd
            seen = torch.arange(n - 1)[None] <= slots[:, None]
            for j in range(depth):
                d = m.logits(state)[:, :4089].argmax(-1)
                guess.append(d)
                if j + 1 == depth:
                    break
                x = join(d[:, None], state[:, None])
                _, g = m.norm(x, None, layer.input_layernorm.weight)
                pos = (slots + j + 1)[:, None]
                q, gate = F.linear(g, att.q_proj.weight).view(len(slots), 1, att.nh, 2 * hd).split(hd, -1)
                q = att.rope(M.rms_norm(q, att.q_norm.weight, att.eps).transpose(1, 2), pos)
                k = att.rope(M.rms_norm(F.linear(g, att.k_proj.weight).view(len(slots), 1, att.nkv, hd), att.k_norm.weight, att.eps).transpose(1, 2), pos)
                v = F.linear(g, att.v_proj.weight).view(len(slots), 1, att.nkv, hd).transpose(1, 2)
                own.append((k, v))
                kk = torch.cat([keys.expand(len(slots), -1, -1, -1)] + [o[0] for o in own], 2).repeat_interleave(r, 1)
                vv = torch.cat([values.expand(len(slots), -1, -1, -1)] + [o[1] for o in own], 2).repeat_interleave(r, 1)
                mask = torch.cat([seen, torch.ones(len(slots), len(own), dtype=torch.bool)], 1)[:, None, None]
                o = F.scaled_dot_product_attention(q, kk, vv, attn_mask=mask).transpose(1, 2) * torch.sigmoid(gate)
                state = finish(x, F.linear(o.reshape(len(slots), 1, -1), att.o_proj.weight))[:, 0]
            good = []
            for j in range(depth):
                want = slots + 2 + j
                inside = want < n
                good.append((guess[j] == ids[0, want.clamp(max=n - 1)]) & inside)
            at = 0
            while at < len(slots):
                steps += 1
                took = 0
                while took < depth and good[took][at]:
                    hits[took] += 1
                    took += 1
                at += took + 1
                made += took + 1
    return [x / max(steps, 1) for x in hits], made / max(steps, 1)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="models/mini")
    ap.add_argument("--server", help="base URL of a running server")
    ap.add_argument("--key", default="", help="its API key")
    ap.add_argument("--count", type=int, default=400)
    ap.add_argument("--limit", type=int, default=240, help="most tokens of an answer")
    ap.add_argument("--prompt", type=int, default=480, help="longest conversation in tokens")
    ap.add_argument("--seed", type=int, default=SEED)
    ap.add_argument("--everyday", action="store_true")
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--forced", metavar="SOURCE", help="quick look at a state.pt or a model folder: exact turns when the expected one is fed")
    ap.add_argument("--drafts", action="store_true", help="acceptance of drafts (reference only)")
    ap.add_argument("--show", type=int, default=0, help="print so many wrong answers")
    ap.add_argument("--json", help="write the figures here")
    a = ap.parse_args()
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(a.model + "/tokenizer.json")
    from generate import render
    work = items(a.count, lambda d: len(tok.encode("".join(t for t, _ in render(d))).ids) <= a.prompt, a.seed, a.everyday)
    if a.forced:
        return forced(a.forced, work, tok, a.threads, a.show)
    start, answers = time.time(), None
    if a.server:
        got = by_server(a.server, work, a.limit, a.key)
    else:
        answers = by_reference(a.model, work, a.batch, a.limit, a.threads)
        got = [(*parse(text, d["tools"]), ended) for (d, _, _), (text, ended, _, _) in zip(work, answers)]
    spent = time.time() - start
    sums = collections.defaultdict(lambda: [0, 0])
    def mark(what, ok):
        sums[what][0] += int(bool(ok))
        sums[what][1] += 1
    shown = 0
    for (d, context, want), (reasoning, content, calls, ended) in zip(work, got):
        expect = [(c["function"]["name"], c["function"]["arguments"]) for c in want.get("tool_calls") or []]
        mark("ends its turn", ended)
        if expect:
            declared = {t["function"]["name"] for t in d["tools"]}
            formed = calls is not None and len(calls) > 0 and ended
            mark("calls where it should", calls != [])
            if calls != []:
                mark("call well formed", formed)
            tool = formed and [c[0] for c in calls] == [c[0] for c in expect]
            mark("right tool", tool)
            exact = tool and calls == expect
            mark("all arguments exact", exact)
            mark("declared name", formed and all(c[0] in declared for c in calls))
            mark("skill " + d["skill"], exact)
            ok = exact
        else:
            mark("no call where it should not", calls == [])
            ok = ended and calls == [] and content == want["content"].strip()
            mark("plain answer right", ok)
            mark("skill " + d["skill"], ok)
        mark("thinking on" if d["thinking"] else "thinking off", ok)
        if not ok and shown < a.show:
            shown += 1
            print("---", d["skill"], "\nasked:", context[-1]["content"], "\nwant:", expect or want["content"], "\ngot: ", calls, content)
    report = {"dialogues": len(work), "seed": a.seed, "seconds": round(spent, 1), "by": a.server and "server" or "reference"}
    for what in sorted(sums, key=lambda s: (s.startswith("skill"), s.startswith("thinking"), s)):
        ok, n = sums[what]
        report[what] = [ok, n]
        print("%-22s %5.1f %%  (%d of %d)" % (what, 100 * ok / n, ok, n))
    if a.drafts and answers:
        rate, per = drafts(a.model, answers, 5, a.threads)
        report["drafts"] = [round(x, 4) for x in rate]
        report["tokens a step"] = round(per, 3)
        print("drafts accepted by position 1..5: " + " ".join("%.3f" % x for x in rate) + "; tokens a step with 5 drafts: %.2f" % per)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
