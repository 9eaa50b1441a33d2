# Trains the tokenizer of quern-mini: byte-level BPE in the family's layout.
# SPDX-License-Identifier: Apache-2.0
"""Merges never join letters with punctuation and join a leading space only with frequent whole words, so that a
name or value has the same tokens wherever it stands: copying is then a matter of repeating tokens."""

import argparse
import collections
import json
import os
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from generate import Generator, render

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

ADDED = [(t, True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
         "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
         "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")]
ADDED += [(t, False) for t in ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
          "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>")]
ADDED += [(t, True) for t in ("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>",
          "<tts_text_bos_single>", "<|audio_pad|>")]

STRUCTURE = re.compile(r' ?[^\sA-Za-z0-9]+[\n]*|\s*\n+')


def train(base, n_space, dialogues, seed):
    words, prose, marks = collections.Counter(), collections.Counter(), collections.Counter()
    g = Generator(seed)
    for _ in range(dialogues):
        d = g.dialogue()
        for text, weight in render(d):
            words.update(re.findall(r"[A-Za-z]+", text))
            if d["tools"] and not weight:
                marks.update(STRUCTURE.findall(text.split("</tools>")[0]))
            if not weight and d["tools"]:
                text = text.split("</tools>")[-1]
            prose.update(re.findall(r" ([A-Za-z]+)", text))
    marks = collections.Counter({m: c for m, c in marks.items() if c > dialogues // 100 and "_" not in m and "-" not in m})
    for m in ("\n\n", "</", ">\n", "```\n", "```", "\n</"):
        marks[m] = dialogues

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=base - n_space - 2, show_progress=False, max_token_length=16,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    def stream():
        for c in (words, marks):
            for w, n in c.items():
                for _ in range(min(n, 4000)):
                    yield w
    tok.train_from_iterator(stream(), trainer)
    data = json.loads(tok.to_str())["model"]
    vocab, merges = data["vocab"], data["merges"]
    space = "\u0120"
    chosen = [w for w, _ in prose.most_common() if w in vocab and len(w) > 1 or w in ("a", "I")][:n_space]
    for left, right in [(space, w) for w in chosen] + [("<", "parameter"), ("<", "function")]:
        vocab.setdefault(left + right, len(vocab))
        merges.append([left, right])
    return vocab, merges


def build(vocab, merges):
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in merges], ignore_merges=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.add_tokens([AddedToken(t, special=s, normalized=False) for t, s in ADDED])
    return tok


def config(tok):
    ids = {t: tok.token_to_id(t) for t, _ in ADDED}
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(ids[t]): {"content": t, **entry, "special": s} for t, s in ADDED},
        "additional_special_tokens": [t for t, s in ADDED if s and t != "<|endoftext|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "pretokenize_regex": PATTERN,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="models/mini")
    ap.add_argument("--base", type=int, default=4056, help="pieces before the 33 added tokens")
    ap.add_argument("--space", type=int, default=520, help="frequent words that also exist with a leading space")
    ap.add_argument("--dialogues", type=int, default=60000)
    ap.add_argument("--seed", type=int, default=7)
    a = ap.parse_args()
    tok = build(*train(a.base, a.space, a.dialogues, a.seed))
    os.makedirs(a.out, exist_ok=True)
    tok.save(os.path.join(a.out, "tokenizer.json"), pretty=False)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "chat_template.jinja"), encoding="utf-8") as f:
        template = f.read()
    with open(os.path.join(a.out, "chat_template.jinja"), "w", encoding="utf-8") as f:
        f.write(template)
    with open(os.path.join(a.out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config(tok), f, indent=1, ensure_ascii=False)
        f.write("\n")
    print("vocabulary", tok.get_vocab_size())


if __name__ == "__main__":
    main()
