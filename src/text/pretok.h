/* Pre-tokeniser: cuts text into the pieces that BPE works on.
 *
 * The published patterns of the family and its relatives are recognised by their text and run by a scanner
 * written for them; any other pattern is run by PCRE2 with limits. Both follow the reference library's
 * Unicode classes. Owned by a tokenizer; immutable after open, any thread: a cursor is per call.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_PRETOK_H
#define QN_PRETOK_H

#include "base/json.h"

struct qn_pretok;

/* From the pre_tokenizer object of tokenizer.json: ByteLevel, Split, Digits, or a Sequence of them with
 * ByteLevel last. Errors: QN_UNSUPPORTED (naming what was found), QN_FORMAT. */
int qn_pretok_open(struct qn_pretok **out, const struct qn_json *spec, struct qn_err *e);
void qn_pretok_free(struct qn_pretok *p);

/* "qwen3.5", "qwen2", "cl100k", "gpt-2", "custom". */
const char *qn_pretok_name(const struct qn_pretok *p);

/* Walks over the pieces of text[n] (well-formed UTF-8, n < 2^31), which together are the text. */
struct qn_pretok_cursor {
    const struct qn_pretok *pretok;
    const unsigned char *text;
    size_t n, pos;
    uint32_t *ends; /* custom patterns: where the pieces end */
    size_t n_end, end_index;
};
/* Errors: QN_UNSUPPORTED (match limit), QN_NOMEM. */
int qn_pretok_begin(struct qn_pretok_cursor *c, const struct qn_pretok *p, const void *text, size_t n,
                    struct qn_err *e);
void qn_pretok_end(struct qn_pretok_cursor *c);
/* The end of the piece that starts at c->pos, which moves there. Call while c->pos < c->n. */
size_t qn_pretok_next(struct qn_pretok_cursor *c);

#endif
