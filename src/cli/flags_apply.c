/* What becomes of another server's flag: an option of ours, a line, an error.
 * SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "backend/backend.h"
#include "cli/flags_impl.h"

#define MAX_SEQS 1024 /* of the engine */

void fl_emit(struct fl *r, const char *option, const char *value)
{
    char *word = xasprintf("--%s=%s", option, value);
    fl_push(r, word);
    free(word);
}

static void say(const struct fl_use *u, const char *text)
{
    fprintf(stderr, "%s: %s\n", u->name, text);
}

static bool is_ours(const struct fl_use *u)
{
    const char *to = u->flag.rule->to;
    return to && (size_t)u->flag.n_name == strlen(to) && !memcmp(u->flag.name, to, strlen(to));
}

/* Says what a flag was taken for, where its name is another. */
static void mapped(struct fl *r, const struct fl_use *u, const char *value)
{
    const char *to = u->flag.rule->to;
    bool is_secret = !strcmp(to, "api-key");
    if (!is_ours(u)) {
        if (value && !is_secret)
            fprintf(stderr, "%s: as --%s %s\n", u->name, to, value);
        else
            fprintf(stderr, "%s: as --%s\n", u->name, to);
    }
    if (value)
        fl_emit(r, to, value);
    else {
        char *word = xasprintf("--%s", to);
        fl_push(r, word);
        free(word);
    }
}

static bool is_word(const char *value, const char *list)
{
    size_t n = strlen(value);
    char *end;
    double x = strtod(value, &end);
    bool is_number = n && !*end;
    for (const char *p = list; p && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] == ',')) {
        size_t k = strcspn(p, ",");
        if (k == n && !strncasecmp(p, value, n)) return true;
        double y = strtod(p, &end);
        if (is_number && end == p + k && k && x == y) return true;
    }
    return false;
}

static bool is_unset(const char *value)
{
    return is_word(value, "auto,none,null,default");
}

/* ------------------------------------------------------------------ values */

static int map_count(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    int64_t n;
    char text[32];
    if (is_unset(u->value)) {
        say(u, "decided from the checkpoint and the machine");
        return QN_OK;
    }
    if (qn_opt_count(u->value, &n))
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s: '%s' is not a whole number (like 4096, 128k)",
                          u->name, u->value);
    if (n <= 0) {
        say(u, "decided from the checkpoint and the machine");
        return QN_OK;
    }
    if (!strcmp(u->flag.rule->to, "max-seqs") && n > MAX_SEQS) {
        fprintf(stderr, "%s %" PRId64 ": at most %d run at once, the others wait\n", u->name, n, MAX_SEQS);
        n = MAX_SEQS;
    }
    snprintf(text, sizeof text, "%" PRId64, n);
    mapped(r, u, text);
    return QN_OK;
}

static int map_size(struct fl *r, const struct fl_use *u, double unit, struct qn_err *e)
{
    char *end, text[32];
    double x = strtod(u->value, &end);
    if (end == u->value || *end || !(x < 1e9))
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s: '%s' is not a number", u->name, u->value);
    if (x <= 0) {
        say(u, "no such memory is set aside");
        return QN_OK;
    }
    snprintf(text, sizeof text, "%.0f", x * unit);
    mapped(r, u, text);
    return QN_OK;
}

static int map_list(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *v;
    struct qn_buf list = QN_BUF_INIT(1 << 20);
    if (u->value[0] == '[') {
        QN_TRY(qn_json_parse(&v, r->f->arena, u->value, strlen(u->value), u->name, e));
        for (size_t i = 0; i < v->n; i++) {
            QN_FAIL_IF(!qn_json_is(v->items[i], QN_JSON_STRING), e, QN_INVAL, "%s: entry %zu is no string",
                       u->name, i);
            qn_buf_printf(&list, "%s%s", list.n_byte ? "," : "", v->items[i]->text);
        }
    } else
        qn_buf_puts(&list, u->value);
    if (list.n_byte) mapped(r, u, qn_buf_str(&list));
out:
    qn_buf_free(&list);
    return rc;
}

