/* Who may use a server: keys from the option, a file or the environment, pages' origins, names of the host.
 * Made once at start; what it points to is the arena's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ACCESS_H
#define QN_ACCESS_H

#include "base/mem.h"
#include "server/gate.h"

struct qn_err;

/* As the options say it; NULL: not given. Lists are separated by commas, or JSON arrays of strings. */
struct qn_access_wish {
    const char *keys;
    const char *key_file; /* a key a line; empty lines and lines that begin with # do not count */
    const char *origins, *hosts;
};

/* Fills keys, origins and hosts of g. An empty key file, or none that can be read, is an error: a server that
 * was to have keys does not start without. */
int qn_access_read(struct qn_gate *g, const struct qn_access_wish *w, struct qn_arena *arena,
                   struct qn_err *e);

/* Overwrites what follows --api-key among the process's arguments, where other users of the machine see it.
 * argv: the process's own, after its options were copied. */
void qn_access_hide(int argc, char **argv);

#endif
