/* How values of the Jinja interpreter are written: Python's str and repr, HTML entities, JSON.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <math.h>

/* ---- spelling ---- */

const char *jj_type_name(struct val v)
{
    switch (v.type) {
    case V_UNDEF:
        return "undefined";
    case V_NONE:
        return "None";
    case V_BOOL:
        return "bool";
    case V_INT:
    case V_BIG:
        return "int";
    case V_FLOAT:
        return "float";
    case V_STR:
        return "str";
    case V_LIST:
        return v.u.l->kind == LIST_TUPLE ? "tuple" : v.u.l->kind == LIST_RANGE ? "range" : "list";
    case V_DICT:
        return "dict";
    case V_ITER:
        return v.u.it->name;
    case V_SPACE:
        return "namespace";
    case V_MACRO:
        return "macro";
    case V_LOOP:
        return "loop";
    case V_JOINER:
        return "joiner";
    case V_CYCLER:
        return "cycler";
    default:
        return "function";
    }
}

void jj_put_double(struct run *r, double f)
{
    if (isnan(f) || isinf(f)) {
        jj_puts_lit(r, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    struct qn_buf b = QN_BUF_INIT(64);
    char text[64];
    qn_json_write_double(&b, f);
    snprintf(text, sizeof text, "%s", qn_buf_str(&b));
    qn_buf_free(&b);
    jj_puts_lit(r, text);
}

/* A number that the request spelled. */
static bool put_spelled(struct run *r, struct val v)
{
    if (!v.spelling) return false;
    const struct qn_json *number = r->spellings[v.spelling - 1];
    jj_put(r, number->text, number->n, QN_JINJA_INPUT);
    return true;
}

/* Python's repr of a text. */
static void put_quoted(struct run *r, const struct str *s)
{
    bool has_single = s->n && memchr(s->p, '\'', s->n), has_double = s->n && memchr(s->p, '"', s->n);
    char quote = has_single && !has_double ? '"' : '\'';
    jj_put(r, &quote, 1, QN_JINJA_LITERAL);
    int32_t cp;
    for (size_t i = 0, k; i < s->n; i += k) {
        k = jj_next_cp(s->p + i, s->n - i, &cp);
        jj_tick(r, 0);
        char text[16];
        if (cp == quote || cp == '\\')
            snprintf(text, sizeof text, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\t' || cp == '\r')
            snprintf(text, sizeof text, "\\%c", cp == '\n' ? 'n' : cp == '\t' ? 't' : 'r');
        else if (jj_is_printable_cp(cp)) {
            jj_put_slice(r, s, i, k);
            continue;
        } else
            snprintf(text, sizeof text,
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     (unsigned)cp);
        jj_put(r, text, strlen(text), jj_origin_at(s, i));
    }
    jj_put(r, &quote, 1, QN_JINJA_LITERAL);
}

static void put_items(struct run *r, const struct list *l, const char *open, const char *close)
{
    jj_puts_lit(r, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i) jj_puts_lit(r, ", ");
        jj_put_repr(r, l->items[i]);
    }
    jj_puts_lit(r, close);
}

static void put_range(struct run *r, const struct list *l)
{
    char text[96];
    if (l->step == 1)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", l->start, l->stop);
    else
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", l->start, l->stop,
                 l->step);
    jj_puts_lit(r, text);
}

static void put_dict(struct run *r, const struct dict *d)
{
    jj_puts_lit(r, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jj_puts_lit(r, ", ");
        jj_put_repr(r, d->pairs[i].key);
        jj_puts_lit(r, ": ");
        jj_put_repr(r, d->pairs[i].value);
    }
    jj_puts_lit(r, "}");
}

void jj_put_repr(struct run *r, struct val v)
{
    jj_tick(r, 0);
    if (r->depth > MAX_VALUE_DEPTH + r->max_depth) jj_fail_cap(r, "spells a value that nests too deep");
    switch (v.type) {
    case V_UNDEF:
        jj_puts_lit(r, "Undefined");
        return;
    case V_NONE:
        jj_puts_lit(r, "None");
        return;
    case V_BOOL:
        jj_puts_lit(r, v.u.truth ? "True" : "False");
        return;
    case V_INT:
    case V_BIG:
        if (!put_spelled(r, v)) jj_put_int(r, v);
        return;
    case V_FLOAT:
        if (!put_spelled(r, v)) jj_put_double(r, v.u.f);
        return;
    case V_STR:
        if (v.flag & STR_SAFE) jj_puts_lit(r, "Markup(");
        put_quoted(r, jj_flat(r, v));
        if (v.flag & STR_SAFE) jj_puts_lit(r, ")");
        return;
    case V_LIST: {
        struct list *l = jj_list_of(r, v);
        jj_enter(r);
        if (l->kind == LIST_RANGE)
            put_range(r, l);
        else if (l->kind == LIST_LIST)
            put_items(r, l, "[", "]");
        else
            put_items(r, l, "(", l->n == 1 ? ",)" : ")");
        r->depth--;
        return;
    }
    case V_DICT:
        jj_enter(r);
        put_dict(r, jj_dict_of(r, v));
        r->depth--;
        return;
    case V_SPACE:
        jj_enter(r);
        jj_puts_lit(r, "<Namespace ");
        put_dict(r, jj_dict_of(r, v));
        jj_puts_lit(r, ">");
        r->depth--;
        return;
    case V_ITER:
        jj_enter(r);
        if (v.u.it->is_view) {
            jj_puts_lit(r, v.u.it->name);
            put_items(r, v.u.it->l, "([", "])");
        } else {
            jj_puts_lit(r, "<");
            jj_puts_lit(r, v.u.it->name);
            jj_puts_lit(r, " object>");
        }
        r->depth--;
        return;
    default:
        jj_puts_lit(r, "<");
        jj_puts_lit(r, jj_type_name(v));
        jj_puts_lit(r, ">");
    }
}

void jj_put_value(struct run *r, struct val v)
{
    if (v.type == V_STR)
        jj_put_str(r, v.u.s);
    else if (v.type != V_UNDEF)
        jj_put_repr(r, v);
}

void jj_put_escaped(struct run *r, const struct str *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *entity = NULL;
        switch (s->p[i]) {
        case '&':
            entity = "&amp;";
            break;
        case '<':
            entity = "&lt;";
            break;
        case '>':
            entity = "&gt;";
            break;
        case '\'':
            entity = "&#39;";
            break;
        case '"':
            entity = "&#34;";
            break;
        default:
            break;
        }
        jj_tick(r, 0);
        if (entity)
            jj_put(r, entity, strlen(entity), jj_origin_at(s, i));
        else
            jj_put_slice(r, s, i, 1);
    }
}

