/* Opening a checkpoint: files, prefix, roles, what is left over.
 *
 * Every linear layer and small tensor the configuration asks for is looked up once at open, which checks
 * shapes and marks tensors as used; views are made again from the same lookup when asked for, so nothing
 * is stored a layer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/checkpoint.h"

#include <ctype.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/model_path.h"
#include "base/shown.h"
#include "model/adapter.h"
#include "model/detect.h"
#include "model/gguf.h"
#include "model/hint.h"
#include "model/rename.h"
#include "model/roles.h"
#include "model/shards.h"

#define MAX_INDEX_ARENA ((size_t)1 << 30)
#define PAGE_BYTES      4096
#define SAMPLES         256 /* places where opening looks at data: each may be a disk access */

enum use { UNUSED, USED, SIDE, VISION, IGNORED };

struct qn_model {
    struct qn_config config;
    char *folder, *name;
    struct qn_shards shards, donor; /* the checkpoint; where its draft layer comes from */
    struct qn_merged *merged;       /* layers an adapter was merged into */
    struct qn_gguf_set gguf;        /* in place of shards; n 0: a folder of safetensors files */
    struct qn_tensor *tensors;      /* [n], in file order */
    unsigned char *use;             /* [n] enum use */
    int *file_of;                   /* [n] */
    int n;
    struct qn_arena *name_arena; /* of tensors that are called otherwise than in the file */
    struct qn_map by_name;       /* hash -> index */
    struct qn_names names;
    bool is_shifted[2]; /* norm weights hold 1 + w: of the model, of the MTP layer */
    bool has_stacked;   /* experts in one tensor, in some layer */
    struct qn_hint *hint;
    bool has_mtp;
    char *mtp_fault; /* why the files' MTP block cannot be used, or NULL */
    uint64_t fingerprint;
    struct qn_notes notes;
};

#define note(m, ...) qn_note(&(m)->notes, __VA_ARGS__)

/* --- names --- */

static int find_index(const struct qn_model *m, const char *name)
{
    uint64_t key = qn_hash_str(name) | 1, at;
    while (qn_map_get(&m->by_name, key, &at)) {
        if (!strcmp(m->tensors[at].name, name)) return (int)at;
        key = qn_mix64(key) | 1;
    }
    return -1;
}

static void put_index(struct qn_model *m, int i)
{
    uint64_t key = qn_hash_str(m->tensors[i].name) | 1;
    while (qn_map_get(&m->by_name, key, NULL)) key = qn_mix64(key) | 1;
    qn_map_put(&m->by_name, key, (uint64_t)i);
}

static const struct qn_tensor *find_const(void *ctx, const char *name)
{
    const struct qn_model *m = ctx;
    int i = find_index(m, name);
    return i < 0 ? NULL : &m->tensors[i];
}

