/* Tensor names: which module plays which role, with which shape, under which prefix.
 *
 * The only place that knows names. Roles and vectors are those of model/checkpoint.h. Stateless; any thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_ROLES_H
#define QN_ROLES_H

#include "model/checkpoint.h"

#define QN_NAME_BYTES 256

/* Prefixes as found in a file, each with its final dot (head: the whole module name). */
struct qn_names {
    char text[96]; /* "model.language_model." */
    char mtp[96];  /* "mtp." */
    char head[96]; /* "lm_head" */
};
extern const struct qn_names qn_names_published;
const struct qn_names *qn_model_names(const struct qn_model *m); /* as found when opened */

bool qn_role_is_global(enum qn_role role); /* EMBED, HEAD, MTP_FC: one a model */
bool qn_role_is_expert(enum qn_role role);
/* The shape [n_out, n_in] of a role, or false when the model has no such role at that layer. */
bool qn_role_shape(const struct qn_config *c, enum qn_role role, int layer, int *n_out, int *n_in);
/* "self_attn.q_proj"; of experts "mlp.experts.*.gate_proj". */
const char *qn_role_module(enum qn_role role);
/* The full module name, without ".weight". Experts: "...mlp.experts.7.gate_proj". */
void qn_role_stem(const struct qn_names *names, enum qn_role role, int layer, int expert,
                  char out[QN_NAME_BYTES]);
/* The fused 3-D tensor an expert role may be a slice of ("...mlp.experts.gate_up_proj"), its rows for one
 * expert, and the first row of this role in it. */
void qn_role_fused(const struct qn_config *c, const struct qn_names *names, enum qn_role role, int layer,
                   char out[QN_NAME_BYTES], int *rows, int *first_row, int *n_in);

/* Number of values of a small tensor, 0 when the model has none at that layer, and its name. */
size_t qn_vec_count(const struct qn_config *c, enum qn_vec vec, int layer);
bool qn_vec_is_global(enum qn_vec vec);
void qn_vec_name(const struct qn_names *names, enum qn_vec vec, int layer, char out[QN_NAME_BYTES]);

#endif
