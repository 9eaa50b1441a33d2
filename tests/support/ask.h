/* A request and its answer in one call, for tests of the engine.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ASK_H
#define QN_ASK_H

#include "engine/engine.h"

struct ask_answer {
    int32_t *tok; /* [n] */
    float *logprob;
    int n;
    enum qn_finish finish;
    int32_t stop_tok;
    struct qn_err error;
    struct qn_request_stats stats;
    float *prompt_logprob; /* [n_prompt] of QN_EVENT_PROMPT, or NULL */
    int n_prompt;
};

/* Greedy, 16 tokens, nothing else. */
struct qn_request_params ask_params(const int32_t *tok, int n_tok);
/* Reads until the end; releases the request. */
void ask_read(struct qn_request *r, struct ask_answer *out);
/* Submits and reads; a refused request gives finish QN_FINISH_ERROR. */
void ask(struct qn_engine *g, const struct qn_request_params *p, struct ask_answer *out);
void ask_free(struct ask_answer *a);
/* A prompt of n tokens from a seed, none of them at or above `below`. */
int32_t *ask_prompt(uint64_t seed, int n, int below);

#endif
