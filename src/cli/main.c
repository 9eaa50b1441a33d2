/* quern: finds the command and runs it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/shown.h"
#include "cli/cli.h"

#include <signal.h>

/* In the order a user meets them. */
static const struct qn_cmd *const commands[] = {
    &qn_cmd_run,   &qn_cmd_chat,     &qn_cmd_serve, &qn_cmd_tokenize, &qn_cmd_parse,   &qn_cmd_inspect,
    &qn_cmd_plan,  &qn_cmd_quantize, &qn_cmd_synth, &qn_cmd_render,   &qn_cmd_see,     &qn_cmd_eval,
    &qn_cmd_bench, &qn_cmd_doctor,   &qn_cmd_pull,  &qn_cmd_replay,   &qn_cmd_version,
};

static void print_help(FILE *out)
{
    fprintf(out, "usage: quern COMMAND ...\n\ncommands:\n");
    for (size_t i = 0; i < QN_COUNT(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\nquern COMMAND --help tells more.\n");
}

/* What a command printed has to have arrived: a full disk shows only now. */
static int finish(int code)
{
    if ((fflush(stdout) || ferror(stdout)) && !code) {
        fprintf(stderr, "quern: standard output cannot be written; is the disk full?\n");
        return 1;
    }
    return code;
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a file over the limit is a write error with a name, no silent death */
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return finish(0);
    }
    if (!strcmp(argv[1], "--version")) return finish(qn_cmd_version.run(argc - 1, argv + 1));
    for (size_t i = 0; i < QN_COUNT(commands); i++)
        if (!strcmp(argv[1], commands[i]->name)) return finish(commands[i]->run(argc - 1, argv + 1));
    fprintf(stderr, "quern: unknown command '%s'; quern --help lists all\n", qn_shown(argv[1]));
    return 2;
}