static void map_kv(struct fl *r, const struct fl_use *u)
{
    const char *type = is_word(u->value, "f16,fp16,half,float16,bf16,bfloat16") ? "auto" : u->value;
    if (is_unset(type))
        mapped(r, u, "auto");
    else if (qn_kv_find(type, false) >= 0)
        mapped(r, u, type);
    else
        fprintf(stderr, "%s %s: noted: not a type of this build; the cache is as without it (--kv)\n",
                u->name, u->value);
}

static void map_level(struct fl *r, const struct fl_use *u)
{
    const char *level = is_word(u->value, "critical,fatal") ? "error"
                        : is_word(u->value, "warning")      ? "warn"
                        : is_word(u->value, "trace")        ? "debug"
                                                            : u->value;
    char low[16];
    size_t n = 0;
    for (; level[n] && n + 1 < sizeof low; n++) low[n] = (char)(level[n] | 32);
    low[n] = 0;
    mapped(r, u, low);
}

/* "CUDA0,CUDA1", "cuda:0", "gpu": a device's kind. */
static void map_device(struct fl *r, const struct fl_use *u)
{
    if (is_unset(u->value) && !is_word(u->value, "none"))
        say(u, "the fastest of this build");
    else if (is_word(u->value, "none"))
        mapped(r, u, "cpu");
    else if (!strncasecmp(u->value, "cuda", 4) || is_word(u->value, "gpu"))
        mapped(r, u, "cuda");
    else
        mapped(r, u, u->value);
}

static int map_think(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    if (u->value && is_word(u->value, "off,0,none,false")) {
        fprintf(stderr, "%s %s: as --think off\n", u->name, u->value);
        fl_emit(r, "think", "off");
        return QN_OK;
    }
    if (!u->value || is_word(u->value, "on,auto,true,enabled,-1")) {
        say(u, "not needed: thinking is the template's own choice, requests may say");
        return QN_OK;
    }
    return qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__,
                      "%s %s: a budget for every request is not supported; send thinking_budget with the "
                      "request, or give 0 (off) or -1 (no limit)",
                      u->name, u->value);
}

/* ------------------------------------------------------------------ speculation */

static bool drafts_itself(const char *method)
{
    return strcasestr(method, "mtp") || is_word(method, "nextn,eagle");
}

static int set_depth(struct fl *r, const struct fl_use *u, const char *text, struct qn_err *e)
{
    int64_t n;
    r->has_draft = true;
    if (is_word(text, "off,none,null,false"))
        n = 0;
    else if (is_unset(text))
        return QN_OK;
    else if (qn_opt_count(text, &n) || n < -1)
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s: '%s' is not a number of drafts", u->name,
                          text);
    r->depth = n;
    return QN_OK;
}

static int set_drafter(struct fl *r, const struct fl_use *u, const char *method, struct qn_err *e)
{
    r->has_draft = true;
    if (is_word(method, "none,off,null,false")) return set_depth(r, u, "0", e);
    r->is_other = !drafts_itself(method);
    fprintf(stderr, "%s %s: %s\n", u->name, method,
            r->is_other ? "only the model's own MTP head can draft here; its depth is automatic"
                        : "the model's own MTP head drafts");
    return QN_OK;
}

static int read_spec(struct fl *r, const struct qn_json *v, struct qn_err *e)
{
    int rc = QN_OK;
    const struct fl_use u = {.name = "--speculative-config"};
    const struct qn_json *method = qn_json_get(v, "method"), *n = qn_json_get(v, "num_speculative_tokens");
    r->has_draft = true;
    if (qn_json_is(method, QN_JSON_STRING))
        QN_TRY(set_drafter(r, &u, method->text, e));
    else if (!qn_json_is_null(qn_json_get(v, "model")))
        QN_TRY(set_drafter(r, &u, "another model", e));
    if (!qn_json_is_null(n)) {
        int64_t depth;
        QN_FAIL_IF(!qn_json_int(n, &depth) || depth < 0, e, QN_INVAL,
                   "--speculative-config: num_speculative_tokens is not a whole number");
        r->depth = depth;
    }
out:
    return rc;
}

