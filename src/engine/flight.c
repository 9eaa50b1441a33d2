/* The flight record.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/flight.h"

#include "base/clock.h"
#include "base/mem.h"

#define N_ENTRY 64
#define N_ID    8 /* request ids kept of a step */

struct entry {
    int64_t n, publish_us, took_us; /* took_us: -1 while it runs */
    int n_seq, n_decode, n_row, n_decode_row, n_logit, n_chore, depth, n_running, n_waiting, n_free_page;
    int slice_from, slice_to;
    int rc;
    struct {
        char id[24];
        int pos0, n_row, slot, n_commit;
    } seq[N_ID];
};

struct qn_flight {
    char *options;
    int64_t n; /* entries written so far */
    struct entry entry[N_ENTRY];
};

static struct qn_flight *latest; /* of the engine opened last: what a failed check prints */

static void on_check(FILE *out)
{
    if (latest) qn_flight_dump(latest, out);
}

struct qn_flight *qn_flight_create(const char *options)
{
    struct qn_flight *f = xcalloc(1, sizeof *f);
    f->options = xstrdup(options);
    latest = f;
    qn_check_set_hook(on_check);
    return f;
}

void qn_flight_free(struct qn_flight *f)
{
    if (!f) return;
    if (latest == f) {
        latest = NULL;
        qn_check_set_hook(NULL);
    }
    free(f->options);
    free(f);
}

void qn_flight_begin(struct qn_flight *f, const struct qn_batch *b, const struct qn_sched *s)
{
    const struct qn_step *t = &b->step;
    struct entry *e = &f->entry[f->n++ % N_ENTRY];
    struct qn_cache_stats cache;
    qn_cache_stats(s->cache, &cache);
    *e = (struct entry){.n = f->n,
                        .publish_us = qn_now_us(),
                        .took_us = -1,
                        .n_seq = t->n_seq,
                        .n_decode = t->n_decode,
                        .n_row = t->n_row,
                        .n_decode_row = t->n_decode_row,
                        .n_logit = t->n_logit,
                        .n_chore = b->work.chores.n,
                        .depth = b->depth,
                        .n_running = s->n_running,
                        .n_waiting = s->n_waiting,
                        .n_free_page = cache.n_page_free,
                        .slice_from = t->slice_from,
                        .slice_to = t->slice_to};
    for (int i = 0; i < t->n_seq && i < N_ID; i++) {
        const struct qn_seq *q = b->part[i].seq;
        snprintf(e->seq[i].id, sizeof e->seq[i].id, "%.23s", q->job ? "logits" : q->params->id);
        e->seq[i].pos0 = b->seq[i].pos0;
        e->seq[i].n_row = b->seq[i].n_row;
        e->seq[i].slot = b->seq[i].slot;
        e->seq[i].n_commit = b->seq[i].n_commit;
    }
}

void qn_flight_end(struct qn_flight *f, const struct qn_work *w)
{
    if (!f->n) return;
    struct entry *e = &f->entry[(f->n - 1) % N_ENTRY];
    e->took_us = w->end_us - w->start_us;
    e->rc = w->rc;
}

void qn_flight_dump(const struct qn_flight *f, FILE *out)
{
    int64_t now = qn_now_us();
    fprintf(out, "engine: quern %s; %s\n", QN_VERSION, f->options);
    fprintf(out, "engine: the last steps, oldest first (age_ms: took_us)\n");
    for (int64_t i = f->n > N_ENTRY ? f->n - N_ENTRY : 0; i < f->n; i++) {
        const struct entry *e = &f->entry[i % N_ENTRY];
        fprintf(out,
                "step %lld age_ms=%lld took_us=%lld rc=%d seqs=%d decode=%d rows=%d decode_rows=%d logits=%d "
                "chores=%d depth=%d running=%d waiting=%d free_pages=%d",
                (long long)e->n, (long long)(now - e->publish_us) / 1000, (long long)e->took_us, e->rc,
                e->n_seq, e->n_decode, e->n_row, e->n_decode_row, e->n_logit, e->n_chore, e->depth,
                e->n_running, e->n_waiting, e->n_free_page);
        for (int k = 0; k < e->n_seq && k < N_ID; k++)
            fprintf(out, " [%s at %d rows %d slot %d commit %d]", e->seq[k].id, e->seq[k].pos0,
                    e->seq[k].n_row, e->seq[k].slot, e->seq[k].n_commit);
        if (e->slice_to) fprintf(out, " the last one layers %d to %d", e->slice_from, e->slice_to - 1);
        fputc('\n', out);
    }
}
