/* The blobs of the tiers: pages and snapshots, in RAM and in files, with their states, their order of use and
 * an index by key. tier.c says what comes and goes. Owned by the tiers, engine thread.
 *
 * A blob's states, with where its bytes are and who is at work on it:
 *
 *     state    RAM  file  at work     goes on to
 *     FILLING   x         the rank    IN_RAM, when the work with its chore is back
 *     IN_RAM    x         nobody      WRITING; gone, when RAM is wanted
 *     WRITING   x         the copier  BOTH; IN_RAM, when the file cannot be written
 *     BOTH      x    x    nobody      ON_DISK, when RAM is wanted; IN_RAM, when the folder is full
 *     ON_DISK        x    nobody      READING; gone, when the folder is full
 *     READING   x    x    the copier  BOTH; gone, when the file is damaged
 *
 * Besides, in any state with bytes, a chore that brings it back may be on its way (busy). And in any state it
 * may be doomed, as it holds what a bad request left: it is found no more, and goes with its file as soon as
 * nobody is at work on it. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BLOBS_H
#define QN_BLOBS_H

#include "base/hash.h"
#include "engine/prefix.h"
#include "engine/store.h"

enum qn_blob_state {
    QN_BLOB_GONE,
    QN_BLOB_FILLING,
    QN_BLOB_IN_RAM,
    QN_BLOB_WRITING,
    QN_BLOB_BOTH,
    QN_BLOB_ON_DISK,
    QN_BLOB_READING,
};
enum qn_blob_place { QN_BLOB_RAM, QN_BLOB_DISK, QN_BLOB_N_PLACE };

struct qn_blob {
    struct qn_store_item item; /* first */
    enum qn_blob_state state;
    bool is_doomed;
    int64_t busy; /* number of the last work that has a chore of it; over when that is back */
    int64_t born; /* of the cache's clock; 0: before the start */
    int64_t last_use;
    struct qn_blob *older[QN_BLOB_N_PLACE], *newer[QN_BLOB_N_PLACE]; /* by last use, where it is */
    struct qn_blob *next_sibling;                                    /* snapshots behind the same parent */
    struct qn_blob *next_filling;
    int at; /* place in the list of all */
};

struct qn_blob_list {
    struct qn_blob *oldest, *newest;
    int n;
};

struct qn_blobs {
    struct qn_blob **list;
    int n, capacity;
    struct qn_blob_list by_use[QN_BLOB_N_PLACE];
    int64_t n_byte[QN_BLOB_N_PLACE];
    struct qn_map by_key;            /* key of page or snapshot -> blob */
    struct qn_map by_parent;         /* key of the parent -> first snapshot */
    const struct qn_blob *held;      /* the snapshot that is being brought back */
    int64_t clock;                   /* operations: of a blob's last use */
    int64_t n_published, n_returned; /* work that went out, that came back */
    int64_t last_busy;               /* work that has the last chore of any */
    uint64_t version;                /* blobs that came, from 1 on */
    int n_doomed;
};

void qn_blobs_fini(struct qn_blobs *t);
/* A new one enters the index, and leaves it and is freed. */
void qn_blobs_add(struct qn_blobs *t, struct qn_blob *b);
void qn_blobs_forget(struct qn_blobs *t, struct qn_blob *b);
/* The only way from one state to another. Bytes in RAM are there before it comes to RAM; where it leaves,
 * they are given back. */
void qn_blobs_turn(struct qn_blobs *t, struct qn_blob *b, enum qn_blob_state to);
void qn_blobs_touch(struct qn_blobs *t, struct qn_blob *b);    /* it is used, by this operation */
void qn_blobs_set_busy(struct qn_blobs *t, struct qn_blob *b); /* the next work has a chore of it */
void qn_blobs_doom(struct qn_blobs *t, struct qn_blob *b);
bool qn_blobs_is_busy(const struct qn_blobs *t, const struct qn_blob *b); /* somebody is at work on it */
/* Is it in RAM, or will be before a chore that needs it? They run in order. */
bool qn_blob_has_bytes(const struct qn_blob *b);
size_t qn_blob_file_bytes(const struct qn_blob *b);
void qn_blob_keep_media(struct qn_blob *b, const uint64_t *media); /* [QN_PAGE] or NULL */

struct qn_blob *qn_blobs_find(const struct qn_blobs *t, enum qn_store_kind kind, uint64_t key);
/* Page i of p, whose key is known, when it may be brought back. */
struct qn_blob *qn_blobs_find_page(const struct qn_blobs *t, const struct qn_prefix *p, int i, uint64_t key);
struct qn_blob *qn_blobs_snapshots(const struct qn_blobs *t, uint64_t parent); /* the first; next_sibling */
/* Does it hold the n words of p from place `at` on? */
bool qn_blob_is_same(const struct qn_blob *b, const struct qn_prefix *p, int at, int n);
/* The one unused for longest at a place that may go, or NULL; those of this operation are in use. */
struct qn_blob *qn_blobs_oldest(const struct qn_blobs *t, enum qn_blob_place place);

#endif
