/* Tokens of an answer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/answer.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/beside.h"
#include "text/grammar.h"

static void end(struct qn_verdict *v, enum qn_finish finish, int32_t stop_tok)
{
    v->error.code = QN_OK;
    v->is_over = true;
    v->finish = finish;
    v->stop_tok = stop_tok;
}

void qn_answer_unsound(const struct qn_seq *q, int pos, struct qn_verdict *out)
{
    end(out, QN_FINISH_ERROR, -1);
    qn_err_set(
        &out->error, QN_INTERNAL, __FILE__, __LINE__,
        "the model produced no finite logits at position %d (NaN or infinity in the forward pass: damaged "
        "weights, or activations too large for their format)",
        pos);
    qn_log(QN_LOG_ERROR, "engine", "request %s: %s", q->params->id, out->error.text);
}

static void end_stuck(const struct qn_seq *q, struct qn_verdict *out)
{
    int code = q->beside               ? q->beside->failed
               : q->params->constraint ? qn_grammar_failed(q->params->constraint)
                                       : QN_OK;
    end(out, QN_FINISH_ERROR, -1);
    qn_err_set(&out->error, code ? code : QN_UNSUPPORTED, __FILE__, __LINE__,
               code ? "the grammar of the request needs too many states or steps; a simpler one helps"
               : q->params->allowed_bits ? "allowed_token_ids leaves no token to go on with"
                                         : "the grammar of the request allows no token of this model here");
}

/* The prompt is read. */
static void note_first(struct qn_seq *q)
{
    q->first_us = qn_now_us();
    q->stats.queue_us = q->admit_us - q->request->submit_us;
    q->stats.prefill_us = q->first_us - q->admit_us;
    qn_request_set_stats(q->request, &q->stats);
}

void qn_answer_take(struct qn_seq *q, const struct qn_step_token *token, bool is_stuck,
                    struct qn_verdict *out)
{
    out->is_sent = out->is_over = false; /* the rest is of an end */
    if (token->tok < 0 && !is_stuck) {
        qn_answer_unsound(q, q->n_tok, out);
        return;
    }
    q->is_proved = true;
    if (!q->first_us) note_first(q);
    if (is_stuck) {
        end_stuck(q, out);
        return;
    }
    bool stops = qn_pick_stops(&q->pick, token->tok);
    if (!q->beside) qn_pick_advance(&q->pick, token->tok);
    qn_seq_push(q, token->tok);
    if (!stops || q->params->keep_stop_tok) {
        q->stats.n_new++;
        qn_request_send_token(q->request, QN_EVENT_TOKEN, token);
        out->is_sent = true;
    }
    if (stops) {
        end(out, QN_FINISH_STOP, token->tok);
        return;
    }
    if (!q->beside && !q->is_loop && qn_pick_watch(&q->pick, q->tok + q->n_prompt, qn_seq_n_new(q)))
        qn_seq_end_loop(q);
    if (q->n_tok >= q->max_tok) end(out, QN_FINISH_LENGTH, -1);
}

void qn_answer_keep_drafts(struct qn_seq *q, const struct qn_step_result *result, int at)
{
    q->n_draft = result->n_drafted[at];
    q->draft_is_lookup = false;
    if (q->beside) q->n_draft = 0; /* the row behind a draft would need a mask, too */
    memcpy(q->draft, result->draft + (size_t)at * QN_MAX_DRAFT, (size_t)q->n_draft * sizeof *q->draft);
}
