/* Exclusion lists of quantised releases, compared with what the files hold.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/hint.h"

#include <fnmatch.h>
#include <regex.h>
#include <stdarg.h>

#include "base/json.h"
#include "model/roles.h"

#define MAX_JSON_BYTES ((size_t)16 << 20)
#define MAX_ARENA      ((size_t)256 << 20)
#define MAX_NOTES      12

struct source {
    const char *file;
    char method[48], algo[48], kv_algo[24];
    const struct qn_json *exclude; /* list of patterns or NULL */
    const struct qn_json *layers;  /* quantized_layers: module -> its quant_algo; or NULL */
    const struct qn_json *dynamic; /* GPTQ: object whose keys "-:EXPRESSION" exclude; or NULL */
    bool present;
};

struct qn_hint {
    struct qn_arena *arena;
    struct source sources[2]; /* config.json, hf_quant_config.json */
    struct qn_scheme scheme;
    char notes[MAX_NOTES][240];
    int n_note;
};

QN_PRINTF(2, 3) static void note(struct qn_hint *h, const char *fmt, ...)
{
    if (h->n_note == MAX_NOTES) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(h->notes[h->n_note++], sizeof h->notes[0], fmt, ap);
    va_end(ap);
}

static void copy_str(const struct qn_json *obj, const char *key, char *out, size_t n)
{
    const struct qn_json *v = qn_json_get(obj, key);
    if (qn_json_is(v, QN_JSON_STRING)) snprintf(out, n, "%s", v->text);
}

static const struct qn_json *first_list(const struct qn_json *obj)
{
    static const char *const keys[] = {"ignore", "exclude_modules", "modules_to_not_convert",
                                       "ignored_layers"};
    for (size_t i = 0; i < QN_COUNT(keys); i++) {
        const struct qn_json *v = qn_json_get(obj, keys[i]);
        if (qn_json_is(v, QN_JSON_ARRAY)) return v;
    }
    return NULL;
}

static void read_source(struct source *s, const char *file, const struct qn_json *obj)
{
    s->file = file;
    if (!qn_json_is(obj, QN_JSON_OBJECT)) return;
    s->present = true;
    copy_str(obj, "quant_method", s->method, sizeof s->method);
    copy_str(obj, "quant_algo", s->algo, sizeof s->algo);
    copy_str(obj, "kv_cache_quant_algo", s->kv_algo, sizeof s->kv_algo);
    const struct qn_json *scheme = qn_json_get(obj, "kv_cache_scheme");
    if (qn_json_is(scheme, QN_JSON_OBJECT)) snprintf(s->kv_algo, sizeof s->kv_algo, "FP8");
    s->exclude = first_list(obj);
    const struct qn_json *layers = qn_json_get(obj, "quantized_layers");
    s->layers = qn_json_is(layers, QN_JSON_OBJECT) ? layers : NULL;
    const struct qn_json *dynamic = qn_json_get(obj, "dynamic");
    s->dynamic = qn_json_is(dynamic, QN_JSON_OBJECT) ? dynamic : NULL;
}

static void add_group(struct qn_scheme *s, const struct qn_json *v)
{
    int64_t x;
    if (!qn_json_int(v, &x) || x < 1 || x > 1 << 20 || s->n_group == QN_MAX_SCHEME) return;
    for (int i = 0; i < s->n_group; i++)
        if (s->group[i] == x) return;
    s->group[s->n_group++] = (int)x;
}

/* [128, 128], or "128x128" */
static void add_block(struct qn_scheme *s, const struct qn_json *v)
{
    int64_t rows = 0, columns = 0;
    if (qn_json_is(v, QN_JSON_ARRAY) && v->n == 2) {
        if (!qn_json_int(v->items[0], &rows) || !qn_json_int(v->items[1], &columns)) return;
    } else if (qn_json_is(v, QN_JSON_STRING)) {
        int a, b;
        if (sscanf(v->text, "%6dx%6d", &a, &b) != 2) return;
        rows = a;
        columns = b;
    }
    if (rows < 1 || columns < 1 || rows > 1 << 20 || columns > 1 << 20 || s->n_block == QN_MAX_SCHEME) return;
    s->block[s->n_block][0] = (int)rows;
    s->block[s->n_block++][1] = (int)columns;
}

