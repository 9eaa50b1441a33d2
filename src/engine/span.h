/* Media in a prompt: a span of placeholder tokens for each picture, or step in time of a video.
 *
 * The rows of a span enter the model with embeddings of their own in the place of their tokens'. A span is a
 * grid of rows and columns, and so are its rope positions: with text up to rope position c - 1 before it,
 * token (i, j) has t = c, h = c + i, w = c + j, and the text behind it goes on at c + max(grid_h, grid_w). So
 * the rope positions of text behind a picture are not its places; from the last span on they differ by one
 * number, the rope offset of the sequence.
 *
 * Two spans are the same for the prefix cache when their hashes, kinds and grids are: the hash stands for the
 * content and for all that was done to it before it became embeddings.
 *
 * Lists of spans are in order of place and do not overlap. Immutable once they are in a request; any thread
 * may read. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SPAN_H
#define QN_SPAN_H

#include <stdatomic.h>

#include "base/budget.h"
#include "base/err.h"

/* Rows of embeddings, shared by whoever holds a reference. Written by who made it, before others get it. Paid
 * by the request that its maker works for (base/budget.h). */
struct qn_embeds {
    atomic_int n_ref;
    qn_share share;
    int n_row, hidden;
    float rows[]; /* [n_row, hidden] */
};

struct qn_embeds *qn_embeds_create(int n_row, int hidden); /* one reference; NULL: no memory for it */
struct qn_embeds *qn_embeds_acquire(struct qn_embeds *m);
void qn_embeds_release(struct qn_embeds *m); /* NULL is allowed */

enum qn_media_kind { QN_MEDIA_IMAGE, QN_MEDIA_VIDEO };

struct qn_media_span {
    enum qn_media_kind kind;
    int first, n_tok;         /* place in the prompt */
    int grid_h, grid_w;       /* of its tokens: grid_h * grid_w = n_tok */
    uint64_t hash[4];         /* 256 bits of a cryptographic hash */
    struct qn_embeds *embeds; /* its rows are [first_embed, first_embed + n_tok) */
    int first_embed;
    int rope; /* the engine's own: rope position of its first token */
};

/* Errors: QN_INVAL, for spans that do not go with a prompt of n_tok tokens and a model of that width. */
int qn_spans_check(const struct qn_media_span *list, int n, int n_tok, int hidden, struct qn_err *e);
/* A copy, with references of its own and rope positions. NULL for none. */
struct qn_media_span *qn_spans_copy(const struct qn_media_span *list, int n);
void qn_spans_free(struct qn_media_span *list, int n);

/* The first span that ends behind place pos, as an index; n: none does. */
int qn_spans_find(const struct qn_media_span *list, int n, int pos);
/* Rope position (T, H, W) of a place. */
void qn_spans_rope(const struct qn_media_span *list, int n, int pos, int32_t out[3]);
/* What stands at token i of a span, for the cache. Not 0. */
uint64_t qn_span_word(const struct qn_media_span *s, int i);

#endif
