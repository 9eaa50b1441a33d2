/* The start table: what serve decided, on stderr, before it says that it is ready. Main thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_STARTUP_H
#define QN_STARTUP_H

#include "cli/wish.h"
#include "engine/engine.h"
#include "server/server.h"

struct qn_startup {
    const struct qn_server_options *options;
    const struct qn_wish *wish;
    const struct qn_model *model; /* NULL: a scripted runner */
    const struct qn_engine_info *info;
    const struct qn_media_job *media;
    const char *device;
};

void qn_startup_print(const struct qn_startup *u);

#endif
