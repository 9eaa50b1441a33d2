#!/usr/bin/env python3
"""Writes the golden files of the tokenizer tests with the `tokenizers` package, the reference library.

    make_tokenizer_golden.py [--train] [--big FOLDER]

--train  also trains tests/golden/tokenizer/small again (a vocabulary of a few hundred merges)
--big    a folder with the published 151k vocabulary; without it big.json is left as it is

What is written, in tests/golden/tokenizer/:
  small/         tokenizer.json and tokenizer_config.json of the small vocabulary
  small.json     cases, decodings, hashes over every code point and over 1 MB of mixed text; and the hashes of
                 variants of the small vocabulary (other split patterns, normaliser, merges spelled otherwise)
  big.json       the same for the 151k vocabulary, without variants
The mixed text is drawn from a small generator that tests/golden/test_tokenizer.c repeats.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import pathlib
import struct
import unicodedata
import zlib

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, decoders, trainers

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/tokenizer"
SNIPPETS = (HERE / "snippets.txt").read_text().split("\n")[:-1]
SPELLED = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<|im_", "<|endoftext|>", "|>"]
BLANKS = [0x20, 0x20, 0x20, 0x0A, 0x09, 0x0D, 0xA0, 0x3000, 0x2028, 0x85]
MASK = (1 << 64) - 1

QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


class Rng:
    """splitmix64; the C test has the same."""

    def __init__(self, seed):
        self.state = seed

    def __call__(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return (z ^ z >> 31) % n


def mixed(seed, n_byte, has_invalid):
    """At least n_byte bytes of code, scripts, emoji, marks and spelled control tokens."""
    r = Rng(seed)
    out = bytearray()

    def put(cp):
        out.extend(chr(cp).encode())

    while len(out) < n_byte:
        kind, n = r(13 if has_invalid else 12), 1 + r(8)
        if kind == 0:
            out.extend(SNIPPETS[r(len(SNIPPETS))].encode())
            put(0x0A)
        elif kind == 10:
            out.extend(SPELLED[r(len(SPELLED))].encode())
        for _ in range(n):
            if kind == 1:
                put(0x4E00 + r(0x5200))
                if r(6) == 0:
                    put(0xFF0C)
            elif kind == 2:
                put(0x621 + r(0x2A))
                if r(3) == 0:
                    put(0x64B + r(8))
            elif kind == 3:
                put(0xE01 + r(0x2E))
                if r(2) == 0:
                    put(0xE34 + r(7))
                if r(3) == 0:
                    put(0xE47 + r(8))
            elif kind == 4:
                put(0x1F300 + r(0x250))
                if r(4) == 0:
                    put(0x1F3FB + r(5))
                if r(3) == 0:
                    put(0x200D)
                if r(6) == 0:
                    put(0xFE0F)
            elif kind == 5:
                put(0x61 + r(26))
                for _ in range(r(4)):
                    put(0x300 + r(0x70))
            elif kind == 6:
                put(0x1100 + r(19))
                put(0x1161 + r(21))
                if r(2) == 0:
                    put(0x11A8 + r(27))
            elif kind == 7:
                put(0x915 + r(0x25))
                if r(2) == 0:
                    put(0x93C + r(0x12))
            elif kind == 8:
                put(BLANKS[r(len(BLANKS))])
            elif kind == 9:
                put(0x21 + r(0x20))
            elif kind == 11:
                cp = r(0x10F800)
                put(cp if cp < 0xD800 else cp + 0x800)
            elif kind == 12:
                out.append(0x80 + r(0x80))
        if r(2) == 0:
            put(0x20)
    return bytes(out)


def crc(ids, start=0):
    return zlib.crc32(struct.pack(f"<{len(ids)}i", *ids), start)


def encode(tok, texts):
    return [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]


BLOCK = 0x4000
ID_CONTEXTS = ["%", "a%b", " %% 1"]
# ids hardly show where pieces end, because rare characters take part in no merge: so the pieces are hashed too
PIECE_CONTEXTS = ["a%b", " %%1 %", "!%\n%'s%\t"]
NFC_CONTEXTS = ["x\u0301%\u0316y", "\u1100%\u11a8", "a%\u0301\u0345\u0334"]


def block_hashes(contexts, hash_texts):
    """One number a block of code points and context: the CRC over what each code point's text in turn gives."""
    out = {}
    for context in contexts:
        out[context] = []
        for first in range(0, 0x110000, BLOCK):
            cps = [c for c in range(first, first + BLOCK) if not 0xD800 <= c < 0xE000]
            out[context].append(hash_texts([context.replace("%", chr(c)) for c in cps]))
    return out


