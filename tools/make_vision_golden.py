#!/usr/bin/env python3
"""Makes tests/golden/vision: tiny checkpoints that see, and what transformers says about chat requests with media.

Each folder is what Qwen3_5ForConditionalGeneration (or the MoE class) saves, in BF16, with quern-mini's tokenizer and
template, and golden.json:
  tower      for a still picture and a clip: the merged rows of the float32 tower, and how far the same tower in bfloat16
             is from them (largest distance over the largest value)
  requests   chat requests with media as data URLs; token ids after the processor, and logits of every position in
             float32, of each 64th token id, as base64 of float32 [n, ids]; the distance of a bfloat16 run
Needs tools/requirements-media.txt. SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from transformers import (AutoTokenizer, Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5MoeConfig,
                          Qwen3_5MoeForConditionalGeneration, Qwen3VLProcessor)

from make_media_golden import processors
from make_model_golden import randomise

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ROOT / "tests/golden/media/files"
EACH = 64

TEXT = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
            linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
            vocab_size=4096, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=10000000, partial_rotary_factor=0.5,
                                 mrope_section=[3, 3, 2], mrope_interleaved=True))
SAME = dict(patch_size=16, temporal_patch_size=2, spatial_merge_size=2, in_channels=3, out_hidden_size=64)
TOKENS = dict(image_token_id=4068, video_token_id=4069, vision_start_token_id=4065, vision_end_token_id=4066)
CASES = {
    "dense": (Qwen3_5Config, Qwen3_5ForConditionalGeneration, dict(TEXT, intermediate_size=96),
              dict(SAME, depth=2, hidden_size=72, num_heads=1, intermediate_size=160, num_position_embeddings=576), 1),
    "moe": (Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration,
            dict(TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32),
            dict(SAME, depth=3, hidden_size=128, num_heads=2, intermediate_size=96, num_position_embeddings=256), 2),
}

KINDS = {".jpg": "image/jpeg", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp", ".mp4": "video/mp4"}


def url(name):
    return f"data:{KINDS[pathlib.Path(name).suffix]};base64," + base64.b64encode((FILES / name).read_bytes()).decode()


def image(name):
    return {"type": "image_url", "image_url": {"url": url(name)}, "file": name}


def video(name):
    return {"type": "video_url", "video_url": {"url": url(name)}, "file": name}


def text(s):
    return {"type": "text", "text": s}


REQUESTS = {
    "start": [{"role": "user", "content": [image("q75_s2.jpg"), text("What is this?")]}],
    "between": [{"role": "user", "content": [text("One: "), image("turned6.jpg"), text(" two: "), image("palette.png"),
                                             text(" and three.")]}],
    "end": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [text("Look"), image("cmyk.jpg")]}],
    "turns": [{"role": "user", "content": [text("A"), image("grey.jpg")]}, {"role": "assistant", "content": "Grey."},
              {"role": "user", "content": [image("plain.gif"), image("plain.gif"), text("B")]}],
    "video": [{"role": "user", "content": [text("Look: "), video("three.mp4"), text("what?")]}],
    "mixed": [{"role": "user", "content": [video("plain.mp4"), image("scene_48x80.png"), text("Both?")]}],
    "tool": [{"role": "user", "content": "Take a shot."},
             {"role": "assistant", "content": "", "tool_calls": [
                 {"id": "call_1", "type": "function", "function": {"name": "shot", "arguments": "{}"}}]},
             {"role": "tool", "tool_call_id": "call_1", "content": [text("here "), image("411.jpg"), text(" end")]}],
}
TOOLS = [{"type": "function", "function": {"name": "shot", "description": "Takes a screenshot.",
                                           "parameters": {"type": "object", "properties": {}}}}]


def for_processor(messages):
    out = []
    for m in messages:
        m = json.loads(json.dumps(m))
        for call in m.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        if isinstance(m["content"], list):
            parts = []
            for p in m["content"]:
                if p["type"] == "image_url":
                    parts.append({"type": "image", "image": ImageOps.exif_transpose(Image.open(FILES / p["file"]))})
                elif p["type"] == "video_url":
                    parts.append({"type": "video", "video": str(FILES / p["file"])})
                else:
                    parts.append(p)
            m["content"] = parts
        out.append(m)
    return out


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


def request_row(name, messages, processor, model, half):
    extra = {"tools": TOOLS} if name == "tool" else {}
    inputs = processor.apply_chat_template(for_processor(messages), tokenize=True, return_dict=True, return_tensors="pt",
                                           add_generation_prompt=True, **extra)
    with torch.no_grad():
        logits = model(**inputs).logits[0].float()
        low = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in inputs.items()}
        rough = half(**low).logits[0].float()
    part = logits[:, ::EACH].contiguous().numpy()
    clean = [{**m, "content": [{k: v for k, v in p.items() if k != "file"} for p in m["content"]]
              if isinstance(m["content"], list) else m["content"]} for m in messages]
    return {"name": name, "request": {"messages": clean, **extra}, "ids": inputs["input_ids"][0].tolist(),
            "largest": float(logits.abs().max()), "bf16": distance(rough, logits),
            "logits": base64.b64encode(part.astype("<f4").tobytes()).decode()}


def tower_rows(model, half, image_one, video_one):
    still = image_one(images=[ImageOps.exif_transpose(Image.open(FILES / "turned6.jpg"))], return_tensors="pt")
    clip = video_one(videos=[str(FILES / "three.mp4")], return_tensors="pt")
    for name, pixels, grid in [("turned6.jpg", still["pixel_values"], still["image_grid_thw"]),
                               ("three.mp4", clip["pixel_values_videos"], clip["video_grid_thw"])]:
        with torch.no_grad():
            want = model.model.visual(pixels.float(), grid_thw=grid).pooler_output
            rough = half.model.visual(pixels.to(torch.bfloat16), grid_thw=grid).pooler_output.float()
        want = torch.cat(list(want)) if isinstance(want, (tuple, list)) else want
        rough = torch.cat(list(rough)) if isinstance(rough, (tuple, list)) else rough
        yield {"file": name, "grid": grid[0].tolist(), "bf16": distance(rough.float(), want),
               "merged": base64.b64encode(want.float().numpy().astype("<f4").tobytes()).decode()}


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests/golden/vision"
    image_one, _, video_one = processors()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/mini")
    template = (ROOT / "models/mini/chat_template.jinja").read_text()
    processor = Qwen3VLProcessor(image_processor=image_one, tokenizer=tokenizer, video_processor=video_one,
                                 chat_template=template)
    for name, (config_class, model_class, text_fields, vision_fields, seed) in CASES.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(seed)
        config = config_class(text_config=text_fields, vision_config=vision_fields, tie_word_embeddings=True, **TOKENS)
        model = model_class(config).float().eval()
        generator = torch.Generator().manual_seed(seed)
        state = randomise(model.state_dict(), generator)
        for key in state:
            if "visual" in key and "norm" in key and key.endswith("weight"):
                state[key] = (1 + state[key]).to(torch.bfloat16).float()
        model.load_state_dict(state)
        half = model_class(config).to(torch.bfloat16).eval()
        half.load_state_dict(state)
        half.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)
        processor.video_processor.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(ROOT / "models/mini" / file, folder / file)
        rows = [request_row(n, m, processor, model, half) for n, m in REQUESTS.items()]
        golden = {"made": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}, "each": EACH,
                  "tower": list(tower_rows(model, half, image_one, video_one)), "requests": rows}
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")
        print(name, [(r["name"], len(r["ids"]), round(r["bf16"], 4)) for r in rows], [r["bf16"] for r in golden["tower"]])


if __name__ == "__main__":
    main()
