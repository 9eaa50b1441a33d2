/* The engine: owns sequences, pages, state slots and the prefix cache, and decides every step.
 *
 * All verbs may be called from any thread; they talk to the engine thread through its mailbox. submit
 * always takes the full token list: reuse is the engine's business.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ENGINE_H
#define QN_ENGINE_H

#include "engine/options.h"
#include "engine/request.h"
#include "engine/stats.h"

struct qn_engine;

/* What open would decide, without opening: all but the figures of the device (isa, load_s); weight_bytes are
 * those of the files. Any thread. */
int qn_engine_plan(struct qn_engine_info *out, const struct qn_engine_options *o, struct qn_err *e);
/* Loads the model and starts the threads. QN_NOMEM names the nearest configuration that fits. */
int qn_engine_open(struct qn_engine **out, const struct qn_engine_options *o, struct qn_err *e);
/* Refuses new requests (QN_BUSY), lets running ones end until the deadline, then cancels them. */
void qn_engine_drain(struct qn_engine *g, int64_t deadline_us);
void qn_engine_close(struct qn_engine *g);
const struct qn_engine_info *qn_engine_info(const struct qn_engine *g);

/* Errors: QN_TOOBIG (prompt leaves no room for one token; text names both numbers), QN_BUSY (queue full or
 * draining), QN_INVAL (a token id out of range, a parameter out of range). The caller gets the reader's
 * reference. */
int qn_engine_submit(struct qn_engine *g, const struct qn_request_params *p, struct qn_request **out,
                     struct qn_err *e);
void qn_engine_stats(struct qn_engine *g, struct qn_engine_stats *out);
/* The last admissions, newest first; returns how many, at most QN_N_ADMISSION. */
int qn_engine_admissions(struct qn_engine *g, struct qn_admission *out);
/* False when the engine has work but no step has finished for a while. */
bool qn_engine_is_alive(struct qn_engine *g);

/* Raw logits of every position of ids, float [n, V] (with_mtp: draft logits, [n - 1, V]), through the step
 * path. Runs between other work. Calls `rows` for each chunk in order. For eval. */
int qn_engine_logits(struct qn_engine *g, const int32_t *ids, int n, bool with_mtp,
                     int (*rows)(void *user, int first, int n_row, const float *logits), void *user,
                     struct qn_err *e);
/* Log-probability of each token of ids given those before it: row i tells of token i + 1, the last of none
 * (tok -1), as does a row whose logits are not finite. Brings down a few numbers a row, not the logits. */
int qn_engine_scores(struct qn_engine *g, const int32_t *ids, int n,
                     int (*scores)(void *user, int first, int n_row, const struct qn_step_token *score),
                     void *user, struct qn_err *e);

#endif
