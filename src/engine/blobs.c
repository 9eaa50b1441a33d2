/* Blobs: states, order of use, index.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/blobs.h"

#include "base/mem.h"

static const bool is_at[][QN_BLOB_N_PLACE] = {
    [QN_BLOB_GONE] = {false, false},   [QN_BLOB_FILLING] = {true, false}, [QN_BLOB_IN_RAM] = {true, false},
    [QN_BLOB_WRITING] = {true, false}, [QN_BLOB_BOTH] = {true, true},     [QN_BLOB_ON_DISK] = {false, true},
    [QN_BLOB_READING] = {true, true},
};

static void leave(struct qn_blobs *t, enum qn_blob_place p, struct qn_blob *b)
{
    struct qn_blob_list *l = &t->by_use[p];
    *(b->older[p] ? &b->older[p]->newer[p] : &l->oldest) = b->newer[p];
    *(b->newer[p] ? &b->newer[p]->older[p] : &l->newest) = b->older[p];
    b->older[p] = b->newer[p] = NULL;
    l->n--;
}

/* In its place by last use: others may have been used while it was written. */
static void join(struct qn_blobs *t, enum qn_blob_place p, struct qn_blob *b)
{
    struct qn_blob_list *l = &t->by_use[p];
    struct qn_blob *before = l->newest;
    while (before && before->last_use > b->last_use) before = before->older[p];
    struct qn_blob *behind = before ? before->newer[p] : l->oldest;
    b->older[p] = before;
    b->newer[p] = behind;
    *(before ? &before->newer[p] : &l->oldest) = b;
    *(behind ? &behind->older[p] : &l->newest) = b;
    l->n++;
}

size_t qn_blob_file_bytes(const struct qn_blob *b)
{
    return sizeof b->item.h + qn_store_media_bytes(&b->item.h) + b->item.h.n_byte;
}

void qn_blobs_turn(struct qn_blobs *t, struct qn_blob *b, enum qn_blob_state to)
{
    for (int p = 0; p < QN_BLOB_N_PLACE; p++) {
        bool was = is_at[b->state][p], is = is_at[to][p];
        int64_t n_byte = (int64_t)(p == QN_BLOB_RAM ? b->item.h.n_byte : qn_blob_file_bytes(b));
        if (was && !is) leave(t, (enum qn_blob_place)p, b);
        if (!was && is) join(t, (enum qn_blob_place)p, b);
        t->n_byte[p] += n_byte * (is - was);
    }
    if (!is_at[to][QN_BLOB_RAM]) {
        free(b->item.data);
        b->item.data = NULL;
    }
    b->state = to;
}

void qn_blobs_touch(struct qn_blobs *t, struct qn_blob *b)
{
    b->last_use = t->clock;
    for (int p = 0; p < QN_BLOB_N_PLACE; p++) {
        if (!is_at[b->state][p]) continue;
        leave(t, (enum qn_blob_place)p, b);
        join(t, (enum qn_blob_place)p, b);
    }
}

bool qn_blob_has_bytes(const struct qn_blob *b)
{
    return is_at[b->state][QN_BLOB_RAM] && b->state != QN_BLOB_READING;
}

bool qn_blobs_is_busy(const struct qn_blobs *t, const struct qn_blob *b)
{
    return b->state == QN_BLOB_FILLING || b->state == QN_BLOB_WRITING || b->state == QN_BLOB_READING ||
           b->busy > t->n_returned || b == t->held;
}

void qn_blobs_set_busy(struct qn_blobs *t, struct qn_blob *b)
{
    b->busy = t->last_busy = t->n_published + 1;
}

/* --- the index --- */

static uint64_t index_key(int kind, uint64_t key)
{
    uint64_t k = qn_mix64(key ^ (uint64_t)kind * 0x5851f42d4c957f2du);
    return k ? k : 1;
}

struct qn_blob *qn_blobs_find(const struct qn_blobs *t, enum qn_store_kind kind, uint64_t key)
{
    uint64_t at;
    return qn_map_get(&t->by_key, index_key(kind, key), &at) ? (struct qn_blob *)(uintptr_t)at : NULL;
}

