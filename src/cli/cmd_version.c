/* quern version: the build.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/registry.h"
#include "cli/cli.h"

static int run(int argc, char **argv)
{
    static const struct qn_opt_usage usage = {"quern version", "Prints the version.", "quern version"};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(NULL, 0, &usage, argc, argv, NULL, 0, &n_arg, &e);
    if (rc) return qn_cli_usage_failed("version", rc, &e);
    printf("quern %s\n", QN_VERSION);
    if (qn_cuda_archs) printf("cuda: %s\n", qn_cuda_archs());
    return 0;
}

const struct qn_cmd qn_cmd_version = {"version", "print the version", run};
