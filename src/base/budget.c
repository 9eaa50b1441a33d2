/* Memory of requests.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/budget.h"

#include <pthread.h>

#define SMALL_BYTES ((size_t)1 << 20)
#define KEPT_PART   8 /* of the total, for small requests */
#define MAX_SHARES  ((size_t)1 << 16)

struct entry {
    uint32_t generation; /* odd: open */
    enum qn_short why;
    size_t reserved, used; /* the larger counts */
    size_t held, asked;    /* at the refusal */
};

static struct {
    pthread_mutex_t lock;
    struct qn_budget sum;
    struct entry *entries;
    size_t n, capacity;
    uint32_t free_at[MAX_SHARES]; /* [n_free] entries that may be used again */
    size_t n_free;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local qn_share mine;

void qn_budget_set(size_t total, size_t each)
{
    pthread_mutex_lock(&all.lock);
    all.sum.total = total;
    all.sum.each = each;
    pthread_mutex_unlock(&all.lock);
}

void qn_budget_get(struct qn_budget *out)
{
    pthread_mutex_lock(&all.lock);
    *out = all.sum;
    pthread_mutex_unlock(&all.lock);
}

/* With the lock held; NULL when the share is closed. */
static struct entry *find(qn_share s)
{
    size_t at = (uint32_t)s;
    if (!s || !at || at > all.n) return NULL;
    struct entry *e = &all.entries[at - 1];
    return e->generation == (uint32_t)(s >> 32) ? e : NULL;
}

qn_share qn_share_open(void)
{
    qn_share s = 0;
    pthread_mutex_lock(&all.lock);
    if (!all.n_free && all.n == all.capacity && all.capacity < MAX_SHARES) {
        size_t capacity = all.capacity ? all.capacity * 2 : 256;
        struct entry *more = realloc(all.entries, capacity * sizeof *more);
        if (more) {
            all.entries = more;
            all.capacity = capacity;
        }
    }
    if (all.n_free || all.n < all.capacity) {
        bool is_new = !all.n_free;
        size_t at = all.n_free ? all.free_at[--all.n_free] : all.n++;
        struct entry *e = &all.entries[at];
        uint32_t generation = is_new ? 1 : e->generation + 1; /* closing made it even */
        *e = (struct entry){.generation = generation};
        s = (qn_share)generation << 32 | (at + 1);
        all.sum.n_share++;
    }
    pthread_mutex_unlock(&all.lock);
    return s;
}

static void set(struct entry *e, size_t reserved, size_t used)
{
    size_t before = QN_MAX(e->reserved, e->used), now = QN_MAX(reserved, used);
    e->reserved = reserved;
    e->used = used;
    all.sum.used += now - before;
    all.sum.most = QN_MAX(all.sum.most, all.sum.used);
}

void qn_share_close(qn_share s)
{
    pthread_mutex_lock(&all.lock);
    struct entry *e = find(s);
    if (e) {
        set(e, 0, 0);
        e->generation++;
        all.free_at[all.n_free++] = (uint32_t)(s - 1);
        all.sum.n_share--;
    }
    pthread_mutex_unlock(&all.lock);
}

/* May e count `now` bytes? */
static enum qn_short check(const struct entry *e, size_t now)
{
    size_t before = QN_MAX(e->reserved, e->used);
    if (now <= before) return QN_SHORT_NOT;
    if (all.sum.each && now > all.sum.each) return QN_SHORT_SHARE;
    size_t total = all.sum.total;
    if (!total) return QN_SHORT_NOT;
    if (now > SMALL_BYTES) total -= total / KEPT_PART;
    return all.sum.used + (now - before) > total ? QN_SHORT_BUDGET : QN_SHORT_NOT;
}

static void refuse(struct entry *e, enum qn_short why, size_t n_byte)
{
    if (e->why) return;
    e->why = why;
    e->held = QN_MAX(e->reserved, e->used);
    e->asked = n_byte;
}

enum qn_short qn_share_reserve(qn_share s, size_t n_byte)
{
    enum qn_short why = QN_SHORT_NOT;
    pthread_mutex_lock(&all.lock);
    struct entry *e = find(s);
    if (e && !(why = check(e, n_byte))) set(e, n_byte, e->used);
    pthread_mutex_unlock(&all.lock);
    return why;
}

bool qn_share_take(qn_share s, size_t n_byte)
{
    if (!s) return true;
    bool is_in = true;
    pthread_mutex_lock(&all.lock);
    struct entry *e = find(s);
    if (e) {
        enum qn_short why = n_byte > SIZE_MAX / 2 ? QN_SHORT_SHARE : check(e, e->used + n_byte);
        is_in = !why;
        if (is_in)
            set(e, e->reserved, e->used + n_byte);
        else
            refuse(e, why, n_byte);
    }
    pthread_mutex_unlock(&all.lock);
    return is_in;
}

void qn_share_give(qn_share s, size_t n_byte)
{
    if (!s || !n_byte) return;
    pthread_mutex_lock(&all.lock);
    struct entry *e = find(s);
    if (e) set(e, e->reserved, e->used - QN_MIN(e->used, n_byte));
    pthread_mutex_unlock(&all.lock);
}

void qn_share_failed(qn_share s, size_t n_byte)
{
    pthread_mutex_lock(&all.lock);
    struct entry *e = find(s);
    if (e) refuse(e, QN_SHORT_SYSTEM, n_byte);
    pthread_mutex_unlock(&all.lock);
}

enum qn_short qn_share_short(qn_share s, size_t *held, size_t *asked)
{
    enum qn_short why = QN_SHORT_NOT;
    pthread_mutex_lock(&all.lock);
    const struct entry *e = find(s);
    if (e) {
        why = e->why;
        *held = e->held;
        *asked = e->asked;
    }
    pthread_mutex_unlock(&all.lock);
    return why;
}

size_t qn_share_used(qn_share s)
{
    pthread_mutex_lock(&all.lock);
    const struct entry *e = find(s);
    size_t n = e ? e->used : 0;
    pthread_mutex_unlock(&all.lock);
    return n;
}

qn_share qn_share_use(qn_share s)
{
    qn_share before = mine;
    mine = s;
    return before;
}

qn_share qn_share_mine(void)
{
    return mine;
}

bool qn_grow(void *array, size_t *capacity, size_t n, size_t size)
{
    void *old;
    memcpy(&old, array, sizeof old);
    if (n <= *capacity) return true;
    size_t wanted = QN_MAX(n, QN_MAX(*capacity + *capacity / 2, (size_t)16));
    if (wanted > SIZE_MAX / size) return false;
    size_t n_byte = wanted * size;
    if (!qn_share_take(mine, n_byte - *capacity * size)) return false;
    void *more = realloc(old, n_byte);
    if (!more) {
        qn_share_give(mine, n_byte - *capacity * size);
        qn_share_failed(mine, n_byte);
        return false;
    }
    memcpy(array, &more, sizeof more);
    *capacity = wanted;
    return true;
}
