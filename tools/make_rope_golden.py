#!/usr/bin/env python3
"""Makes tests/golden/rope: what transformers says of a model under each spelling of a longer context.

  cases.json  for each case: its name, the members laid over config.json (as a file of its own would have them),
              the frequencies and the attention factor of the reference, the positions kept
  logits.npy  float32 [case, position, V]: logits of the prompt of tests/golden/model/dense-untied-mtp
  mtp.npy     float32 [case, position, V]: of its draft layer, which turns as the model does

The prompt has 200 tokens and the original context 32 or 64, so most positions lie past it.

Needs torch, transformers, safetensors, numpy.
Usage: make_rope_golden.py [OUT]
SPDX-License-Identifier: Apache-2.0
"""
import copy
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, Qwen3_5ForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests/golden/model/dense-untied-mtp"
POSITIONS = [0, 1, 40, 63, 64, 65, 128, 150, 198]
BASE = {"rope_theta": 10000000, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def parameters(**fields):
    return {"text_config": {"rope_parameters": dict(BASE, **fields)}}


def scaling(**fields):
    return {"text_config": {"rope_scaling": dict(BASE, **fields)}}


CASES = {
    "default": parameters(rope_type="default"),
    "yarn-2": parameters(**dict(YARN, factor=2.0)),
    "yarn-4": parameters(**YARN),
    "yarn-4-of-64": parameters(**dict(YARN, original_max_position_embeddings=64)),
    "yarn-theta": parameters(**dict(YARN, rope_theta=10000)),
    "yarn-wide": parameters(**dict(YARN, partial_rotary_factor=0.75, rope_theta=10000)),
    "yarn-attention-factor": parameters(**YARN, attention_factor=0.9),
    "yarn-betas": parameters(**YARN, beta_fast=8, beta_slow=0.5),
    "yarn-mscale": parameters(**YARN, mscale=0.7, mscale_all_dim=1.0),
    "yarn-mscale-alone": parameters(**YARN, mscale=0.7),
    "yarn-untruncated": parameters(**dict(YARN, partial_rotary_factor=0.75, rope_theta=10000), truncate=False),
    "yarn-null-factor": {"text_config": {"max_position_embeddings": 128, "rope_parameters": dict(
        BASE, rope_type="yarn", factor=None, original_max_position_embeddings=32)}},
    "yarn-no-original": {"text_config": {"max_position_embeddings": 64, "rope_parameters": dict(
        BASE, rope_type="yarn", factor=4.0)}},
    "scaling-type": scaling(type="yarn", factor=4.0, original_max_position_embeddings=32),
    "scaling-rope-type": scaling(**YARN),
    "scaling-flat-theta": {"text_config": {"rope_theta": 10000000, "rope_scaling": dict(
        type="yarn", factor=4.0, original_max_position_embeddings=32)}},
    "linear": scaling(type="linear", factor=2.0),
    "llama3": parameters(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=10000,
                         original_max_position_embeddings=64),
    "dynamic": scaling(type="dynamic", factor=2.0),
    "proportional": parameters(rope_type="proportional", factor=1.0),
    "proportional-2": parameters(rope_type="proportional", factor=2.0, rope_theta=10000),
}


def overlay(base, over):
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key == "text_config":
            overlay(base[key], value)
        else:
            base[key] = value
    return base


def norm(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + w)


def run(tensors, config, prompt):
    """Logits of the prompt, and those of the draft layer: row p from (h_p, t_{p+1})."""
    state = {("model." + k[len("model.language_model."):]) if k.startswith("model.language_model.") else k: v.float()
             for k, v in tensors.items() if not k.startswith("mtp.")}
    model = Qwen3_5ForCausalLM(config).float().eval()
    model.load_state_dict(state)
    fields = copy.deepcopy(config)
    fields.num_hidden_layers, fields.layer_types = 1, ["full_attention"]
    draft = Qwen3_5ForCausalLM(fields).float().eval()
    mtp = {k[len("mtp."):]: v.float() for k, v in tensors.items() if k.startswith("mtp.")}
    own = {"model." + k: v for k, v in mtp.items() if k.startswith(("layers.", "norm."))}
    own["lm_head.weight"], own["model.embed_tokens.weight"] = state["lm_head.weight"], state["model.embed_tokens.weight"]
    draft.load_state_dict(own)
    with torch.no_grad():
        hidden = model.model(prompt[None]).last_hidden_state[0]
        e = norm(model.model.embed_tokens(prompt[1:]), mtp["pre_fc_norm_embedding.weight"], config.rms_norm_eps)
        h = norm(hidden[:-1], mtp["pre_fc_norm_hidden.weight"], config.rms_norm_eps)
        x = torch.cat([e, h], -1) @ mtp["fc.weight"].T
        n = draft.model(inputs_embeds=x[None]).last_hidden_state[0]
        rotary = model.model.rotary_emb
        return (model.lm_head(hidden), draft.lm_head(n), [float(f) for f in rotary.inv_freq],
                float(rotary.attention_scaling))


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests/golden/rope")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    tensors = load_file(MODEL / "model.safetensors")
    prompt = torch.tensor(json.loads((MODEL / "golden.json").read_text())["prompt"])
    base = json.loads((MODEL / "config.json").read_text())
    cases, logits, drafts = [], [], []
    for name, over in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "config.json").write_text(json.dumps(overlay(copy.deepcopy(base), over)))
            config = AutoConfig.from_pretrained(folder).get_text_config()
        a, b, frequencies, gain = run(tensors, config, prompt)
        cases.append(dict(name=name, over=over, frequencies=frequencies, gain=gain))
        logits.append(a[POSITIONS].numpy())
        drafts.append(b[POSITIONS].numpy())
        print(f"{name}: attention factor {gain:.4f}, largest difference from default "
              f"{np.abs(logits[-1] - logits[0]).max():.3f}")
    (out / "cases.json").write_text(json.dumps(dict(transformers=transformers.__version__, positions=POSITIONS,
                                                    cases=cases), indent=1) + "\n")
    np.save(out / "logits.npy", np.array(logits, np.float32))
    np.save(out / "mtp.npy", np.array(drafts, np.float32))


if __name__ == "__main__":
    main()
