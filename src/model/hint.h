/* What a folder's JSON says about quantisation: hints to compare with the files, never obeyed.
 *
 * Reads quantization_config of config.json and hf_quant_config.json. The lists in circulation are often
 * wrong (routers and mtp.fc missing, prefixes that match nothing), so the files decide and the difference
 * becomes a line for the user. Owned by the model. SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_HINT_H
#define QN_HINT_H

#include "model/checkpoint.h"
#include "model/detect.h"

struct qn_hint;

/* Never fails for the contents of the lists, only for files that are not JSON. */
int qn_hint_read(struct qn_hint **out, const char *folder, struct qn_err *e);
void qn_hint_free(struct qn_hint *h);
const struct qn_scheme *qn_hint_scheme(const struct qn_hint *h); /* NULL for NULL */
/* Compares with the formats found; adds notes. */
void qn_hint_compare(struct qn_hint *h, const struct qn_model *m);
int qn_hint_n_note(const struct qn_hint *h);
const char *qn_hint_note(const struct qn_hint *h, int i);

/* Whether a pattern of an exclusion list covers a module: whole components anywhere in the name, a glob, or
 * "re:" and an expression. Prefixes (model., language_model.) may differ. */
bool qn_hint_matches(const char *pattern, const char *module);

#endif
