/* Options of every command that opens a model: what is laid over its configuration.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MODEL_OPTS_H
#define QN_MODEL_OPTS_H

#include "base/opt.h"
#include "model/checkpoint.h"

struct qn_model_wish {
    const char *overrides, *rope, *lora, *mtp_from; /* as typed, or NULL */
    double rope_scale, rope_base, freq_scale, attn_factor, ext_factor, beta_fast, beta_slow;
    int64_t orig_ctx;
};

/* Rows for a command's option table, filling the struct at W. */
#define QN_MODEL_OPTS(w)                                                                                     \
    {.name = "lora",                                                                                         \
     .type = QN_OPT_STR,                                                                                     \
     .out = &(w)->lora,                                                                                      \
     .arg = "FOLDER",                                                                                        \
     .help = "a PEFT adapter, merged into the weights at start"},                                            \
        {.name = "mtp-from",                                                                                 \
         .type = QN_OPT_STR,                                                                                 \
         .out = &(w)->mtp_from,                                                                              \
         .arg = "FOLDER",                                                                                    \
         .help = "a checkpoint of the same vocabulary whose draft layer is used"},                           \
        {.name = "hf-overrides",                                                                             \
         .type = QN_OPT_STR,                                                                                 \
         .out = &(w)->overrides,                                                                             \
         .arg = "JSON",                                                                                      \
         .help = "members laid over config.json, such as rope_parameters of a longer context",               \
         .alias = "json-model-override-args"},                                                               \
        {.name = "rope-scaling",                                                                             \
         .type = QN_OPT_STR,                                                                                 \
         .out = &(w)->rope,                                                                                  \
         .arg = "JSON|NAME",                                                                                 \
         .help = "longer contexts: a JSON object, or yarn, linear, none with the options below"},            \
        {.name = "rope-scale",                                                                               \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->rope_scale,                                                                            \
         .arg = "N",                                                                                         \
         .help = "factor of the context"},                                                                   \
        {.name = "yarn-orig-ctx",                                                                            \
         .type = QN_OPT_INT,                                                                                 \
         .out = &(w)->orig_ctx,                                                                              \
         .arg = "N",                                                                                         \
         .help = "original context; that of config.json by default",                                         \
         .min = 0,                                                                                           \
         .max = 16777216},                                                                                   \
        {.name = "yarn-attn-factor",                                                                         \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->attn_factor,                                                                           \
         .arg = "X",                                                                                         \
         .help = "on top of 1 + 0.1 ln(factor)"},                                                            \
        {.name = "yarn-beta-fast",                                                                           \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->beta_fast,                                                                             \
         .arg = "X",                                                                                         \
         .help = "turns from which a pair keeps its speed; 32"},                                             \
        {.name = "yarn-beta-slow",                                                                           \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->beta_slow,                                                                             \
         .arg = "X",                                                                                         \
         .help = "turns up to which a pair is slowed in full; 1"},                                           \
        {.name = "yarn-ext-factor",                                                                          \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->ext_factor,                                                                            \
         .arg = "X",                                                                                         \
         .help = "1 or -1: the ramp is applied in full, the only way here"},                                 \
        {.name = "rope-freq-base",                                                                           \
         .type = QN_OPT_NUM,                                                                                 \
         .out = &(w)->rope_base,                                                                             \
         .arg = "X",                                                                                         \
         .help = "rope_theta",                                                                               \
         .alias = "rope-theta"},                                                                             \
    {                                                                                                        \
        .name = "rope-freq-scale", .type = QN_OPT_NUM, .out = &(w)->freq_scale, .arg = "X",                  \
        .help = "1 / rope-scale"                                                                             \
    }

/* MODEL as a person gives it, opened with what the options say. Errors: those of qn_model_open; QN_INVAL
 * names the option. */
int qn_model_opts_open(struct qn_model **out, const char *model, const struct qn_model_wish *w,
                       struct qn_err *e);

#endif