static void finish_depth(struct fl *r)
{
    char text[32];
    if (r->has_own_depth || !r->has_draft || r->depth < 0) return;
    if (r->depth == 0) {
        fprintf(stderr, "speculation: off, as depth 0 says\n");
        fl_emit(r, "mtp", "off");
        return;
    }
    if (r->is_other) return; /* its depth means another drafter */
    if (r->depth > QN_MAX_DRAFT)
        fprintf(stderr, "speculation: depth %" PRId64 " is more than %d; using %d\n", r->depth, QN_MAX_DRAFT,
                QN_MAX_DRAFT);
    snprintf(text, sizeof text, "%" PRId64, QN_MIN(r->depth, (int64_t)QN_MAX_DRAFT));
    fl_emit(r, "mtp", text);
}

/* ------------------------------------------------------------------ objects */

/* Sets what stands at a path of members; a path that ends in + appends to a list. */
static int set_member(struct fl *r, struct qn_json *object, const char *path, struct qn_json *value)
{
    struct qn_arena *arena = r->f->arena;
    for (;;) {
        size_t n = strcspn(path, ".");
        char *key = fl_keep(r, path, n);
        bool is_last = !path[n], is_list = is_last && n && key[n - 1] == '+';
        if (is_list) key[n - 1] = 0;
        struct qn_json *inner = qn_json_get(object, key);
        if (is_list && !qn_json_is(inner, QN_JSON_ARRAY)) {
            inner = qn_json_new(arena, QN_JSON_ARRAY);
            if (!inner || !qn_json_set(arena, object, key, inner)) return QN_TOOBIG;
        }
        if (is_list) return qn_json_push(arena, inner, value) ? QN_OK : QN_TOOBIG;
        if (is_last) return qn_json_set(arena, object, key, value) ? QN_OK : QN_TOOBIG;
        if (!qn_json_is(inner, QN_JSON_OBJECT)) {
            inner = qn_json_new(arena, QN_JSON_OBJECT);
            if (!inner || !qn_json_set(arena, object, key, inner)) return QN_TOOBIG;
        }
        object = inner;
        path += n + 1;
    }
}

/* Lays an object, or one member of it, over what was given for the same option before. */
static int add_json(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = r->f->arena;
    struct qn_json **all = &r->json[u->flag.rule - qn_flag_rules], *v = NULL;
    if (!*all) *all = qn_json_new(arena, QN_JSON_OBJECT);
    QN_CHECK(*all);
    if (u->flag.rule->to && !is_ours(u))
        fprintf(stderr, "%s: as --%s%s%s\n", u->name, u->flag.rule->to, u->path ? "." : "",
                u->path ? u->path : "");
    if (u->path) {
        if (qn_json_parse(&v, arena, u->value, strlen(u->value), u->name, NULL))
            v = qn_json_new_str(arena, u->value, strlen(u->value));
        QN_FAIL_IF(!v || set_member(r, *all, u->path, v), e, QN_TOOBIG, "%s: too large", u->name);
        return QN_OK;
    }
    if (is_unset(u->value)) return QN_OK;
    QN_TRY(qn_json_parse(&v, arena, u->value, strlen(u->value), u->name, e));
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_OBJECT), e, QN_INVAL, "%s must be a JSON object", u->name);
    for (size_t i = 0; i < v->n; i++)
        QN_FAIL_IF(!qn_json_set(arena, *all, v->keys[i].text, v->items[i]), e, QN_TOOBIG, "%s: too large",
                   u->name);
out:
    return rc;
}

static int finish_json(struct fl *r, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf text = QN_BUF_INIT(1 << 20);
    for (int i = 0; i < qn_flag_n_rule; i++) {
        const struct qn_flag_rule *rule = &qn_flag_rules[i];
        if (!r->json[i]) continue;
        if (rule->value == QN_VALUE_SPEC) {
            QN_TRY(read_spec(r, r->json[i], e));
            continue;
        }
        qn_buf_clear(&text);
        qn_json_write(&text, r->json[i], QN_JSON_COMPACT);
        fl_emit(r, rule->to, qn_buf_str(&text));
    }
out:
    qn_buf_free(&text);
    return rc;
}

/* ------------------------------------------------------------------ all together */