/* ---- json.dumps ---- */

static void put_json_str(struct run *r, struct str *s, bool ensure_ascii)
{
    jj_tick(r, s->n);
    struct qn_buf b = QN_BUF_INIT(r->max_output_bytes);
    qn_json_write_str(&b, s->p, s->n, ensure_ascii);
    size_t n = b.n_byte;
    bool failed = b.failed != QN_OK;
    char *copy = failed ? NULL : qn_arena_alloc(r->arena, n + 1);
    if (copy) memcpy(copy, b.data, n);
    qn_buf_free(&b);
    if (failed) jj_fail_cap(r, "makes a text of more than %zu bytes", r->max_output_bytes);
    if (!copy) jj_fail_cap(r, "needs more than %zu bytes of memory", r->max_memory_bytes);
    /* the text of input stays input; a text of the template stays literal when nothing else is in it */
    uint8_t origin = s->origin ? QN_JINJA_INPUT : s->uniform;
    if (origin > QN_JINJA_LITERAL && n >= 2) { /* a caller's mark covers the text, not the quotes */
        jj_put(r, copy, 1, QN_JINJA_INPUT);
        jj_put(r, copy + 1, n - 2, origin);
        jj_put(r, copy + n - 1, 1, QN_JINJA_INPUT);
    } else {
        jj_put(r, copy, n, origin);
    }
}