static const struct qn_tensor *find_and_mark(void *ctx, const char *name)
{
    struct qn_model *m = ctx;
    int i = find_index(m, name);
    if (i < 0) return NULL;
    m->use[i] = USED;
    return &m->tensors[i];
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

static bool starts_with(const char *s, const char *head)
{
    return !strncmp(s, head, strlen(head));
}

/* --- files --- */

static int open_gguf(struct qn_model *m, const char *overrides, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(qn_gguf_set_open(&m->gguf, m->folder, e));
    for (int i = 0; i < m->gguf.n; i++) qn_gguf_advise(m->gguf.files[i], MADV_RANDOM);
    QN_TRY(qn_gguf_config(&m->gguf, overrides, &m->config, e));
out:
    return rc;
}

/* Is this a tensor of all experts of a layer: no number where one would stand? */
static bool is_stacked_name(const char *name)
{
    const char *at = strstr(name, ".experts.");
    return strstr(name, ".switch_mlp.") || (at && !isdigit((unsigned char)at[strlen(".experts.")]));
}

/* The tensors of the folder's files, under the names of a published checkpoint where others wrote them. */
static int gather(struct qn_model *m, const struct qn_model_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_tensors t = {0};
    m->name_arena = qn_arena_create(MAX_INDEX_ARENA);
    if (m->gguf.n) {
        QN_TRY(qn_gguf_tensors(&m->gguf, &m->config, m->name_arena, &t, e));
    } else {
        QN_TRY(qn_shards_open(&m->shards, m->folder, &t, &m->notes, e));
        QN_TRY(qn_tensors_rename(&t, &m->config, m->name_arena, &m->notes, e));
    }
    if (o && o->mtp_from) QN_TRY(qn_adapter_draft(&m->donor, o->mtp_from, &t, m->name_arena, &m->notes, e));
    if (o && o->lora)
        QN_TRY(
            qn_adapter_merge(&m->merged, o->lora, &t, qn_hint_scheme(m->hint), m->name_arena, &m->notes, e));
    m->tensors = t.list;
    m->file_of = t.file_of;
    m->use = xcalloc((size_t)t.n + 1, 1);
    for (t.list = NULL, t.file_of = NULL; m->n < t.n; m->n++) {
        QN_FAIL_IF(find_index(m, m->tensors[m->n].name) >= 0, e, QN_FORMAT,
                   "tensor %s is there under two names: the conversion is broken, use another copy",
                   m->tensors[m->n].name);
        put_index(m, m->n);
        m->has_stacked |= is_stacked_name(m->tensors[m->n].name);
    }
out:
    qn_tensors_free(&t);
    return rc;
}

/* --- prefix --- */

static const char *const weight_kinds[] = {"weight", "weight_packed", "qweight"};

static int find_names(struct qn_model *m, struct qn_err *e)
{
    int rc = QN_OK;
    static const char embed[] = "embed_tokens.weight";
    const char *hit = NULL;
    bool has_mtp = false;
    for (int i = 0; i < m->n; i++) {
        const char *name = m->tensors[i].name;
        if (!ends_with(name, embed) || qn_is_vision_name(name) || starts_with(name, "mtp.") ||
            strstr(name, ".mtp."))
            continue;
        QN_FAIL_IF(hit, e, QN_FORMAT, "both %s and %s are in the files; which is the model?", hit, name);
        hit = name;
    }
    QN_FAIL_IF(!hit, e, QN_NOTFOUND, "%s: no tensor ends in %s, the files hold no text model", m->folder,
               embed);
    size_t n = strlen(hit) - strlen(embed);
    QN_FAIL_IF(n >= sizeof m->names.text, e, QN_FORMAT, "%s: the prefix is longer than %zu bytes", hit,
               sizeof m->names.text - 1);
    memcpy(m->names.text, hit, n);

    char tries[5][192] = {"mtp.", "model.mtp.", "language_model.mtp.", "model.language_model.mtp.", ""};
    snprintf(tries[4], sizeof tries[4], "%smtp.", m->names.text);
    snprintf(m->names.mtp, sizeof m->names.mtp, "mtp.");
    for (size_t i = 0; i < QN_COUNT(tries); i++)
        for (int k = 0; k < m->n; k++)
            if (starts_with(m->tensors[k].name, tries[i]) && strlen(tries[i]) < sizeof m->names.mtp) {
                memcpy(m->names.mtp, tries[i], strlen(tries[i]) + 1);
                i = QN_COUNT(tries) - 1;
                has_mtp = true;
                break;
            }

    for (int k = 0; k < m->n && !has_mtp; k++) { /* under any prefix */
        const char *name = m->tensors[k].name, *at = strstr(name, ".mtp.");
        size_t length = at ? (size_t)(at - name) + strlen(".mtp.") : sizeof m->names.mtp;
        if (length >= sizeof m->names.mtp || qn_is_vision_name(name)) continue;
        snprintf(m->names.mtp, sizeof m->names.mtp, "%.*s", (int)length, name);
        has_mtp = true;
    }

    static const char *const heads[] = {"lm_head", "language_model.lm_head", "model.lm_head",
                                        "model.language_model.lm_head"};
    snprintf(m->names.head, sizeof m->names.head, "lm_head");
    for (size_t i = 0; i < QN_COUNT(heads); i++)
        for (size_t k = 0; k < QN_COUNT(weight_kinds); k++) {
            char name[96];
            snprintf(name, sizeof name, "%s.%s", heads[i], weight_kinds[k]);
            if (find_index(m, name) >= 0) {
                snprintf(m->names.head, sizeof m->names.head, "%s", heads[i]);
                goto out;
            }
        }
    for (int i = 0; i < m->n; i++) { /* under any prefix */
        const char *name = m->tensors[i].name, *at = strstr(name, ".lm_head.weight");
        if (!at || at[strlen(".lm_head.weight")] || qn_is_mtp_name(name)) continue;
        size_t length = (size_t)(at - name) + strlen(".lm_head");
        if (length >= sizeof m->names.head) continue;
        snprintf(m->names.head, sizeof m->names.head, "%.*s", (int)length, name);
        break;
    }
out:
    return rc;
}

/* Are two tensors the same numbers? The first difference ends the look. */
static bool is_same(const struct qn_tensor *a, const struct qn_tensor *b)
{
    if (a->n_dim != b->n_dim || memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)a->n_dim)) return false;
    if (a->dtype == b->dtype) return !memcmp(a->data, b->data, a->n_byte);
    size_t n = a->n_byte / qn_dtype_bytes(a->dtype);
    for (size_t i = 0; i < n; i++)
        if (!(qn_tensor_value(a, i) == qn_tensor_value(b, i))) return false;
    return true;
}

/* A tied model whose files have a head of its own: as in transformers, the head counts unless it is the same.
 */
static void settle_head(struct qn_model *m)
{
    char name[QN_NAME_BYTES];
    if (!m->config.is_tied) return;
    snprintf(name, sizeof name, "%sembed_tokens.weight", m->names.text);
    const struct qn_tensor *embed = qn_model_find(m, name), *head = NULL;
    for (size_t i = 0; i < QN_COUNT(weight_kinds) && !head; i++) {
        snprintf(name, sizeof name, "%s.%s", m->names.head, weight_kinds[i]);
        head = qn_model_find(m, name);
    }
    if (!head || !embed || is_same(embed, head)) return;
    m->config.is_tied = false;
    note(m,
         "config.json ties the head to embed_tokens, the files hold another %s: it is used, as in "
         "transformers",
         head->name);
}

/* --- roles --- */

static struct qn_detect lookup(const struct qn_model *m, bool mark)
{
    return (struct qn_detect){mark ? find_and_mark : find_const, (void *)(uintptr_t)m,
                              qn_hint_scheme(m->hint)};
}

/* --- experts in one tensor --- */

/* The spellings of experts that are laid one above the other, in the order they are looked for. */
static const struct stacked {
    const char *pair, *one; /* both of gate and up in one tensor, or each in its own */
} stackeds[] = {{"mlp.experts.gate_up_proj", "mlp.experts."},
                {"mlp.switch_mlp.gate_up_proj", "mlp.switch_mlp."}};

/* A search that gives the slice of one expert. */
struct slices {
    const struct qn_detect *d;
    const char *stem;
    int expert, n_expert;
    struct qn_tensor found[12];
    int n_found;
};

