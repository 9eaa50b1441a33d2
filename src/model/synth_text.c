/* Tokenizer and chat template of a synthetic model.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "model/synth.h"

/* The control tokens in the order of their ids. */
static const struct {
    const char *text;
    bool special;
} controls[] = {
    {"<|endoftext|>", true},      {"<|im_start|>", true},
    {"<|im_end|>", true},         {"<|object_ref_start|>", true},
    {"<|object_ref_end|>", true}, {"<|box_start|>", true},
    {"<|box_end|>", true},        {"<|quad_start|>", true},
    {"<|quad_end|>", true},       {"<|vision_start|>", true},
    {"<|vision_end|>", true},     {"<|vision_pad|>", true},
    {"<|image_pad|>", true},      {"<|video_pad|>", true},
    {"<tool_call>", false},       {"</tool_call>", false},
    {"<|fim_prefix|>", false},    {"<|fim_middle|>", false},
    {"<|fim_suffix|>", false},    {"<|fim_pad|>", false},
    {"<|repo_name|>", false},     {"<|file_sep|>", false},
    {"<tool_response>", false},   {"</tool_response>", false},
    {"<think>", false},           {"</think>", false},
    {"<|audio_start|>", true},    {"<|audio_end|>", true},
    {"<tts_pad>", true},          {"<tts_text_bos>", true},
    {"<tts_text_eod>", true},     {"<tts_text_bos_single>", true},
    {"<|audio_pad|>", true},
};

