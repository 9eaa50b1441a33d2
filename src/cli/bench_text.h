/* Prompts that read like those of people and agents, through the model's own template and tokenizer. A folder
 * without them gets random ids of about the same length, and the row says so.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_BENCH_TEXT_H
#define QN_BENCH_TEXT_H

#include "cli/bench.h"

enum qn_class { QN_CLASS_TOOLS, QN_CLASS_REPEAT, QN_CLASS_CODE, QN_CLASS_PROSE, QN_CLASS_RANDOM, QN_CLASS_N };

const char *qn_class_name(enum qn_class c); /* "tool calls", "repetition", "code", ... */
/* A prompt of a class; `number` makes it differ from the others of its class. *out is the caller's. */
int qn_bench_content(const struct qn_bench *b, enum qn_class c, int number, int32_t **out, int *n,
                     struct qn_err *e);
/* A user's message through the template. */
int qn_bench_message(const struct qn_bench *b, const char *text, int32_t **out, int *n, struct qn_err *e);

#endif
