/* Base64 with the plain alphabet (RFC 4648, section 4), strict: no white space, right padding or none.
 * Any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BASE64_H
#define QN_BASE64_H

#include "base/base.h"

/* Room for n characters decoded. */
#define QN_BASE64_ROOM(n) ((n) / 4 * 3 + 3)

/* Writes the bytes of n characters to `to` and their number to *n_byte. false: not base64. */
bool qn_base64_decode(const char *text, size_t n, uint8_t *to, size_t *n_byte);

#endif
