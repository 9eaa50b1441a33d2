/* Opening a model with overrides: the flags of other servers for longer contexts, as members of config.json.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/model_opts.h"

#include <math.h>

#include "base/json.h"

#define MAX_ARENA ((size_t)64 << 20)

/* "yarn" and the numbers beside it, as llama.cpp's server takes them. */
static int rope_of_words(const struct qn_model_wish *w, struct qn_buf *b, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type = w->rope ? w->rope : w->orig_ctx ? "yarn" : "linear";
    double scale = w->rope_scale != 0 ? w->rope_scale : w->freq_scale != 0 ? 1 / w->freq_scale : 0;
    QN_FAIL_IF(strcmp(type, "yarn") && strcmp(type, "linear") && strcmp(type, "none"), e, QN_INVAL,
               "--rope-scaling %.40s: yarn, linear, none, or a JSON object", type);
    QN_FAIL_IF(w->ext_factor != 0 && w->ext_factor != 1 && w->ext_factor >= 0, e, QN_UNSUPPORTED,
               "--yarn-ext-factor %g: only 1 (the whole ramp) is served", w->ext_factor);
    if (!strcmp(type, "none")) {
        qn_buf_puts(b, "{\"rope_type\":\"default\"}");
        goto out;
    }
    QN_FAIL_IF(!(scale >= 1), e, QN_INVAL, "--rope-scaling %s needs --rope-scale N, a factor of 1 or more",
               type);
    qn_buf_printf(b, "{\"rope_type\":\"%s\",\"factor\":%.17g", type, scale);
    if (w->orig_ctx) qn_buf_printf(b, ",\"original_max_position_embeddings\":%" PRId64, w->orig_ctx);
    if (w->beta_fast > 0) qn_buf_printf(b, ",\"beta_fast\":%.17g", w->beta_fast);
    if (w->beta_slow > 0) qn_buf_printf(b, ",\"beta_slow\":%.17g", w->beta_slow);
    if (w->attn_factor > 0)
        qn_buf_printf(b, ",\"attention_factor\":%.17g", w->attn_factor * (1 + 0.1 * log(scale)));
    qn_buf_puts(b, "}");
out:
    return rc;
}

/* One object of everything that is laid over config.json; NULL in *out when there is nothing. */
static int overrides(const struct qn_model_wish *w, struct qn_buf *text, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(MAX_ARENA);
    struct qn_buf rope = QN_BUF_INIT(1 << 16);
    struct qn_json *all = qn_json_new(arena, QN_JSON_OBJECT), *part;
    if (w->overrides) {
        QN_TRY(qn_json_parse(&all, arena, w->overrides, strlen(w->overrides), "--hf-overrides", e));
        QN_FAIL_IF(all->type != QN_JSON_OBJECT, e, QN_INVAL, "--hf-overrides: a JSON object is needed");
    }
    if (w->rope || w->rope_scale != 0 || w->freq_scale != 0 || w->orig_ctx) {
        if (w->rope && *w->rope == '{')
            qn_buf_puts(&rope, w->rope);
        else
            QN_TRY(rope_of_words(w, &rope, e));
        QN_TRY(qn_json_parse(&part, arena, qn_buf_str(&rope), rope.n_byte, "--rope-scaling", e));
        QN_FAIL_IF(!qn_json_set(arena, all, "rope_scaling", part), e, QN_TOOBIG, "--rope-scaling: too long");
    }
    if (w->rope_base > 0) {
        char number[64];
        snprintf(number, sizeof number, "%.17g", w->rope_base);
        QN_TRY(qn_json_parse(&part, arena, number, strlen(number), "--rope-freq-base", e));
        struct qn_json *params = qn_json_new(arena, QN_JSON_OBJECT);
        QN_FAIL_IF(!qn_json_set(arena, params, "rope_theta", part) ||
                       !qn_json_set(arena, all, "rope_parameters", params),
                   e, QN_TOOBIG, "--rope-freq-base: too long");
    }
    if (all->n) QN_TRY(qn_json_write(text, all, QN_JSON_COMPACT));
out:
    qn_buf_free(&rope);
    qn_arena_free(arena);
    return rc;
}

int qn_model_opts_open(struct qn_model **out, const char *model, const struct qn_model_wish *w,
                       struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    QN_TRY(overrides(w, &text, e));
    struct qn_model_options o = {
        .overrides = text.n_byte ? qn_buf_str(&text) : NULL, .lora = w->lora, .mtp_from = w->mtp_from};
    QN_TRY(qn_model_open_with(out, model, &o, e));
out:
    qn_buf_free(&text);
    return rc;
}
