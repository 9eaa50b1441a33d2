/* A stored reference: the tokens of an evaluation text and, for each position, the top of a model's
 * distribution with the exact mass of the rest. Small enough to ship (k = 64: about 0.5 KB a token).
 *
 * File, little endian: the header below, then ids int32 [n_ids], then for each scored row
 * tail_logprob float, tok int32 [k], logprob float [k]. A chunk of `context` tokens scores each of its
 * positions; chunks are independent. One thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_REFERENCE_H
#define QN_REFERENCE_H

#include "base/err.h"
#include "cli/divergence.h"

#define QN_REFERENCE_MAGIC "QNREF01"

struct qn_reference_header {
    char magic[8];
    char model[64], format[16]; /* of the reference, for the receipt */
    uint64_t fingerprint;       /* of the reference model */
    uint64_t text_hash;         /* of the ids */
    uint32_t vocab, k, context, n_ids;
};

struct qn_reference; /* a file being read */

/* Errors name the file: not a reference, truncated, counts out of range. */
int qn_reference_open(struct qn_reference **out, const char *path, struct qn_err *e);
void qn_reference_close(struct qn_reference *r);
const struct qn_reference_header *qn_reference_header(const struct qn_reference *r);
const int32_t *qn_reference_ids(const struct qn_reference *r);                           /* [n_ids] */
int qn_reference_next(struct qn_reference *r, struct qn_top_row *out, struct qn_err *e); /* rows in order */
bool qn_is_reference(const char *path); /* a regular file with the magic */

/* Writing: header and ids, then rows from raw logits. */
int qn_reference_begin(FILE *out, const struct qn_reference_header *h, const int32_t *ids);
int qn_reference_put(FILE *out, int k, const float *logits, int vocab);

#endif
