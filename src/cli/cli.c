/* What the commands share.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

int qn_cli_usage_failed(const char *name, int rc, const struct qn_err *e)
{
    if (rc == QN_CANCELED) return 0;
    fprintf(stderr, "quern %s: %s\n", name, e->text);
    return 2;
}

int qn_cli_failed(const char *name, const struct qn_err *e)
{
    fprintf(stderr, "quern %s: %s\n", name, e->text);
    return 1;
}
