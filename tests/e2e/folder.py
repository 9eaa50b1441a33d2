"""Makes the small folder quern-fake serves: a byte-level tokenizer without merges and a chat template.

SPDX-License-Identifier: Apache-2.0
"""
import json
import pathlib

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]

TEMPLATE = r"""
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is iterable and content is not mapping -%}
    {%- for part in content -%}
      {%- if part.type == 'image_url' or 'image_url' in part -%}{{ raise_exception('this model reads no images') }}
      {%- else -%}{{ part.text }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if ns.last < 0 -%}{{ raise_exception('No user query found in messages.') }}{%- endif -%}
{%- if tools -%}
  {{- '<|im_start|>system\n# Tools\n\n<tools>' -}}
  {%- for tool in tools -%}{{ '\n' + (tool | tojson) }}{%- endfor -%}
  {{- '\n</tools>' -}}
  {%- if messages[0].role == 'system' -%}{{ '\n\n' + text(messages[0].content) | trim }}{%- endif -%}
  {{- '<|im_end|>\n' -}}
{%- elif messages[0].role == 'system' -%}
  {{- '<|im_start|>system\n' + text(messages[0].content) | trim + '<|im_end|>\n' -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'system' and not loop.first -%}{{ raise_exception('System message must be at the beginning.') }}
  {%- elif m.role == 'user' -%}{{ '<|im_start|>user\n' + text(m.content) | trim + '<|im_end|>\n' }}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > ns.last -%}{{ '<think>\n' + (m.reasoning_content or '') | trim + '\n</think>\n\n' }}{%- endif -%}
    {{- text(m.content) | trim -}}
    {%- for call in m.tool_calls or [] -%}
      {%- if loop.first and text(m.content) | trim -%}{{ '\n\n' }}{%- elif not loop.first -%}{{ '\n' }}{%- endif -%}
      {{- '<tool_call>\n<function=' + call.function.name + '>\n' -}}
      {%- for k, v in call.function.arguments | items -%}
        {{- '<parameter=' + k + '>\n' + (v if v is string else v | tojson) + '\n</parameter>\n' -}}
      {%- endfor -%}
      {{- '</function>\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- elif m.role == 'tool' -%}
    {%- if loop.previtem and loop.previtem.role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
    {{- '\n<tool_response>\n' + text(m.content) | trim + '\n</tool_response>' -}}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and enable_thinking is true -%}{{ '<think>\n' }}
  {%- else -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}
{%- endif -%}
"""


def byte_letters():
    """The usual map of bytes to printable letters."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for b in range(256):
        if b in keep:
            letters[b] = chr(b)
        else:
            letters[b] = chr(256 + extra)
            extra += 1
    return letters


def make(path):
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocab = {letter: b for b, letter in byte_letters().items()}
    added = [
        {"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": text in CONTROL}
        for i, text in enumerate(CONTROL + MARKERS)
    ]
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}))
    (path / "chat_template.jinja").write_text(TEMPLATE.strip("\n"))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256], "temperature": 0.6, "top_k": 20}))
    return path
