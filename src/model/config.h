/* What config.json and generation_config.json say about a model, in one struct of plain numbers.
 *
 * Read with every spelling in circulation (nested text_config or flat, rope fields in three places, the
 * tie flag on two levels); field by field in docs/model.md. Immutable after qn_config_read; any thread.
 * Letters in brackets are those of the formulas in docs/model.md.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CONFIG_H
#define QN_CONFIG_H

#include "base/err.h"

#define QN_MAX_LAYERS      256
#define QN_MAX_STOP        8
#define QN_MAX_CONFIG_NOTE 12

enum qn_rope_type { QN_ROPE_DEFAULT, QN_ROPE_LINEAR, QN_ROPE_YARN, QN_ROPE_LLAMA3, QN_ROPE_PROPORTIONAL };

/* How positions beyond the original context turn; all zero: as trained. */
struct qn_rope {
    enum qn_rope_type type;
    double factor, original;                       /* context = factor * original */
    double attention_factor, beta_fast, beta_slow; /* YARN */
    bool is_exact;                                 /* YARN: the ramp's ends are not rounded */
    double low, high;                              /* LLAMA3 */
    int n_rotated;                                 /* PROPORTIONAL: pairs that turn at all */
};

enum qn_gate_act { QN_GATE_SILU, QN_GATE_SIGMOID }; /* output_gate_type of the gated norm */

struct qn_config {
    char architecture[64]; /* architectures[0], or model_type when that is missing */
    bool is_moe;
    bool has_vision; /* a vision_config is present */
    bool is_tied;    /* the head uses embed_tokens */

    int hidden;      /* [H] */
    int n_layer;     /* [L], without MTP */
    int vocab;       /* [V] rows of embed_tokens, with padding */
    int max_context; /* max_position_embeddings */
    float norm_eps;

    /* full attention */
    int n_head, n_kv_head, head_dim; /* [nh] [nkv] [hd] */
    int rotary_dim;                  /* head_dim * partial_rotary_factor, even */
    double rope_theta;
    struct qn_rope rope;
    int mrope_section[3]; /* as given, meant to sum to rotary_dim / 2; {0,0,0}: one position for all */

    /* gated delta net */
    int n_k_head, n_v_head, k_dim, v_dim; /* [NK] [NV] [DK] [DV]; NV is a multiple of NK */
    int conv_taps;                        /* 4 */
    enum qn_gate_act gate_act;
    bool is_tiled; /* value heads as GGUF files order them: see qn_config_key_head */

    /* feed forward */
    int ffn;             /* [F], dense */
    int n_expert, top_k; /* [E] [k]; 0 when dense */
    int n_mtp_expert;    /* of the MTP layer: a pruned model may keep all of them there */
    int expert_ffn;      /* [I] */
    int shared_ffn;      /* [S] */

    int n_mtp; /* promised MTP layers; the file decides whether they exist */

    unsigned char is_full[QN_MAX_LAYERS]; /* [L] 1: full attention, 0: gated delta net */
    int n_full, n_gdn;

    int stop_tok[QN_MAX_STOP]; /* eos ids: generation_config first, then config.json, no duplicates */
    int n_stop;
    int pad_tok; /* or -1 */

    /* generation_config.json; NaN (or -1) when absent */
    float temperature, top_p, min_p, presence_penalty, repetition_penalty;
    int gen_top_k;

    char quant_method[32]; /* quantization_config.quant_method, "" when absent: a hint only */

    int n_note; /* lines for a user: contradictions, fields not acted upon */
    char note[QN_MAX_CONFIG_NOTE][240];
};

/* Derived widths. */
static inline int qn_config_key_dim(const struct qn_config *c)
{
    return c->n_k_head * c->k_dim;
} /* [KD] */
static inline int qn_config_value_dim(const struct qn_config *c)
{
    return c->n_v_head * c->v_dim;
} /* [VD] */
static inline int qn_config_conv_dim(const struct qn_config *c) /* [CD] */
{
    return 2 * qn_config_key_dim(c) + qn_config_value_dim(c);
}

/* The key head that value head j goes with: neighbours share one, or, in the order of GGUF files, heads NK
 * apart. */
static inline int qn_config_key_head(const struct qn_config *c, int j)
{
    return c->is_tiled ? j % c->n_k_head : j / (c->n_v_head / c->n_k_head);
}

/* Frequencies of the rotary embedding [rotary_dim / 2], and the factor on its cosines and sines. Every back
 * end takes them from here. */
void qn_rope_frequencies(const struct qn_config *c, float *out);
float qn_rope_gain(const struct qn_config *c);
const char *qn_rope_name(enum qn_rope_type t);

/* Reads FOLDER/config.json and, when present, generation_config.json. `overrides`: a JSON object laid over
 * config.json, member by member (names that belong to the text model find their way into text_config); or
 * NULL. Errors: QN_NOTFOUND, QN_FORMAT (not JSON, wrong type), QN_INVAL (missing or absurd numbers, naming
 * the field and the limits), QN_UNSUPPORTED (another architecture, rope type, ...). */
int qn_config_read(struct qn_config *out, const char *folder, const char *overrides, struct qn_err *e);

/* The same from memory. */
struct qn_config_text {
    const char *config;
    size_t n_config;
    const char *generation; /* or NULL */
    size_t n_generation;
    const char *overrides; /* or NULL */
    const char *name;      /* the file named in errors */
};
int qn_config_parse(struct qn_config *out, const struct qn_config_text *text, struct qn_err *e);

#endif
