/* What the targets of the HTTP API share: a server without a model whose tokens are bytes, and exchanges
 * without a socket. api.c stands in for libmicrohttpd.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FUZZ_API_H
#define FUZZ_API_H

#include "server/api.h"
#include "server/form.h"
#include "server/stored.h"
#include "server/stream.h"

#define FUZZ_BODY_BYTES ((size_t)1 << 16)

struct qn_server *fuzz_server(void);

/* A request as libmicrohttpd hands it over, through the whole of http.c. Checks that it is answered once,
 * with JSON, and an error with its object. The routes are a few of each kind; the keys are "k1" and "second".
 */
struct fuzz_request {
    const char *method, *url;
    const char *names[16], *values[16]; /* [n_header] */
    int n_header;
    const char *body; /* [n_body] */
    size_t n_body;
};
void fuzz_request(const struct fuzz_request *r);

/* The whole of a handler over a body. Checks that it answers once: with JSON, and an error with its object.
 */
void fuzz_handle(void (*handle)(struct qn_exchange *x), const uint8_t *data, size_t size);

/* A body that is a JSON object, for the readers of requests that go on to the engine. */
struct fuzz_body {
    struct qn_exchange x;
    struct qn_ask ask;
    struct qn_json *json;
    struct qn_err e;
};
bool fuzz_body_open(struct fuzz_body *b, const uint8_t *data, size_t size); /* false: nothing to read */
/* What the reader returned: an error is whole; a chat can be normalised, and tools and form give a
 * constraint, or both say why not. */
void fuzz_body_close(struct fuzz_body *b, int rc, bool is_chat);

#endif
