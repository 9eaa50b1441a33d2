# Writes a training state as a checkpoint in the published layout, and reads one back.
# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import os

import torch
from safetensors.torch import load_file, save_file

import model as M

F32 = (".A_log", ".linear_attn.norm.weight")


def tensors(m):
    """Published names -> tensors."""
    out = {}
    for name, p in m.state_dict().items():
        stem, rest = name.split(".", 1)
        key = "model.language_model." + rest if stem == "model" else name
        keep = key.endswith(F32)
        out[key] = p.detach().to(torch.float32 if keep else torch.bfloat16).contiguous().clone()
    out["lm_head.weight"] = out["model.language_model.embed_tokens.weight"].clone()
    return out


def load(m, folder):
    """Fills a Mini from an exported checkpoint."""
    z = load_file(os.path.join(folder, "model.safetensors"))
    state = {}
    for key, p in z.items():
        if key != "lm_head.weight":
            state[key.replace("model.language_model.", "model.", 1)] = p.float()
    m.load_state_dict(state)


def config(c, tok):
    ids = {name: tok.token_to_id(t) for name, t in (
        ("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>"))}
    end = tok.token_to_id("<|endoftext|>")
    text = {
        "model_type": "qwen3_5_moe_text",
        "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "dtype": "bfloat16",
        "bos_token_id": None, "eos_token_id": end, "pad_token_id": None,
        "full_attention_interval": 4, "head_dim": c["head_dim"], "hidden_act": "silu", "hidden_size": c["hidden_size"],
        "initializer_range": 0.02,
        "layer_types": ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(c["num_hidden_layers"])],
        "linear_conv_kernel_dim": c["linear_conv_kernel_dim"], "linear_key_head_dim": c["linear_key_head_dim"],
        "linear_num_key_heads": c["linear_num_key_heads"], "linear_num_value_heads": c["linear_num_value_heads"],
        "linear_value_head_dim": c["linear_value_head_dim"], "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 4096, "moe_intermediate_size": c["moe_intermediate_size"],
        "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": c["num_attention_heads"], "num_experts": c["num_experts"],
        "num_experts_per_tok": c["num_experts_per_tok"], "num_hidden_layers": c["num_hidden_layers"],
        "num_key_value_heads": c["num_key_value_heads"], "output_router_logits": False,
        "partial_rotary_factor": c["partial_rotary_factor"], "rms_norm_eps": c["rms_norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": c["rope_theta"], "mrope_interleaved": True,
                            "mrope_section": [3, 3, 2], "partial_rotary_factor": c["partial_rotary_factor"]},
        "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": c["shared_expert_intermediate_size"],
        "tie_word_embeddings": False, "use_cache": True, "vocab_size": c["vocab_size"],
    }
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "dtype": "bfloat16",
            **ids, "text_config": text, "tie_word_embeddings": False}


def write(m, folder, tok):
    os.makedirs(folder, exist_ok=True)
    end, stop = tok.token_to_id("<|endoftext|>"), tok.token_to_id("<|im_end|>")
    save_file(tensors(m), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    generation = {"bos_token_id": end, "do_sample": True, "eos_token_id": [stop, end], "pad_token_id": end,
                  "temperature": 0.2, "top_k": 20, "top_p": 0.95}
    for name, data in (("config.json", config(m.c, tok)), ("generation_config.json", generation)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(data, f, indent=2)
            f.write("\n")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--state", required=True, help="state.pt of the training run")
    ap.add_argument("--out", default="models/mini", help="folder that already holds tokenizer.json")
    ap.add_argument("--last", action="store_true", help="the weights of the last step, not their average")
    ap.add_argument("--mix", metavar="FOLDER", help="average the weights with those of this checkpoint")
    ap.add_argument("--share", type=float, default=0.5, help="of the new weights in the average")
    a = ap.parse_args()
    from tokenizers import Tokenizer
    m = M.Mini()
    z = torch.load(a.state, weights_only=False, map_location="cpu")
    m.load_state_dict(z["model"])
    if not a.last:
        with torch.no_grad():
            for k, p in m.named_parameters():
                p.copy_(z["average"][k])
    if a.mix:
        old = M.Mini()
        load(old, a.mix)
        with torch.no_grad():
            for p, q in zip(m.parameters(), old.parameters()):
                p.lerp_(q.to(p.dtype), 1 - a.share)
    write(m, a.out, Tokenizer.from_file(os.path.join(a.out, "tokenizer.json")))
    print("step %d, %.1f million tokens -> %s" % (z["step"], z["info"]["tokens"] / 1e6, a.out))


if __name__ == "__main__":
    main()