/* Sizes of groups and blocks stand on any level: of the whole, of a group of modules, of a module. */
static void gather_sizes(struct qn_scheme *s, const struct qn_json *v, int depth)
{
    if (!qn_json_is(v, QN_JSON_OBJECT) || depth > 4) return;
    for (size_t i = 0; i < v->n; i++) {
        const char *key = v->keys[i].text;
        if (!strcmp(key, "group_size") || !strcmp(key, "q_group_size"))
            add_group(s, v->items[i]);
        else if (!strcmp(key, "weight_block_size") || !strcmp(key, "block_structure"))
            add_block(s, v->items[i]);
        else
            gather_sizes(s, v->items[i], depth + 1);
    }
}

int qn_hint_read(struct qn_hint **out, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_hint *h = xcalloc(1, sizeof *h);
    char *config = xasprintf("%s/config.json", folder), *hf = xasprintf("%s/hf_quant_config.json", folder);
    struct qn_json *top;
    h->arena = qn_arena_create(MAX_ARENA);
    QN_TRY(qn_json_read_file(&top, h->arena, config, MAX_JSON_BYTES, e));
    const struct qn_json *q = qn_json_get(top, "quantization_config");
    if (!q) q = qn_json_get(qn_json_get(top, "text_config"), "quantization_config");
    read_source(&h->sources[0], "config.json", q);
    h->scheme.is_gptq_v2 = qn_json_is_str(qn_json_get(q, "checkpoint_format"), "gptq_v2");
    gather_sizes(&h->scheme, q, 0);
    gather_sizes(&h->scheme, qn_json_get(top, "quantization"), 0); /* MLX */
    rc = qn_json_read_file(&top, h->arena, hf, MAX_JSON_BYTES, e);
    if (rc == QN_OK) read_source(&h->sources[1], "hf_quant_config.json", qn_json_get(top, "quantization"));
    if (rc == QN_NOTFOUND) rc = QN_OK;
    if (rc) goto out;
    *out = h;
    h = NULL;
out:
    qn_hint_free(h);
    free(config);
    free(hf);
    return rc;
}

void qn_hint_free(struct qn_hint *h)
{
    if (!h) return;
    qn_arena_free(h->arena);
    free(h);
}

const struct qn_scheme *qn_hint_scheme(const struct qn_hint *h)
{
    return h ? &h->scheme : NULL;
}

int qn_hint_n_note(const struct qn_hint *h)
{
    return h->n_note;
}

const char *qn_hint_note(const struct qn_hint *h, int i)
{
    return h->notes[i];
}

/* Prefix spellings differ between releases and engines. */
static const char *without_prefix(const char *name)
{
    for (;;) {
        if (!strncmp(name, "model.", 6))
            name += 6;
        else if (!strncmp(name, "language_model.", 15))
            name += 15;
        else
            return name;
    }
}

/* pattern as a run of whole components of name */
static bool has_components(const char *name, const char *pattern)
{
    size_t n = strlen(pattern);
    for (const char *at = name; n && (at = strstr(at, pattern)); at++)
        if ((at == name || at[-1] == '.') && (!at[n] || at[n] == '.')) return true;
    return false;
}

static bool has_back_reference(const char *s)
{
    for (; (s = strchr(s, '\\')); s += s[1] ? 2 : 1)
        if (s[1] >= '1' && s[1] <= '9') return true;
    return false;
}

