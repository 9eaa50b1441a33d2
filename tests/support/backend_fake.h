/* The scripted backend: a runner without a model whose tokens are a function of everything a model's would
 * be.
 *
 * Pages and slots hold hashes. A row folds its token into the state of its slot, writes an entry made of that
 * state into its page, sums the entries of all places up to its own, and makes its logits from state and sum.
 * So every mistake in the books - a stale slot, a wrong n_commit, KV of a rejected draft, a snapshot of
 * uncommitted state, rows of another sequence - changes the tokens, as it would with a model. Deferred commit
 * is that of step.h. The same books are also checked on the way (n_violation).
 *
 * Drafts equal the target's pick accept_percent times of a hundred. `script` overrides the pick: an
 * end-to-end test says what the model answers.
 *
 * Ranks each do all of it. Their pages and slots bear their number, so that bytes of one that come back to
 * another are seen. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BACKEND_FAKE_H
#define QN_BACKEND_FAKE_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/runner.h"

/* Mistakes that real engines made, to see that a test finds them. */
enum qn_fake_fault {
    QN_FAKE_OK,
    QN_FAKE_COMMIT_REJECTED, /* state committed for a rejected draft */
    QN_FAKE_SNAPSHOT_EARLY,  /* a snapshot of state whose pending rows were not folded in */
    QN_FAKE_STALE_SLOT,      /* a fresh slot is not zeroed */
    QN_FAKE_STALE_KV,        /* KV of a rejected draft stays where the right token's should be */
    QN_FAKE_ROW_AS_SEQ,      /* row of the batch instead of the sequence's slot */
    QN_FAKE_TAIL_NOT_COPIED, /* the last partial page of a prefix is shared instead of copied: nothing there
                              */
    QN_FAKE_N_FAULT,
};

struct qn_fake_options {
    int vocab;       /* 0: 256 */
    int max_context; /* 0: 4096 */
    bool no_mtp;
    int accept_percent;  /* of drafts; 0: 70; negative: none */
    int step_us, row_us; /* how long a step takes */
    int load_us;
    int stop_tok; /* a stop token of the configuration; 0: vocab - 1 */
    enum qn_fake_fault fault;
    int fail_at_step;  /* the device faults at this step, counted from 1; 0: never */
    int fail_rank;     /* ... that of this rank */
    bool over_wire;    /* steps and results go through messages (backend/step_wire.h) */
    int open_fails;    /* a rank above this number cannot be opened; 0: all can */
    int astray_rank;   /* from fail_at_step on this rank picks other tokens, instead of a fault; 0: none */
    int hang_at_step;  /* the step never ends */
    int bad_tok;       /* rows of this token have logits of the one value below; 0: none */
    float bad_logit;   /* NaN or an infinity */
    int bad_draft_tok; /* behind this token the draft layer has no finite logits; 0: none */
    /* The answer after tok[n], or -1: a pick from the hash. Rank thread. */
    int32_t (*script)(void *user, const int32_t *tok, int n);
    void *script_user;
};

struct qn_fake {
    struct qn_fake_options options;
    struct qn_config config;
    atomic_int n_violation;   /* steps, chores whose books do not add up */
    atomic_int n_mtp_hole;    /* MTP entries read that were not made from their token and hidden row */
    atomic_int n_step, n_row; /* of the first rank */
    atomic_bool is_released;  /* ends a hanging step */
};

extern const struct qn_runner qn_runner_fake; /* user: struct qn_fake */

void qn_fake_init(struct qn_fake *f, const struct qn_fake_options *o);
/* Engine options for this fake, small pools; the caller changes what it likes. f outlives the engine. */
void qn_fake_engine_options(struct qn_fake *f, struct qn_engine_options *out);

#endif
