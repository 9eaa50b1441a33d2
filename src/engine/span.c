/* Media in a prompt.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/span.h"

#include "base/mem.h"
#include "base/rng.h"

static size_t size_of(int n_row, int hidden)
{
    return sizeof(struct qn_embeds) + (size_t)n_row * (size_t)hidden * sizeof(float);
}

struct qn_embeds *qn_embeds_create(int n_row, int hidden)
{
    QN_CHECK(n_row > 0 && hidden > 0);
    qn_share share = qn_share_mine();
    if (!qn_share_take(share, size_of(n_row, hidden))) return NULL;
    struct qn_embeds *m = try_malloc(size_of(n_row, hidden), 1);
    if (!m) {
        qn_share_give(share, size_of(n_row, hidden));
        return NULL;
    }
    atomic_init(&m->n_ref, 1);
    m->share = share;
    m->n_row = n_row;
    m->hidden = hidden;
    return m;
}

struct qn_embeds *qn_embeds_acquire(struct qn_embeds *m)
{
    atomic_fetch_add(&m->n_ref, 1);
    return m;
}

void qn_embeds_release(struct qn_embeds *m)
{
    if (!m || atomic_fetch_sub(&m->n_ref, 1) != 1) return;
    qn_share_give(m->share, size_of(m->n_row, m->hidden));
    free(m);
}

int qn_spans_check(const struct qn_media_span *list, int n, int n_tok, int hidden, struct qn_err *e)
{
    int rc = QN_OK, end = 0;
    QN_FAIL_IF(n < 0, e, QN_INVAL, "%d media in a prompt", n);
    for (int i = 0; i < n; i++) {
        const struct qn_media_span *s = &list[i];
        QN_FAIL_IF(s->first < end || s->first >= n_tok || s->n_tok < 1 || s->n_tok > n_tok - s->first, e,
                   QN_INVAL, "medium %d has tokens %d to %d of a prompt of %d", i, s->first,
                   s->first + s->n_tok - 1, n_tok);
        QN_FAIL_IF(s->grid_h < 1 || s->grid_w < 1 || (int64_t)s->grid_h * s->grid_w != s->n_tok, e, QN_INVAL,
                   "medium %d has %d tokens for a grid of %d x %d", i, s->n_tok, s->grid_h, s->grid_w);
        QN_FAIL_IF(!s->embeds || s->embeds->hidden != hidden, e, QN_INVAL,
                   "medium %d has embeddings of width %d; the model has %d", i,
                   s->embeds ? s->embeds->hidden : 0, hidden);
        QN_FAIL_IF(s->first_embed < 0 || s->first_embed > s->embeds->n_row ||
                       s->n_tok > s->embeds->n_row - s->first_embed,
                   e, QN_INVAL, "medium %d wants embeddings %d to %d of %d", i, s->first_embed,
                   s->first_embed + s->n_tok - 1, s->embeds->n_row);
        end = s->first + s->n_tok;
    }
out:
    return rc;
}

/* Rope position of the text right behind it. */
static int rope_behind(const struct qn_media_span *s)
{
    return s->rope + QN_MAX(s->grid_h, s->grid_w);
}

struct qn_media_span *qn_spans_copy(const struct qn_media_span *list, int n)
{
    if (n <= 0) return NULL;
    struct qn_media_span *own = xreallocarray(NULL, (size_t)n, sizeof *own);
    memcpy(own, list, (size_t)n * sizeof *own);
    for (int i = 0; i < n; i++) {
        const struct qn_media_span *before = i ? &own[i - 1] : NULL;
        qn_embeds_acquire(own[i].embeds);
        own[i].rope =
            before ? rope_behind(before) + own[i].first - before->first - before->n_tok : own[i].first;
    }
    return own;
}

void qn_spans_free(struct qn_media_span *list, int n)
{
    for (int i = 0; i < n; i++) qn_embeds_release(list[i].embeds);
    free(list);
}

int qn_spans_find(const struct qn_media_span *list, int n, int pos)
{
    int low = 0, high = n;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (list[mid].first + list[mid].n_tok > pos)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

void qn_spans_rope(const struct qn_media_span *list, int n, int pos, int32_t out[3])
{
    int at = qn_spans_find(list, n, pos);
    if (at < n && list[at].first <= pos) {
        const struct qn_media_span *s = &list[at];
        int i = pos - s->first;
        out[0] = s->rope;
        out[1] = s->rope + i / s->grid_w;
        out[2] = s->rope + i % s->grid_w;
        return;
    }
    const struct qn_media_span *before = at ? &list[at - 1] : NULL;
    out[0] = out[1] = out[2] = before ? rope_behind(before) + pos - before->first - before->n_tok : pos;
}

uint64_t qn_span_word(const struct qn_media_span *s, int i)
{
    /* all of the hash in each word, in another order: a page of one token tells pictures apart by 64 bits, a
     * page of several by all of them */
    uint64_t form = (uint64_t)s->kind << 62 ^ (uint64_t)s->grid_h << 40 ^ (uint64_t)s->grid_w << 20;
    uint64_t word = qn_mix64(form ^ (uint64_t)i);
    for (int k = 0; k < 4; k++) word = qn_mix64(word ^ s->hash[(i + k) % 4]);
    return word ? word : 1;
}
