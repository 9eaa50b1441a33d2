/* Flags that people bring from other servers (vLLM, SGLang, llama.cpp, ik_llama.cpp, KTransformers, TokenSpeed): each is
 * mapped to an option of ours, accepted with a line that says why it has nothing to do, or refused because it
 * asks for something that would change answers. The table is data (flags_table.c); docs/operating.md shows
 * it.
 *
 * Used before anything is opened, by main; strings belong to argv or the arena.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_FLAGS_H
#define QN_FLAGS_H

#include "base/json.h"
#include "base/opt.h"

enum qn_flag_does {
    QN_FLAG_OWN,    /* an option of ours: `to` */
    QN_FLAG_NOTE,   /* accepted: `text` says why there is nothing to do */
    QN_FLAG_REFUSE, /* an error that says `text`, unless the value is one of `fine` */
};

/* How the value becomes that of our option. */
enum qn_flag_value {
    QN_VALUE_TEXT,     /* as it is */
    QN_VALUE_SAME,     /* as it is, for our option of the same name */
    QN_VALUE_COUNT,    /* 128k, auto, -1 */
    QN_VALUE_LIMIT,    /* negative: no limit */
    QN_VALUE_NUMBER,   /* a fraction */
    QN_VALUE_GIB,      /* a size in GiB */
    QN_VALUE_MIB,      /* a size in MiB */
    QN_VALUE_LIST,     /* several, commas, or a JSON array */
    QN_VALUE_ON,       /* a switch: on gives ours */
    QN_VALUE_OFF,      /* a switch: off gives ours */
    QN_VALUE_KV,       /* a type of the KV cache */
    QN_VALUE_LEVEL,    /* a log level */
    QN_VALUE_DEVICE,   /* CUDA0,CUDA1 */
    QN_VALUE_SAMPLING, /* a JSON object of sampling values */
    QN_VALUE_THINK,    /* reasoning on, off, auto, or a budget */
    QN_VALUE_DEPTH,    /* drafts a step */
    QN_VALUE_SPEC,     /* a JSON object about speculation */
    QN_VALUE_ALGO,     /* who drafts */
    QN_VALUE_MTP,      /* the model's own head drafts */
    QN_VALUE_NO_MTP,
};

struct qn_flag_rule {
    enum qn_flag_does does;
    enum qn_flag_value value;
    const char *to, *text, *fine; /* or NULL; fine: values separated by commas; behind a !: all but those */
    /* NAME/MAKERSn separated by blanks. NAME without two dashes, with one; MAKERS of v s l i k t, p: met only in what people write; n is what
     * follows: 0 nothing, 1 a value, 2 two, ? one or nothing, + some, b nothing (and a twin --no-NAME), j
     * JSON (--NAME.member) */
    const char *names;
};
extern const struct qn_flag_rule qn_flag_rules[];
extern const int qn_flag_n_rule;

/* One name of the table. */
struct qn_flag {
    const struct qn_flag_rule *rule;
    const char *name, *makers; /* in the table, not terminated */
    int n_name, n_maker;
    char arity;
};
/* name: as in the table, [n]. False: it is not there. */
bool qn_flag_find(const char *name, size_t n, struct qn_flag *out);
/* The next name after *out (zeroed: the first); false at the end. */
bool qn_flag_next(struct qn_flag *out);

struct qn_flags {
    const struct qn_opt *own; /* [n_own] the command's own options */
    size_t n_own;
    struct qn_arena *arena;
};
/* Makes a command line of our own options out of what was given, which may begin with another server's
 * command
 * (`vllm serve M ...`, `python -m sglang.launch_server ...`) and variables before it. Says on stderr what
 * became of each flag that is not ours. Errors: QN_INVAL (unknown, no value), QN_UNSUPPORTED (refused). */
int qn_flags_read(const struct qn_flags *f, int *argc, char ***argv, struct qn_err *e);

/* All of them, by what becomes of them. */
void qn_flags_help(FILE *out);

#endif