bool qn_hint_matches(const char *pattern, const char *module)
{
    if (!strncmp(pattern, "re:", 3)) {
        regex_t re;
        /* bounded repeats and back-references can cost any time and memory */
        if (strlen(pattern) > 512 || strpbrk(pattern, "{}") || has_back_reference(pattern) ||
            regcomp(&re, pattern + 3, REG_EXTENDED | REG_NOSUB))
            return false;
        bool hit = !regexec(&re, module, 0, NULL, 0);
        regfree(&re);
        return hit;
    }
    pattern = without_prefix(pattern);
    module = without_prefix(module);
    if (strpbrk(pattern, "*?[")) return strlen(pattern) < 512 && !fnmatch(pattern, module, 0);
    return has_components(module, pattern);
}

static bool is_excluded(const struct source *s, const char *module)
{
    for (size_t i = 0; s->exclude && i < s->exclude->n; i++)
        if (qn_json_is(s->exclude->items[i], QN_JSON_STRING) &&
            qn_hint_matches(s->exclude->items[i]->text, module))
            return true;
    for (size_t i = 0; s->dynamic && i < s->dynamic->n; i++) {
        char pattern[520];
        if (strncmp(s->dynamic->keys[i].text, "-:", 2)) continue;
        snprintf(pattern, sizeof pattern, "re:%s", s->dynamic->keys[i].text + 2);
        if (qn_hint_matches(pattern, module)) return true;
    }
    return false;
}

static bool is_plain(enum qn_format f)
{
    return f == QN_FMT_F32 || f == QN_FMT_BF16 || f == QN_FMT_F16;
}

/* Whether a name of a method or algorithm can mean this format. Names not known here can mean any. */
static bool can_mean(const char *name, enum qn_format f)
{
    bool fp8 = f == QN_FMT_FP8_BLOCK || f == QN_FMT_FP8_TENSOR || f == QN_FMT_FP8_CHANNEL ||
               f == QN_FMT_FP8_GRID,
         fp4 = f == QN_FMT_NVFP4;
    bool ct = f == QN_FMT_INT4_CT || f == QN_FMT_INT8_CHANNEL || f == QN_FMT_INT8_GROUP ||
              f == QN_FMT_INT4_CT_ZERO || f == QN_FMT_INT8_CT || f == QN_FMT_INTN_CT || f == QN_FMT_MXFP4 ||
              f == QN_FMT_MXFP8;
    bool gptq = f == QN_FMT_INT4_GPTQ || f == QN_FMT_INT8_GPTQ || f == QN_FMT_INTN_GPTQ;
    if (!strcmp(name, "fp8") || !strncmp(name, "FP8", 3)) return fp8;
    if (!strcmp(name, "awq")) return f == QN_FMT_INT4_AWQ;
    if (!strcmp(name, "gptq")) return gptq;
    if (!strcmp(name, "compressed-tensors")) return fp8 || fp4 || ct;
    if (!strcmp(name, "modelopt") || !strcmp(name, "MIXED_PRECISION")) return fp8 || fp4;
    if (!strcmp(name, "NVFP4")) return fp4;
    return true;
}

struct tally {
    int n_quantised_but_excluded, n_plain_but_not_excluded, n_listed_otherwise;
    enum qn_format plain, quantised, other;
    const char *listed;
};

struct found {
    bool quantised, kv_scale;
    int n_by_format[QN_N_FORMAT]; /* layers, one an expert block */
};

static void count_module(struct qn_hint *h, const struct qn_model *m, enum qn_role role, int layer,
                         struct tally tally[2][2], struct found *found)
{
    struct qn_linear l;
    if (qn_model_stored(m, role, layer, 0, &l, NULL)) return;
    bool plain = is_plain(l.format);
    float k, v;
    found->quantised |= !plain;
    found->n_by_format[l.format]++;
    if (role == QN_ROLE_K) found->kv_scale |= qn_model_kv_scale(m, layer, &k, &v);
    for (int s = 0; s < 2; s++) {
        if (!h->sources[s].present) continue;
        struct tally *t = &tally[s][layer == QN_LAYER_MTP];
        /* a slice of a fused tensor goes by that tensor's name, too */
        bool excluded =
            is_excluded(&h->sources[s], l.name) || (plain && is_excluded(&h->sources[s], l.weight.name));
        if (!plain && excluded) t->n_quantised_but_excluded++, t->quantised = l.format;
        if (plain && !excluded) t->n_plain_but_not_excluded++, t->plain = l.format;
        const struct qn_json *algo = qn_json_get(qn_json_get(h->sources[s].layers, l.name), "quant_algo");
        if (plain || !qn_json_is(algo, QN_JSON_STRING) || can_mean(algo->text, l.format)) continue;
        t->n_listed_otherwise++;
        t->other = l.format;
        t->listed = algo->text;
    }
}

