/* Scoring: what the model says of a text that is there already. Log-probabilities of a prompt's tokens, as
 * events of its request; raw logits of a text (a job), for eval.
 *
 * A job is made by a caller on its own thread and crosses to the engine thread and back for every chunk, as a
 * letter each way: whoever holds the letter may touch the job. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SCORE_H
#define QN_SCORE_H

#include "engine/batch.h"

/* Sends the log-probabilities that rows [first, first + n_row) tell of: the step's scores,
 * [n_row]. Returns the position whose row is not finite, or -1. Engine thread. */
int qn_score_prompt(struct qn_seq *q, const struct qn_step_token *score, int first, int n_row);

struct qn_job {
    struct qn_letter letter; /* to the engine */
    struct qn_letter reply;
    struct qn_mail *home; /* where replies go */
    struct qn_request_params params;
    bool with_mtp;     /* logits of the draft layer */
    bool wants_scores; /* log-probabilities in the place of logits */
    struct qn_seq *seq;
    bool is_over;            /* for the caller: nothing follows */
    bool is_ended;           /* engine: its sequence is gone */
    atomic_bool is_given_up; /* by the caller */
    int first, n_row;
    float *logits; /* [n_row, V] the job's own, exchanged with the batch's */
    size_t logits_capacity;
    struct qn_step_token *score; /* [n_row] copies */
    int rc;                      /* the engine's */
    struct qn_err error;
    int rows_rc; /* of the caller's function */
};

/* One of the two is given: raw logits [n_row, V], or a score a row: of the token that follows, tok -1 for the
 * last. */
typedef int qn_score_rows(void *user, int first, int n_row, const float *logits);
typedef int qn_score_tokens(void *user, int first, int n_row, const struct qn_step_token *score);

/* --- the caller --- */
struct qn_job *qn_job_create(const int32_t *ids, int n, bool with_mtp);
/* Waits for the next chunk, which goes to `rows`. false: it was the end. Else the letter is to be sent again,
 * for more. */
bool qn_job_read(struct qn_job *j, qn_score_rows *rows, qn_score_tokens *scores, void *user);
int qn_job_end(const struct qn_job *j, struct qn_err *e); /* how it ended */
void qn_job_free(struct qn_job *j);

/* --- the engine thread --- */
/* The step's logits become the job's, whose sequence waits until the caller has read them. */
void qn_job_give(struct qn_job *j, struct qn_batch *b, int first, int n_row);
/* Its sequence goes. error: or NULL. */
void qn_job_stop(struct qn_job *j, enum qn_finish finish, const struct qn_err *error);
/* The caller asks for more. false: there was an end meanwhile, which it is told now. */
bool qn_job_resume(struct qn_job *j);

#endif