/* Companions of a stacked tensor are called X.weight_scale, or X_scale as transformers 5 saves them. */
static const struct qn_tensor *find_stacked(const struct qn_detect *d, const char *stem, const char *suffix)
{
    char name[QN_NAME_BYTES + 64];
    snprintf(name, sizeof name, "%s.%s", stem, suffix);
    const struct qn_tensor *t = d->find(d->ctx, name);
    if (t || strncmp(suffix, "weight", 6)) return t;
    snprintf(name, sizeof name, "%s%s", stem, suffix + 6);
    return d->find(d->ctx, name);
}

static const struct qn_tensor *find_slice(void *ctx, const char *name)
{
    struct slices *s = ctx;
    const struct qn_tensor *t = find_stacked(s->d, s->stem, name + strlen(s->stem) + 1);
    if (!t || s->n_found == (int)QN_COUNT(s->found)) return NULL;
    struct qn_tensor *out = &s->found[s->n_found++];
    *out = *t;
    if (t->n_dim < 1 || t->shape[0] != s->n_expert) return out; /* one for all */
    out->n_byte = t->n_byte / (size_t)s->n_expert;
    out->data = (const char *)t->data + (size_t)s->expert * out->n_byte;
    out->n_dim = t->n_dim - 1;
    memmove(out->shape, out->shape + 1, (size_t)out->n_dim * sizeof *out->shape);
    return out;
}

/* The stem of the stacked tensor a role of the layer lies in; false when there is none. *is_pair: gate rows,
 * then up rows. */
static bool find_fused(const struct qn_model *m, const struct qn_detect *d, enum qn_role role, int layer,
                       char stem[QN_NAME_BYTES], bool *is_pair)
{
    if (!m->has_stacked) return false;
    char prefix[QN_NAME_BYTES];
    const char *own = strrchr(qn_role_module(role), '.') + 1;
    qn_role_stem(&m->names, QN_ROLE_ROUTER, layer, 0, prefix);
    prefix[strlen(prefix) - strlen(qn_role_module(QN_ROLE_ROUTER))] = 0;
    for (size_t i = 0; i < QN_COUNT(stackeds); i++)
        for (int pair = role != QN_ROLE_EXPERT_DOWN; pair >= 0; pair--) {
            snprintf(stem, QN_NAME_BYTES, "%s%s%s", prefix, pair ? stackeds[i].pair : stackeds[i].one,
                     pair ? "" : own);
            *is_pair = pair;
            for (size_t k = 0; k < QN_COUNT(weight_kinds); k++)
                if (find_stacked(d, stem, weight_kinds[k])) return true;
        }
    return false;
}

static int n_expert_of(const struct qn_model *m, int layer)
{
    return layer == QN_LAYER_MTP ? m->config.n_mtp_expert : m->config.n_expert;
}

static int expert_linear(const struct qn_model *m, const struct qn_detect *d, enum qn_role role, int layer,
                         int expert, bool is_deep, struct qn_linear *out, struct qn_err *e)
{
    int rc = QN_OK, n_out, n_in;
    char stem[QN_NAME_BYTES], fused[QN_NAME_BYTES], found[120];
    bool is_pair;
    qn_role_stem(&m->names, role, layer, expert, stem);
    qn_role_shape(&m->config, role, layer, &n_out, &n_in);
    if (!find_fused(m, d, role, layer, fused, &is_pair))
        return qn_detect_linear(d, stem, n_out, n_in, is_deep, out, e);
    struct slices s = {.d = d, .stem = fused, .expert = expert, .n_expert = n_expert_of(m, layer)};
    struct qn_detect slice = {find_slice, &s, d->scheme};
    const struct qn_tensor *t = find_stacked(d, fused, "weight");
    QN_FAIL_IF(t && (t->n_dim != 3 || t->shape[0] != s.n_expert), e, QN_FORMAT,
               "tensor %s: expected [%d, %d, %d], found %s; config.json and the files do not belong together",
               t->name, s.n_expert, is_pair ? 2 * n_out : n_out, n_in,
               qn_tensor_text(t, found, sizeof found));
    QN_TRY(qn_detect_linear(&slice, fused, is_pair ? 2 * n_out : n_out, n_in, is_deep, out, e));
    if (is_pair) QN_TRY(qn_linear_take_rows(out, role == QN_ROLE_EXPERT_UP ? n_out : 0, n_out, e));
    snprintf(out->name, sizeof out->name, "%s", stem);
out:
    return rc;
}

static int make_linear(const struct qn_model *m, const struct qn_detect *d, enum qn_role role, int layer,
                       int expert, bool is_deep, struct qn_linear *out, struct qn_err *e)
{
    int n_out, n_in;
    char stem[QN_NAME_BYTES];
    qn_role_shape(&m->config, role, layer, &n_out, &n_in);
    if (qn_role_is_expert(role)) return expert_linear(m, d, role, layer, expert, is_deep, out, e);
    if (role == QN_ROLE_HEAD && m->config.is_tied) role = QN_ROLE_EMBED;
    qn_role_stem(&m->names, role, layer, expert, stem);
    int rc = qn_detect_linear(d, stem, n_out, n_in, is_deep, out, e);
    if (rc == QN_NOTFOUND && role == QN_ROLE_HEAD)
        return qn_err_set(
            e, QN_NOTFOUND, __FILE__, __LINE__,
            "lm_head.weight [%d, %d] is missing and config.json does not tie it: this copy was saved without "
            "its head, "
            "take another. Only if the model shares both: --hf-overrides '{\"tie_word_embeddings\":true}'",
            n_out, n_in);
    return rc;
}

