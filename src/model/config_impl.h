/* What config.c and rope.c share while they read config.json. Not included elsewhere.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CONFIG_IMPL_H
#define QN_CONFIG_IMPL_H

#include "base/json.h"
#include "model/config.h"

struct qn_config_reader {
    struct qn_config *c;
    const char *name;               /* of the file */
    const struct qn_json *top, *tx; /* top level; where the text fields live */
    struct qn_err *e;
};

/* A line for the user; at most QN_MAX_CONFIG_NOTE are kept. */
QN_PRINTF(2, 3) void qn_config_note(struct qn_config *c, const char *fmt, ...);
/* A number within min..max, dflt when absent or null. QN_INVAL names file, key and limits. */
int qn_config_num(struct qn_config_reader *r, const struct qn_json *obj, const char *key, double dflt,
                  double min, double max, double *out);
/* A string, "" when absent. */
int qn_config_str(struct qn_config_reader *r, const struct qn_json *obj, const char *key, const char **out);

/* rope.c: everything about positions, from wherever it stands. Needs head_dim and max_context; raises
 * max_context by the factor. QN_UNSUPPORTED names the type and what is served. */
int qn_config_read_rope(struct qn_config_reader *r);

#endif