/* Options of ours that are switches, or take any text. */
static void map_plain(struct fl *r, const struct fl_use *u)
{
    char name[128];
    switch (u->flag.rule->value) {
    case QN_VALUE_ON:
    case QN_VALUE_OFF:
        if (u->is_on == (u->flag.rule->value == QN_VALUE_ON))
            mapped(r, u, NULL);
        else
            say(u, "not needed: it is so without");
        break;
    case QN_VALUE_SAME:
        snprintf(name, sizeof name, "%.*s", u->flag.n_name, u->flag.name);
        fl_emit(r, name, u->value);
        break;
    case QN_VALUE_LIMIT:
        if (u->value[0] == '-')
            say(u, "not needed: an answer ends with the context");
        else
            mapped(r, u, u->value);
        break;
    case QN_VALUE_NUMBER:
        if (is_unset(u->value))
            say(u, "decided from the checkpoint and the machine");
        else
            mapped(r, u, u->value);
        break;
    default:
        mapped(r, u, u->value);
        break;
    }
}

static int map_own(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    if (u->flag.arity == 'j' || u->path) return add_json(r, u, e);
    switch (u->flag.rule->value) {
    case QN_VALUE_COUNT:
        return map_count(r, u, e);
    case QN_VALUE_GIB:
        return map_size(r, u, 1024.0 * 1024 * 1024, e);
    case QN_VALUE_MIB:
        return map_size(r, u, 1024.0 * 1024, e);
    case QN_VALUE_LIST:
        return map_list(r, u, e);
    case QN_VALUE_KV:
        map_kv(r, u);
        return QN_OK;
    case QN_VALUE_LEVEL:
        map_level(r, u);
        return QN_OK;
    case QN_VALUE_DEVICE:
        map_device(r, u);
        return QN_OK;
    case QN_VALUE_THINK:
        return map_think(r, u, e);
    case QN_VALUE_DEPTH:
        return set_depth(r, u, u->value ? u->value : "auto", e);
    case QN_VALUE_ALGO:
        return set_drafter(r, u, u->value, e);
    case QN_VALUE_MTP:
        if (!u->value) {
            r->has_draft = true;
            say(u, "the model's own MTP head drafts");
            return QN_OK;
        }
        r->has_own_depth = true;
        fl_emit(r, "mtp", is_word(u->value, "0,none,false,no") ? "off" : u->value);
        return QN_OK;
    case QN_VALUE_NO_MTP:
        return set_depth(r, u, "0", e);
    default:
        map_plain(r, u);
        return QN_OK;
    }
}

int fl_apply(struct fl *r, const struct fl_use *u, struct qn_err *e)
{
    const struct qn_flag_rule *rule = u->flag.rule;
    switch (rule->does) {
    case QN_FLAG_OWN:
        return map_own(r, u, e);
    case QN_FLAG_NOTE:
        say(u, rule->text);
        return QN_OK;
    default:
        break;
    }
    bool is_off = !u->is_on;
    if (u->value)
        is_off = rule->fine && *rule->fine == '!' ? !is_word(u->value, rule->fine + 1)
                                                  : is_word(u->value, rule->fine);
    if (is_off) {
        say(u, "not needed: it is so without");
        return QN_OK;
    }
    return qn_err_set(e, QN_UNSUPPORTED, __FILE__, __LINE__, "%s%s%.80s: %s", u->name, u->value ? " " : "",
                      u->value ? u->value : "", rule->text);
}

int fl_finish(struct fl *r, struct qn_err *e)
{
    int rc = finish_json(r, e);
    if (!rc) finish_depth(r);
    return rc;
}

void fl_describe(const struct qn_flag_rule *rule, char *out, size_t max)
{
    static const char *const of_draft[] = {"as --mtp N", "as --mtp, from method and num_speculative_tokens",
                                           "the model's own MTP head drafts, or it is off",
                                           "the model's own MTP head drafts; as --mtp where a depth is given",
                                           "as --mtp off"};
    if (rule->text)
        snprintf(out, max, "%s", rule->text);
    else if (rule->value >= QN_VALUE_DEPTH)
        snprintf(out, max, "%s", of_draft[rule->value - QN_VALUE_DEPTH]);
    else if (rule->value == QN_VALUE_THINK)
        snprintf(out, max, "as --think off with 0 or off; a budget is refused");
    else if (rule->value == QN_VALUE_SAME)
        snprintf(out, max, "an option of the same name");
    else
        snprintf(out, max, "as --%s%s", rule->to, rule->value == QN_VALUE_OFF ? ", when it is off" : "");
}