static int vec_tensor(const struct qn_model *m, const struct qn_detect *d, enum qn_vec vec, int layer,
                      const struct qn_tensor **out, struct qn_err *e)
{
    int rc = QN_OK;
    char name[QN_NAME_BYTES], found[120];
    size_t n = qn_vec_count(&m->config, vec, layer);
    qn_vec_name(&m->names, vec, layer, name);
    const struct qn_tensor *t = d->find(d->ctx, name);
    QN_FAIL_IF(!t, e, QN_NOTFOUND, "tensor %s [%zu] is missing; the download or the conversion is incomplete",
               name, n);
    QN_FAIL_IF(t->dtype != QN_F32 && t->dtype != QN_BF16 && t->dtype != QN_F16, e, QN_UNSUPPORTED,
               "tensor %s is %s; BF16, F16 or F32 is needed", name, qn_dtype_name(t->dtype));
    bool fits = t->n_byte == n * qn_dtype_bytes(t->dtype);
    if (vec == QN_VEC_CONV)
        fits = fits && t->n_dim >= 2 && t->shape[0] == qn_config_conv_dim(&m->config) &&
               (t->shape[t->n_dim - 1] == m->config.conv_taps ||
                (t->n_dim == 3 && t->shape[1] == m->config.conv_taps)); /* MLX: the same bytes */
    QN_FAIL_IF(!fits, e, QN_FORMAT,
               "tensor %s: expected %zu values, found %s; config.json and the files do not belong together",
               name, n, qn_tensor_text(t, found, sizeof found));
    *out = t;
out:
    return rc;
}

static int check_layer(struct qn_model *m, const struct qn_detect *d, int layer, struct qn_err *e)
{
    int rc = QN_OK, n_out, n_in;
    const struct qn_config *c = &m->config;
    struct qn_linear l;
    const struct qn_tensor *t;
    for (int r = 0; r < QN_N_ROLE; r++) {
        enum qn_role role = (enum qn_role)r;
        if (qn_role_is_global(role) || !qn_role_shape(c, role, layer, &n_out, &n_in)) continue;
        if (!qn_role_is_expert(role)) {
            QN_TRY(make_linear(m, d, role, layer, 0, false, &l, e));
            continue;
        }
        char fused[QN_NAME_BYTES];
        bool is_pair, is_stacked = find_fused(m, d, role, layer, fused, &is_pair);
        for (int x = 0; x < n_expert_of(m, layer); x++) {
            QN_TRY(make_linear(m, d, role, layer, x, false, &l, e));
            char stem[QN_NAME_BYTES + 8];
            qn_role_stem(&m->names, role, layer, x, stem);
            strcat(stem, ".weight");
            QN_FAIL_IF(is_stacked && find_const(m, stem), e, QN_FORMAT,
                       "experts of layer %d are stored twice (%s and %s): the conversion is broken, use "
                       "another copy",
                       layer, fused, stem);
        }
    }
    for (int v = 0; v < QN_N_VEC; v++)
        if (!qn_vec_is_global((enum qn_vec)v) && qn_vec_count(c, (enum qn_vec)v, layer))
            QN_TRY(vec_tensor(m, d, (enum qn_vec)v, layer, &t, e));
out:
    return rc;
}

static int check_text(struct qn_model *m, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_detect d = lookup(m, true);
    struct qn_linear l;
    const struct qn_tensor *t;
    QN_TRY(make_linear(m, &d, QN_ROLE_EMBED, 0, 0, false, &l, e));
    QN_TRY(make_linear(m, &d, QN_ROLE_HEAD, 0, 0, false, &l, e));
    QN_TRY(vec_tensor(m, &d, QN_VEC_FINAL_NORM, 0, &t, e));
    for (int i = 0; i < m->config.n_layer; i++) QN_TRY(check_layer(m, &d, i, e));
out:
    return rc;
}

/* The MTP block works or is absent; an incomplete one costs speculation, not the model. */
static void check_mtp(struct qn_model *m)
{
    struct qn_err e = {0};
    struct qn_detect d = lookup(m, true);
    struct qn_linear l;
    const struct qn_tensor *t;
    int n_mtp = 0;
    for (int i = 0; i < m->n; i++) n_mtp += starts_with(m->tensors[i].name, m->names.mtp);
    if (!n_mtp) {
        if (m->config.n_mtp)
            note(m, "config.json promises %d MTP layer(s), the files have none: no speculation",
                 m->config.n_mtp);
        return;
    }
    int rc = make_linear(m, &d, QN_ROLE_MTP_FC, 0, 0, false, &l, &e);
    if (!rc) rc = vec_tensor(m, &d, QN_VEC_MTP_NORM_EMBED, 0, &t, &e);
    if (!rc) rc = vec_tensor(m, &d, QN_VEC_MTP_NORM_HIDDEN, 0, &t, &e);
    if (!rc) rc = vec_tensor(m, &d, QN_VEC_MTP_NORM, 0, &t, &e);
    if (!rc) rc = check_layer(m, &d, QN_LAYER_MTP, &e);
    m->has_mtp = !rc;
    if (rc) note(m, "the MTP block cannot be used, no speculation: %s", e.text);
    if (rc) m->mtp_fault = xstrdup(e.text);
    if (!m->config.n_mtp && !rc) note(m, "config.json promises no MTP layer, the files have one: it is used");
    int n_ignored = 0;
    for (int i = 0; i < m->n; i++)
        if (m->use[i] == UNUSED && starts_with(m->tensors[i].name, m->names.mtp)) {
            const char *rest = m->tensors[i].name + strlen(m->names.mtp);
            bool copy = starts_with(rest, "embed_tokens.") || starts_with(rest, "lm_head.") ||
                        starts_with(rest, "shared_head.");
            bool deeper = starts_with(rest, "layers.") && !starts_with(rest, "layers.0.");
            if (!copy && !deeper && !rc) continue;
            m->use[i] = IGNORED;
            n_ignored++;
        }
    if (n_ignored && !rc)
        note(m, "%d MTP tensors are ignored (copies of the embeddings, or layers after the first)",
             n_ignored);
}

