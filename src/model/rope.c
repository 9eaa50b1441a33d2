/* Rotary embeddings: where config.json says what about them, and the frequencies that follow.
 *
 * The measure is transformers 5.24. There `rope_scaling`, when it holds anything, stands in for
 * `rope_parameters` as a whole; a missing rope_theta is the one beside hidden_size, else 10000. quern differs
 * in two points, with a line for each: fields that rope_scaling leaves out are taken from rope_parameters
 * (there the base would fall back to 10000), and a scaling at the top level of a nested configuration is
 * applied to the text model (there it ends in an error, or is ignored).
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "model/config_impl.h"

#define DEFAULT_THETA 10000.0
#define MAX_CONTEXT   16777216
#define MAX_FACTOR    1e4

/* Where fields are looked for, first to last. */
struct places {
    const struct qn_json *first;    /* the dictionary that counts */
    const struct qn_json *params;   /* rope_parameters, when rope_scaling counts; else NULL */
    const struct qn_json *tx, *top; /* beside hidden_size; top is NULL in a flat configuration */
};

static const struct qn_json *filled(const struct qn_json *obj, const char *key)
{
    const struct qn_json *v = qn_json_get(obj, key);
    return qn_json_is(v, QN_JSON_OBJECT) && v->n ? v : NULL;
}

/* rope_parameters may be kept by type of layer. */
static const struct qn_json *parameters(const struct qn_json *obj)
{
    const struct qn_json *v = filled(obj, "rope_parameters"), *inner = filled(v, "full_attention");
    return inner ? inner : v;
}

static const char *type_of(const struct qn_json *rope)
{
    const struct qn_json *v = qn_json_get(rope, "rope_type");
    if (!v) v = qn_json_get(rope, "type");
    return qn_json_is(v, QN_JSON_STRING) ? v->text : "default";
}

static bool scales(const struct qn_json *rope)
{
    const char *type = type_of(rope);
    return rope && strcmp(type, "default") && strcmp(type, "mrope");
}

static struct places find_places(struct qn_config_reader *r)
{
    struct places p = {.tx = r->tx, .top = r->top != r->tx ? r->top : NULL};
    const struct qn_json *params = parameters(r->tx), *scaling = filled(r->tx, "rope_scaling");
    p.first = scaling ? scaling : params;
    p.params = scaling ? params : NULL;
    if (!p.top) return p;
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        const struct qn_json *outer = i ? parameters(p.top) : filled(p.top, names[i]);
        if (!outer) continue;
        if (scales(outer) && !scales(p.first)) {
            qn_config_note(r->c, "%s stands at the top level of config.json: it is applied to the text model",
                           names[i]);
            if (!p.params) p.params = p.first;
            p.first = outer;
        } else if (!p.first) {
            qn_config_note(r->c,
                           "%s stands at the top level of config.json, text_config has none: it is applied",
                           names[i]);
            p.first = outer;
        } else if (scales(outer)) {
            qn_config_note(r->c, "%s at the top level of config.json is ignored: that of text_config counts",
                           names[i]);
        }
    }
    return p;
}

/* The object that holds a field, or NULL. */
static const struct qn_json *holder(const struct places *p, const char *key)
{
    const struct qn_json *places[] = {p->first, p->params, p->tx, p->top};
    for (size_t i = 0; i < QN_COUNT(places); i++)
        if (!qn_json_is_null(qn_json_get(places[i], key))) return places[i];
    return NULL;
}

