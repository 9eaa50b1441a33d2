/* Options about pictures and video, and what they open: rules of what is fetched and read, and sight.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MEDIA_OPTS_H
#define QN_MEDIA_OPTS_H

#include <pthread.h>

#include "engine/engine.h"
#include "engine/sight.h"
#include "media/source.h"
#include "model/checkpoint.h"

#define QN_MEDIA_MAX_HOSTS 256

struct qn_media_wish {
    const char *io_kwargs, *mm_kwargs, *limit, *hosts, *folder, *mmproj, *eyes,
        *upstream;       /* as typed, or NULL */
    bool is_blind;       /* --language-model-only */
    int64_t cache_bytes; /* 0: a 32nd of what can be had, at most 512 MiB */
};

struct qn_media_job {
    struct qn_eyes eyes;
    struct qn_source_policy policy;
    const char *hosts[QN_MEDIA_MAX_HOSTS];
    struct qn_sight *sight; /* NULL: the model is served for text only */
    char why_blind[240];    /* then, when the checkpoint's tower or files could not be used; "" otherwise */
    int max_image, max_video;
    struct qn_engine *engine; /* whose idle moments are used to load the tower */
    pthread_t warmer;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_warming, is_over;
};

/* What can be wrong before a file is read. Strings go to the arena. */
int qn_media_check(struct qn_media_job *j, const struct qn_media_wish *w, struct qn_arena *arena,
                   struct qn_err *e);
/* Opens the eyes of a model that has them. */
void qn_media_open(struct qn_media_job *j, const struct qn_media_wish *w, const struct qn_model *m,
                   const struct qn_sight_options *o);
/* Memory that sight may take: the tower and the embeddings that are kept. */
size_t qn_media_bytes(const struct qn_media_job *j);
/* From now on the tower is loaded when the engine has had nothing to do for a second, unless somebody looks
 * first. */
void qn_media_warm(struct qn_media_job *j, struct qn_engine *engine);
void qn_media_close(struct qn_media_job *j); /* before the engine's */

#endif