static bool is_side(const char *name)
{
    static const char *const tails[] = {".input_scale",  ".output_scale", ".input_global_scale",
                                        ".k_scale",      ".v_scale",      ".q_scale",
                                        ".kv_scale",     ".prob_scale",   ".g_idx",
                                        ".weight_shape", ".bias_zeros",   ".input_zero_point"};
    for (size_t i = 0; i < QN_COUNT(tails); i++)
        if (ends_with(name, tails[i])) return true;
    return ends_with(name, ".rotary_emb.inv_freq");
}

static int check_leftovers(struct qn_model *m, struct qn_err *e)
{
    int rc = QN_OK, n_left = 0, n_vision = 0, first = -1;
    for (int i = 0; i < m->n; i++) {
        const char *name = m->tensors[i].name;
        if (qn_is_vision_name(name)) {
            m->use[i] = VISION;
            n_vision++;
        } else if (m->use[i] == UNUSED && is_side(name)) {
            m->use[i] = SIDE;
        } else if (m->use[i] == UNUSED && m->config.is_tied && strstr(name, "lm_head.")) {
            m->use[i] = IGNORED;
            note(m, "%s is ignored: it is the same as embed_tokens, to which the head is tied", name);
        } else if (m->use[i] == UNUSED) {
            if (!n_left++) first = i;
        }
    }
    char found[120];
    QN_FAIL_IF(n_left, e, QN_FORMAT,
               "tensor %s %s%s has no place in the model that config.json describes; part of the model would "
               "silently be left out",
               m->tensors[first].name, qn_tensor_text(&m->tensors[first], found, sizeof found),
               n_left > 1 ? " (and others)" : "");
    if (n_vision && !m->config.has_vision)
        note(m, "the files hold %d vision tensors, config.json has no vision_config", n_vision);
    if (!n_vision && m->config.has_vision)
        note(m, "config.json describes a vision tower, the files hold none: text only");
out:
    return rc;
}

/* The names met: ModelOpt puts the scales under the projections, compressed-tensors beside them. *odd gets
 * the name of a tensor that is there and cannot be used. */
static bool kv_scale(const struct qn_model *m, int layer, float *k_scale, float *v_scale, const char **odd)
{
    static const char *const names[3][2] = {{"self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"},
                                            {"self_attn.k_scale", "self_attn.v_scale"},
                                            {"self_attn.kv_scale", "self_attn.kv_scale"}};
    *k_scale = *v_scale = 1;
    *odd = NULL;
    char stem[QN_NAME_BYTES], name[QN_NAME_BYTES + 32];
    qn_role_stem(&m->names, QN_ROLE_Q, layer, 0, stem);
    stem[strlen(stem) - strlen(qn_role_module(QN_ROLE_Q))] = 0;
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        float found[2];
        int n_good = 0;
        const struct qn_tensor *some = NULL, *bad = NULL;
        for (int j = 0; j < 2; j++) {
            snprintf(name, sizeof name, "%s%s", stem, names[i][j]);
            const struct qn_tensor *t = qn_model_find(m, name);
            if (!t) continue;
            some = t;
            if (!qn_tensor_to_f32(t, &found[j], 1, NULL) && found[j] > 0 && isfinite(found[j]))
                n_good++;
            else
                bad = t;
        }
        if (n_good == 2) {
            *k_scale = found[0];
            *v_scale = found[1];
            return true;
        }
        if (some && !*odd) *odd = (bad ? bad : some)->name;
    }
    return false;
}

static void check_kv_scales(struct qn_model *m)
{
    const char *first = NULL, *odd;
    int n_odd = 0;
    float k, v;
    for (int i = m->has_mtp ? QN_LAYER_MTP : 0; i < m->config.n_layer; i++) {
        if (i >= 0 && !m->config.is_full[i]) continue;
        if (kv_scale(m, i, &k, &v, &odd) || !odd) continue;
        if (!n_odd++) first = odd;
    }
    if (n_odd)
        note(m,
             "%d attention layers have a KV-cache scale that cannot be used (not one positive number, or "
             "without its "
             "partner; first: %s): an FP8 KV cache has scale 1 there",
             n_odd, first);
}

/* --- MLX saves: norms hold 1 + w, the convolution has its taps in the middle --- */

struct norms {
    double sum;
    int64_t n, n_negative;
};

/* Counts a norm weight in; quiet where the model has none. */
static void count_norm(const struct qn_model *m, enum qn_vec vec, int layer, struct norms *s)
{
    size_t n = qn_vec_count(&m->config, vec, layer);
    float *w = n ? xmalloc(n * sizeof *w) : NULL;
    if (w && !qn_model_vec(m, vec, layer, w, n, NULL))
        for (size_t i = 0; i < n; i++, s->n++) {
            s->sum += (double)w[i];
            s->n_negative += w[i] < 0;
        }
    free(w);
}