static void put_json_double(struct run *r, double f)
{
    if (isnan(f) || isinf(f))
        jj_puts_lit(r, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
    else
        jj_put_double(r, f);
}

static void put_json_key(struct run *r, struct val key, bool ensure_ascii)
{
    if (key.type == V_STR) {
        put_json_str(r, jj_flat(r, key), ensure_ascii);
        return;
    }
    jj_puts_lit(r, "\"");
    if (key.type == V_NONE)
        jj_puts_lit(r, "null");
    else if (key.type == V_BOOL)
        jj_puts_lit(r, key.u.truth ? "true" : "false");
    else if (key.type == V_FLOAT)
        put_json_double(r, key.u.f);
    else if (jj_is_int(key))
        jj_put_int(r, key);
    else
        jj_fail(r, "tojson: a key must be a string, a number, a boolean or none, not %s", jj_type_name(key));
    jj_puts_lit(r, "\"");
}

static void json_line(struct run *r, const char *indent, size_t n_indent, int level)
{
    if (!indent) return;
    jj_puts_lit(r, "\n");
    for (int i = 0; i < level; i++) jj_put(r, indent, n_indent, QN_JINJA_LITERAL);
}

void jj_put_json(struct run *r, struct val v, const struct qn_json_style *style, const char *indent,
                 size_t n_indent, int level)
{
    jj_tick(r, 0);
    if (level > MAX_VALUE_DEPTH)
        jj_fail_cap(r, "writes JSON that nests deeper than %d levels", MAX_VALUE_DEPTH);
    switch (v.type) {
    case V_NONE:
        jj_puts_lit(r, "null");
        return;
    case V_BOOL:
        jj_puts_lit(r, v.u.truth ? "true" : "false");
        return;
    case V_INT:
    case V_BIG:
        if (!put_spelled(r, v)) jj_put_int(r, v);
        return;
    case V_FLOAT:
        if (!put_spelled(r, v)) put_json_double(r, v.u.f);
        return;
    case V_STR:
        put_json_str(r, jj_flat(r, v), style->ensure_ascii);
        return;
    default:
        break;
    }
    bool is_dict = v.type == V_DICT;
    if (!is_dict && (v.type != V_LIST || v.u.l->kind == LIST_RANGE))
        jj_fail(r, "tojson: %s cannot be written as JSON", jj_type_name(v));
    size_t n = is_dict ? jj_dict_of(r, v)->n : jj_list_of(r, v)->n;
    jj_puts_lit(r, is_dict ? "{" : "[");
    size_t *order = NULL;
    if (is_dict && style->sort_keys && n) {
        struct val *keys = jj_alloc(r, n * sizeof *keys), *at = jj_alloc(r, n * sizeof *at);
        for (size_t i = 0; i < n; i++) {
            keys[i] = v.u.d->pairs[i].key;
            at[i] = jj_int_value((int64_t)i);
        }
        jj_sort_by_keys(r, at, keys, n, false);
        order = jj_alloc(r, n * sizeof *order);
        for (size_t i = 0; i < n; i++) order[i] = (size_t)at[i].u.i;
    }
    for (size_t i = 0; i < n; i++) {
        if (i) jj_puts_lit(r, style->item_sep);
        json_line(r, indent, n_indent, level + 1);
        if (is_dict) {
            const struct pair *p = &v.u.d->pairs[order ? order[i] : i];
            put_json_key(r, p->key, style->ensure_ascii);
            jj_puts_lit(r, style->key_sep);
            jj_put_json(r, p->value, style, indent, n_indent, level + 1);
        } else {
            jj_put_json(r, v.u.l->items[i], style, indent, n_indent, level + 1);
        }
    }
    if (n) json_line(r, indent, n_indent, level);
    jj_puts_lit(r, is_dict ? "}" : "]");
}
