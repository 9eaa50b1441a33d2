/* Which addresses belong to everybody: the rest are this machine's, its networks' or nobody's. Any thread.
 * Source: the special-purpose registries of IPv4 and IPv6 (RFC 6890 and its successors).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ADDRESS_H
#define QN_ADDRESS_H

#include <sys/socket.h>

#include "base/err.h"

/* false for loopback, private, link-local (metadata services among them), shared, multicast, reserved and
 * unspecified addresses, for IPv6 that carries such an IPv4 address, and for families other than these two.
 */
bool qn_address_is_public(const struct sockaddr *a);

/* The host of an http or https address as it will be dialled, lower case. Errors: QN_INVAL for another
 * scheme, a user name, a backslash, white space or control characters. */
int qn_address_host(const char *url, char *host, size_t n_host, struct qn_err *e);

#endif
