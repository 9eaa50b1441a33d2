/* The rank thread: owns a device and the forward pass on it, executes what the engine thread publishes.
 *
 * One piece of work is a list of chores (copies of pages and state, between steps) and then, usually, one
 * step. It travels as a letter in the rank's mailbox and comes back as a letter in the engine's. The rank
 * takes no decision.
 *
 * A runner is what the rank drives: the model's forward pass on a backend (qn_runner_forward), or the
 * scripted one of the tests. All its functions but `sizes` are called on the rank thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RANK_H
#define QN_RANK_H

#include "base/mail.h"
#include "engine/forward.h"

enum qn_chore_kind {
    QN_CHORE_KV_COPY,     /* page from -> to, the first n tokens */
    QN_CHORE_KV_READ,     /* page from -> host */
    QN_CHORE_KV_WRITE,    /* host -> page to */
    QN_CHORE_STATE_COPY,  /* slot from -> to */
    QN_CHORE_STATE_FLUSH, /* fold n rows of lane `from` into slot `to` */
    QN_CHORE_STATE_READ,  /* slot from -> host */
    QN_CHORE_STATE_WRITE, /* host -> slot to */
};

struct qn_chore {
    enum qn_chore_kind kind;
    int from, to, n;
    void *host;
};

/* Chores in order. The order is what makes it safe to hand a slot on before its copy was made. */
struct qn_chores {
    struct qn_chore *list;
    int n, capacity;
};

void qn_chores_add(struct qn_chores *c, struct qn_chore chore);
void qn_chores_fini(struct qn_chores *c);

struct qn_runner {
    const char *name;
    void (*sizes)(void *user, const struct qn_device_options *o, struct qn_device_sizes *out);
    int (*open)(void *user, void **out, const struct qn_model *model, const struct qn_forward_options *o,
                struct qn_err *e);
    void (*close)(void *r);
    void (*run)(void *r, const struct qn_step *step, struct qn_step_result *result);
    /* As qn_forward_mtp_logits; NULL when there is none. */
    int (*mtp_logits)(void *r, const struct qn_step *step, float *logits, struct qn_err *e);
    void (*chore)(void *r, const struct qn_chore *chore);
    int (*download)(void *r, void *to, const void *from, size_t n_byte, struct qn_err *e);
    int (*sync)(void *r, struct qn_err *e); /* after chores without a step */
    bool (*has_mtp)(void *r);
    size_t (*weight_bytes)(void *r);
};

/* The forward pass over a backend; user is unused. */
extern const struct qn_runner qn_runner_forward;

/* A piece of work. Owned by the engine; the rank has it between publish and result. */
struct qn_work {
    struct qn_letter letter;
    struct qn_chores chores;
    const struct qn_step *step; /* or NULL */
    struct qn_step_result *result;
    float *logits;     /* with step->all_logits: host memory [n_logit, V] to copy them to */
    float *mtp_logits; /* runs mtp_logits instead of run: host memory; or NULL */
    int vocab;
    int rc; /* of chores without a step, downloads */
    struct qn_err error;
    int64_t start_us, step_us, end_us; /* step_us: when the step began, after the chores */
};

struct qn_rank;

/* Starts the thread and opens the runner on it; waits until it is open. Results are posted to `home`. */
int qn_rank_open(struct qn_rank **out, const struct qn_runner *runner, void *user,
                 const struct qn_model *model, const struct qn_forward_options *o, struct qn_mail *home,
                 struct qn_err *e);
void qn_rank_close(struct qn_rank *r); /* with no work published; NULL is allowed */
void qn_rank_publish(struct qn_rank *r, struct qn_work *w);
bool qn_rank_has_mtp(const struct qn_rank *r);
size_t qn_rank_weight_bytes(const struct qn_rank *r);

#endif
