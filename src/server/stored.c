/* Stored responses: a bounded table.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/stored.h"

#include <pthread.h>

#include "base/mem.h"

struct item {
    char id[48]; /* "" when removed */
    uint64_t owner;
    char *response, *input;
    size_t n_response, n_input;
};

struct qn_stored {
    pthread_mutex_t lock;
    struct item ring[QN_STORED_MAX];
    size_t first, n, n_byte, max_bytes;
};

struct qn_stored *qn_stored_create(size_t max_bytes)
{
    struct qn_stored *t = xcalloc(1, sizeof *t);
    t->max_bytes = max_bytes && max_bytes < QN_STORED_MAX_BYTES ? max_bytes : QN_STORED_MAX_BYTES;
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

static void clear(struct qn_stored *t, struct item *k)
{
    t->n_byte -= k->n_response + k->n_input;
    free(k->response);
    free(k->input);
    memset(k, 0, sizeof *k);
}

static void drop_oldest(struct qn_stored *t)
{
    clear(t, &t->ring[t->first]);
    t->first = (t->first + 1) % QN_STORED_MAX;
    t->n--;
}

void qn_stored_free(struct qn_stored *t)
{
    if (!t) return;
    while (t->n) drop_oldest(t);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void qn_stored_put(struct qn_stored *t, const char *id, uint64_t owner, const char *response,
                   size_t n_response, const char *input, size_t n_input)
{
    size_t need = n_response + n_input;
    char *copies[2] = {NULL, NULL};
    if (need <= t->max_bytes) {
        copies[0] = try_malloc(n_response + 1, 1);
        copies[1] = try_malloc(n_input + 1, 1);
    }
    if (!copies[0] || !copies[1]) { /* it is not remembered */
        free(copies[0]);
        free(copies[1]);
        return;
    }
    memcpy(copies[0], response, n_response);
    memcpy(copies[1], input, n_input);
    copies[0][n_response] = copies[1][n_input] = 0;
    pthread_mutex_lock(&t->lock);
    while (t->n && (t->n == QN_STORED_MAX || t->n_byte + need > t->max_bytes)) drop_oldest(t);
    struct item *k = &t->ring[(t->first + t->n++) % QN_STORED_MAX];
    snprintf(k->id, sizeof k->id, "%s", id);
    k->owner = owner;
    k->response = copies[0];
    k->input = copies[1];
    k->n_response = n_response;
    k->n_input = n_input;
    t->n_byte += need;
    pthread_mutex_unlock(&t->lock);
}

static struct item *find(struct qn_stored *t, const char *id, uint64_t owner)
{
    for (size_t i = 0; *id && i < t->n; i++) {
        struct item *k = &t->ring[(t->first + i) % QN_STORED_MAX];
        if (k->owner == owner && !strcmp(k->id, id)) return k;
    }
    return NULL;
}

bool qn_stored_get(struct qn_stored *t, const char *id, uint64_t owner, struct qn_buf *response,
                   struct qn_buf *input)
{
    pthread_mutex_lock(&t->lock);
    const struct item *k = find(t, id, owner);
    if (k && response) qn_buf_append(response, k->response, k->n_response);
    if (k && input) qn_buf_append(input, k->input, k->n_input);
    pthread_mutex_unlock(&t->lock);
    return k;
}

bool qn_stored_remove(struct qn_stored *t, const char *id, uint64_t owner)
{
    pthread_mutex_lock(&t->lock);
    struct item *k = find(t, id, owner);
    if (k) clear(t, k);
    pthread_mutex_unlock(&t->lock);
    return k;
}
