/* Token ids of a text on the command line. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CLI_IDS_H
#define QN_CLI_IDS_H

#include "text/tokenizer.h"

/* The ids of a text file (or "-": stdin), or of a JSON array of ids when it starts with '['; at most
 * max_tokens unless that is 0. `folder` has the tokenizer. Errors name the file; two ids at least. */
int qn_cli_read_ids(struct qn_ids *ids, const char *folder, const char *path, int64_t max_tokens,
                    struct qn_err *e);

#endif
