/* What the handlers share. Made by server.c, constant after start but for atomics and the stores (which lock
 * for themselves).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STATE_H
#define QN_STATE_H

#include <stdatomic.h>

#include "base/metric.h"
#include "server/http.h"
#include "server/options.h"
#include "text/parse.h"
#include "text/text.h"

struct qn_calls;
struct qn_stored;

struct qn_meters {
    struct qn_metrics *all;
    /* observed by the connection threads */
    struct qn_metric *ttft, *itl, *itl_old, *tpot, *e2e, *queue, *inference, *prefill, *decode;
    struct qn_metric *prompt_tok, *new_tok, *most_new, *max_tokens, *n;
    struct qn_metric *success[QN_N_REASON]; /* [NONE] is not used */
    /* copied from the engine when read */
    struct qn_metric *running, *waiting, *kv_usage, *kv_usage_old, *prompt_total, *new_total, *cached_total,
        *preempted;
    struct qn_metric *queries, *hits, *drafts, *drafted, *accepted, *accepted_at[8], *depth, *step_tok;
    struct qn_metric *page, *page_used, *page_cached, *slot, *slot_live, *slot_snapshot, *steps, *step_s,
        *step_gap_s, *rejected;
    struct qn_metric *up, *connections, *start_s;
    struct qn_metric *drafted_at[8], *fetching, *snap_made, *snap_evicted, *page_evicted;
    struct {
        struct qn_metric *encoded, *hits, *tok, *seconds, *evicted, *cache_bytes, *cache_budget,
            *weight_bytes;
    } sight;
    struct {
        struct qn_metric *ram_bytes, *ram_budget, *disk_bytes, *disk_budget, *blobs, *files;
        struct qn_metric *saved, *hits, *hit_tok, *reads, *read_bytes, *writes, *write_bytes, *ram_drops,
            *file_drops, *over_budget, *damaged, *failed;
    } tier;
};

struct qn_server {
    struct qn_http *http;
    struct qn_server_options o;
    const struct qn_text *text;
    _Atomic(struct qn_engine *) engine; /* NULL while loading */
    atomic_bool is_draining;
    struct qn_meters meters;
    struct qn_calls *calls;   /* sampled text of calls, by id */
    struct qn_stored *stored; /* responses */
    int64_t start_s;
    char fingerprint[24];
};

/* The engine, never NULL in a handler with QN_ROUTE_ENGINE. */
struct qn_engine *qn_server_engine(struct qn_server *s);
int qn_server_max_context(struct qn_server *s);
/* Whose things a request may see: stored responses, remembered calls. 0: everybody's (--isolate-keys off). */
uint64_t qn_server_owner(const struct qn_server *s, const struct qn_exchange *x);
const char *qn_server_unready(struct qn_server *s); /* why requests cannot run now, or NULL */

void qn_meters_open(struct qn_meters *m, const struct qn_server_options *o);
void qn_meters_refresh(struct qn_server *s); /* copies the engine's numbers */

#endif