static int read_theta(struct qn_config_reader *r, const struct places *p)
{
    int rc = QN_OK;
    const struct qn_json *own = qn_json_is_null(qn_json_get(p->first, "rope_theta")) ? NULL : p->first,
                         *beside = qn_json_is_null(qn_json_get(p->tx, "rope_theta")) ? NULL : p->tx;
    const struct qn_json *from = own ? own : beside ? beside : holder(p, "rope_theta");
    QN_TRY(qn_config_num(r, from, "rope_theta", DEFAULT_THETA, 1, 1e12, &r->c->rope_theta));
    if (!from)
        qn_config_note(
            r->c,
            "config.json has no rope_theta: %g, the default of the reference; released models of the "
            "family have 1e+07 (--hf-overrides '{\"rope_theta\": 10000000}')",
            DEFAULT_THETA);
    else if (!own && !beside && r->c->rope_theta != DEFAULT_THETA)
        qn_config_note(
            r->c, "rope_theta %g is taken from %s; transformers would use %g, because %s", r->c->rope_theta,
            from == p->params ? "rope_parameters" : "the top level of config.json", DEFAULT_THETA,
            from == p->params ? "rope_scaling replaces rope_parameters there" : "it does not look there");
out:
    return rc;
}

static int read_rotary(struct qn_config_reader *r, const struct places *p)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    double part;
    QN_TRY(qn_config_num(r, holder(p, "partial_rotary_factor"), "partial_rotary_factor", 0.25, 0, 1, &part));
    c->rotary_dim = (int)(c->head_dim * part);
    if (c->rope.type == QN_ROPE_PROPORTIONAL) {
        c->rope.n_rotated = (int)(part * c->head_dim / 2);
        c->rotary_dim = c->head_dim;
    }
    QN_FAIL_IF(c->rotary_dim % 2, r->e, QN_INVAL,
               "%s: partial_rotary_factor %g of head_dim %d gives an odd rotary dimension %d", r->name, part,
               c->head_dim, c->rotary_dim);
    const struct qn_json *section = qn_json_get(holder(p, "mrope_section"), "mrope_section");
    if (section) {
        int64_t x, sum = 0;
        QN_FAIL_IF(section->type != QN_JSON_ARRAY || section->n != 3, r->e, QN_INVAL,
                   "%s: mrope_section must be three numbers", r->name);
        for (int i = 0; i < 3; i++) {
            QN_FAIL_IF(!qn_json_int(section->items[i], &x) || x < 0 || x > 1024, r->e, QN_INVAL,
                       "%s: mrope_section[%d] must be 0 to 1024", r->name, i);
            c->mrope_section[i] = (int)x;
            sum += x;
        }
        /* text has one position in all three rows, so nothing depends on the sections; pictures will */
        if (sum != c->rotary_dim / 2)
            qn_config_note(c, "mrope_section sums to %" PRId64 ", half of the rotary dimension is %d", sum,
                           c->rotary_dim / 2);
    } else if (c->rotary_dim == 64) {
        memcpy(c->mrope_section, (int[3]){11, 11, 10}, sizeof c->mrope_section);
    }
out:
    return rc;
}

static int read_type(struct qn_config_reader *r, const struct places *p)
{
    int rc = QN_OK;
    static const struct {
        const char *name;
        enum qn_rope_type type;
    } known[] = {{"default", QN_ROPE_DEFAULT},
                 {"mrope", QN_ROPE_DEFAULT},
                 {"dynamic", QN_ROPE_DEFAULT},
                 {"linear", QN_ROPE_LINEAR},
                 {"yarn", QN_ROPE_YARN},
                 {"llama3", QN_ROPE_LLAMA3},
                 {"proportional", QN_ROPE_PROPORTIONAL}};
    const char *type, *old;
    QN_TRY(qn_config_str(r, p->first, "rope_type", &type));
    QN_TRY(qn_config_str(r, p->first, "type", &old));
    if (type[0] && old[0] && strcmp(type, old) &&
        scales(p->first) != (strcmp(old, "default") && strcmp(old, "mrope")))
        qn_config_note(r->c, "rope_type is '%.24s' and type '%.24s': rope_type counts", type, old);
    if (!type[0]) type = old[0] ? old : "default";
    size_t i = 0;
    while (i < QN_COUNT(known) && strcmp(type, known[i].name)) i++;
    QN_FAIL_IF(i == QN_COUNT(known), r->e, QN_UNSUPPORTED,
               "%s: rope type '%.40s' is not served; default, yarn, linear, llama3 and proportional are%s",
               r->name, type,
               !strcmp(type, "longrope") || !strcmp(type, "su")
                   ? " (longrope turns by other angles once a text is long, so what was computed before no "
                     "longer fits)"
                   : "");
    r->c->rope.type = known[i].type;
    bool has_factor = !qn_json_is_null(qn_json_get(p->first, "factor"));
    if (!strcmp(type, "dynamic"))
        qn_config_note(r->c,
                       "rope type dynamic: up to max_position_embeddings (%d) it is the default one; longer "
                       "contexts are not served with it",
                       r->c->max_context);
    else if (known[i].type == QN_ROPE_DEFAULT && has_factor)
        qn_config_note(r->c, "the rope fields have a factor but no type: not scaled, as in transformers");
out:
    return rc;
}

