/* One streamed answer from a model in this process.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/talk.h"

#include <math.h>
#include <signal.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/defaults.h"
#include "text/detok.h"
#include "text/tokenizer.h"

#define MAX_ANSWER_BYTES ((size_t)256 << 20)
#define POLL_US          100000

static volatile sig_atomic_t n_interrupt;

static void on_interrupt(int number)
{
    (void)number;
    n_interrupt = 1;
}

bool qn_talk_interrupted(void)
{
    bool was = n_interrupt;
    n_interrupt = 0;
    return was;
}

void qn_talk_defaults(struct qn_talk_options *o)
{
    *o = (struct qn_talk_options){.max_new = 2048,
                                  .n_rank = 1,
                                  .mtp = -1,
                                  .seed = -1,
                                  .top_k = -1,
                                  .temperature = -1,
                                  .top_p = -1,
                                  .min_p = -1,
                                  .presence = NAN};
}

int qn_talk_table(struct qn_talk_options *o, struct qn_opt *table)
{
    const struct qn_opt rows[] = {
        {"max-tokens", 'n', QN_OPT_INT, &o->max_new, "N", "most tokens of an answer (2048)", NULL, NULL, 1,
         1 << 24},
        {"temperature", 't', QN_OPT_NUM, &o->temperature, "T",
         "0: always the likeliest (the model's default)", NULL, NULL, 0, 0},
        {"top-p", 0, QN_OPT_NUM, &o->top_p, "P", "(the model's default)", NULL, NULL, 0, 0},
        {"top-k", 0, QN_OPT_INT, &o->top_k, "K", "(the model's default)", NULL, NULL, 0, 1 << 20},
        {"min-p", 0, QN_OPT_NUM, &o->min_p, "P", "(the model's default)", NULL, NULL, 0, 0},
        {"presence-penalty", 0, QN_OPT_NUM, &o->presence, "X", "(the model's default)", NULL, NULL, 0, 0},
        {"seed", 's', QN_OPT_INT, &o->seed, "S", "of the sampling (from the clock)", NULL, NULL, 0,
         INT64_MAX},
        {"think", 0, QN_OPT_STR, &o->think, "on|off", "(the template's default)", NULL, NULL, 0, 0},
        {"context", 'c', QN_OPT_INT, &o->context, "N", "tokens (what the model and memory allow)", NULL,
         "max-model-len,context-length", 2, 1 << 24},
        {"memory", 'm', QN_OPT_BYTES, &o->memory, "BYTES", "for weights and caches (of the machine)", NULL,
         NULL, 0, 0},
        {"threads", 0, QN_OPT_INT, &o->n_thread, "N", "(one per physical core)", NULL, NULL, 0, 1024},
        {"tp", 0, QN_OPT_INT, &o->n_rank, "N", "ranks that share the model (1)", NULL, "tensor-parallel-size",
         1, QN_MAX_RANK},
        {"mtp", 0, QN_OPT_INT, &o->mtp, "N", "drafts a step, 0: off (automatic)", NULL, NULL, -1,
         QN_MAX_DRAFT},
        {"device", 'd', QN_OPT_STR, &o->device, "cpu|ref", "what computes (cpu)", NULL, NULL, 0, 0},
    };
    const struct qn_opt model[] = {QN_MODEL_OPTS(&o->model)};
    memcpy(table, rows, sizeof rows);
    memcpy(table + QN_COUNT(rows), model, sizeof model);
    return QN_TALK_N_OPT;
}

int qn_talk_open(struct qn_talk *t, const char *folder, const struct qn_talk_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    *t = (struct qn_talk){.options = *o};
    const struct qn_backend *backend = qn_backend_get(o->device ? o->device : "cpu");
    if (!backend && !o->device) backend = qn_backend_get("ref");
    QN_FAIL_IF(!backend, e, QN_INVAL, "no device '%.20s' in this build; there are cpu and ref", o->device);
    QN_FAIL_IF(o->think && strcmp(o->think, "on") && strcmp(o->think, "off"), e, QN_INVAL,
               "--think %.20s: on or off", o->think);
    const struct qn_text_opt text_opt = {.template_path = o->template_path};
    QN_TRY(qn_model_opts_open(&t->model, folder, &o->model, e));
    QN_TRY(qn_text_open(&t->text, qn_model_folder(t->model), &text_opt, e));
    struct qn_engine_options options = {.model = t->model,
                                        .backend = backend,
                                        .n_thread = (int)o->n_thread,
                                        .n_rank = (int)o->n_rank,
                                        .kv = -1,
                                        .max_context = (int)o->context,
                                        .max_seqs = 1,
                                        .snapshot_gap = 16, /* turns on a terminal are short */
                                        .memory_bytes = o->memory,
                                        .mtp = (int)o->mtp,
                                        .n_tok = qn_tokenizer_n_vocab(t->text->tokenizer),
                                        .ram_tier_bytes = -1};
    int vocab = qn_model_config(t->model)->vocab;
    if (options.n_tok > vocab) options.n_tok = vocab;
    QN_TRY(qn_engine_open(&t->engine, &options, e));
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
out:
    if (rc) qn_talk_close(t);
    return rc;
}

