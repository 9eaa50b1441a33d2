/* SHA-1 and SHA-256, for files that name their digest. Source: FIPS 180-4.
 * Owned by whoever holds the struct; one thread at a time. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DIGEST_H
#define QN_DIGEST_H

#include "base/base.h"

enum qn_digest_kind { QN_SHA1, QN_SHA256 };

#define QN_DIGEST_HEX 65 /* room for the longest digest in hexadecimal and its NUL */

struct qn_digest {
    enum qn_digest_kind kind;
    uint32_t h[8];
    uint64_t n_byte; /* taken so far */
    unsigned char block[64];
};

void qn_digest_init(struct qn_digest *d, enum qn_digest_kind kind);
void qn_digest_add(struct qn_digest *d, const void *data, size_t n);
/* Lower-case hexadecimal: 40 or 64 characters. The struct is used up. */
void qn_digest_end(struct qn_digest *d, char out[QN_DIGEST_HEX]);

#endif