/* As trained, w lies around nought; 1 + w is hardly ever negative. */
static bool looks_shifted(const struct norms *s)
{
    return s->n && s->sum / (double)s->n > 0.6 && s->n_negative * 200 < s->n;
}

/* mlx-lm tells its own saves by the shape of the convolution; its metadata and its names are signs as well.
 * Without any sign nothing is taken off, since a fine-tune may have such norms. */
static void settle_norms(struct qn_model *m)
{
    struct norms text = {0}, mtp = {0};
    bool is_mlx = m->shards.is_mlx || starts_with(m->names.text, "language_model.model.");
    for (int i = 0; i < m->n && !is_mlx; i++) {
        const struct qn_tensor *t = &m->tensors[i];
        is_mlx = ends_with(t->name, ".conv1d.weight") && t->n_dim == 3 && t->shape[2] == 1 && t->shape[1] > 1;
    }
    int step = m->config.n_layer / 16 + 1;
    for (int i = 0; i < m->config.n_layer; i += step) {
        count_norm(m, QN_VEC_INPUT_NORM, i, &text);
        count_norm(m, QN_VEC_POST_NORM, i, &text);
        count_norm(m, QN_VEC_Q_NORM, i, &text);
    }
    bool is_shifted = looks_shifted(&text);
    if (is_shifted && !is_mlx) {
        note(m,
             "norm weights average %.2f and none is negative: this copy may hold 1 + w, which the model "
             "would add "
             "again (as in MLX re-saves); nothing else says so, so they are used as they are",
             text.sum / (double)text.n);
        return;
    }
    if (!is_shifted) return;
    count_norm(m, QN_VEC_INPUT_NORM, QN_LAYER_MTP, &mtp);
    count_norm(m, QN_VEC_POST_NORM, QN_LAYER_MTP, &mtp);
    m->is_shifted[0] = true;
    m->is_shifted[1] = looks_shifted(&mtp);
    note(m, "an MLX save: its norm weights hold 1 + w (average %.2f), the 1 is taken off",
         text.sum / (double)text.n);
}

static bool is_norm(enum qn_vec vec)
{
    return vec != QN_VEC_CONV && vec != QN_VEC_A_LOG && vec != QN_VEC_DT_BIAS && vec != QN_VEC_GDN_NORM;
}

static void check_scale_sanity(struct qn_model *m)
{
    int n_odd = 0, n_scale = 0, seen = 0;
    const char *first = NULL;
    for (int i = 0; i < m->n; i++)
        n_scale += ends_with(m->tensors[i].name, ".weight_scale_2") ||
                   ends_with(m->tensors[i].name, ".weight_global_scale");
    int step = n_scale / SAMPLES + 1;
    for (int i = 0; i < m->n; i++) {
        const struct qn_tensor *t = &m->tensors[i];
        bool mul = ends_with(t->name, ".weight_scale_2"), div = ends_with(t->name, ".weight_global_scale");
        float x;
        if ((!mul && !div) || seen++ % step || m->use[i] != USED || qn_tensor_to_f32(t, &x, 1, NULL))
            continue;
        float amax = mul ? 2688.0f * x : 2688.0f / x;
        if (amax < 1e3f && (amax > 1e-4f || amax == 0)) continue;
        if (!n_odd++) first = t->name;
    }
    if (n_odd)
        note(m,
             "%d NVFP4 scales of those looked at imply weights outside 1e-4 .. 1e3 (first: %s); the scale "
             "convention of this "
             "file may "
             "be mistaken",
             n_odd, first);
}

static uint64_t fingerprint(const struct qn_model *m)
{
    const struct qn_config *c = &m->config;
    uint64_t h = qn_hash_bytes(1, c->is_full, (size_t)c->n_layer);
    const int numbers[] = {c->hidden,   c->vocab,    c->n_head,     c->n_kv_head, c->head_dim, c->rotary_dim,
                           c->n_k_head, c->n_v_head, c->expert_ffn, c->top_k,     c->ffn,      c->is_tied};
    h = qn_hash_bytes(h, numbers, sizeof numbers);
    h = qn_hash_bytes(h, &c->rope_theta, sizeof c->rope_theta);
    h = qn_hash_bytes(h, &c->norm_eps, sizeof c->norm_eps);
    if (c->rope.type != QN_ROPE_DEFAULT) {
        float frequency[512], gain = qn_rope_gain(c);
        qn_rope_frequencies(c, frequency);
        h = qn_hash_bytes(h, frequency, (size_t)c->rotary_dim / 2 * sizeof *frequency);
        h = qn_hash_bytes(h, &gain, sizeof gain);
    }
    uint64_t merged = qn_merged_hash(m->merged);
    if (merged) h = qn_hash_bytes(h, &merged, sizeof merged);
    for (int f = 0; f < m->donor.n; f++) {
        size_t n;
        const void *header = qn_safetensors_header(m->donor.files[f], &n);
        h = qn_hash_bytes(h, header, n);
    }
    for (int f = 0; f < m->shards.n; f++) {
        size_t n;
        const void *header = qn_safetensors_header(m->shards.files[f], &n);
        h = qn_hash_bytes(h, header, n);
    }
    for (int f = 0; f < m->gguf.n; f++) {
        size_t n;
        const void *header = qn_gguf_header(m->gguf.files[f], &n);
        h = qn_hash_bytes(h, header, n);
    }
    /* 64 bytes from the middle of some tensors */
    int step = m->n / SAMPLES + 1;
    for (int i = 0; i < m->n; i += step) {
        const struct qn_tensor *t = &m->tensors[i];
        size_t at = t->n_byte / 2;
        h = qn_hash_bytes(h, (const char *)t->data + at, QN_MIN((size_t)64, t->n_byte - at));
    }
    return h;
}

