/* Asking the engine.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/ask.h"

#include "base/mem.h"
#include "base/rng.h"

struct qn_request_params ask_params(const int32_t *tok, int n_tok)
{
    return (struct qn_request_params){
        .tok = tok,
        .n_tok = n_tok,
        .max_new = 16,
        .sample = {.top_p = 1, .repetition = 1, .n_top = -1},
        .mtp = -1,
        .prompt_top = -1,
    };
}

void ask_read(struct qn_request *r, struct ask_answer *out)
{
    *out = (struct ask_answer){.stop_tok = -1};
    struct qn_event event;
    int capacity = 0, prompt_capacity = 0;
    for (;;) {
        int rc = QN_TIMEOUT; /* of short waits: time in which the process was stopped hardly counts */
        for (int i = 0; i < 120 && rc == QN_TIMEOUT; i++) rc = qn_request_next(r, &event, 1000000);
        if (rc) {
            out->finish = QN_FINISH_ERROR;
            qn_err_set(&out->error, rc, __FILE__, __LINE__, "no event for two minutes");
            break;
        }
        if (event.kind == QN_EVENT_END) {
            out->finish = event.finish;
            out->stop_tok = event.stop_tok;
            out->error = event.error;
            break;
        }
        if (event.kind == QN_EVENT_PROMPT) {
            if (out->n_prompt == prompt_capacity) {
                prompt_capacity = QN_MAX(64, prompt_capacity * 2);
                out->prompt_logprob =
                    xreallocarray(out->prompt_logprob, (size_t)prompt_capacity, sizeof(float));
            }
            out->prompt_logprob[out->n_prompt++] = event.token.logprob;
            continue;
        }
        if (out->n == capacity) {
            capacity = QN_MAX(64, capacity * 2);
            out->tok = xreallocarray(out->tok, (size_t)capacity, sizeof *out->tok);
            out->logprob = xreallocarray(out->logprob, (size_t)capacity, sizeof *out->logprob);
        }
        out->tok[out->n] = event.token.tok;
        out->logprob[out->n++] = event.token.logprob;
    }
    qn_request_stats(r, &out->stats);
    qn_request_release(r);
}

void ask(struct qn_engine *g, const struct qn_request_params *p, struct ask_answer *out)
{
    struct qn_request *r;
    *out = (struct ask_answer){.finish = QN_FINISH_ERROR, .stop_tok = -1};
    if (qn_engine_submit(g, p, &r, &out->error)) return;
    ask_read(r, out);
}

void ask_free(struct ask_answer *a)
{
    free(a->tok);
    free(a->logprob);
    free(a->prompt_logprob);
    *a = (struct ask_answer){0};
}

int32_t *ask_prompt(uint64_t seed, int n, int below)
{
    int32_t *tok = xreallocarray(NULL, (size_t)n, sizeof *tok);
    for (int i = 0; i < n; i++) tok[i] = (int32_t)(qn_rng64(seed, (uint64_t)i, 0) % (uint64_t)below);
    return tok;
}