/* The method or algorithm named, against the formats found. */
static void compare_method(struct qn_hint *h, const struct source *s, const struct found *found)
{
    const char *names[] = {s->algo, s->method};
    for (size_t i = 0; i < QN_COUNT(names); i++)
        for (int f = 0; f < QN_N_FORMAT; f++) {
            if (!names[i][0] || !found->n_by_format[f] || is_plain((enum qn_format)f) ||
                can_mean(names[i], (enum qn_format)f))
                continue;
            note(h, "%s says %s, the files hold layers as %s (%d): the files count", s->file, names[i],
                 qn_format_name((enum qn_format)f), found->n_by_format[f]);
            return;
        }
}

void qn_hint_compare(struct qn_hint *h, const struct qn_model *m)
{
    const struct qn_config *c = qn_model_config(m);
    struct found found = {0};
    struct {
        struct tally t[2][2];
    } all[QN_N_ROLE] = {0};
    for (int r = 0; r < QN_N_ROLE; r++) {
        enum qn_role role = (enum qn_role)r;
        if (role == QN_ROLE_EMBED || (role == QN_ROLE_HEAD && c->is_tied)) continue;
        if (qn_role_is_global(role)) {
            count_module(h, m, role, role == QN_ROLE_MTP_FC ? QN_LAYER_MTP : 0, all[r].t, &found);
            continue;
        }
        for (int layer = QN_LAYER_MTP; layer < c->n_layer; layer++)
            count_module(h, m, role, layer, all[r].t, &found);
    }
    bool any_source = h->sources[0].present || h->sources[1].present;
    if (found.quantised && !any_source)
        note(h, "config.json has no quantization_config, the files hold quantised layers: formats are read "
                "from the "
                "files");
    for (int s = 0; s < 2; s++) {
        const struct source *src = &h->sources[s];
        if (!src->present) continue;
        if (!found.quantised) {
            note(h, "%s says quantised (%s), the files hold no quantised layer", src->file,
                 src->method[0] ? src->method : src->algo);
            continue;
        }
        if (src->kv_algo[0] && !found.kv_scale)
            note(h, "%s declares an FP8 KV cache, the files hold no scales for it", src->file);
        compare_method(h, src, &found);
        for (int mtp = 0; mtp < 2; mtp++)
            for (int r = 0; r < QN_N_ROLE; r++) {
                const struct tally *t = &all[r].t[s][mtp];
                const char *where = mtp ? "mtp " : "", *module = qn_role_module((enum qn_role)r);
                if (t->n_quantised_but_excluded)
                    note(h,
                         "%s excludes %s%s from quantisation, the files hold it as %s (%d): the files count",
                         src->file, where, module, qn_format_name(t->quantised), t->n_quantised_but_excluded);
                if (t->n_listed_otherwise)
                    note(h, "%s lists %s%s as %s, the files hold it as %s (%d): the files count", src->file,
                         where, module, t->listed, qn_format_name(t->other), t->n_listed_otherwise);
                if (t->n_plain_but_not_excluded)
                    note(h,
                         "%s does not exclude %s%s from quantisation, the files hold it as %s (%d): the "
                         "files count",
                         src->file, where, module, qn_format_name(t->plain), t->n_plain_but_not_excluded);
            }
    }
    if (h->n_note == MAX_NOTES)
        snprintf(h->notes[MAX_NOTES - 1], sizeof h->notes[0],
                 "(more disagreements about what is quantised: the files count)");
}
