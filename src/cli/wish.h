/* What `quern serve` was asked for, as text and numbers: read from options and the environment, before
 * anything is opened. Main thread; strings belong to argv, the environment or the arena.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_WISH_H
#define QN_WISH_H

#include "base/json.h"
#include "cli/media_opts.h"
#include "cli/model_opts.h"
#include "model/checkpoint.h"

struct qn_wish {
    const char *model, *host, *device, *mtp, *kv, *names, *keys, *key_file, *origins, *hosts, *template,
        *kwargs, *generation, *trace, *activations, *disk_tier, *level, *think;
    int64_t port, threads, context, max_seqs, max_queue, step_tokens, memory, request_memory, max_body,
        max_requests, body_timeout, drain, ranks, ram_tier, disk_bytes, disk_writes, max_tokens, stuck;
    double memory_part, itl_ms, request_timeout, temperature, top_p, min_p, presence, frequency, repetition;
    int64_t top_k;
    struct qn_model_wish over;
    struct qn_media_wish media;
    bool no_prefix_cache, mirror_reasoning, stream_usage, request_template, strict_model, isolate_keys,
        help_foreign;
};

void qn_wish_init(struct qn_wish *w);
/* As qn_opt_parse: QN_CANCELED after --help. Flags of other servers are translated (cli/flags.h). */
int qn_wish_read(struct qn_wish *w, int argc, char **argv, struct qn_arena *arena, struct qn_err *e);

/* "a,b" -> out[max]; returns how many, or an error. */
int qn_wish_split(const char *list, const char **out, int max, const char *flag, struct qn_arena *arena,
                  struct qn_err *e);
/* The draft depth: -1 automatic (text NULL or auto), 0 off. */
int qn_wish_depth(const char *text, int *depth, struct qn_err *e);
/* The type of the KV cache, -1: the engine's choice. m: or NULL while it is not open. */
int qn_wish_kv(const char *text, const struct qn_model *m, int *out, struct qn_err *e);
/* --override-generation-config into the single values, which win. */
int qn_wish_generation(struct qn_wish *w, struct qn_arena *arena, struct qn_err *e);

#endif
