/* See asked.h. SPDX-License-Identifier: Apache-2.0 */
#include "cli/asked.h"

#include <math.h>

#include "base/mem.h"
#include "server/look.h"

#define MAX_BODY_BYTES ((size_t)1 << 30)

int qn_asked_read(struct qn_asked *out, const struct qn_model *m, const char *path,
                  const struct qn_sight_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_text *text = NULL;
    struct qn_arena *arena = qn_arena_create(MAX_BODY_BYTES * 4);
    struct qn_prompt prompt = {0};
    struct qn_sight *sight = NULL;
    struct qn_look look = {0};
    struct qn_eyes eyes;
    struct qn_json *body;
    struct qn_chat chat;
    const struct qn_chat_opt chat_opt = {.allow_request_template = true};
    struct qn_source_policy policy = {.eyes = &eyes,
                                      .folder = "/",
                                      .want = QN_EYES_WANT,
                                      .background = {255, 255, 255},
                                      .video_fps = NAN,
                                      .video_frames = -1};
    const struct qn_look_rules rules = {&policy, -1, -1};
    QN_TRY(qn_eyes_read(&eyes, qn_model_folder(m), e));
    QN_TRY(qn_text_open(&text, qn_model_folder(m), &(const struct qn_text_opt){0}, e));
    QN_TRY(qn_json_read_file(&body, arena, path, MAX_BODY_BYTES, e));
    qn_chat_init(&chat, arena);
    QN_TRY(qn_chat_read(&chat, body, e));
    QN_TRY(qn_look_read(&look, &chat, &rules, qn_json_get(body, "mm_processor_kwargs"),
                        qn_json_get(body, "media_io_kwargs"), false, e));
    QN_TRY(qn_chat_render(&prompt, text, &chat, &chat_opt, e));
    if (look.n) QN_TRY(qn_sight_open(&sight, m, o, e));
    QN_TRY(qn_look_spans(&look, &prompt, sight, e));
    QN_TRY(qn_spans_check(look.spans, look.n_span, prompt.n_tok, qn_model_config(m)->hidden, e));
    *out = (struct qn_asked){prompt.ids, prompt.n_tok, qn_spans_copy(look.spans, look.n_span), look.n_span};
    prompt.ids = NULL;
out:
    qn_look_free(&look);
    qn_sight_close(sight);
    qn_prompt_free(&prompt);
    qn_arena_free(arena);
    qn_text_close(text);
    return rc;
}

void qn_asked_free(struct qn_asked *a)
{
    free(a->tok);
    qn_spans_free(a->spans, a->n_span);
    *a = (struct qn_asked){0};
}
