/* The store: blobs of the tiers as files in a folder, and the copier, a thread that does all file work.
 *
 * One blob a file, written under a temporary name and then renamed:
 *
 *     FOLDER/<fingerprint>-<kind><key>.qkv    header (magic, sizes, keys, tokens, checksum), words of media
 *                                             where there are any, then the bytes
 *
 * so a killed process leaves whole files or temporary ones. A file of another model, or a damaged one, is
 * left alone and told once. Reads go before writes and removals, which keep their order.
 *
 * An item crosses to the copier with its job and is the copier's until the job's letter is back home. Verbs
 * are the owner's: one thread, the engine's. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STORE_H
#define QN_STORE_H

#include "backend/step.h"
#include "base/err.h"
#include "base/mail.h"

enum qn_store_kind { QN_STORE_PAGE, QN_STORE_SNAPSHOT };
#define QN_STORE_MEDIA 2 /* added to the kind in a head: 64 words of media follow (engine/prefix.h) */

/* The head of a file, as it is on disk. */
struct qn_store_head {
    char magic[8];
    uint64_t fingerprint, key, parent, root, checksum; /* of everything but itself */
    uint64_t n_byte;
    int32_t kind, n_tok, n_tail, mtp_from; /* as of the node or snapshot */
    int32_t tok[QN_PAGE];                  /* of the page, or of the snapshot's tail */
};

static inline enum qn_store_kind qn_store_kind(const struct qn_store_head *h)
{
    return h->kind & QN_STORE_SNAPSHOT ? QN_STORE_SNAPSHOT : QN_STORE_PAGE;
}
static inline size_t qn_store_media_bytes(const struct qn_store_head *h)
{
    return h->kind & QN_STORE_MEDIA ? QN_PAGE * sizeof(uint64_t) : 0;
}

enum qn_store_job_kind { QN_STORE_WRITE, QN_STORE_READ, QN_STORE_REMOVE, QN_STORE_QUIT };
struct qn_store_job {
    struct qn_letter letter;
    enum qn_store_job_kind kind;
};

/* What is written or read. */
struct qn_store_item {
    struct qn_store_job job; /* a write */
    bool is_failed;          /* the copier's, read when its letter is back */
    struct qn_store_head h;
    uint64_t *media; /* [QN_PAGE] or NULL */
    void *data;      /* [n_byte] */
};

struct qn_store_fetch { /* items to be read, in order */
    struct qn_store_job job;
    int64_t number;
    int n;
    struct qn_store_item *list[];
};

struct qn_store_options {
    const char *folder;
    uint64_t fingerprint;
    size_t page_bytes, slot_bytes;
    struct qn_mail *home; /* where letters of writes and reads go, with this kind */
    int letter_kind;
    /* Called by open for each sound file. media: [QN_PAGE] or NULL; when: of its last use, in seconds. */
    void (*found)(void *user, const struct qn_store_head *h, const uint64_t *media, int64_t when);
    void *user;
};

struct qn_store;

/* Errors: QN_IO when the folder cannot be made or read. *n_damaged: files that are not sound. */
int qn_store_open(struct qn_store **out, const struct qn_store_options *o, int *n_damaged, struct qn_err *e);
void qn_store_close(struct qn_store *s); /* no letter is missing; NULL is allowed */
const char *qn_store_folder(const struct qn_store *s);
/* Its name in the folder. */
void qn_store_file_name(const struct qn_store *s, const struct qn_store_head *h, char *out, size_t n);
void qn_store_write(struct qn_store *s, struct qn_store_item *item);
void qn_store_read(struct qn_store *s, struct qn_store_fetch *f);
void qn_store_remove(struct qn_store *s, const struct qn_store_head *h); /* no letter comes back */
/* Magic and fingerprint of this store. */
void qn_store_stamp(const struct qn_store *s, struct qn_store_head *h);

#endif