/* What is known once every tensor has a name: roles, what is left over, what looks odd. */
static int check_model(struct qn_model *m, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(find_names(m, e));
    settle_head(m);
    QN_TRY(check_text(m, e));
    check_mtp(m);
    QN_TRY(check_leftovers(m, e));
    if (!m->gguf.n) settle_norms(m);
    check_kv_scales(m);
    check_scale_sanity(m);
    if (m->hint) qn_hint_compare(m->hint, m);
    for (int i = 0; m->hint && i < qn_hint_n_note(m->hint); i++) note(m, "%s", qn_hint_note(m->hint, i));
    m->fingerprint = fingerprint(m);
out:
    return rc;
}

/* A draft layer speaks of the donor's tokens: vocabulary and width have to be this model's. */
static int check_donor(struct qn_model *m, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_config *c = xcalloc(1, sizeof *c);
    QN_TRY(qn_config_read(c, folder, NULL, e));
    QN_FAIL_IF(c->vocab != m->config.vocab || c->hidden != m->config.hidden, e, QN_INVAL,
               "--mtp-from %s: vocabulary and hidden size are %d and %d there, %d and %d here", folder,
               c->vocab, c->hidden, m->config.vocab, m->config.hidden);
    QN_FAIL_IF(c->head_dim != m->config.head_dim || c->n_head != m->config.n_head ||
                   c->n_kv_head != m->config.n_kv_head,
               e, QN_INVAL, "--mtp-from %s: its attention heads are not this model's", folder);
    if (!m->config.n_mtp) m->config.n_mtp = 1;
out:
    free(c);
    return rc;
}

int qn_model_open(struct qn_model **out, const char *path, struct qn_err *e)
{
    return qn_model_open_with(out, path, NULL, e);
}

int qn_model_open_with(struct qn_model **out, const char *path, const struct qn_model_options *o,
                       struct qn_err *e)
{
    int rc = QN_OK;
    const char *overrides = o ? o->overrides : NULL;
    struct qn_model *m = xcalloc(1, sizeof *m);
    char *name = qn_model_path_name(path);
    m->name = xstrdup(qn_shown(name));
    free(name);
    QN_TRY(qn_model_path_resolve(path, &m->folder, e));
    if (qn_model_path_is_gguf(m->folder)) {
        QN_TRY(open_gguf(m, overrides, e));
    } else {
        QN_TRY(qn_config_read(&m->config, m->folder, overrides, e));
        QN_TRY(qn_hint_read(&m->hint, m->folder, e));
    }
    for (int i = 0; i < m->config.n_note; i++) note(m, "%s", m->config.note[i]);
    QN_FAIL_IF(o && (o->lora || o->mtp_from) && m->gguf.n, e, QN_UNSUPPORTED,
               "%s is a GGUF file: --lora and --mtp-from take a checkpoint folder", m->folder);
    QN_TRY(gather(m, o, e));
    if (o && o->mtp_from) QN_TRY(check_donor(m, o->mtp_from, e));
    QN_TRY(check_model(m, e));
    QN_FAIL_IF(o && o->mtp_from && !m->has_mtp, e, QN_FORMAT,
               "--mtp-from %s: its draft layer does not fit this model: %s", o->mtp_from,
               m->mtp_fault ? m->mtp_fault : "it is incomplete");
    for (int i = 0; i < m->shards.n; i++) qn_safetensors_advise(m->shards.files[i], MADV_NORMAL);
    for (int i = 0; i < m->gguf.n; i++) qn_gguf_advise(m->gguf.files[i], MADV_NORMAL);
    *out = m;
    m = NULL;
out:
    qn_model_close(m);
    return rc;
}

void qn_model_close(struct qn_model *m)
{
    if (!m) return;
    qn_shards_close(&m->shards);
    qn_shards_close(&m->donor);
    qn_merged_free(m->merged);
    free(m->mtp_fault);
    qn_gguf_set_close(&m->gguf);
    qn_notes_free(&m->notes);
    qn_arena_free(m->name_arena);
    qn_map_free(&m->by_name);
    qn_hint_free(m->hint);
    free(m->tensors);
    free(m->use);
    free(m->file_of);
    free(m->folder);
    free(m->name);
    free(m);
}

const struct qn_config *qn_model_config(const struct qn_model *m)
{
    return &m->config;
}

const char *qn_model_folder(const struct qn_model *m)
{
    return m->folder;
}

const char *qn_model_name(const struct qn_model *m)
{
    return m->name;
}

bool qn_model_has_mtp(const struct qn_model *m)
{
    return m->has_mtp;
}

uint64_t qn_model_fingerprint(const struct qn_model *m)
{
    return m->fingerprint;
}

int qn_model_n_notes(const struct qn_model *m)
{
    return m->notes.n;
}

const char *qn_model_note(const struct qn_model *m, int i)
{
    return m->notes.text[i];
}

int qn_model_n_tensors(const struct qn_model *m)
{
    return m->n;
}

const struct qn_tensor *qn_model_tensor(const struct qn_model *m, int i)
{
    return &m->tensors[i];
}

const struct qn_tensor *qn_model_find(const struct qn_model *m, const char *name)
{
    int i = find_index(m, name);
    return i < 0 ? NULL : &m->tensors[i];
}

bool qn_model_tensor_is_vision(const struct qn_model *m, int i)
{
    return m->use[i] == VISION;
}

