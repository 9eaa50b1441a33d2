/* A chat request in a file, as the server would run it: token ids and, where it holds pictures or video,
 * their spans. For commands that measure. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ASKED_H
#define QN_ASKED_H

#include "engine/sight.h"
#include "model/checkpoint.h"

struct qn_asked {
    int32_t *tok; /* [n_tok] */
    int n_tok;
    struct qn_media_span *spans; /* [n_span] with rope positions */
    int n_span;
};

/* The tower runs as o says; the request may name files of its own folder (file:). Errors as the server's, and
 * QN_NOTFOUND. */
int qn_asked_read(struct qn_asked *out, const struct qn_model *m, const char *path,
                  const struct qn_sight_options *o, struct qn_err *e);
void qn_asked_free(struct qn_asked *a);

#endif
