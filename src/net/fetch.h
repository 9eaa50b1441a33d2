/* An HTTP request to somebody else's server: what pull, replay, media by URL and a proxy send.
 *
 * One call is one request, redirects included; it blocks its thread until the answer has ended. The body
 * comes in pieces through on_data. A token goes to the address that was asked for, never where it redirects.
 * Answers are hostile until checked: the caller bounds what it keeps. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FETCH_H
#define QN_FETCH_H

#include "base/err.h"

/* What is known once the headers of the answer are there. */
struct qn_fetch_head {
    long status;
    int64_t n_byte;   /* announced length of the body; -1: not told */
    int64_t range_at; /* where a partial answer says it begins; -1: not told */
    char type[128];   /* content type, "" when not told */
};

struct qn_fetch {
    const char *url;            /* http: or https: */
    const char *token;          /* Authorization: Bearer, or NULL */
    const char *const *headers; /* [n_header] "Name: value" */
    int n_header;
    const char *body; /* [n_body] POSTed; NULL: GET */
    size_t n_body;
    int64_t from;     /* first byte wanted; 0: all */
    int max_redirect; /* 0: none are followed */
    int connect_s;    /* 0: 30 */
    int stall_s;      /* longest time without a byte; 0: 60, negative: no limit */
    int total_s;      /* of the whole request; 0: no limit */
    bool is_local;    /* no proxy of the environment */
    bool
        public_only; /* connects to no private, link-local or otherwise special address, whatever names say */
    bool keeps_failures; /* bodies of answers of 400 and more come to on_data too */
    /* data [n]; false ends the request (QN_CANCELED). NULL: dropped */
    bool (*on_data)(void *user, const struct qn_fetch_head *head, const char *data, size_t n);
    void *user;
};

struct qn_fetch_end {
    struct qn_fetch_head head; /* status 0: there was no answer */
    bool is_private;           /* refused: the address is not public */
    char redirect[2048];       /* where an answer of 3xx points to, with max_redirect 0; "" otherwise */
    bool is_passing;           /* the same request may succeed later: no connection, cut, 408, 429, 5xx */
    int retry_after_s;         /* 0: not told */
    char why[160];             /* what went wrong, "" when nothing did */
};

/* QN_OK; QN_CANCELED when on_data said so; QN_IO for everything else (end->head.status tells a refusal from a
 * broken line), with the address and the reason in e. end is always written. */
int qn_fetch(const struct qn_fetch *f, struct qn_fetch_end *end, struct qn_err *e);

#endif
