# Compares model.py with the transformers classes, and its fused CPU operations with its plain form.
# SPDX-License-Identifier: Apache-2.0
"""check_model.py [--model FOLDER]: needs torch, transformers and a C++ compiler; prints differences, fails when one is large."""

import argparse
import tempfile

import torch
import transformers
from tokenizers import Tokenizer

import export
import model as M


def against_transformers(folder, tok):
    """fp32 logits of random weights, exported and loaded by transformers; BF16 weights are exact in both."""
    torch.manual_seed(3)
    with tempfile.TemporaryDirectory() as out:
        m = M.Mini().eval()
        if folder:
            export.load(m, folder)
        export.write(m, out, tok)
        export.load(m, out)
        other = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        worst = 0.0
        for t in (1, 3, 63, 64, 65, 150):
            ids = torch.randint(0, 4089, (2, t))
            with torch.no_grad():
                worst = max(worst, (m.logits(m.hidden(ids)) - other(input_ids=ids).logits).abs().max().item())
    return worst


def fused(make, x):
    """Largest relative difference between the plain form and the fused BF16 form: output and every gradient."""
    torch.manual_seed(4)
    mod = make(M.CONFIG)
    seen = []
    for fast in (False, True):
        mod.zero_grad()
        xx = x.clone().requires_grad_()
        y = mod(xx.bfloat16() if fast else xx, fast).float()
        (y * torch.sin(torch.arange(y.numel()).view(y.shape) * 0.7)).sum().backward()
        seen.append([y.detach(), xx.grad] + [p.grad.clone() for p in mod.parameters() if p.grad is not None])
    return max(((a - b).norm() / (a.norm() + 1e-9)).item() for a, b in zip(*seen))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="models/mini")
    a = ap.parse_args()
    tok = Tokenizer.from_file(a.model + "/tokenizer.json")
    bad = 0
    for name, folder in (("random weights", None), ("shipped weights", a.model)):
        d = against_transformers(folder, tok)
        bad += d > 1e-3
        print("%-28s largest logit difference to transformers %.2e" % (name, d))
    x = torch.randn(2, 150, 128).bfloat16().float()
    for make in (M.LinearAttention, M.Attention, M.Moe):
        d = fused(make, x)
        bad += d > 0.1  # a router tie may fall the other way in BF16
        print("%-28s fused against plain %.4f" % (make.__name__, d))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