static const char split_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{"
                                    "N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
                                    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static bool is_own(int byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 and up. */
static int put_byte(int byte, char out[4])
{
    int cp = byte;
    if (!is_own(byte)) {
        cp = 0x100;
        for (int b = 0; b < byte; b++) cp += !is_own(b);
    }
    int n = 0;
    if (cp < 0x80) {
        out[n++] = (char)cp;
    } else {
        out[n++] = (char)(0xc0 | cp >> 6);
        out[n++] = (char)(0x80 | (cp & 63));
    }
    out[n] = 0;
    return n;
}

static void put_entry(struct qn_buf *b, const char *text, int id)
{
    qn_buf_puts(b, id ? ",\n      " : "\n      ");
    qn_json_write_str(b, text, strlen(text), false);
    qn_buf_printf(b, ": %d", id);
}

static void put_added(struct qn_buf *b, int i, int id, const char *in)
{
    qn_buf_printf(b, "%s{\"id\": %d, \"content\": ", in, id);
    qn_json_write_str(b, controls[i].text, strlen(controls[i].text), false);
    qn_buf_printf(b,
                  ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                  "\"special\": %s}",
                  controls[i].special ? "true" : "false");
}

void qn_synth_tokenizer(int first_control, struct qn_buf *b)
{
    qn_buf_puts(
        b,
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n");
    for (int i = 0; i < (int)QN_COUNT(controls); i++) {
        put_added(b, i, first_control + i, "    ");
        qn_buf_puts(b, i + 1 < (int)QN_COUNT(controls) ? ",\n" : "\n");
    }
    qn_buf_puts(
        b,
        "  ],\n  \"normalizer\": {\"type\": \"NFC\"},\n  \"pre_tokenizer\": {\n    \"type\": \"Sequence\",\n"
        "    \"pretokenizers\": [\n      {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    qn_json_write_str(b, split_pattern, strlen(split_pattern), false);
    qn_buf_puts(
        b, "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
           "      {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
           "\"use_regex\": false}\n    ]\n  },\n"
           "  \"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": "
           "false, "
           "\"use_regex\": false},\n"
           "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
           "\"use_regex\": false},\n"
           "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
           "    \"continuing_subword_prefix\": \"\",\n    \"end_of_word_suffix\": \"\",\n    \"fuse_unk\": "
           "false,\n"
           "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {");
    char text[32];
    int id = 0;
    for (int own = 1; own >= 0; own--) /* printable bytes first, as in the published vocabulary */
        for (int byte = 0; byte < 256; byte++)
            if (is_own(byte) == own) {
                put_byte(byte, text);
                put_entry(b, text, id++);
            }
    for (; id < first_control; id++) { /* never produced by encoding, but readable when generated */
        snprintf(text, sizeof text, "\xc4\xa0w%d", id);
        put_entry(b, text, id);
    }
    /* control tokens in the vocabulary too: readers then keep their ids */
    for (int i = 0; i < (int)QN_COUNT(controls); i++) put_entry(b, controls[i].text, id++);
    qn_buf_puts(b, "\n    },\n    \"merges\": []\n  }\n}\n");
}

void qn_synth_tokenizer_config(int first_control, struct qn_buf *b)
{
    qn_buf_puts(
        b, "{\n  \"add_bos_token\": false,\n  \"add_prefix_space\": false,\n  \"added_tokens_decoder\": {\n");
    for (int i = 0; i < (int)QN_COUNT(controls); i++) {
        qn_buf_printf(
            b,
            "    \"%d\": {\"content\": \"%s\", \"lstrip\": false, \"normalized\": false, \"rstrip\": false, "
            "\"single_word\": false, \"special\": %s}%s\n",
            first_control + i, controls[i].text, controls[i].special ? "true" : "false",
            i + 1 < (int)QN_COUNT(controls) ? "," : "");
    }
    qn_buf_puts(
        b, "  },\n  \"bos_token\": null,\n  \"clean_up_tokenization_spaces\": false,\n"
           "  \"eos_token\": \"<|im_end|>\",\n  \"errors\": \"replace\",\n  \"model_max_length\": 262144,\n"
           "  \"pad_token\": \"<|endoftext|>\",\n  \"split_special_tokens\": false,\n"
           "  \"tokenizer_class\": \"Qwen2Tokenizer\",\n  \"unk_token\": null\n}\n");
}

const char qn_synth_template[] =
    "{#- Chat template of a synthetic model, in the turn grammar of the family. -#}\n"
    "{%- macro flat(content) -%}\n"
    "    {%- if content is string -%}\n"
    "        {{- content -}}\n"
    "    {%- elif content is iterable and content is not mapping -%}\n"
    "        {%- for part in content -%}\n"
    "            {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}\n"
    "                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}\n"
    "            {%- elif part.type == 'video' or 'video' in part -%}\n"
    "                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}\n"
    "            {%- elif 'text' in part -%}\n"
    "                {{- part.text -}}\n"
    "            {%- else -%}\n"
    "                {{- raise_exception('A content part has neither text nor an image nor a video.') -}}\n"
    "            {%- endif -%}\n"
    "        {%- endfor -%}\n"
    "    {%- elif content is not none and content is defined -%}\n"
    "        {{- raise_exception('Content must be a string, a list of parts or null.') -}}\n"
    "    {%- endif -%}\n"
    "{%- endmacro -%}\n"
    "{%- if not messages -%}\n"
    "    {{- raise_exception('There are no messages.') -}}\n"
    "{%- endif -%}\n"
    "{%- set ns = namespace(query=-1) -%}\n"
    "{%- for message in messages -%}\n"
    "    {%- if message.role == 'user' -%}\n"
    "        {%- set text = flat(message.content)|trim -%}\n"
    "        {%- if not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) -%}\n"
    "            {%- set ns.query = loop.index0 -%}\n"
    "        {%- endif -%}\n"
    "    {%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if ns.query < 0 -%}\n"
    "    {{- raise_exception('There is no user message.') -}}\n"
    "{%- endif -%}\n"
    "{%- set system = flat(messages[0].content)|trim if messages[0].role == 'system' else '' -%}\n"
    "{%- if tools -%}\n"
    "    {{- '<|im_start|>system\\n# Tools\\n\\nYou have access to the following functions:\\n\\n<tools>' "
    "-}}\n"
    "    {%- for tool in tools -%}\n"
    "        {{- '\\n' ~ tool|tojson -}}\n"
    "    {%- endfor -%}\n"
    "    {{- '\\n</tools>\\n\\nTo call a function, end your answer with a block of exactly this form:\\n\\n' "
    "-}}\n"
    "    {{- "
    "'<tool_call>\\n<function=NAME>\\n<parameter=KEY>\\nVALUE\\n</parameter>\\n</function>\\n</tool_call>' "
    "-}}\n"
    "    {{- '\\n\\nGive every required parameter. Explain yourself before the block, never after it. ' -}}\n"
    "    {{- 'When no function fits, answer as usual.' -}}\n"
    "    {{- ('\\n\\n' ~ system if system else '') ~ '<|im_end|>\\n' -}}\n"
    "{%- elif messages[0].role == 'system' -%}\n"
    "    {{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>\\n' -}}\n"
    "{%- endif -%}\n"
    "{%- for message in messages -%}\n"
    "    {%- set text = flat(message.content)|trim -%}\n"
    "    {%- if message.role == 'system' -%}\n"
    "        {%- if not loop.first -%}\n"
    "            {{- raise_exception('A system message must come first.') -}}\n"
    "        {%- endif -%}\n"
    "    {%- elif message.role == 'user' -%}\n"
    "        {{- '<|im_start|>user\\n' ~ text ~ '<|im_end|>\\n' -}}\n"
    "    {%- elif message.role == 'assistant' -%}\n"
    "        {%- set thought = '' -%}\n"
    "        {%- if message.reasoning_content is string -%}\n"
    "            {%- set thought = message.reasoning_content -%}\n"
    "        {%- elif '</think>' in text -%}\n"
    "            {%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}\n"
    "            {%- set text = text.split('</think>')[-1].lstrip('\\n') -%}\n"
    "        {%- endif -%}\n"
    "        {{- '<|im_start|>assistant\\n' -}}\n"
    "        {%- if loop.index0 > ns.query -%}\n"
    "            {{- '<think>\\n' ~ thought|trim ~ '\\n</think>\\n\\n' -}}\n"
    "        {%- endif -%}\n"
    "        {{- text -}}\n"
    "        {%- for call in message.tool_calls or [] -%}\n"
    "            {%- set f = call.function if call.function is defined else call -%}\n"
    "            {{- ('\\n\\n' if loop.first and text else '' if loop.first else '\\n') ~ "
    "'<tool_call>\\n<function=' ~ f.name ~ '>\\n' -}}\n"
    "            {%- if f.arguments is mapping -%}\n"
    "                {%- for key, value in f.arguments.items() -%}\n"
    "                    {%- set plain = value is string or value is not iterable -%}\n"
    "                    {{- '<parameter=' ~ key ~ '>\\n' ~ (value|string if plain else value|tojson) ~ "
    "'\\n</parameter>\\n' -}}\n"
    "                {%- endfor -%}\n"
    "            {%- endif -%}\n"
    "            {{- '</function>\\n</tool_call>' -}}\n"
    "        {%- endfor -%}\n"
    "        {{- '<|im_end|>\\n' -}}\n"
    "    {%- elif message.role == 'tool' -%}\n"
    "        {%- if loop.first or loop.previtem.role != 'tool' -%}\n"
    "            {{- '<|im_start|>user' -}}\n"
    "        {%- endif -%}\n"
    "        {{- '\\n<tool_response>\\n' ~ text ~ '\\n</tool_response>' -}}\n"
    "        {%- if loop.last or loop.nextitem.role != 'tool' -%}\n"
    "            {{- '<|im_end|>\\n' -}}\n"
    "        {%- endif -%}\n"
    "    {%- else -%}\n"
    "        {{- raise_exception('Unknown role ' ~ message.role) -}}\n"
    "    {%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{- '<|im_start|>assistant\\n' -}}\n"
    "    {{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false else "
    "'<think>\\n' -}}\n"
    "{%- endif -%}\n";