bool qn_model_tensor_is_ignored(const struct qn_model *m, int i)
{
    return m->use[i] == IGNORED;
}

const struct qn_names *qn_model_names(const struct qn_model *m)
{
    return &m->names;
}

int qn_model_n_files(const struct qn_model *m)
{
    return m->gguf.n ? m->gguf.n : m->shards.n;
}

bool qn_model_is_gguf(const struct qn_model *m)
{
    return m->gguf.n > 0;
}

static int view(const struct qn_model *m, enum qn_role role, int layer, int expert, bool is_deep,
                struct qn_linear *out, struct qn_err *e)
{
    int rc = QN_OK, n_out, n_in;
    struct qn_detect d = lookup(m, false);
    bool exists = qn_role_shape(&m->config, role, layer, &n_out, &n_in);
    if (role == QN_ROLE_MTP_FC || (!qn_role_is_global(role) && layer == QN_LAYER_MTP))
        exists = exists && m->has_mtp;
    if (qn_role_is_expert(role)) exists = exists && expert >= 0 && expert < n_expert_of(m, layer);
    QN_FAIL_IF(!exists, e, QN_NOTFOUND, "%s: layer %d has no %s (expert %d)", m->name, layer,
               qn_role_module(role), expert);
    QN_TRY(make_linear(m, &d, role, layer, expert, is_deep, out, e));
out:
    return rc;
}

int qn_model_linear(const struct qn_model *m, enum qn_role role, int layer, int expert, struct qn_linear *out,
                    struct qn_err *e)
{
    return view(m, role, layer, expert, true, out, e);
}

int qn_model_stored(const struct qn_model *m, enum qn_role role, int layer, int expert, struct qn_linear *out,
                    struct qn_err *e)
{
    return view(m, role, layer, expert, false, out, e);
}

/* GGUF files hold 1 + w and -exp(A_log). */
static int undo_gguf(enum qn_vec vec, const char *name, float *x, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    if (vec == QN_VEC_CONV || vec == QN_VEC_DT_BIAS || vec == QN_VEC_GDN_NORM) goto out;
    for (size_t i = 0; i < n; i++) {
        if (vec != QN_VEC_A_LOG) {
            x[i] -= 1;
            continue;
        }
        QN_FAIL_IF(!(x[i] < 0), e, QN_FORMAT,
                   "%s: value %zu is %g; a GGUF file holds -exp(A_log), which is below nought", name, i,
                   (double)x[i]);
        x[i] = (float)log(-(double)x[i]);
    }
out:
    return rc;
}

int qn_model_vec(const struct qn_model *m, enum qn_vec vec, int layer, float *out, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_detect d = lookup(m, false);
    const struct qn_tensor *t;
    size_t want = qn_vec_count(&m->config, vec, layer);
    QN_FAIL_IF(!want, e, QN_NOTFOUND, "%s: layer %d has no such tensor", m->name, layer);
    QN_TRY(vec_tensor(m, &d, vec, layer, &t, e));
    QN_TRY(qn_tensor_to_f32(t, out, n, e));
    if (m->gguf.n) QN_TRY(undo_gguf(vec, t->name, out, n, e));
    bool is_mtp = vec >= QN_VEC_MTP_NORM_EMBED || (layer == QN_LAYER_MTP && vec != QN_VEC_FINAL_NORM);
    for (size_t i = 0; is_norm(vec) && m->is_shifted[is_mtp] && i < n; i++) out[i] -= 1;
out:
    return rc;
}

bool qn_model_is_shifted(const struct qn_model *m)
{
    return m->is_shifted[0];
}

bool qn_model_kv_scale(const struct qn_model *m, int layer, float *k_scale, float *v_scale)
{
    const char *odd;
    return kv_scale(m, layer, k_scale, v_scale, &odd);
}

int qn_model_n_kv_scale(const struct qn_model *m)
{
    int n = 0;
    float k, v;
    for (int i = 0; i < m->config.n_layer; i++)
        if (m->config.is_full[i]) n += qn_model_kv_scale(m, i, &k, &v);
    return n;
}

bool qn_model_has_kv_scales(const struct qn_model *m)
{
    return m->config.n_full && qn_model_n_kv_scale(m) == m->config.n_full;
}

/* The kernel starts at most one read-ahead window a call, 128 KiB where nobody changed it. */
#define WINDOW_BYTES ((size_t)128 << 10)

static void advise(const struct qn_tensor *t, int advice)
{
    if (!t->n_dim || !t->n_byte) return;
    uintptr_t from = (uintptr_t)t->data, to = from + t->n_byte;
    if (advice == MADV_DONTNEED) { /* whole pages of this tensor only */
        from = QN_ROUND_UP(from, PAGE_BYTES);
        to = to / PAGE_BYTES * PAGE_BYTES;
    } else {
        from = from / PAGE_BYTES * PAGE_BYTES;
    }
    size_t step = advice == MADV_WILLNEED ? WINDOW_BYTES : to - from;
    for (; from < to; from += step) madvise((void *)from, QN_MIN(step, to - from), advice);
}

void qn_model_will_need(const struct qn_model *m, const struct qn_linear *l)
{
    (void)m;
    advise(&l->weight, MADV_WILLNEED);
    advise(&l->scale, MADV_WILLNEED);
    advise(&l->zeros, MADV_WILLNEED);
}

void qn_model_done_with(const struct qn_model *m, const struct qn_linear *l)
{
    (void)m;
    advise(&l->weight, MADV_DONTNEED);
    advise(&l->scale, MADV_DONTNEED);
    advise(&l->zeros, MADV_DONTNEED);
}
