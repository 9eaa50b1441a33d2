#!/usr/bin/env python3
"""Makes tests/golden/model: tiny random checkpoints and what the reference implementation says about them.

For each case a folder with config.json, model.safetensors (BF16) and
  golden.json  prompt ids, prompt lengths, greedy continuation, chained MTP drafts, and the error (max over the
               steady positions, mean, mean KL) of the reference implementation's own bfloat16 run against its
               float32 run
  logits.bin   float32 [200, V]: logits of every position of the longest prompt, float32 run. Shorter prompts
               are prefixes of it; the script checks that their logits are the same.
  mtp.bin      float32 [199, V]: MTP draft logits, row p from (h_p, t_{p+1})

Needs torch, transformers (with qwen3_5 and qwen3_5_moe), safetensors, numpy.
Usage: make_model_golden.py [OUT]
SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import (Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig)

N_PROMPT, LENGTHS, N_GREEDY, N_DRAFT = 200, [1, 63, 64, 65, 200], 64, 4

BASE = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
            vocab_size=256, max_position_embeddings=4096, rms_norm_eps=1e-6)
ROPE = dict(rope_type="default", rope_theta=10000000, partial_rotary_factor=0.25, mrope_section=[2, 1, 1],
            mrope_interleaved=True)
MOE = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=48)

# name -> (config changes, mtp, experts per expert, name prefix, seed)
CASES = {
    "dense-tied": (dict(intermediate_size=160, linear_num_value_heads=2, tie_word_embeddings=True), False, False,
                   "model.", 1),
    "dense-untied-mtp": (dict(intermediate_size=160), True, False, "model.language_model.", 2),
    "dense-ratio4-odd": (dict(hidden_size=72, intermediate_size=100, head_dim=24, num_attention_heads=3,
                              num_key_value_heads=1, linear_num_key_heads=1, linear_num_value_heads=4,
                              linear_key_head_dim=20, linear_value_head_dim=12, vocab_size=203,
                              rope_parameters=dict(ROPE, mrope_section=[1, 1, 1])), False, False, "model.", 3),
    "moe-fused": (dict(MOE), False, False, "model.language_model.", 4),
    "moe-expert-mtp": (dict(MOE, num_experts=6, num_experts_per_tok=3, linear_num_value_heads=8), True, True,
                       "language_model.model.", 5),
}


def randomise(state, generator):
    """Random weights, rounded to BF16, on a scale that keeps every part of the network busy."""
    for name, t in state.items():
        x = torch.randn(t.shape, generator=generator)
        if name.endswith("A_log"):
            x = torch.rand(t.shape, generator=generator) * 3 - 2
        elif name.endswith("dt_bias"):
            x = x - 1
        elif name.endswith("linear_attn.norm.weight"):
            x = 1 + 0.1 * x
        elif "norm" in name:
            x = 0.2 * x
        elif name.endswith("conv1d.weight"):
            x = 0.5 * x
        elif "lm_head" in name or "embed_tokens" in name:
            x = x * 2 / t.shape[-1] ** 0.5
        else:
            x = x * 1.2 / t.shape[-1] ** 0.5
        state[name] = x.to(torch.bfloat16).float()
    return state


class Mtp:
    """The MTP head, which transformers leaves out: the stem, then a one-layer model of the same family."""

    def __init__(self, model_class, config_class, fields, base, generator):
        fields = dict(fields, num_hidden_layers=1, layer_types=["full_attention"], tie_word_embeddings=False)
        self.model = model_class(config_class(**fields)).float().eval()
        state = randomise(self.model.state_dict(), generator)
        state["lm_head.weight"] = base.lm_head.weight.detach().clone()
        state["model.embed_tokens.weight"] = base.model.embed_tokens.weight.detach().clone()
        self.model.load_state_dict(state)
        h = fields["hidden_size"]
        self.stem = randomise({"fc.weight": torch.zeros(h, 2 * h), "pre_fc_norm_embedding.weight": torch.zeros(h),
                               "pre_fc_norm_hidden.weight": torch.zeros(h)}, generator)
        self.eps = fields["rms_norm_eps"]

    def norm(self, x, w):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + w)

    def run(self, tokens, hidden):
        """Rows p of (hidden[p], tokens[p]) -> output of mtp.norm, logits."""
        e = self.norm(self.model.model.embed_tokens(tokens), self.stem["pre_fc_norm_embedding.weight"])
        x = torch.cat([e, self.norm(hidden, self.stem["pre_fc_norm_hidden.weight"])], -1) @ self.stem["fc.weight"].T
        n = self.model.model(inputs_embeds=x[None]).last_hidden_state[0]
        return n, self.model.lm_head(n)

    def tensors(self):
        out = {f"mtp.{k}": v for k, v in self.stem.items()}
        for name, t in self.model.state_dict().items():
            if name.startswith("model.layers.0."):
                out["mtp." + name[len("model."):]] = t
            elif name == "model.norm.weight":
                out["mtp.norm.weight"] = t
        return out


def split_experts(tensors):
    out = {}
    for name, t in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for i in range(t.shape[0]):
                gate, up = t[i].chunk(2, 0)
                stem = name[:-len("gate_up_proj")]
                out[f"{stem}{i}.gate_proj.weight"], out[f"{stem}{i}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for i in range(t.shape[0]):
                out[f"{name[:-len('down_proj')]}{i}.down_proj.weight"] = t[i]
        else:
            out[name] = t
    return out


def published_names(tensors, prefix):
    out = {}
    for name, t in tensors.items():
        if name.startswith("model."):
            name = prefix + name[len("model."):]
        elif name == "lm_head.weight" and prefix.startswith("language_model."):
            name = "language_model.lm_head.weight"
        out[name] = t.to(torch.bfloat16).contiguous()
    return out


def write_config(folder, fields, is_moe, is_nested, has_mtp):
    kind = "qwen3_5_moe" if is_moe else "qwen3_5"
    text = dict(fields, model_type=kind + "_text", mtp_num_hidden_layers=1 if has_mtp else 0, dtype="bfloat16",
                hidden_act="silu", linear_conv_kernel_dim=4, full_attention_interval=4, eos_token_id=0)
    tie = text.pop("tie_word_embeddings", False)
    stem = "Qwen3_5Moe" if is_moe else "Qwen3_5"
    if is_nested:
        config = dict(architectures=[stem + "ForConditionalGeneration"], model_type=kind, text_config=text)
    else:
        config = dict(text, architectures=[stem + "ForCausalLM"])
    config["tie_word_embeddings"] = tie
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def steady_positions(model, prompt, logits, generator):
    """Positions whose logits stay near (4 % of the largest) when the input of every linear layer is disturbed by
    a BF16 rounding error's worth of noise. Elsewhere a random network sits on an edge (two experts equally
    likely, a head output near zero before its norm), where the largest error of any rounding is luck."""
    def disturb(module, args):
        return (args[0] * (1 + torch.randn(args[0].shape, generator=generator) * 2 ** -9),)

    hooks = [m.register_forward_pre_hook(disturb) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    worst = torch.zeros(len(prompt))
    for _ in range(8):
        worst = torch.maximum(worst, (model(prompt[None]).logits[0] - logits).abs().max(-1).values)
    for hook in hooks:
        hook.remove()
    return worst < 0.04 * logits.abs().max()


def compare(want, got, steady):
    diff = (want - got).abs()
    kl = (want.log_softmax(-1).exp() * (want.log_softmax(-1) - got.log_softmax(-1))).sum(-1)
    return dict(max=diff[steady].max().item(), mean=diff.mean().item(), kl=kl.mean().item())


def make_case(out, name, changes, has_mtp, is_per_expert, prefix, seed):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    is_moe = "num_experts" in changes
    fields = dict(dict(BASE, rope_parameters=dict(ROPE)), **changes)
    model_class = Qwen3_5MoeForCausalLM if is_moe else Qwen3_5ForCausalLM
    config_class = Qwen3_5MoeTextConfig if is_moe else Qwen3_5TextConfig
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config_class(**fields)).float().eval()
    model.config._attn_implementation = "eager"
    state = randomise(model.state_dict(), generator)
    if fields.get("tie_word_embeddings"):
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    prompt = torch.randint(0, fields["vocab_size"], (N_PROMPT,), generator=generator)

    run = model(prompt[None], output_hidden_states=False)
    logits = run.logits[0]
    hidden = model.model(prompt[None]).last_hidden_state[0]
    scale = logits.abs().max().item()
    for n in LENGTHS:
        worst = (model(prompt[None, :n]).logits[0] - logits[:n]).abs().max().item() / scale
        assert worst < 2e-5, (name, n, worst)

    greedy, margin, ids = [], 1e9, prompt.clone()
    for _ in range(N_GREEDY):
        row = model(ids[None]).logits[0, -1]
        top = row.topk(2).values
        margin = min(margin, (top[0] - top[1]).item() / scale)
        greedy.append(int(row.argmax()))
        ids = torch.cat([ids, row.argmax()[None]])
    assert margin > 3e-4, (name, "greedy choice too close, take another seed", margin)

    golden = dict(prompt=prompt.tolist(), lengths=LENGTHS, greedy=greedy, scale=scale, torch=torch.__version__,
                  transformers=transformers.__version__)
    low = model_class(config_class(**fields)).to(torch.bfloat16).eval()
    low.load_state_dict({k: v.to(torch.bfloat16) for k, v in state.items()})
    steady = steady_positions(model, prompt, logits, torch.Generator().manual_seed(0))
    golden["steady"] = steady.int().tolist()
    golden["bf16"] = compare(logits, low(prompt[None]).logits[0].float(), steady)

    tensors = {k: v for k, v in state.items() if k != "lm_head.weight" or not fields.get("tie_word_embeddings")}
    logits.numpy().astype("<f4").tofile(folder / "logits.bin")
    if has_mtp:
        mtp = Mtp(model_class, config_class, fields, model, generator)
        n, draft_logits = mtp.run(prompt[1:], hidden[:-1])
        draft_logits.numpy().astype("<f4").tofile(folder / "mtp.bin")
        tokens = torch.cat([prompt[1:], torch.tensor(greedy[:1])])
        rows, drafts, draft_margin = hidden, [], 1e9
        for _ in range(N_DRAFT):  # chained: the last output after mtp.norm with the token just drafted
            n, row = mtp.run(tokens, rows)
            top = row[-1].topk(2).values
            draft_margin = min(draft_margin, (top[0] - top[1]).item() / row.abs().max().item())
            drafts.append(int(row[-1].argmax()))
            tokens = torch.cat([tokens, row[-1].argmax()[None]])
            rows = torch.cat([rows, n[-1:]])
        assert draft_margin > 3e-4, (name, "draft choice too close", draft_margin)
        golden["drafts"] = drafts
        tensors.update(mtp.tensors())
    if is_per_expert:
        tensors = split_experts(tensors)
    save_file(published_names(tensors, prefix), str(folder / "model.safetensors"))
    write_config(folder, fields, is_moe, prefix != "model.", has_mtp)
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    n_byte = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{name:18} {n_byte / 1024:6.0f} KiB  |logit| {scale:.2f}  margin {margin:.1e}  steady {int(steady.sum())}  "
          f"bf16 {golden['bf16']}")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests/golden/model"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        for name, case in CASES.items():
            make_case(out, name, *case)


if __name__ == "__main__":
    main()
