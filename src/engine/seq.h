/* A sequence: one timeline of tokens, from admission to its end, with what it holds of pages and state.
 * Owned by the engine thread.
 *
 *     0 <= n_cached <= n_state <= n_done <= n_tok
 *
 *     [0 .. n_cached)      came from the prefix cache
 *     [n_cached .. n_state) folded into the recurrent state of the slot
 *     [n_state .. n_done)  KV written and accepted; their rows are pending in the lane (n_commit of them)
 *     [n_done .. n_tok)    still to run: the rest of the prompt, or the token picked last
 *
 * Between two slices of a chunk (n_slice_row) the slot is ahead of n_done in some layers: it is nobody's
 * state. A sequence that waits (new, or suspended to make room) holds neither pages nor slot nor lane.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SEQ_H
#define QN_SEQ_H

#include "engine/hold.h"
#include "engine/pick.h"

struct qn_beside_job; /* engine/beside.h */
#include "engine/tier.h"

enum qn_seq_state { QN_SEQ_WAITING, QN_SEQ_PREFILL, QN_SEQ_DECODE };

#define QN_SEQ_MAX_MARKS 4

struct qn_job; /* engine/score.h: logits of a text */

struct qn_seq {
    struct qn_request *request; /* the engine's reference; NULL for a job */
    struct qn_job *job;
    bool wants_scores; /* a job that wants log-probabilities, not logits */
    const struct qn_request_params *params;
    enum qn_seq_state state;
    bool is_paused;                            /* a job whose caller is reading */
    bool is_loop;                              /* ended for saying the same over and over */
    int64_t order;                             /* of arrival */
    int client;                                /* place in the scheduler's table */
    struct qn_tier_wait wait;                  /* for its prefix, while it waits */
    struct qn_match match;                     /* what the cache knows of it, while it waits */
    uint64_t match_version;                    /* of the cache, when that was found; 0: not yet */
    uint64_t tier_version, tier_cache_version; /* of both, when the tiers had nothing more; 0: not yet */
    int n_promote;                             /* times the tiers were asked */
    int n_tier_tok;                            /* tokens they brought back */

    int32_t *tok; /* [n_tok] prompt and output */
    int n_tok, tok_capacity, n_prompt, max_tok;
    int n_cached, n_done, n_commit;
    int n_prompt_scored; /* prompt tokens whose log-probabilities were sent */

    uint64_t root;       /* of its tree, in the cache */
    struct qn_hold hold; /* nothing while waiting */
    int n_node;          /* leading pages that are nodes of the prefix tree */
    int n_others;        /* of those, up to the last one that others put there */
    /* the cache's clock at admission: at the first of those that nothing of it was proved in */
    int64_t since;
    bool is_off_tree;
    bool is_fresh;         /* the slot holds nothing yet */
    bool is_proved;        /* in this admission a row of it had finite logits: so is what lies before that */
    bool is_doubtful;      /* it was suspended before any had: what it left in the cache then is not proved */
    int n_doubtful_others; /* n_others then */

    int n_slice_row;      /* rows from n_done on that go through the model in slices; 0: none do */
    int slice_part;       /* parts of it that they are through */
    bool slice_keeps_mtp; /* with the MTP layer's KV */

    int mark[QN_SEQ_MAX_MARKS]; /* prefill stops here for a snapshot; ascending */
    int n_mark;

    int32_t draft[QN_MAX_DRAFT]; /* for the next step */
    int n_draft;
    bool draft_is_lookup; /* by prompt lookup, not by the MTP layer */
    int mtp_from;         /* position from which the MTP layer's KV is kept; INT_MAX: it is not */
    int n_mtp_gap;        /* steps since then that kept nothing of it, few */

    struct qn_map looked; /* three tokens -> where they stood last */
    int n_looked;         /* places in it */
    double lookup_rate;   /* how often the first looked-up draft was right, smoothed */

    struct qn_pick pick;
    struct qn_beside_job *beside; /* its masks are made beside the step; or NULL */
    bool is_late;                 /* the next one is not there yet: it sits out */
    struct qn_seen seen;
    bool needs_seen;

    struct qn_request_stats stats;
    int64_t admit_us, first_us;
};

/* mask: for the request's grammar, or NULL. */
struct qn_seq *qn_seq_create(struct qn_request *r, int max_context, struct qn_mask *mask);
struct qn_seq *qn_seq_create_job(struct qn_job *job, const struct qn_request_params *params);
void qn_seq_free(struct qn_seq *s); /* holds nothing any more */

static inline int qn_seq_n_state(const struct qn_seq *s)
{
    return s->n_done - s->n_commit;
}
static inline int qn_seq_n_new(const struct qn_seq *s)
{
    return s->n_tok - s->n_prompt;
}
/* Are the logits of every row of its prompt needed? Then nothing of it may come from the cache. */
bool qn_seq_wants_rows(const struct qn_seq *s);
void qn_seq_push(struct qn_seq *s, int32_t tok); /* a generated token */
/* Its output goes in a loop: it ends a little later, behind anything drafted by now, as with any other limit:
 * the same token at every depth. */
void qn_seq_end_loop(struct qn_seq *s);
/* A step is being built that keeps the MTP layer's KV, or does not. Tells where the MTP layer's keys begin.
 */
int qn_seq_keep_mtp(struct qn_seq *s, bool keeps);
/* Is there enough of it to draft well? */
bool qn_seq_has_mtp(const struct qn_seq *s);

/* Its tokens as the cache sees them; good until the next one is pushed. */
struct qn_prefix qn_seq_prefix(const struct qn_seq *s);
/* What the cache knows of them; looked up again when the cache has changed. */
const struct qn_match *qn_seq_match(struct qn_seq *s, struct qn_cache *c);
/* Where prefill stops for snapshots. */
struct qn_seq_marks {
    const int *stop_tok; /* [n_stop] tokens that end a turn */
    int n_stop;
    int gap; /* tokens that a snapshot has to save */
};
/* Takes slot, lane and the pages of all its tokens, resuming from the longest cached prefix (unless
 * is_cold). false: not enough room, nothing is held. */
bool qn_seq_admit(struct qn_seq *s, struct qn_cache *c, const struct qn_seq_marks *marks, bool is_cold);
/* Of the next rows of a prompt, at most `most`, those up to where it has to stop for a snapshot. */
int qn_seq_chunk(const struct qn_seq *s, int most);
/* Pages for n_tok tokens. false: none to be had; what it has got it keeps. */
bool qn_seq_reserve(struct qn_seq *s, struct qn_cache *c, int n_tok);
/* Full accepted pages go into the tree. */
void qn_seq_publish(struct qn_seq *s, struct qn_cache *c);
/* A copy of the state at n_done (n_commit is 0). */
void qn_seq_snapshot(struct qn_seq *s, struct qn_cache *c);
/* Folds what is pending, leaves state and pages to the cache and holds nothing any more. with_state: false
 * when the state cannot be trusted (a fault, no finite logits). Between two slices only pages are left. */
void qn_seq_suspend(struct qn_seq *s, struct qn_cache *c, bool with_state);
/* What it put into the cache in this admission goes again, where nobody else uses it; it holds nothing any
 * more. For a prompt whose rows cannot be trusted. */
void qn_seq_retract(struct qn_seq *s, struct qn_cache *c);
void qn_seq_check(const struct qn_seq *s);

#endif