/* The context a factor makes of the original one. */
static void widen(struct qn_config *c)
{
    double n = c->rope.original * c->rope.factor;
    if (n > c->max_context) c->max_context = (int)QN_MIN(n, (double)MAX_CONTEXT);
}

static int read_yarn(struct qn_config_reader *r, const struct places *p)
{
    int rc = QN_OK;
    struct qn_rope *s = &r->c->rope;
    double mscale, all_dim;
    bool truncate;
    QN_TRY(qn_config_num(r, p->first, "attention_factor", 0, 0, 1e3, &s->attention_factor));
    QN_TRY(qn_config_num(r, p->first, "beta_fast", 0, 0, 1e6, &s->beta_fast));
    QN_TRY(qn_config_num(r, p->first, "beta_slow", 0, 0, 1e6, &s->beta_slow));
    QN_TRY(qn_config_num(r, p->first, "mscale", 0, 0, 1e3, &mscale));
    QN_TRY(qn_config_num(r, p->first, "mscale_all_dim", 0, 0, 1e3, &all_dim));
    rc = qn_json_get_bool(p->first, "truncate", true, &truncate, r->e);
    if (rc) {
        qn_err_prefix(r->e, "%s", r->name);
        goto out;
    }
    s->is_exact = !truncate;
    if (s->beta_fast == 0) s->beta_fast = 32;
    if (s->beta_slow == 0) s->beta_slow = 1;
    double log_factor = s->factor > 1 ? 0.1 * log(s->factor) : 0;
    if (qn_json_is_null(qn_json_get(p->first, "attention_factor")))
        s->attention_factor = mscale != 0 && all_dim != 0
                                  ? (mscale * log_factor + 1) / (all_dim * log_factor + 1)
                                  : log_factor + 1;
    QN_FAIL_IF(r->c->rope_theta <= 1, r->e, QN_INVAL, "%s: rope type yarn needs a rope_theta above 1",
               r->name);
out:
    return rc;
}

static int read_scaling(struct qn_config_reader *r, const struct places *p)
{
    int rc = QN_OK;
    struct qn_config *c = r->c;
    struct qn_rope *s = &c->rope;
    const char *type = type_of(p->first), *key = "original_max_position_embeddings";
    const struct qn_json *factor = qn_json_get(p->first, "factor");
    QN_TRY(qn_config_num(r, holder(p, key), key, c->max_context, 1, MAX_CONTEXT, &s->original));
    bool may_miss = s->type == QN_ROPE_PROPORTIONAL || (s->type == QN_ROPE_YARN && factor);
    QN_FAIL_IF(qn_json_is_null(factor) && !may_miss, r->e, QN_INVAL,
               "%s: rope type %.24s has no factor: set it (2.0 doubles the context)", r->name, type);
    double implied = s->type == QN_ROPE_YARN ? QN_MAX(c->max_context / s->original, 1.0) : 1;
    QN_TRY(qn_config_num(r, p->first, "factor", implied, 1, MAX_FACTOR, &s->factor));
    if (s->type == QN_ROPE_YARN) QN_TRY(read_yarn(r, p));
    if (s->type == QN_ROPE_LLAMA3) {
        QN_TRY(qn_config_num(r, p->first, "low_freq_factor", 0, 0, 1e6, &s->low));
        QN_TRY(qn_config_num(r, p->first, "high_freq_factor", 0, 0, 1e6, &s->high));
        QN_FAIL_IF(s->low <= 0 || s->high <= s->low, r->e, QN_INVAL,
                   "%s: rope type llama3 needs low_freq_factor and a larger high_freq_factor", r->name);
    }
    widen(c);
out:
    return rc;
}

