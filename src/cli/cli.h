/* What the commands share. One file a command, src/cli/cmd_<name>.c, exports one struct qn_cmd;
 * main.c lists them. Exit codes: 0, 1 (failed), 2 (usage).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CLI_H
#define QN_CLI_H

#include "base/opt.h"

struct qn_cmd {
    const char *name;
    const char *summary;               /* one line for `quern --help` */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
};

extern const struct qn_cmd qn_cmd_serve;
extern const struct qn_cmd qn_cmd_replay;
extern const struct qn_cmd qn_cmd_tokenize;
extern const struct qn_cmd qn_cmd_parse;
extern const struct qn_cmd qn_cmd_inspect;
extern const struct qn_cmd qn_cmd_plan;
extern const struct qn_cmd qn_cmd_quantize;
extern const struct qn_cmd qn_cmd_synth;
extern const struct qn_cmd qn_cmd_render;
extern const struct qn_cmd qn_cmd_see;
extern const struct qn_cmd qn_cmd_eval;
extern const struct qn_cmd qn_cmd_bench;
extern const struct qn_cmd qn_cmd_run;
extern const struct qn_cmd qn_cmd_chat;
extern const struct qn_cmd qn_cmd_doctor;
extern const struct qn_cmd qn_cmd_pull;
extern const struct qn_cmd qn_cmd_version;

/* Prints "quern NAME: text" and gives the exit code: 0 after --help (QN_CANCELED), 2 for usage, else 1. */
int qn_cli_usage_failed(const char *name, int rc, const struct qn_err *e);
int qn_cli_failed(const char *name, const struct qn_err *e);

#endif
