/* struct qn_text: all of a checkpoint folder that is about text: tokenizer, chat template, special tokens,
 * generation defaults. Opened by main, immutable afterwards, read by any thread.
 *
 * Needs only the small files of the folder: tokenizer.json, tokenizer_config.json, generation_config.json,
 * config.json for its end tokens, and the template (chat_template.jinja with additional_chat_templates/, or
 * `chat_template` in tokenizer_config.json or chat_template.json).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TEXT_H
#define QN_TEXT_H

#include "base/json.h"

struct qn_tokenizer;
struct qn_jinja;

#define QN_TEXT_MAX_STOP_IDS     16
#define QN_TEXT_MAX_CONFIG_BYTES ((size_t)64 << 20) /* one of the small JSON files */

/* What generation_config.json says; a field is only meaningful when its has_ bit is set. */
struct qn_text_defaults {
    bool has_temperature, has_top_p, has_top_k, has_min_p;
    bool has_repetition_penalty, has_presence_penalty, has_frequency_penalty, has_do_sample;
    double temperature, top_p, min_p;
    int64_t top_k;
    double repetition_penalty, presence_penalty, frequency_penalty;
    bool do_sample; /* false means greedy */
};

struct qn_text {
    struct qn_tokenizer *tokenizer;
    struct qn_jinja *template;      /* NULL when the folder has none */
    struct qn_jinja *tool_template; /* the one named "tool_use" when the folder has it, else NULL */
    char *template_source_name;     /* which file it came from, for printing; NULL without a template */

    /* Special tokens of tokenizer_config.json as the template sees them: {"bos_token": "...", ...}. Lives in
     * arena. */
    struct qn_json *special_tokens;

    /* Ids that end a generation: all that generation_config.json, config.json and the tokenizer name, and
     * what the template itself writes behind an assistant's text (turn_end.h). */
    int32_t stop_ids[QN_TEXT_MAX_STOP_IDS];
    int n_stop;
    int32_t turn_end_id; /* of the template, or -1 */
    /* Markers of the format, -1 when the vocabulary has no such single token. */
    int32_t im_start_id, im_end_id, endoftext_id;
    int32_t think_open_id, think_close_id, call_open_id, call_close_id, response_open_id, response_close_id;

    struct qn_text_defaults defaults;
    struct qn_arena *arena;
};

struct qn_text_opt {
    const char *template_path; /* a template file that replaces the folder's, or NULL */
    bool no_tokenizer;         /* render text only: tokenizer.json is not read */
};

/* path: a folder, or a .gguf file, whose metadata hold all of this (base/model_path.h). opt may be NULL.
 * Errors name the file. A folder without a template opens; rendering then says so. */
int qn_text_open(struct qn_text **out, const char *path, const struct qn_text_opt *opt, struct qn_err *e);
void qn_text_close(struct qn_text *t); /* NULL is allowed */
/* The markers (marker.h) that are one added token here and do not end a turn: a bit each. */
unsigned qn_text_markers(const struct qn_text *t);

#endif