def id_hashes(tok, contexts):
    def hash_texts(texts):
        h = 0
        for ids in encode(tok, texts):
            h = crc(ids, h)
        return h

    return block_hashes(contexts, hash_texts)


def piece_hashes(tok, contexts):
    """Over the pieces' lengths in bytes (the pieces are spelled in the byte alphabet)."""
    def hash_texts(texts):
        h = 0
        for text in texts:
            h = crc([len(piece) for piece, _ in tok.pre_tokenizer.pre_tokenize_str(text)], h)
        return h

    return block_hashes(contexts, hash_texts)


def nfc_hashes(contexts):
    nfc = normalizers.NFC().normalize_str

    def hash_texts(texts):
        h = 0
        for text in texts:
            h = zlib.crc32(nfc(text).encode(), h)
        return h

    def hash_decomposed(texts):
        return hash_texts([unicodedata.normalize("NFD", text) + "\u0316\u0301" for text in texts])

    return {**block_hashes(contexts, hash_texts), "decomposed": block_hashes(["%"], hash_decomposed)["%"]}


def mixed_hashes(tok):
    """[seed, bytes, ids, CRC]: 15 parts of 64 KiB and one of 1 MiB; odd seeds have invalid UTF-8."""
    out = []
    for seed in range(16):
        text = mixed(seed, 1 << 20 if seed == 15 else 1 << 16, seed % 2 == 1)
        ids = encode(tok, [text.decode("utf-8", errors="replace")])[0]
        out.append([seed, len(text), len(ids), crc(ids)])
    return out


CASES = [
    "", " ", "  ", "\n", "a", "Hello, world!", "Hello,  world !\n\n\n  x", "it's IT'S it'ſ 'tis 'llama don't", "'", "''s",
    "1234567890 12,345.678", "x=1;\r\n\ty = 2;\r\n\r\n", "   leading", "trailing   ", "\t\tif (a) {\n\t\t\treturn;\n\t\t}\n",
    "e\u0301 \u00e9 \u0301 a\u0327\u0301 a\u0301\u0327", "\u1100\u1161\u11a8 \uac01", "\u0958 \u2126 \u212b \ufb01",
    "你好，Jetson Orin。", "用一句话解释 CUDA 是什么。", "<think>abc</think>", "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n", "<think>\n\n</think>\n\n", "<|im_start|", "<|im_start|><|im_start|>", "a<think",
    "<|im_end|>\u0338 <think>\u0301", "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈", "\u00a0x \u3000y \u2028z \u0085w", "\x00\x01\x7f",
    "a\u00adb \u200bc \ufeffd", "\U000e0100 \U0001fae9 \U0002ebf0 \u1c89\u1c8a", "\u0897a \U00011938 \U00011935\U00011930",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the theme then there" * 8, "=" * 120 + "\n", " " * 90 + "x",
]


def cases(tok):
    texts = CASES + SNIPPETS + [mixed(1000 + i, 40, False).decode() for i in range(40)]
    return [[text, ids] for text, ids in zip(texts, encode(tok, texts))]


def decodings(tok, n):
    """[ids, all, without special]: random ids, so broken characters everywhere."""
    r = Rng(77)
    out = []
    for _ in range(60):
        ids = [r(n) for _ in range(1 + r(10))]
        out.append([ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)])
    return out


def golden(tok):
    return {
        "cases": cases(tok),
        "decodings": decodings(tok, tok.get_vocab_size()),
        "ids": id_hashes(tok, ID_CONTEXTS),
        "mixed": mixed_hashes(tok),
    }


