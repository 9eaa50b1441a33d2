/* An open checkpoint, a folder or a GGUF file: its configuration, its tensors by name, and the model they
 * form.
 *
 * Opening maps the files (nothing is read beyond headers), finds the name prefix, checks that each role
 * has its tensors with the expected shapes and that no text tensor is left over, and records every
 * disagreement between config and files as a line for the user. Owned by main; immutable after open; any
 * thread may read; closed last. The engine asks for views by role, so names never leave this folder.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_CHECKPOINT_H
#define QN_CHECKPOINT_H

#include "model/config.h"
#include "model/format.h"

struct qn_model;

/* Errors: QN_NOTFOUND (file or shard, named), QN_FORMAT (header, offsets, shapes; names tensor, expected,
 * found, remedy), QN_UNSUPPORTED. */
int qn_model_open(struct qn_model **out, const char *path, struct qn_err *e);
/* The same with what a user lays over the checkpoint. NULL: nothing. */
struct qn_model_options {
    const char *overrides; /* JSON laid over config.json (qn_config_read), or NULL */
    const char *lora;      /* folder of a PEFT adapter that is merged into the weights, or NULL */
    const char *mtp_from;  /* checkpoint folder whose draft layer is used, or NULL */
};
int qn_model_open_with(struct qn_model **out, const char *path, const struct qn_model_options *o,
                       struct qn_err *e);
void qn_model_close(struct qn_model *m);

const struct qn_config *qn_model_config(const struct qn_model *m);
const char *qn_model_folder(const struct qn_model *m); /* what the path stood for: a folder or a .gguf file */
bool qn_model_is_gguf(const struct qn_model *m);
const char *qn_model_name(const struct qn_model *m); /* qn_model_path_name */
bool qn_model_has_mtp(const struct qn_model *m);     /* mtp tensors are in the file */
uint64_t
qn_model_fingerprint(const struct qn_model *m); /* of config and tensor headers and samples of data */

/* Lines to show a user: disagreements, ignored tensors, assumptions. */
int qn_model_n_notes(const struct qn_model *m);
const char *qn_model_note(const struct qn_model *m, int i);

/* All tensors, for inspect and plan. */
int qn_model_n_tensors(const struct qn_model *m);
const struct qn_tensor *qn_model_tensor(const struct qn_model *m, int i);
const struct qn_tensor *qn_model_find(const struct qn_model *m, const char *name); /* or NULL */
bool qn_model_tensor_is_vision(const struct qn_model *m, int i);
bool qn_model_tensor_is_ignored(const struct qn_model *m, int i); /* a stale copy, a note says why */
int qn_model_n_files(const struct qn_model *m);

/* Roles. `layer` is 0..L-1, or QN_LAYER_MTP for the block under mtp.layers.0; ignored for global ones. */
#define QN_LAYER_MTP (-1)

enum qn_role {                /* linear layers */
               QN_ROLE_EMBED, /* a table [V, H] */
               QN_ROLE_HEAD,  /* = EMBED when tied */
               QN_ROLE_Q,
               QN_ROLE_K,
               QN_ROLE_V,
               QN_ROLE_O,
               QN_ROLE_GDN_QKV,
               QN_ROLE_GDN_Z,
               QN_ROLE_GDN_B,
               QN_ROLE_GDN_A,
               QN_ROLE_GDN_OUT,
               QN_ROLE_GATE, /* dense MLP */
               QN_ROLE_UP,
               QN_ROLE_DOWN,
               QN_ROLE_ROUTER,
               QN_ROLE_SHARED_GATE,
               QN_ROLE_SHARED_UP,
               QN_ROLE_SHARED_DOWN,
               QN_ROLE_SHARED_MIX,  /* shared_expert_gate [1, H] */
               QN_ROLE_MTP_FC,      /* [H, 2H] */
               QN_ROLE_EXPERT_GATE, /* per expert, from fused or separate tensors */
               QN_ROLE_EXPERT_UP,
               QN_ROLE_EXPERT_DOWN,
               QN_N_ROLE
};

enum qn_vec {                        /* small tensors, widened to float */
              QN_VEC_FINAL_NORM,     /* [H], 1 + w */
              QN_VEC_INPUT_NORM,     /* [H], 1 + w */
              QN_VEC_POST_NORM,      /* [H], 1 + w */
              QN_VEC_Q_NORM,         /* [hd], 1 + w */
              QN_VEC_K_NORM,         /* [hd], 1 + w */
              QN_VEC_CONV,           /* [CD, taps] */
              QN_VEC_A_LOG,          /* [NV] */
              QN_VEC_DT_BIAS,        /* [NV] */
              QN_VEC_GDN_NORM,       /* [DV], plain w */
              QN_VEC_MTP_NORM_EMBED, /* [H], 1 + w */
              QN_VEC_MTP_NORM_HIDDEN,
              QN_VEC_MTP_NORM,
              QN_N_VEC
};

/* The view of a linear layer. `expert` is 0..E-1 for QN_ROLE_EXPERT_*, else ignored.
 * Checked at open, so it fails only for a role the model does not have (QN_NOTFOUND). */
int qn_model_linear(const struct qn_model *m, enum qn_role role, int layer, int expert, struct qn_linear *out,
                    struct qn_err *e);
/* The same without touching the data: scale2, zero_offset and g_idx are not filled. For sizes and plans. */
int qn_model_stored(const struct qn_model *m, enum qn_role role, int layer, int expert, struct qn_linear *out,
                    struct qn_err *e);
/* Raw values (norms as stored, without the 1), n floats as in the table above. */
int qn_model_vec(const struct qn_model *m, enum qn_vec vec, int layer, float *out, size_t n,
                 struct qn_err *e);
/* Norm weights of the file hold 1 + w (an MLX save); qn_model_vec has taken the 1 off. */
bool qn_model_is_shifted(const struct qn_model *m);
/* KV-cache scales of a full-attention layer; 1 when the file has none. Returns whether it has. */
bool qn_model_kv_scale(const struct qn_model *m, int layer, float *k_scale, float *v_scale);
int qn_model_n_kv_scale(const struct qn_model *m);     /* full-attention layers that have them */
bool qn_model_has_kv_scales(const struct qn_model *m); /* all of them */

/* The parts of a model, from its files or as just written. */
struct qn_source {
    void *ctx;
    int (*linear)(void *ctx, enum qn_role role, int layer, int expert, struct qn_linear *out,
                  struct qn_err *e);
    int (*vec)(void *ctx, enum qn_vec vec, int layer, float *out, size_t n, struct qn_err *e);
};

/* Read-ahead and release of file pages while a loader walks the model. */
void qn_model_will_need(const struct qn_model *m, const struct qn_linear *l);
void qn_model_done_with(const struct qn_model *m, const struct qn_linear *l);

#endif