struct qn_blob *qn_blobs_snapshots(const struct qn_blobs *t, uint64_t parent)
{
    uint64_t first = 0;
    qn_map_get(&t->by_parent, parent, &first);
    return (struct qn_blob *)(uintptr_t)first;
}

bool qn_blob_is_same(const struct qn_blob *b, const struct qn_prefix *p, int at, int n)
{
    struct qn_words words = {b->item.h.tok, b->item.media};
    return b->item.h.n_tail == n && qn_prefix_common(p, at, &words, n) == n;
}

struct qn_blob *qn_blobs_find_page(const struct qn_blobs *t, const struct qn_prefix *p, int i, uint64_t key)
{
    struct qn_blob *b = qn_blobs_find(t, QN_STORE_PAGE, key);
    return b && !b->is_doomed && qn_blob_is_same(b, p, i * QN_PAGE, QN_PAGE) ? b : NULL;
}

void qn_blobs_add(struct qn_blobs *t, struct qn_blob *b)
{
    const struct qn_store_head *h = &b->item.h;
    if (t->n == t->capacity) {
        t->capacity = QN_MAX(64, t->capacity * 2);
        t->list = xreallocarray(t->list, (size_t)t->capacity, sizeof *t->list);
    }
    b->at = t->n;
    t->list[t->n++] = b;
    qn_map_put(&t->by_key, index_key(qn_store_kind(h), h->key), (uint64_t)(uintptr_t)b);
    t->version++;
    if (qn_store_kind(h) != QN_STORE_SNAPSHOT) return;
    b->next_sibling = qn_blobs_snapshots(t, h->parent);
    qn_map_put(&t->by_parent, h->parent, (uint64_t)(uintptr_t)b);
}

static void take_out_snapshot(struct qn_blobs *t, struct qn_blob *b)
{
    struct qn_blob *p = qn_blobs_snapshots(t, b->item.h.parent);
    if (p == b) {
        if (b->next_sibling)
            qn_map_put(&t->by_parent, b->item.h.parent, (uint64_t)(uintptr_t)b->next_sibling);
        else
            qn_map_remove(&t->by_parent, b->item.h.parent);
        return;
    }
    while (p->next_sibling != b) p = p->next_sibling;
    p->next_sibling = b->next_sibling;
}

void qn_blobs_forget(struct qn_blobs *t, struct qn_blob *b)
{
    enum qn_store_kind kind = qn_store_kind(&b->item.h);
    if (kind == QN_STORE_SNAPSHOT) take_out_snapshot(t, b);
    qn_map_remove(&t->by_key, index_key(kind, b->item.h.key));
    t->n_doomed -= b->is_doomed;
    qn_blobs_turn(t, b, QN_BLOB_GONE);
    t->list[b->at] = t->list[--t->n];
    t->list[b->at]->at = b->at;
    free(b->item.media);
    free(b);
}

struct qn_blob *qn_blobs_oldest(const struct qn_blobs *t, enum qn_blob_place p)
{
    struct qn_blob *b = t->by_use[p].oldest;
    while (b && b->last_use != t->clock && qn_blobs_is_busy(t, b)) b = b->newer[p];
    return b && b->last_use != t->clock ? b : NULL;
}

void qn_blob_keep_media(struct qn_blob *b, const uint64_t *media)
{
    if (!media) return;
    b->item.h.kind |= QN_STORE_MEDIA;
    b->item.media = xcalloc(QN_PAGE, sizeof *media);
    memcpy(b->item.media, media, QN_PAGE * sizeof *media);
}

void qn_blobs_doom(struct qn_blobs *t, struct qn_blob *b)
{
    t->n_doomed += !b->is_doomed;
    b->is_doomed = true;
}

void qn_blobs_fini(struct qn_blobs *t)
{
    for (int i = 0; i < t->n; i++) {
        free(t->list[i]->item.media);
        free(t->list[i]->item.data);
        free(t->list[i]);
    }
    free(t->list);
    qn_map_free(&t->by_key);
    qn_map_free(&t->by_parent);
}