def train():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN35), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    texts = SNIPPETS * 4 + [mixed(5000 + i, 300, False).decode() for i in range(60)]
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=256 + 700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=[]))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tok.add_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    tok.add_tokens([AddedToken(s, special=False, normalized=False)
                    for s in ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]])
    (HERE / "small").mkdir(exist_ok=True)
    (HERE / "small/tokenizer.json").write_text(tok.to_str(pretty=False) + "\n")
    # two tokens that only tokenizer_config.json knows, as in the published files
    first = tok.get_vocab_size()
    extra = {str(first + i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                              "special": True} for i, s in enumerate(["<|audio_start|>", "<tts_pad>"])}
    config = {"added_tokens_decoder": extra, "pretokenize_regex": QWEN35, "tokenizer_class": "Qwen2Tokenizer"}
    (HERE / "small/tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def read(folder):
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    if config.exists():
        decoder = json.loads(config.read_text())["added_tokens_decoder"]
        for _, t in sorted((int(i), t) for i, t in decoder.items()):
            tok.add_special_tokens([AddedToken(t["content"], normalized=False, special=True)])
    return tok


def variants():
    """Changes to the small tokenizer.json: top-level values to set, model options to set, and what they give."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

    def split(pattern, **more):
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **more}

    def sequence(*steps):
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, byte_level]}}

    added = json.loads((HERE / "small/tokenizer.json").read_text())["added_tokens"]
    stripping = [{**t, "lstrip": t["content"] == "<think>", "rstrip": t["content"] in ("</think>", "<|im_end|>"),
                  "single_word": t["content"] == "<tool_call>", "normalized": t["content"] != "<|im_start|>"} for t in added]
    return [
        ["qwen2", sequence(split(QWEN2)), {}],
        ["cl100k", sequence(split(CL100K, behavior="Removed", invert=True)), {}],
        ["gpt-2", {"pre_tokenizer": {**byte_level, "use_regex": True}}, {}],
        ["cased", sequence(split(CASED)), {}],
        ["several", sequence(split(r"[\r\n]"), split(r"\s?\p{L}+"), {"type": "Digits", "individual_digits": True},
                             {"type": "Split", "pattern": {"String": "=="}, "behavior": "Isolated", "invert": False},
                             split(r"\s?\p{P}+"), split(r"\p{Han}{1,2}")), {}],
        ["no split", {"pre_tokenizer": byte_level}, {}],
        ["no normalizer", {"normalizer": None}, {}],
        ["normalizer list", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}, {}],
        ["ignore merges", {}, {"ignore_merges": True}],
        ["merges as strings", {}, {"merges": "strings"}],
        ["stripping", {"added_tokens": stripping}, {}],
    ]


def variant_hashes():
    base = json.loads((HERE / "small/tokenizer.json").read_text())
    out = []
    for name, top, model in variants():
        root = {**base, **top, "model": {**base["model"], **model}}
        if model.get("merges"):
            root["model"]["merges"] = [" ".join(m) for m in base["model"]["merges"]]
        tok = Tokenizer.from_str(json.dumps(root))
        h = 0
        for ids in encode(tok, CASES + SNIPPETS):
            h = crc(ids, h)
        out.append({"name": name, "top": top, "model": model, "cases": h, "mixed": mixed_hashes(tok)[:4],
                    "pieces": piece_hashes(tok, PIECE_CONTEXTS[1:]) if "pre_tokenizer" in top else {}})
    return out


def write(path, value):
    """One top-level member a line, lists of cases one a line: diffs stay readable."""
    lines = []
    for key, v in value.items():
        if key in ("cases", "decodings", "variants"):
            body = "[\n  " + ",\n  ".join(json.dumps(x, ensure_ascii=True) for x in v) + "\n ]"
        else:
            body = json.dumps(v, ensure_ascii=True)
        lines.append(f" {json.dumps(key)}: {body}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--big", type=pathlib.Path)
    args = parser.parse_args()
    if args.train:
        train()
    tok = read(HERE / "small")
    small = golden(tok)
    small["pieces"] = piece_hashes(tok, PIECE_CONTEXTS)
    small["nfc"] = nfc_hashes(NFC_CONTEXTS)
    small["variants"] = variant_hashes()
    write(HERE / "small.json", small)
    if args.big:
        write(HERE / "big.json", golden(read(args.big)))


if __name__ == "__main__":
    main()