void qn_talk_close(struct qn_talk *t)
{
    qn_engine_close(t->engine);
    qn_text_close(t->text);
    if (t->model) qn_model_close(t->model);
    *t = (struct qn_talk){0};
}

static struct qn_sample sampling(const struct qn_talk *t)
{
    const struct qn_talk_options *o = &t->options;
    const struct qn_text_defaults *d = &t->text->defaults;
    bool has_own = d->has_temperature || (d->has_do_sample && !d->do_sample);
    struct qn_sampling_defaults v, given = {
                                       .temperature = o->temperature >= 0 ? o->temperature
                                                      : has_own           ? NAN
                                                                          : 0.7,
                                       .top_p = o->top_p >= 0 ? o->top_p : NAN,
                                       .min_p = o->min_p >= 0 ? o->min_p : NAN,
                                       .presence = o->presence,
                                       .frequency = NAN,
                                       .repetition = NAN,
                                       .top_k = o->top_k,
                                   };
    qn_sampling_merge(&v, &given, d);
    struct qn_sample s = {
        .temperature = (float)v.temperature,
        .top_p = (float)v.top_p,
        .min_p = (float)v.min_p,
        .top_k = (int)v.top_k,
        .presence = (float)v.presence,
        .frequency = (float)v.frequency,
        .repetition = (float)v.repetition,
        .n_top = -1,
    };
    s.seed = o->seed >= 0 ? (uint64_t)o->seed : (uint64_t)qn_now_us();
    return s;
}

int qn_talk_answer(struct qn_talk *t, const struct qn_prompt *prompt,
                   void (*show)(void *user, const char *s, size_t n), void *user, struct qn_talk_answer *out,
                   struct qn_err *e)
{
    int rc = QN_OK, capacity = 0;
    struct qn_request *r = NULL;
    struct qn_detok detok;
    struct qn_event event;
    struct qn_request_params p = {.tok = prompt->ids,
                                  .n_tok = prompt->n_tok,
                                  .max_new = (int)t->options.max_new,
                                  .sample = sampling(t),
                                  .stop_tok = t->text->stop_ids,
                                  .n_stop = t->text->n_stop,
                                  .mtp = -1,
                                  .prompt_top = -1};
    *out = (struct qn_talk_answer){.load_s = qn_engine_info(t->engine)->load_s};
    qn_buf_init(&out->text, MAX_ANSWER_BYTES);
    qn_detok_init(&detok, t->text->tokenizer, QN_DETOK_SKIP);
    n_interrupt = 0;
    QN_TRY(qn_engine_submit(t->engine, &p, &r, e));
    size_t shown = 0;
    for (;;) {
        rc = qn_request_next(r, &event, POLL_US);
        if (n_interrupt) qn_request_cancel(r);
        if (rc == QN_TIMEOUT) continue;
        QN_FAIL_IF(rc, e, rc, "the request ended without an end");
        if (event.kind == QN_EVENT_END) break;
        if (out->n_tok == capacity) {
            capacity = QN_MAX(256, capacity * 2);
            out->tok = xreallocarray(out->tok, (size_t)capacity, sizeof *out->tok);
        }
        out->tok[out->n_tok++] = event.token.tok;
        rc = qn_detok_push(&detok, event.token.tok, &out->text);
        QN_FAIL_IF(rc, e, rc, "the answer is longer than %zu bytes", MAX_ANSWER_BYTES);
        if (show && out->text.n_byte > shown) show(user, out->text.data + shown, out->text.n_byte - shown);
        shown = out->text.n_byte;
    }
    qn_detok_end(&detok, &out->text);
    if (show && out->text.n_byte > shown) show(user, out->text.data + shown, out->text.n_byte - shown);
    out->finish = event.finish;
    qn_request_stats(r, &out->stats);
    if (event.finish == QN_FINISH_ERROR) {
        if (e) *e = event.error;
        rc = event.error.code ? event.error.code : QN_INTERNAL;
    }
out:
    qn_request_release(r);
    return rc;
}

void qn_talk_answer_free(struct qn_talk_answer *a)
{
    qn_buf_free(&a->text);
    free(a->tok);
    a->tok = NULL;
}

const char *qn_talk_finish_name(enum qn_finish f)
{
    static const char *const names[] = {"stop", "length", "cancel", "error"};
    return names[f];
}

void qn_talk_print_stats(FILE *out, const struct qn_talk_answer *a)
{
    const struct qn_request_stats *s = &a->stats;
    double prefill = (double)s->prefill_us / 1e6, decode = (double)s->decode_us / 1e6;
    int n_run = s->n_prompt - s->n_cached;
    fprintf(out, "[prompt %d tokens, %d cached, %.2f s, %.1f tok/s; answer %d tokens, %.2f s, %.1f tok/s",
            s->n_prompt, s->n_cached, prefill, prefill > 0 ? n_run / prefill : 0, s->n_new, decode,
            decode > 0 && s->n_new > 1 ? (s->n_new - 1) / decode : 0);
    if (s->n_drafted) fprintf(out, "; drafts %d of %d accepted", s->n_accepted, s->n_drafted);
    fprintf(out, "; %s]\n", qn_talk_finish_name(a->finish));
}
