/* Stored references.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "cli/reference.h"

#include <errno.h>
#include <math.h>
#include <sys/stat.h>

#include "base/mem.h"

#define MAX_K   4096
#define MAX_IDS (1u << 28)

struct qn_reference {
    struct qn_reference_header header;
    int32_t *ids, *tok; /* [n_ids], [k] */
    float *logprob;     /* [k] */
    FILE *in;
    char *path;
};

void qn_reference_close(struct qn_reference *r)
{
    if (!r) return;
    if (r->in) fclose(r->in);
    free(r->ids);
    free(r->tok);
    free(r->logprob);
    free(r->path);
    free(r);
}

bool qn_is_reference(const char *path)
{
    struct stat st;
    char magic[8] = {0};
    if (stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    FILE *in = qn_file_read(path, NULL);
    bool is = in && fread(magic, 1, 8, in) == 8 && !memcmp(magic, QN_REFERENCE_MAGIC, 8);
    if (in) fclose(in);
    return is;
}

int qn_reference_open(struct qn_reference **out, const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_reference *r = xcalloc(1, sizeof *r);
    r->path = xstrdup(path);
    struct qn_err why = {0};
    r->in = qn_file_read(path, &why);
    QN_FAIL_IF(!r->in, e, why.code, "%s", why.text);
    struct qn_reference_header *h = &r->header;
    QN_FAIL_IF(fread(h, sizeof *h, 1, r->in) != 1 || memcmp(h->magic, QN_REFERENCE_MAGIC, 8), e, QN_FORMAT,
               "%s: not a stored reference of this version (make one with quern eval reference)", path);
    QN_FAIL_IF(
        !h->k || h->k > MAX_K || h->vocab < h->k || h->vocab > 1u << 24 || !h->context || h->n_ids > MAX_IDS,
        e, QN_FORMAT, "%s: damaged header (k %u, vocabulary %u, %u ids)", path, h->k, h->vocab, h->n_ids);
    h->model[sizeof h->model - 1] = h->format[sizeof h->format - 1] = 0;
    struct stat st;
    uint64_t rows = (uint64_t)h->n_ids, want = sizeof *h + rows * 4 + rows * (4 + 8 * (uint64_t)h->k);
    QN_FAIL_IF(fstat(fileno(r->in), &st) || (uint64_t)st.st_size != want, e, QN_FORMAT,
               "%s: truncated: %lld bytes, expected %" PRIu64, path, (long long)st.st_size, want);
    r->ids = try_malloc(h->n_ids, sizeof *r->ids);
    QN_FAIL_IF(!r->ids, e, QN_NOMEM, "%s: no memory for %u ids", path, h->n_ids);
    r->tok = xreallocarray(NULL, h->k, sizeof *r->tok);
    r->logprob = xreallocarray(NULL, h->k, sizeof *r->logprob);
    QN_FAIL_IF(fread(r->ids, sizeof *r->ids, h->n_ids, r->in) != h->n_ids, e, QN_IO,
               "%s: cannot read the ids", path);
    for (uint32_t i = 0; i < h->n_ids; i++)
        QN_FAIL_IF(r->ids[i] < 0 || (uint32_t)r->ids[i] >= h->vocab, e, QN_FORMAT,
                   "%s: id %d at %u is out of range", path, r->ids[i], i);
    *out = r;
    r = NULL;
out:
    qn_reference_close(r);
    return rc;
}

const struct qn_reference_header *qn_reference_header(const struct qn_reference *r)
{
    return &r->header;
}

const int32_t *qn_reference_ids(const struct qn_reference *r)
{
    return r->ids;
}

int qn_reference_next(struct qn_reference *r, struct qn_top_row *out, struct qn_err *e)
{
    int rc = QN_OK;
    size_t k = r->header.k;
    QN_FAIL_IF(fread(&out->tail_logprob, 4, 1, r->in) != 1 || fread(r->tok, 4, k, r->in) != k ||
                   fread(r->logprob, 4, k, r->in) != k,
               e, QN_IO, "%s: cannot read a row", r->path);
    for (size_t i = 0; i < k; i++)
        QN_FAIL_IF(r->tok[i] < 0 || (uint32_t)r->tok[i] >= r->header.vocab || !(r->logprob[i] <= 0), e,
                   QN_FORMAT, "%s: damaged row", r->path);
    QN_FAIL_IF(isnan(out->tail_logprob), e, QN_FORMAT, "%s: damaged row", r->path);
    out->k = (int)k;
    out->tok = r->tok;
    out->logprob = r->logprob;
out:
    return rc;
}

int qn_reference_begin(FILE *out, const struct qn_reference_header *h, const int32_t *ids)
{
    return fwrite(h, sizeof *h, 1, out) == 1 && fwrite(ids, sizeof *ids, h->n_ids, out) == h->n_ids ? QN_OK
                                                                                                    : QN_IO;
}

/* A heap of the k largest, smallest on top; ties keep the lower id. */
static bool is_less(const float *logits, int32_t a, int32_t b)
{
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

static void sift(int32_t *heap, int k, int i, const float *logits)
{
    for (;;) {
        int least = i;
        for (int c = 2 * i + 1; c <= 2 * i + 2 && c < k; c++)
            if (is_less(logits, heap[c], heap[least])) least = c;
        if (least == i) return;
        int32_t t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

int qn_reference_put(FILE *out, int k, const float *logits, int vocab)
{
    int32_t *heap = xreallocarray(NULL, (size_t)k, sizeof *heap);
    float *logprob = xreallocarray(NULL, (size_t)k, sizeof *logprob);
    for (int i = 0; i < k; i++) heap[i] = i;
    for (int i = k / 2 - 1; i >= 0; i--) sift(heap, k, i, logits);
    for (int i = k; i < vocab; i++) {
        if (!is_less(logits, heap[0], i)) continue;
        heap[0] = i;
        sift(heap, k, 0, logits);
    }
    for (int n = k - 1; n > 0; n--) { /* the smallest goes last */
        int32_t t = heap[0];
        heap[0] = heap[n];
        heap[n] = t;
        sift(heap, n, 0, logits);
    }
    double log_sum = qn_log_sum(logits, vocab, NULL), tail = 0;
    for (int i = 0; i < k; i++) logprob[i] = (float)fmin(logits[heap[i]] - log_sum, 0);
    float least = logits[heap[k - 1]];
    for (int i = 0; i < vocab; i++) {
        bool is_kept = logits[i] > least;
        for (int j = k - 1; !is_kept && logits[i] == least && j >= 0 && logits[heap[j]] == least; j--)
            is_kept = heap[j] == i;
        if (!is_kept) tail += exp(logits[i] - log_sum);
    }
    float tail_logprob = tail > 0 ? (float)log(tail) : -INFINITY;
    bool ok = fwrite(&tail_logprob, 4, 1, out) == 1 && fwrite(heap, 4, (size_t)k, out) == (size_t)k &&
              fwrite(logprob, 4, (size_t)k, out) == (size_t)k;
    free(heap);
    free(logprob);
    return ok ? QN_OK : QN_IO;
}