int qn_config_read_rope(struct qn_config_reader *r)
{
    int rc = QN_OK;
    struct places p = find_places(r);
    QN_TRY(read_type(r, &p));
    QN_TRY(read_theta(r, &p));
    QN_TRY(read_rotary(r, &p));
    if (r->c->rope.type != QN_ROPE_DEFAULT) QN_TRY(read_scaling(r, &p));
out:
    return rc;
}

const char *qn_rope_name(enum qn_rope_type t)
{
    static const char *const names[] = {"default", "linear", "yarn", "llama3", "proportional"};
    return (unsigned)t < QN_COUNT(names) ? names[t] : "?";
}

/* --- frequencies, in float, step by step as the reference computes them --- */

static float power(const struct qn_config *c, int i)
{
    return (float)pow(c->rope_theta, (double)((float)(2 * i) / (float)c->rotary_dim));
}

/* Pairs below `low` turn as before, those above `high` by the factor slower, with a ramp between. */
static void yarn_range(const struct qn_config *c, double *low, double *high)
{
    const struct qn_rope *s = &c->rope;
    double turns[2] = {s->beta_fast, s->beta_slow}, at[2];
    for (int i = 0; i < 2; i++)
        at[i] = c->rotary_dim * log(s->original / (turns[i] * 2 * M_PI)) / (2 * log(c->rope_theta));
    if (!s->is_exact) {
        at[0] = floor(at[0]);
        at[1] = ceil(at[1]);
    }
    *low = QN_MAX(at[0], 0.0);
    *high = QN_MIN(at[1], (double)(c->rotary_dim - 1));
    if (*low == *high) *high += 0.001;
}

static float yarn(const struct qn_config *c, int i, double low, double high)
{
    float p = power(c, i), own = 1.0f / p, slow = 1.0f / ((float)c->rope.factor * p);
    float ramp = ((float)i - (float)low) / (float)(high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    float keep = 1.0f - ramp;
    return slow * (1.0f - keep) + own * keep;
}

static float llama3(const struct qn_config *c, int i)
{
    const struct qn_rope *s = &c->rope;
    float own = 1.0f / power(c, i), length = (float)(2 * M_PI) / own;
    float longest = (float)(s->original / s->low), shortest = (float)(s->original / s->high);
    if (length > longest) return own / (float)s->factor;
    if (length < shortest) return own;
    float smooth = ((float)s->original / length - (float)s->low) / (float)(s->high - s->low);
    return (1.0f - smooth) * own / (float)s->factor + smooth * own;
}

void qn_rope_frequencies(const struct qn_config *c, float *out)
{
    double low = 0, high = 0;
    if (c->rope.type == QN_ROPE_YARN) yarn_range(c, &low, &high);
    for (int i = 0; i < c->rotary_dim / 2; i++) switch (c->rope.type) {
        case QN_ROPE_YARN:
            out[i] = yarn(c, i, low, high);
            break;
        case QN_ROPE_LLAMA3:
            out[i] = llama3(c, i);
            break;
        case QN_ROPE_PROPORTIONAL:
            out[i] = i < c->rope.n_rotated ? 1.0f / power(c, i) / (float)c->rope.factor : 0;
            break;
        case QN_ROPE_LINEAR:
            out[i] = 1.0f / power(c, i) / (float)c->rope.factor;
            break;
        default:
            out[i] = 1.0f / power(c, i);
        }
}

float qn_rope_gain(const struct qn_config *c)
{
    return c->rope.type == QN_ROPE_YARN ? (float)c->rope.attention_factor : 1.0f;
}
