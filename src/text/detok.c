/* Incremental detokeniser.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/detok.h"

#include "text/utf8.h"

void qn_detok_init(struct qn_detok *d, const struct qn_tokenizer *t, enum qn_detok_special special)
{
    *d = (struct qn_detok){.tokenizer = t, .special = special};
}

int qn_detok_push(struct qn_detok *d, int32_t id, struct qn_buf *out)
{
    unsigned flags = qn_tokenizer_flags(d->tokenizer, id);
    if (d->special == QN_DETOK_SKIP && (flags & QN_TOKEN_SPECIAL) && !(flags & QN_TOKEN_MARKER))
        return out->failed;
    size_t n;
    const uint8_t *bytes = qn_tokenizer_bytes(d->tokenizer, id, &n);
    /* complete, or break, the character that was held back, byte by byte */
    while (d->n_held && n) {
        uint32_t cp;
        d->held[d->n_held] = *bytes;
        int len = qn_utf8_next(d->held, (size_t)d->n_held + 1, &cp);
        if (len == -d->n_held - 1 && qn_utf8_partial(d->held, (size_t)d->n_held + 1)) {
            d->n_held++; /* still incomplete */
        } else if (len > 0) {
            qn_buf_append(out, d->held, (size_t)len);
            d->n_held = 0;
        } else {
            /* the held bytes are one ill-formed subsequence; this byte starts anew */
            qn_buf_puts(out, "\xef\xbf\xbd");
            d->n_held = 0;
            break;
        }
        bytes++;
        n--;
    }
    size_t n_tail = qn_utf8_partial(bytes, n);
    qn_utf8_repair(bytes, n - n_tail, NULL, out, NULL);
    if (n_tail) memcpy(d->held, bytes + n - n_tail, n_tail);
    if (n_tail) d->n_held = (int)n_tail;
    return out->failed;
}

int qn_detok_end(struct qn_detok *d, struct qn_buf *out)
{
    if (d->n_held) qn_buf_puts(out, "\xef\xbf\xbd");
    d->n_held = 0;
    return out->failed;
}

int qn_detok_all(const struct qn_tokenizer *t, const int32_t *ids, size_t n, enum qn_detok_special special,
                 struct qn_buf *out)
{
    struct qn_detok d;
    qn_detok_init(&d, t, special);
    for (size_t i = 0; i < n; i++) qn_detok_push(&d, ids[i], out);
    return qn_detok_end(&d, out);
}
