/* A model hub over HTTP: what a repository holds, and its files, resumed and verified.
 *
 *   GET ENDPOINT/api/models/REPO/revision/REVISION?blobs=true   commit, paths, sizes, digests
 *   GET ENDPOINT/REPO/resolve/COMMIT/PATH                       a file; may redirect; ranges resume
 *
 * Everything a hub says is hostile until checked: paths stay below the folder, sizes and digests are compared
 * before a file gets its name. One thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HUB_H
#define QN_HUB_H

#include "base/digest.h"
#include "base/err.h"

#define QN_HUB_MAX_FILES 100000
#define QN_HUB_MAX_PATH  1024

struct qn_hub {
    const char *endpoint; /* "https://host", no slash at the end */
    const char *repo;     /* "owner/name" or "name" */
    const char *token;    /* or NULL; sent to the endpoint only, never where it redirects */
    int max_tries;        /* attempts without a new byte; 0: 6 */
    void (*on_bytes)(void *ctx,
                     int64_t n); /* arrived; negative: taken back, the file starts again. Or NULL */
    void (*on_retry)(void *ctx, const char *why, int wait_s); /* or NULL */
    void *ctx;
};

struct qn_hub_file {
    char *path;   /* relative, plain: no "..", no empty part, no control character */
    int64_t size; /* -1: not told */
    enum qn_digest_kind kind;
    bool is_blob;               /* the digest is git's: of "blob SIZE\0" and the bytes */
    char digest[QN_DIGEST_HEX]; /* "" when not told */
};

struct qn_hub_list {
    char commit[QN_DIGEST_HEX]; /* "" when not told */
    struct qn_hub_file *files;  /* [n] */
    int n;
};

/* "owner/name" in the characters hubs allow. */
bool qn_hub_is_repo(const char *repo);
/* A path from a hub that may be created below a folder. */
bool qn_hub_is_safe(const char *path, size_t n);

/* The answer of the listing. QN_FORMAT, QN_TOOBIG; a path that leaves the folder is QN_FORMAT. */
int qn_hub_list_parse(struct qn_hub_list *out, const char *text, size_t n, const char *what,
                      struct qn_err *e);
void qn_hub_list_free(struct qn_hub_list *list);

int qn_hub_list_get(const struct qn_hub *h, const char *revision, struct qn_hub_list *out, struct qn_err *e);

/* Bytes of a file that are in the folder already: all of it under its name, or a part. */
int64_t qn_hub_have(const char *folder, const struct qn_hub_file *f);

/* Makes FOLDER/PATH hold the file: kept when it is there and right, else fetched to PATH.part (from where an
 * earlier attempt stopped), verified, and renamed. *was_kept tells which. Errors: QN_NOTFOUND, QN_INVAL (not
 * allowed), QN_IO, QN_FORMAT (verification), QN_BUSY (another process writes the same file). */
int qn_hub_fetch(const struct qn_hub *h, const char *revision, const struct qn_hub_file *f,
                 const char *folder, bool *was_kept, struct qn_err *e);

#endif
