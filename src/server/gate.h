/* The gate: what the headers of a request must be before its body counts. Framing that two parsers could read
 * in two ways is refused, without a key only pages of this machine may ask, and with keys one must be shown.
 * Pure but for the request's headers; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_GATE_H
#define QN_GATE_H

#include "base/base.h"

struct MHD_Connection;

struct qn_gate {
    const char *const *keys; /* [n_key] */
    int n_key;
    const char *const *origins; /* [n_origin] scheme://host[:port], or "*": pages that may ask and read */
    int n_origin;
    const char *const *hosts; /* [n_host] names, or "*": that a Host header may have besides loopback's */
    int n_host;
    bool is_loopback; /* the listening address is */
};

struct qn_gate_refusal {
    int status; /* 0: let in */
    const char *code;
    char text[200];
    bool must_close; /* where the request ends is not certain */
};

/* A message with one reading: one length, known codings, names without blanks. */
void qn_gate_framing(struct MHD_Connection *c, const char *version, struct qn_gate_refusal *out);
/* Without keys: the names this server may be called by, the pages that may call it. has_body: POST. */
void qn_gate_page(const struct qn_gate *g, struct MHD_Connection *c, bool has_body,
                  struct qn_gate_refusal *out);
/* With keys: client gets the hash of the key that was shown. */
void qn_gate_key(const struct qn_gate *g, struct MHD_Connection *c, uint64_t *client,
                 struct qn_gate_refusal *out);
/* The value of Access-Control-Allow-Origin for this request, or NULL. */
const char *qn_gate_origin(const struct qn_gate *g, struct MHD_Connection *c);

/* Is the value of a Host header a name of this machine alone: localhost, 127.x.x.x, [::1]? */
bool qn_gate_is_loopback_name(const char *host);

#endif
