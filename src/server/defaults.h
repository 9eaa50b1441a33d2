/* Sampling values that hold where a request says nothing: the server's, else the model's own, else the common
 * ones. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_DEFAULTS_H
#define QN_DEFAULTS_H

#include "server/options.h"
#include "text/text.h"

/* The server's values laid over the model's; nothing is unset afterwards (max_tokens 0: no limit). */
void qn_sampling_merge(struct qn_sampling_defaults *out, const struct qn_sampling_defaults *server,
                       const struct qn_text_defaults *model);

#endif
