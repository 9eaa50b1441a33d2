/* Scoring of text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/score.h"

#include <math.h>

#include "base/mem.h"

int qn_score_prompt(struct qn_seq *q, const struct qn_step_token *score, int first, int n_row)
{
    if (q->n_prompt_scored == 0) {
        struct qn_step_token token = {.tok = q->tok[0], .logprob = NAN};
        qn_request_send_token(q->request, QN_EVENT_PROMPT, &token);
        q->n_prompt_scored = 1;
    }
    for (int i = 0; i < n_row; i++) { /* the row of position p tells of p + 1 */
        int pos = first + i + 1;
        if (pos != q->n_prompt_scored || pos >= q->n_prompt) continue;
        if (score[i].tok < 0) return pos;
        qn_request_send_token(q->request, QN_EVENT_PROMPT, &score[i]);
        q->n_prompt_scored++;
    }
    return -1;
}

/* --- jobs: the caller --- */

struct qn_job *qn_job_create(const int32_t *ids, int n, bool with_mtp)
{
    struct qn_job *j = xcalloc(1, sizeof *j);
    j->home = qn_mail_create();
    j->params = (struct qn_request_params){.tok = ids, .n_tok = n, .prompt_top = -1, .mtp = 0};
    j->params.sample = (struct qn_sample){.top_p = 1, .repetition = 1, .n_top = -1};
    j->with_mtp = with_mtp;
    return j;
}

bool qn_job_read(struct qn_job *j, qn_score_rows *rows, qn_score_tokens *scores, void *user)
{
    QN_CHECK(qn_mail_take(j->home, QN_FOREVER) == &j->reply);
    if (j->is_over) return false;
    if (atomic_load(&j->is_given_up) || !j->n_row) return true;
    j->rows_rc = j->wants_scores ? scores(user, j->first, j->n_row, j->score)
                                 : rows(user, j->first, j->n_row, j->logits);
    if (j->rows_rc) atomic_store(&j->is_given_up, true);
    return true;
}

int qn_job_end(const struct qn_job *j, struct qn_err *e)
{
    if (j->rows_rc) return j->rows_rc;
    if (!j->rc) return QN_OK;
    if (e) *e = j->error;
    if (e && !e->code) qn_err_set(e, j->rc, __FILE__, __LINE__, "the engine is shutting down");
    return j->rc;
}

void qn_job_free(struct qn_job *j)
{
    if (!j) return;
    free(j->logits);
    free(j->score);
    qn_mail_free(j->home);
    free(j);
}

/* --- jobs: the engine --- */

void qn_job_give(struct qn_job *j, struct qn_batch *b, int first, int n_row)
{
    j->first = first;
    j->n_row = n_row;
    if (j->with_mtp) { /* position 0 has no row */
        j->first = QN_MAX(first, 1);
        j->n_row = first + n_row - j->first;
    }
    j->seq->is_paused = true;
    if (j->wants_scores) {
        j->score = xreallocarray(j->score, (size_t)n_row, sizeof *j->score);
        memcpy(j->score, b->score, (size_t)n_row * sizeof *j->score);
        qn_mail_post(j->home, &j->reply);
        return;
    }
    float *logits = j->logits;
    size_t capacity = j->logits_capacity;
    j->logits = b->logits;
    j->logits_capacity = b->logits_capacity;
    b->logits = logits;
    b->logits_capacity = capacity;
    qn_mail_post(j->home, &j->reply);
}

static void tell_end(struct qn_job *j)
{
    j->is_over = true;
    qn_mail_post(j->home, &j->reply);
}

void qn_job_stop(struct qn_job *j, enum qn_finish finish, const struct qn_err *error)
{
    j->is_ended = true;
    if (finish != QN_FINISH_LENGTH) {
        j->rc = error ? error->code : QN_CANCELED;
        if (error) j->error = *error;
    }
    if (!j->seq->is_paused) tell_end(j); /* else when it asks for more */
}

bool qn_job_resume(struct qn_job *j)
{
    if (!j->is_ended) {
        j->seq->is_paused = false;
        return true;
    }
    tell_end(j); /* and it may be freed */
    return false;
}
