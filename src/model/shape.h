/* Shapes by name: the released sizes of the family and tiny ones for tests.
 * Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_SHAPE_H
#define QN_SHAPE_H

#include "base/buf.h"
#include "model/config.h"

enum qn_expert_layout { QN_EXPERTS_FUSED, QN_EXPERTS_SPLIT, QN_EXPERTS_MIXED /* odd layers split */ };

struct qn_shape {
    struct qn_config config;
    enum qn_expert_layout experts, mtp_experts; /* of unquantised layers */
    bool has_mtp;                               /* write mtp.* */
    bool is_text_only;                          /* flat config, names under model. */
    int first_control;                          /* id of <|endoftext|>; the other control tokens follow */
};

/* "qwen3.5-0.8b" .. "qwen3.5-397b-a17b" (also without "qwen3.5-"), "tiny", "tiny-moe", or a tiny one with
 * options: "tiny:hidden=128,v_heads=8,tied=1". Errors: QN_INVAL, naming what is known. */
int qn_shape_find(struct qn_shape *out, const char *text, struct qn_err *e);
/* Keeps the first n_layer layers. QN_INVAL unless 1 <= n_layer <= the model's. */
int qn_shape_cut(struct qn_shape *s, int n_layer, struct qn_err *e);
/* Parameters of the text model (a tied head counted once), or of the MTP block. */
int64_t qn_shape_params(const struct qn_config *c, bool mtp);
/* A line a shape, for --help and errors. */
void qn_shape_list(FILE *out);

/* config.json in the published spelling; `quantization` is a JSON object or NULL. */
void qn_shape_config_json(const struct qn_shape *s, const char *quantization, struct qn_buf *out);
void qn_shape_generation_json(const struct qn_shape *s, struct qn_buf *out);

#endif
