/* Recipes: which layers of a model are quantised, after the published releases, and what the configuration
 * files say about it. Stateless; any thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_RECIPE_H
#define QN_RECIPE_H

#include "base/buf.h"
#include "model/checkpoint.h"
#include "model/encode.h"

struct qn_recipe;

const struct qn_recipe *qn_recipe_find(const char *name); /* NULL when unknown */
const struct qn_recipe *qn_recipe_at(int i);              /* NULL after the last */
const char *qn_recipe_name(const struct qn_recipe *r);
const char *qn_recipe_summary(const struct qn_recipe *r);
/* What the releases in that format do. */
const struct qn_recipe *qn_recipe_default(const struct qn_store *s, const struct qn_config *c);

/* How a layer is stored: `main`, another store for some layers of a mixed recipe, or NULL to leave it. */
const struct qn_store *qn_recipe_store(const struct qn_recipe *r, const struct qn_store *main,
                                       const struct qn_config *c, enum qn_role role, int layer);

/* Group of the 4-bit integer formats: 128, or less when a width of the model asks for it. */
int qn_group_size(const struct qn_config *c);

/* A linear module as it is written. */
struct qn_module {
    char *stem;
    const struct qn_store *store; /* NULL: left as it was */
};
/* quantization_config for config.json, and for ModelOpt formats the text of hf_quant_config.json
 * (else *hf stays empty). */
void qn_recipe_json(const struct qn_store *main, int group, bool is_act_order,
                    const struct qn_module *modules, int n, bool has_vision, struct qn_buf *config,
                    struct qn_buf *hf);

#endif
