/* The parts of `quern eval`. Each is one file, called with argv[0] as its own name; exit codes as commands.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_EVAL_H
#define QN_EVAL_H

#include "base/err.h"

int qn_eval_logits(int argc, char **argv);
int qn_eval_logits(int argc, char **argv);
int qn_eval_ppl(int argc, char **argv);
int qn_eval_kld(int argc, char **argv);
int qn_eval_reference(int argc, char **argv);

#endif
