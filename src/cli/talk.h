/* What `run` and `chat` share: a model with its text side and engine, and one streamed answer.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_TALK_H
#define QN_TALK_H

#include "base/json.h"
#include "cli/cli.h"
#include "cli/model_opts.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#include "text/chat.h"

struct qn_talk_options {
    const char *device, *template_path, *think; /* think: "on", "off" or NULL (the template's own) */
    int64_t n_thread, n_rank, context, memory, mtp, max_new, seed, top_k;
    double temperature, top_p, min_p, presence; /* negative: the model's default */
    struct qn_model_wish model;
};
void qn_talk_defaults(struct qn_talk_options *o);
/* The options as rows of an option table; returns how many. */
int qn_talk_table(struct qn_talk_options *o, struct qn_opt *table);
#define QN_TALK_N_OPT 26

struct qn_talk {
    struct qn_model *model;
    struct qn_text *text;
    struct qn_engine *engine;
    struct qn_talk_options options;
};

struct qn_talk_answer {
    struct qn_buf text; /* all of it, markers included */
    int32_t *tok;       /* [n_tok] */
    int n_tok;
    enum qn_finish finish;
    struct qn_request_stats stats;
    double load_s;
};

int qn_talk_open(struct qn_talk *t, const char *folder, const struct qn_talk_options *o, struct qn_err *e);
void qn_talk_close(struct qn_talk *t);
/* Answers a rendered prompt. `show` gets text as it becomes certain (or NULL). Ctrl-C ends the answer with
 * QN_FINISH_CANCEL. */
int qn_talk_answer(struct qn_talk *t, const struct qn_prompt *prompt,
                   void (*show)(void *user, const char *s, size_t n), void *user, struct qn_talk_answer *out,
                   struct qn_err *e);
void qn_talk_answer_free(struct qn_talk_answer *a);
/* Ctrl-C since the last call? */
bool qn_talk_interrupted(void);
const char *qn_talk_finish_name(enum qn_finish f);
void qn_talk_print_stats(FILE *out, const struct qn_talk_answer *a);

#endif
