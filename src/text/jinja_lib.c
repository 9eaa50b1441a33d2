/* The library of the Jinja interpreter: filters, tests, global functions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <errno.h>
#include <math.h>
#include <time.h>

#define X (c->x)

/* ---- attribute paths: "a.b.0", an index, or nothing ---- */

struct path {
    struct val parts[16];
    int n;
    struct val dflt; /* V_ABSENT: none */
    bool ignore_case;
};

static void path_from(struct run *r, struct path *p, struct val attribute)
{
    *p = (struct path){.dflt = {.type = V_ABSENT}};
    if (!jj_given(attribute)) return;
    if (attribute.type != V_STR) {
        p->parts[p->n++] = attribute;
        return;
    }
    struct str *s = jj_flat(r, attribute);
    for (size_t from = 0;; from++) {
        size_t to = from;
        while (to < s->n && s->p[to] != '.') to++;
        if (p->n == (int)QN_COUNT(p->parts))
            jj_fail(r, "an attribute path of more than %zu parts", QN_COUNT(p->parts));
        struct val part;
        if (!(to > from && s->p[from] != '-' && s->p[from] != '+' &&
              jj_int_from_text(r, s->p + from, to - from, &part)))
            part = jj_slice_value(r, s, from, to - from);
        p->parts[p->n++] = part;
        if (to >= s->n) break;
        from = to;
    }
}

static struct val lower_if_text(struct run *r, struct val v)
{
    return v.type == V_STR ? jj_str_case(r, v, 'l') : v;
}

static struct val path_get(struct run *r, const struct path *p, struct val v)
{
    for (int i = 0; i < p->n; i++) {
        v = jj_get_item(r, v, p->parts[i], NULL);
        if (v.type == V_UNDEF && p->dflt.type != V_ABSENT) v = p->dflt;
    }
    return p->ignore_case ? lower_if_text(r, v) : v;
}

/* ---- text ---- */

static struct val f_case(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    return jj_str_case(r, jj_to_str(r, v), (char)X);
}

/* Upper case after the start, white space and - ( { [ <; lower case elsewhere. */
static struct val f_title(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct val text = jj_to_str(r, v);
    const struct str *s = jj_flat(r, text);
    jj_sink_begin(r);
    for (size_t i = 0; i < s->n;) {
        int32_t cp;
        size_t k = jj_next_cp(s->p + i, s->n - i, &cp);
        if (jj_is_space_cp(cp) || (cp < 128 && strchr("-({[<", cp) && cp)) {
            jj_put_slice(r, s, i, k);
            i += k;
            continue;
        }
        jj_put_str(r, jj_str_case(r, jj_slice_value(r, s, i, k), 'u').u.s);
        size_t end = i + k;
        while (end < s->n) {
            size_t w = jj_next_cp(s->p + end, s->n - end, &cp);
            if (jj_is_space_cp(cp) || (cp < 128 && strchr("-({[<", cp) && cp)) break;
            end += w;
        }
        jj_put_str(r, jj_str_case(r, jj_slice_value(r, s, i + k, end - i - k), 'l').u.s);
        i = end;
    }
    return jj_sink_end(r);
}

static struct val f_trim(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    return jj_str_strip(r, jj_to_str(r, v),
                        jj_given(a[0]) ? jj_want_str(r, a[0], "trim: the characters") : NULL, 3);
}

static struct val f_string(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    return jj_to_str(r, v);
}

static struct val f_safe(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct val out = jj_to_str(r, v);
    out.flag = STR_SAFE;
    return out;
}

static struct val f_escape(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct val text = jj_to_str(r, v);
    if (!X && text.flag & STR_SAFE) return text;
    jj_sink_begin(r);
    jj_put_escaped(r, jj_flat(r, text));
    struct val out = jj_sink_end(r);
    out.flag = STR_SAFE;
    return out;
}

static struct val f_replace(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val text = jj_to_str(r, v), from = jj_to_str(r, a[0]), to = jj_to_str(r, a[1]);
    struct val out = jj_str_replace(r, text, jj_flat(r, from), jj_flat(r, to),
                                    jj_given(a[2]) ? jj_want_int(r, a[2], "the count") : -1);
    out.flag = 0;
    return out;
}

static struct val f_center(struct run *r, struct val v, struct val *a, struct call *c)
{
    struct val args[2] = {jj_given(a[0]) ? a[0] : jj_int_value(80), {.type = V_ABSENT}};
    struct val text = jj_to_str(r, v);
    c->x = 'c';
    return jj_find_method(text, "center", 6)->fn(r, text, args, c);
}

static struct val f_indent(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val text = jj_to_str(r, v), with = jj_given(a[0]) ? a[0] : jj_int_value(4);
    bool first = jj_flag_or(r, a[1], false), blank = jj_flag_or(r, a[2], false);
    if (with.type != V_STR) with = jj_arith(r, '*', jj_lit_value(r, " "), with);
    struct str *indent = jj_flat(r, with);
    struct list *lines = jj_str_lines(r, jj_concat_value(r, text, jj_lit_value(r, "\n")), false);
    jj_sink_begin(r);
    for (size_t i = 0; i < lines->n; i++) {
        struct str *line = jj_flat(r, lines->items[i]);
        if (i) jj_puts_lit(r, "\n");
        if (i ? blank || line->n : first) jj_put_str(r, indent);
        jj_put_str(r, line);
    }
    struct val out = jj_sink_end(r);
    out.flag = text.flag;
    return out;
}

static struct val f_truncate(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val text = jj_to_str(r, v);
    struct str *s = jj_flat(r, text);
    int64_t length = jj_given(a[0]) ? jj_want_int(r, a[0], "the length") : 255;
    bool kill_words = jj_flag_or(r, a[1], false);
    struct val end = jj_given(a[2]) ? jj_to_str(r, a[2]) : jj_lit_value(r, "...");
    int64_t leeway = jj_given(a[3]) ? jj_want_int(r, a[3], "the leeway") : 5;
    int64_t n = jj_count_cp(s), n_end = jj_count_cp(jj_flat(r, end));
    if (length < n_end || leeway < 0)
        jj_fail(r, "truncate: the length must be at least that of the end text");
    if (n <= length + leeway) return text;
    size_t keep = jj_cp_offset(s, length - n_end);
    if (!kill_words) {
        size_t at = keep;
        while (at > 0 && s->p[at - 1] != ' ') at--;
        if (at) keep = at - 1;
    }
    return jj_concat_value(r, jj_slice_value(r, s, 0, keep), end);
}

static struct val f_wordcount(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct val text = jj_to_str(r, v);
    struct str *s = jj_flat(r, text);
    const struct builtin *is_alnum = jj_find_method(text, "isalnum", 7);
    bool inside = false;
    int64_t n = 0;
    int32_t cp;
    for (size_t i = 0, k; i < s->n; i += k) {
        k = jj_next_cp(s->p + i, s->n - i, &cp);
        struct call call = {.x = is_alnum->x};
        bool word = cp == '_' || is_alnum->fn(r, jj_slice_value(r, s, i, k), NULL, &call).u.truth;
        n += word && !inside;
        inside = word;
    }
    return jj_int_value(n);
}

static struct val f_format(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct val fmt = jj_to_str(r, v);
    if (c->n && c->n_kw) jj_fail(r, "format: positional and keyword arguments cannot be mixed");
    if (c->n_kw) {
        struct dict *d = jj_dict_new(r);
        for (int i = 0; i < c->n_kw; i++)
            jj_dict_set(r, d, jj_str_value(r, c->kw[i].name, c->kw[i].n, QN_JINJA_LITERAL), c->kw[i].v);
        return jj_format_percent(r, fmt, jj_dict_value(d));
    }
    struct list *l = jj_list_new(r, LIST_TUPLE, (size_t)c->n);
    for (int i = 0; i < c->n; i++) jj_list_push(r, l, c->args[i]);
    return jj_format_percent(r, fmt, jj_list_value(l));
}

static struct val f_join(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val sep = jj_given(a[0]) ? jj_to_str(r, a[0]) : jj_lit_value(r, "");
    struct path path;
    path_from(r, &path, a[1]);
    struct list *l = jj_to_items(r, v);
    jj_sink_begin(r);
    for (size_t i = 0; i < l->n; i++) {
        jj_tick(r, 0);
        if (i) jj_put_str(r, sep.u.s);
        jj_put_value(r, path_get(r, &path, l->items[i]));
    }
    return jj_sink_end(r);
}

/* In a query a slash is quoted too, and a blank is a plus. */
static void put_quoted_url(struct run *r, struct val v, bool in_query)
{
    struct val text = jj_to_str(r, v);
    struct str *s = jj_flat(r, text);
    for (size_t i = 0; i < s->n; i++) {
        unsigned char b = (unsigned char)s->p[i];
        char hex[4];
        jj_tick(r, 0);
        if ((b >= '0' && b <= '9') || (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') ||
            (b && strchr(in_query ? "_.-~" : "_.-~/", b))) {
            jj_put_slice(r, s, i, 1);
            continue;
        }
        snprintf(hex, sizeof hex, "%%%02X", b);
        if (in_query && b == ' ')
            jj_put(r, "+", 1, jj_origin_at(s, i));
        else
            jj_put(r, hex, 3, jj_origin_at(s, i));
    }
}

/* A text, or a dictionary or list of pairs: k=v&... */
static struct val f_urlencode(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    bool is_query = jj_iterable(v) && v.type != V_STR && v.type != V_UNDEF;
    struct dict *d = v.type == V_DICT ? jj_dict_of(r, v) : NULL;
    struct list *l = is_query && !d ? jj_to_items(r, v) : NULL;
    size_t n = d ? d->n : l ? l->n : 0;
    jj_sink_begin(r);
    if (!is_query) put_quoted_url(r, v, false);
    for (size_t i = 0; i < n; i++) {
        struct val key, value;
        if (d) {
            key = d->pairs[i].key;
            value = d->pairs[i].value;
        } else {
            if (!jj_iterable(l->items[i])) jj_fail(r, "urlencode: item %zu is no pair", i);
            struct list *pair = jj_to_items(r, l->items[i]);
            if (pair->n != 2) jj_fail(r, "urlencode: item %zu is no pair", i);
            key = pair->items[0];
            value = pair->items[1];
        }
        if (i) jj_puts_lit(r, "&");
        put_quoted_url(r, key, true);
        jj_puts_lit(r, "=");
        put_quoted_url(r, value, true);
    }
    return jj_sink_end(r);
}

static struct val f_filesize(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    double bytes = jj_to_double(r, v);
    bool binary = jj_flag_or(r, a[0], false);
    double base = binary ? 1024 : 1000, unit = base;
    static const char *const names[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                            {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    char text[400];
    if (bytes == 1)
        snprintf(text, sizeof text, "1 Byte");
    else if (bytes < base)
        snprintf(text, sizeof text, "%" PRId64 " Bytes", (int64_t)bytes);
    else {
        int i = 0;
        for (unit = base * base; i < 7 && bytes >= unit; i++) unit *= base;
        snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, names[binary][i]);
    }
    jj_sink_begin(r);
    jj_puts_lit(r, text);
    return jj_sink_end(r);
}

/* ---- numbers ---- */

/* Text of a number without blanks and underscores, its digits in ASCII; false when it is too long to be one.
 */
static bool clean_number(const struct str *s, char *out, size_t n)
{
    size_t from = 0, len = 0, end = 0;
    int32_t cp;
    bool was_digit = false;
    while (from < s->n) {
        size_t k = jj_next_cp(s->p + from, s->n - from, &cp);
        if (!jj_is_space_cp(cp)) break;
        from += k;
    }
    for (size_t i = from, k; i < s->n; i += k) {
        k = jj_next_cp(s->p + i, s->n - i, &cp);
        int digit = jj_decimal_of_cp(cp);
        if (cp == '_' && was_digit && i + 1 < s->n && s->p[i + 1] != '_') {
            was_digit = false;
            continue;
        }
        if (len + k + 1 >= n) return false;
        was_digit = digit >= 0 || (cp | 32) >= 'a';
        if (digit >= 0)
            out[len++] = (char)('0' + digit);
        else
            for (size_t j = 0; j < k; j++) out[len++] = s->p[i + j];
        if (!jj_is_space_cp(cp)) end = len;
    }
    out[end] = 0;
    return end > 0;
}

static bool parse_double(const struct str *s, double *out)
{
    char text[512], *end;
    if (!clean_number(s, text, sizeof text)) return false;
    const char *p = text + (*text == '-' || *text == '+');
    bool word = !strcasecmp(p, "inf") || !strcasecmp(p, "infinity") || !strcasecmp(p, "nan");
    if (!word && strspn(p, "0123456789.eE+-") != strlen(p)) return false;
    *out = strtod(text, &end);
    return end != text && !*end;
}

static bool parse_based(struct run *r, const struct str *s, int64_t base, struct val *out)
{
    char text[QN_JINJA_MAX_INT_DIGITS + 8];
    if (!clean_number(s, text, sizeof text)) return false;
    if (base == 10) return jj_int_from_text(r, text, strlen(text), out);
    char *p = text + (*text == '-' || *text == '+'), *end;
    if (p[0] == '0' && p[1]) {
        int kind = p[1] | 32;
        int64_t said = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
        if (said && (base == said || base == 0)) {
            p += 2;
            base = said;
        }
    }
    if (base == 0) return jj_int_from_text(r, text, strlen(text), out);
    if (base < 2 || base > 36 || !*p || *p == '-' || *p == '+') return false;
    errno = 0;
    long long v = strtoll(p, &end, (int)base);
    if (*end || errno) return false;
    *out = jj_int_value(*text == '-' ? -v : v);
    return true;
}

static struct val f_int(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val dflt = a[0].type == V_ABSENT ? jj_int_value(0) : a[0], out;
    int64_t base = jj_given(a[1]) ? jj_want_int(r, a[1], "the base") : 10;
    double f;
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type == V_BOOL) return jj_int_value(v.u.truth);
    if (jj_is_int(v)) return v;
    if (v.type == V_STR) {
        struct str *s = jj_flat(r, v);
        if (parse_based(r, s, base, &out)) return out;
        if (!parse_double(s, &f)) return dflt;
    } else if (v.type == V_FLOAT) {
        f = v.u.f;
    } else {
        return dflt;
    }
    return isfinite(f) ? jj_int_from_double(r, f) : dflt;
}

static struct val f_float(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    double f;
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (jj_is_number(v)) return jj_float_value(jj_to_double(r, v));
    if (v.type == V_STR && parse_double(jj_flat(r, v), &f)) return jj_float_value(f);
    return a[0].type == V_ABSENT ? jj_float_value(0) : a[0];
}

static struct val f_abs(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    if (v.type == V_FLOAT) return jj_float_value(fabs(v.u.f));
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (!jj_is_int(v)) jj_fail(r, "abs needs a number, not %s", jj_type_name(v));
    if (v.type == V_BOOL) return jj_int_value(v.u.truth);
    return jj_compare(r, v, jj_int_value(0), "<") < 0 ? jj_negate(r, v) : v;
}

static struct val f_round(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    int64_t digits = jj_given(a[0]) ? jj_want_int(r, a[0], "the precision") : 0;
    struct val method = jj_given(a[1]) ? a[1] : jj_lit_value(r, "common");
    const struct str *how = jj_want_str(r, method, "the method");
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (!jj_is_number(v)) jj_fail(r, "round needs a number, not %s", jj_type_name(v));
    digits = QN_CLAMP(digits, -300, 300);
    if (!jj_str_is(how, "common")) {
        double scale = pow(10, (double)digits), x = jj_to_double(r, v) * scale;
        if (!jj_str_is(how, "ceil") && !jj_str_is(how, "floor"))
            jj_fail(r, "round: the method must be common, ceil or floor");
        return jj_float_value((jj_str_is(how, "ceil") ? ceil(x) : floor(x)) / scale);
    }
    if (v.type == V_BOOL) v = jj_int_value(v.u.truth);
    if (jj_is_int(v)) {
        if (digits >= 0 || v.type == V_BIG) return v;
        if (digits < -18) return jj_int_value(0);
        int64_t unit = 1;
        for (int64_t i = digits; i < 0; i++) unit *= 10;
        int64_t q = v.u.i / unit, m = v.u.i % unit;
        if (m < 0) q--, m += unit;
        if (m > unit - m || (m == unit - m && q & 1)) q++;
        return jj_arith(r, '*', jj_int_value(q), jj_int_value(unit));
    }
    if (!isfinite(v.u.f)) return v;
    if (digits < 0) {
        double unit = pow(10, (double)-digits);
        return jj_float_value(rint(v.u.f / unit) * unit);
    }
    char text[700];
    snprintf(text, sizeof text, "%.*f", (int)digits, v.u.f);
    return jj_float_value(strtod(text, NULL));
}

/* ---- sequences ---- */

static struct val f_length(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    return jj_int_value((int64_t)jj_value_len(r, v));
}

static struct val f_list(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    return jj_list_value(jj_list_copy(r, v));
}

static struct val f_first(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    if (v.type == V_ITER && !v.u.it->is_view && !X) { /* takes one and leaves the rest */
        struct iter *it = v.u.it;
        return it->pos < it->l->n ? it->l->items[it->pos++] : jj_undef_value(NULL, 0);
    }
    if (v.type == V_STR) {
        const struct str *s = jj_flat(r, v);
        if (!s->n) return jj_undef_value(NULL, 0);
        size_t at = 0, k;
        int32_t cp;
        if (X) {
            at = s->n - 1;
            while (at > 0 && ((unsigned char)s->p[at] & 0xc0) == 0x80) at--;
            k = s->n - at;
        } else {
            k = jj_next_cp(s->p, s->n, &cp);
        }
        struct val out = jj_slice_value(r, s, at, k);
        out.flag = X ? v.flag : 0; /* as iterating forwards and backwards has it */
        return out;
    }
    struct list *l = jj_to_items(r, v);
    if (!l->n) return jj_undef_value(NULL, 0);
    return l->items[X ? l->n - 1 : 0];
}

static struct val f_reverse(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct list *l = jj_to_items(r, v);
    if (v.type == V_STR) {
        jj_sink_begin(r);
        for (size_t i = l->n; i-- > 0;) jj_put_str(r, l->items[i].u.s);
        struct val text = jj_sink_end(r);
        text.flag = v.flag;
        return text;
    }
    struct list *out = jj_list_new(r, LIST_LIST, l->n);
    jj_tick(r, l->n * 16);
    for (size_t i = l->n; i-- > 0;) jj_list_push(r, out, l->items[i]);
    if (v.type == V_ITER && !v.u.it->is_view) return jj_list_value(out); /* cannot be walked backwards */
    struct val g = jj_gen_value(r, out);
    g.u.it->name = "reversed";
    return g;
}

static struct val f_items(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    if (v.type == V_UNDEF) return jj_gen_value(r, jj_list_new(r, LIST_LIST, 0));
    if (v.type != V_DICT) jj_fail(r, "items: only a mapping has item pairs, not %s", jj_type_name(v));
    return jj_gen_value(r, jj_dict_items(r, jj_dict_of(r, v)));
}

static struct val f_sort(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = jj_list_copy(r, v);
    bool reverse = jj_flag_or(r, a[0], false), case_sensitive = jj_flag_or(r, a[1], false);
    struct val *keys = jj_alloc(r, (l->n + 1) * sizeof *keys);
    /* "a,b" sorts by a, then b: keys are lists */
    struct list *names = jj_list_new(r, LIST_LIST, 1);
    if (jj_given(a[2]) && a[2].type == V_STR) {
        struct str *s = jj_flat(r, a[2]);
        for (size_t from = 0, to;; from = to + 1) {
            for (to = from; to < s->n && s->p[to] != ','; to++) {
            }
            jj_list_push(r, names, jj_slice_value(r, s, from, to - from));
            if (to >= s->n) break;
        }
    } else {
        jj_list_push(r, names, jj_or_none(a[2]));
    }
    for (size_t i = 0; i < l->n; i++) {
        struct list *key = jj_list_new(r, LIST_LIST, names->n);
        for (size_t k = 0; k < names->n; k++) {
            struct path path;
            path_from(r, &path, names->items[k]);
            path.ignore_case = !case_sensitive;
            jj_list_push(r, key, path_get(r, &path, l->items[i]));
        }
        keys[i] = jj_list_value(key); /* a list even for one: equal items need no order */
    }
    jj_sort_by_keys(r, l->items, keys, l->n, reverse);
    return jj_list_value(l);
}

static struct val f_dictsort(struct run *r, struct val v, struct val *a, struct call *c)
{
    bool case_sensitive = jj_flag_or(r, a[0], false), by_value = false, reverse = jj_flag_or(r, a[2], false);
    if (jj_given(a[1])) {
        const struct str *by = jj_want_str(r, a[1], "by");
        by_value = jj_str_is(by, "value");
        if (!by_value && !jj_str_is(by, "key")) jj_fail(r, "dictsort: by must be 'key' or 'value'");
    }
    if (v.type != V_DICT) jj_fail(r, "dictsort needs a dictionary, not %s", jj_type_name(v));
    struct list *l = f_items(r, v, NULL, c).u.it->l;
    struct val *keys = jj_alloc(r, (l->n + 1) * sizeof *keys);
    for (size_t i = 0; i < l->n; i++) {
        struct val key = l->items[i].u.l->items[by_value];
        keys[i] = case_sensitive ? key : lower_if_text(r, key);
    }
    jj_sort_by_keys(r, l->items, keys, l->n, reverse);
    return jj_list_value(l);
}

static struct val f_groupby(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    bool case_sensitive = jj_flag_or(r, a[2], false);
    struct path path;
    path_from(r, &path, a[0]);
    if (jj_given(a[1])) path.dflt = a[1];
    struct list *l = jj_list_copy(r, v), *out = jj_list_new(r, LIST_LIST, 0);
    struct val *keys = jj_alloc(r, (l->n + 1) * sizeof *keys);
    path.ignore_case = !case_sensitive;
    for (size_t i = 0; i < l->n; i++) keys[i] = path_get(r, &path, l->items[i]);
    jj_sort_by_keys(r, l->items, keys, l->n, false);
    path.ignore_case = false;
    struct list *group = NULL;
    for (size_t i = 0; i < l->n; i++) {
        if (!i || !jj_equal(r, keys[i], keys[i - 1])) {
            struct list *pair = jj_list_new(r, LIST_TUPLE, 2);
            group = jj_list_new(r, LIST_LIST, 0);
            pair->is_group = true;
            jj_list_push(r, pair, path_get(r, &path, l->items[i])); /* as the first one spells it */
            jj_list_push(r, pair, jj_list_value(group));
            jj_list_push(r, out, jj_list_value(pair));
        }
        jj_list_push(r, group, l->items[i]);
    }
    return jj_list_value(out);
}

static struct val f_unique(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct path path;
    path_from(r, &path, a[1]);
    path.ignore_case = !jj_flag_or(r, a[0], false);
    struct list *l = jj_to_items(r, v), *out = jj_list_new(r, LIST_LIST, 0);
    struct dict *seen = jj_dict_new(r);
    for (size_t i = 0; i < l->n; i++) {
        struct val key = path_get(r, &path, l->items[i]), hit;
        jj_tick(r, 0);
        if (jj_dict_get(r, seen, key, &hit)) continue;
        jj_dict_set(r, seen, key, jj_none_value());
        jj_list_push(r, out, l->items[i]);
    }
    return jj_gen_value(r, out);
}

static struct val f_min_max(struct run *r, struct val v, struct val *a, struct call *c)
{
    struct path path;
    path_from(r, &path, a[1]);
    path.ignore_case = !jj_flag_or(r, a[0], false);
    struct list *l = jj_to_items(r, v);
    if (!l->n) return jj_undef_value(NULL, 0);
    struct val best = l->items[0], best_key = path_get(r, &path, best);
    for (size_t i = 1; i < l->n; i++) {
        struct val key = path_get(r, &path, l->items[i]);
        jj_tick(r, 0);
        if (X ? jj_compare(r, key, best_key, ">") == 1 : jj_compare(r, key, best_key, "<") == -1) {
            best = l->items[i];
            best_key = key;
        }
    }
    return best;
}

static struct val f_sum(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct path path;
    path_from(r, &path, a[0]);
    struct val sum = a[1].type == V_ABSENT ? jj_int_value(0) : a[1];
    if (sum.type == V_STR) jj_fail(r, "sum: texts are put together with join");
    struct list *l = jj_to_items(r, v);
    for (size_t i = 0; i < l->n; i++) {
        jj_tick(r, 0);
        sum = jj_arith(r, '+', sum, path_get(r, &path, l->items[i]));
    }
    return sum;
}

static struct val f_batch(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    int64_t n = jj_want_int(r, a[0], "the size of a batch");
    struct list *l = jj_to_items(r, v), *out = jj_list_new(r, LIST_LIST, 0), *part = NULL;
    for (size_t i = 0; i < l->n; i++) {
        jj_tick(r, 0);
        if (!part || (int64_t)part->n == n) {
            part = jj_list_new(r, LIST_LIST, 0);
            jj_list_push(r, out, jj_list_value(part));
        }
        jj_list_push(r, part, l->items[i]);
    }
    if (part && jj_given(a[1])) {
        if (n > (int64_t)QN_JINJA_MAX_RANGE) jj_fail_cap(r, "fills more than %d places", QN_JINJA_MAX_RANGE);
        while ((int64_t)part->n < n) jj_list_push(r, part, a[1]);
    }
    return jj_gen_value(r, out);
}

static struct val f_slice(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    int64_t n = jj_want_int(r, a[0], "the number of slices");
    struct list *l = jj_to_items(r, v), *out = jj_list_new(r, LIST_LIST, 0);
    if (n <= 0) jj_fail(r, "slice: the number of slices must be positive");
    if (n > (int64_t)QN_JINJA_MAX_RANGE) jj_fail_cap(r, "makes more than %d slices", QN_JINJA_MAX_RANGE);
    size_t each = l->n / (size_t)n, extra = l->n % (size_t)n, at = 0;
    for (size_t k = 0; k < (size_t)n; k++) {
        struct list *part = jj_list_new(r, LIST_LIST, each + 1);
        for (size_t end = at + each + (k < extra); at < end; at++) jj_list_push(r, part, l->items[at]);
        if (jj_given(a[1]) && k >= extra) jj_list_push(r, part, a[1]);
        jj_tick(r, each * 16);
        jj_list_push(r, out, jj_list_value(part));
    }
    return jj_gen_value(r, out);
}

/* map('filter', args...) or map(attribute=..., default=...) */
static struct val f_map(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    if (!jj_truthy(r, v)) return jj_gen_value(r, out);
    if (!c->n) {
        struct val attribute = {.type = V_ABSENT}, dflt = {.type = V_ABSENT};
        for (int i = 0; i < c->n_kw; i++) {
            bool is_default = c->kw[i].n == 7 && !memcmp(c->kw[i].name, "default", 7);
            if (!is_default && !(c->kw[i].n == 9 && !memcmp(c->kw[i].name, "attribute", 9)))
                jj_fail(r, "map: unexpected keyword argument '%.*s'", (int)c->kw[i].n, c->kw[i].name);
            *(is_default ? &dflt : &attribute) = c->kw[i].v;
        }
        if (attribute.type == V_ABSENT) jj_fail(r, "map needs a filter or attribute=");
        struct path path;
        path_from(r, &path, attribute);
        if (jj_given(dflt)) path.dflt = dflt;
        struct list *l = jj_to_items(r, v);
        for (size_t i = 0; i < l->n; i++) {
            jj_tick(r, 0);
            jj_list_push(r, out, path_get(r, &path, l->items[i]));
        }
        return jj_gen_value(r, out);
    }
    const struct str *name = jj_want_str(r, c->args[0], "map: the name of the filter");
    const struct builtin *b = jj_find_filter(name->p, name->n);
    if (!b) jj_fail(r, "no filter named '%.*s'", (int)QN_MIN(name->n, (size_t)60), name->p);
    struct list *l = jj_to_items(r, v);
    for (size_t i = 0; i < l->n; i++) {
        struct call inner = {.args = c->args + 1, .n = c->n - 1, .kw = c->kw, .n_kw = c->n_kw};
        jj_list_push(r, out, jj_call_builtin(r, b, l->items[i], &inner));
    }
    return jj_gen_value(r, out);
}

enum { SELECT_KEEP = 0, SELECT_REJECT = 1, SELECT_ATTR = 2 };

/* select([test, args...]) and its three relatives */
static struct val f_select(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    int x = X, off = x & SELECT_ATTR ? 1 : 0;
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    if (!jj_truthy(r, v)) return jj_gen_value(r, out);
    struct path path = {.dflt = {.type = V_ABSENT}};
    if (off) {
        if (!c->n) jj_fail(r, "selectattr and rejectattr need the name of an attribute");
        path_from(r, &path, c->args[0]);
    }
    const struct builtin *test = NULL;
    if (c->n > off) {
        const struct str *name = jj_want_str(r, c->args[off], "the name of the test");
        test = jj_find_test(name->p, name->n);
        if (!test) jj_fail(r, "no test named '%.*s'", (int)QN_MIN(name->n, (size_t)60), name->p);
    }
    struct list *l = jj_to_items(r, v);
    for (size_t i = 0; i < l->n; i++) {
        struct val item = path_get(r, &path, l->items[i]);
        bool hit;
        jj_tick(r, 0);
        if (test) {
            struct call inner = {
                .args = c->args + off + 1, .n = c->n - off - 1, .kw = c->kw, .n_kw = c->n_kw};
            hit = jj_truthy(r, jj_call_builtin(r, test, item, &inner));
        } else {
            hit = jj_truthy(r, item);
        }
        if (hit != (x & SELECT_REJECT)) jj_list_push(r, out, l->items[i]);
    }
    return jj_gen_value(r, out);
}

static struct val f_default(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    if (v.type != V_UNDEF && !(jj_flag_or(r, a[1], false) && !jj_truthy(r, v))) return v;
    return a[0].type == V_ABSENT ? jj_lit_value(r, "") : a[0];
}

static struct val f_attr(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    const struct str *name = jj_want_str(r, a[0], "attr: the name");
    if (v.type == V_DICT) { /* attributes only, not items */
        const struct builtin *b = jj_find_method(v, name->p, name->n);
        if (!b) return jj_undef_value(NULL, V_DICT);
    }
    return jj_get_attr(r, v, name->p, name->n, NULL);
}

static struct val f_tojson(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct qn_json_style style = {.indent = -1, .item_sep = ", ", .key_sep = ": "};
    style.ensure_ascii = jj_flag_or(r, a[0], false);
    const char *indent = NULL;
    size_t n_indent = 0;
    if (jj_given(a[1])) {
        struct val with = a[1].type == V_STR ? a[1] : jj_arith(r, '*', jj_lit_value(r, " "), a[1]);
        indent = jj_flat(r, with)->p;
        n_indent = with.u.s->n;
        style.item_sep = ",";
    }
    if (jj_given(a[2])) {
        struct list *seps = jj_to_items(r, a[2]);
        if (seps->n != 2) jj_fail(r, "tojson: separators must be two texts");
        for (int i = 0; i < 2; i++) {
            const struct str *s = jj_want_str(r, seps->items[i], "tojson: a separator");
            char *copy = jj_alloc(r, s->n + 1);
            memcpy(copy, s->p, s->n);
            *(i ? &style.key_sep : &style.item_sep) = copy;
        }
    }
    style.sort_keys = jj_flag_or(r, a[3], false);
    jj_sink_begin(r);
    jj_put_json(r, v, &style, indent, n_indent, 0);
    return jj_sink_end(r);
}

static struct val f_from_json(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    const struct str *s = jj_want_str(r, v, "from_json: the text");
    struct qn_json *out;
    struct qn_err e = {0};
    jj_tick(r, s->n * 16);
    if (qn_json_parse(&out, r->arena, s->p, s->n, "from_json", &e)) jj_fail(r, "%s", e.text);
    return jj_from_json(r, out);
}

static const struct builtin filters[] = {
    {"abs", "", 0, f_abs, 0},
    {"attr", "name", 1, f_attr, 0},
    {"batch", "linecount fill_with", 1, f_batch, 0},
    {"capitalize", "", 0, f_case, 'c'},
    {"center", "width", 0, f_center, 0},
    {"count", "", 0, f_length, 0},
    {"d", "default_value boolean", 0, f_default, 0},
    {"default", "default_value boolean", 0, f_default, 0},
    {"dictsort", "case_sensitive by reverse", 0, f_dictsort, 0},
    {"e", "", 0, f_escape, 0},
    {"escape", "", 0, f_escape, 0},
    {"filesizeformat", "binary", 0, f_filesize, 0},
    {"first", "", 0, f_first, 0},
    {"float", "default", 0, f_float, 0},
    {"forceescape", "", 0, f_escape, 1},
    {"format", "* **", 0, f_format, 0},
    {"from_json", "", 0, f_from_json, 0},
    {"fromjson", "", 0, f_from_json, 0},
    {"groupby", "attribute default case_sensitive", 1, f_groupby, 0},
    {"indent", "width first blank", 0, f_indent, 0},
    {"int", "default base", 0, f_int, 0},
    {"items", "", 0, f_items, 0},
    {"join", "d attribute", 0, f_join, 0},
    {"last", "", 0, f_first, 1},
    {"length", "", 0, f_length, 0},
    {"list", "", 0, f_list, 0},
    {"lower", "", 0, f_case, 'l'},
    {"map", "* **", 0, f_map, 0},
    {"max", "case_sensitive attribute", 0, f_min_max, 1},
    {"min", "case_sensitive attribute", 0, f_min_max, 0},
    {"reject", "* **", 0, f_select, SELECT_REJECT},
    {"rejectattr", "* **", 0, f_select, SELECT_REJECT | SELECT_ATTR},
    {"replace", "old new count", 2, f_replace, 0},
    {"reverse", "", 0, f_reverse, 0},
    {"round", "precision method", 0, f_round, 0},
    {"safe", "", 0, f_safe, 0},
    {"select", "* **", 0, f_select, SELECT_KEEP},
    {"selectattr", "* **", 0, f_select, SELECT_ATTR},
    {"slice", "slices fill_with", 1, f_slice, 0},
    {"sort", "reverse case_sensitive attribute", 0, f_sort, 0},
    {"string", "", 0, f_string, 0},
    {"sum", "attribute start", 0, f_sum, 0},
    {"title", "", 0, f_title, 0},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, f_tojson, 0},
    {"trim", "chars", 0, f_trim, 0},
    {"truncate", "length killwords end leeway", 0, f_truncate, 0},
    {"unique", "case_sensitive attribute", 0, f_unique, 0},
    {"upper", "", 0, f_case, 'u'},
    {"urlencode", "", 0, f_urlencode, 0},
    {"wordcount", "", 0, f_wordcount, 0},
};

/* ---- tests ---- */

enum {
    IS_DEFINED,
    IS_UNDEFINED,
    IS_NONE,
    IS_STRING,
    IS_NUMBER,
    IS_INTEGER,
    IS_FLOAT,
    IS_BOOLEAN,
    IS_TRUE,
    IS_FALSE,
    IS_MAPPING,
    IS_SEQUENCE,
    IS_ITERABLE,
    IS_CALLABLE,
    IS_ESCAPED
};

static struct val t_type(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)r, (void)a;
    int t = v.type;
    bool yes = false;
    switch (X) {
    case IS_DEFINED:
        yes = t != V_UNDEF;
        break;
    case IS_UNDEFINED:
        yes = t == V_UNDEF;
        break;
    case IS_NONE:
        yes = t == V_NONE;
        break;
    case IS_STRING:
        yes = t == V_STR;
        break;
    case IS_NUMBER:
        yes = jj_is_number(v);
        break;
    case IS_INTEGER:
        yes = t == V_INT || t == V_BIG;
        break;
    case IS_FLOAT:
        yes = t == V_FLOAT;
        break;
    case IS_BOOLEAN:
        yes = t == V_BOOL;
        break;
    case IS_TRUE:
        yes = t == V_BOOL && v.u.truth;
        break;
    case IS_FALSE:
        yes = t == V_BOOL && !v.u.truth;
        break;
    case IS_MAPPING:
        yes = t == V_DICT;
        break;
    case IS_SEQUENCE:
        yes = t == V_STR || t == V_LIST || t == V_DICT || t == V_UNDEF;
        break;
    case IS_ITERABLE:
        yes = jj_iterable(v);
        break;
    case IS_CALLABLE:
        yes = t == V_MACRO || t == V_FUNC || t == V_UNDEF || t == V_LOOP || t == V_JOINER;
        break;
    default:
        yes = t == V_STR && v.flag & STR_SAFE;
    }
    return jj_bool_value(yes);
}

static struct val t_compare(struct run *r, struct val v, struct val *a, struct call *c)
{
    int order;
    switch (X) {
    case '=':
        return jj_bool_value(jj_equal(r, v, a[0]));
    case '!':
        return jj_bool_value(!jj_equal(r, v, a[0]));
    case '<':
        return jj_bool_value(jj_compare(r, v, a[0], "<") == -1);
    case '>':
        return jj_bool_value(jj_compare(r, v, a[0], ">") == 1);
    case 'l':
        order = jj_compare(r, v, a[0], "<=");
        return jj_bool_value(order == -1 || order == 0);
    default:
        order = jj_compare(r, v, a[0], ">=");
        return jj_bool_value(order == 1 || order == 0);
    }
}

static struct val t_in(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    return jj_bool_value(jj_contains(r, a[0], v));
}

static struct val t_sameas(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    if (v.type != a[0].type) return jj_bool_value(false);
    if (v.type == V_STR) return jj_bool_value(v.u.s == a[0].u.s || jj_equal(r, v, a[0]));
    if (v.type <= V_FLOAT) return jj_bool_value(jj_equal(r, v, a[0]));
    return jj_bool_value(v.u.node == a[0].u.node);
}

static struct val t_divisible(struct run *r, struct val v, struct val *a, struct call *c)
{
    struct val by = X ? jj_int_value(2) : a[0], rest = jj_arith(r, '%', v, by);
    return jj_bool_value(jj_equal(r, rest, jj_int_value(X == 1)));
}

static struct val t_case(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct val text = jj_to_str(r, v);
    return jj_bool_value(jj_str_is_case(jj_flat(r, text), X));
}

static struct val t_known(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    const struct str *name = jj_want_str(r, v, "the name");
    return jj_bool_value((X ? jj_find_test(name->p, name->n) : jj_find_filter(name->p, name->n)) != NULL);
}

static const struct builtin tests[] = {
    {"!=", "other", 1, t_compare, '!'},
    {"<", "other", 1, t_compare, '<'},
    {"<=", "other", 1, t_compare, 'l'},
    {"==", "other", 1, t_compare, '='},
    {">", "other", 1, t_compare, '>'},
    {">=", "other", 1, t_compare, 'g'},
    {"boolean", "", 0, t_type, IS_BOOLEAN},
    {"callable", "", 0, t_type, IS_CALLABLE},
    {"defined", "", 0, t_type, IS_DEFINED},
    {"divisibleby", "num", 1, t_divisible, 0},
    {"eq", "other", 1, t_compare, '='},
    {"equalto", "other", 1, t_compare, '='},
    {"escaped", "", 0, t_type, IS_ESCAPED},
    {"even", "", 0, t_divisible, 2},
    {"false", "", 0, t_type, IS_FALSE},
    {"filter", "", 0, t_known, 0},
    {"float", "", 0, t_type, IS_FLOAT},
    {"ge", "other", 1, t_compare, 'g'},
    {"greaterthan", "other", 1, t_compare, '>'},
    {"gt", "other", 1, t_compare, '>'},
    {"in", "seq", 1, t_in, 0},
    {"integer", "", 0, t_type, IS_INTEGER},
    {"iterable", "", 0, t_type, IS_ITERABLE},
    {"le", "other", 1, t_compare, 'l'},
    {"lessthan", "other", 1, t_compare, '<'},
    {"lower", "", 0, t_case, 0},
    {"lt", "other", 1, t_compare, '<'},
    {"mapping", "", 0, t_type, IS_MAPPING},
    {"ne", "other", 1, t_compare, '!'},
    {"none", "", 0, t_type, IS_NONE},
    {"number", "", 0, t_type, IS_NUMBER},
    {"odd", "", 0, t_divisible, 1},
    {"sameas", "other", 1, t_sameas, 0},
    {"sequence", "", 0, t_type, IS_SEQUENCE},
    {"string", "", 0, t_type, IS_STRING},
    {"test", "", 0, t_known, 1},
    {"true", "", 0, t_type, IS_TRUE},
    {"undefined", "", 0, t_type, IS_UNDEFINED},
    {"upper", "", 0, t_case, 1},
};

/* ---- global functions ---- */

static struct val g_range(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)c;
    int64_t start = 0, stop = jj_want_int(r, a[0], "range: the end"), step = 1;
    if (jj_given(a[1])) {
        start = stop;
        stop = jj_want_int(r, a[1], "range: the end");
    }
    if (jj_given(a[2])) step = jj_want_int(r, a[2], "range: the step");
    if (!step) jj_fail(r, "range: the step is zero");
    double span = step > 0 ? (double)stop - (double)start : (double)start - (double)stop;
    double count = span > 0 ? ceil(span / fabs((double)step)) : 0;
    if (count > QN_JINJA_MAX_RANGE)
        jj_fail_cap(r, "asks for a range of more than %d items", QN_JINJA_MAX_RANGE);
    struct list *l = jj_list_new(r, LIST_RANGE, (size_t)count);
    l->is_ours = false;
    l->start = start;
    l->stop = stop;
    l->step = step;
    jj_tick(r, (size_t)count * 16);
    for (int64_t i = 0; i < (int64_t)count; i++) jj_list_push(r, l, jj_int_value(start + i * step));
    return jj_list_value(l);
}

static struct val g_dict(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)a;
    struct dict *d = jj_dict_new(r);
    if (c->n > 1) jj_fail(r, "%s takes one positional argument", X ? "namespace" : "dict");
    if (c->n) jj_dict_merge(r, d, c->args[0]);
    jj_dict_merge_kwargs(r, d, c);
    struct val out = jj_dict_value(d);
    if (X) out.type = V_SPACE;
    return out;
}

static struct val g_cycler(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)a;
    if (!c->n) jj_fail(r, "cycler: there is nothing to cycle through");
    struct gadget *g = jj_alloc(r, sizeof *g);
    g->items = jj_list_new(r, LIST_TUPLE, (size_t)c->n);
    for (int i = 0; i < c->n; i++) jj_list_push(r, g->items, c->args[i]);
    return (struct val){.type = V_CYCLER, .u.g = g};
}

static struct val g_joiner(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)c;
    struct gadget *g = jj_alloc(r, sizeof *g);
    g->sep = a[0].type == V_ABSENT ? jj_lit_value(r, ", ") : a[0];
    return (struct val){.type = V_JOINER, .u.g = g};
}

static struct val g_raise(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)c;
    jj_fail_raised(r, jj_to_str(r, a[0]));
}

static struct val g_strftime(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)c;
    const struct str *fmt = jj_want_str(r, a[0], "strftime_now: the format");
    if (fmt->n > 1000) jj_fail_cap(r, "has a date format of more than 1000 bytes");
    /* microseconds, which C has no letter for, are always 0 */
    char text[8192], wanted[2048];
    size_t n = 0;
    for (size_t i = 0; i < fmt->n && n + 8 < sizeof wanted; i++) {
        if (fmt->p[i] == '%' && i + 1 < fmt->n && fmt->p[i + 1] == 'f') {
            memcpy(wanted + n, "000000", 6);
            n += 6;
            i++;
        } else {
            wanted[n++] = fmt->p[i];
            if (fmt->p[i] == '%' && i + 1 < fmt->n) wanted[n++] = fmt->p[++i];
        }
    }
    wanted[n] = 0;
    time_t now = r->now_s ? (time_t)r->now_s : time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    size_t got = n ? strftime(text, sizeof text, wanted, &tm) : 0;
    jj_sink_begin(r);
    jj_put(r, text, got, QN_JINJA_LITERAL);
    return jj_sink_end(r);
}

static struct val g_lipsum(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)v, (void)a, (void)c;
    jj_fail(r, "lipsum is not available: a prompt must not be random");
}

static const struct builtin globals[] = {
    {"cycler", "* **", 0, g_cycler, 0},          {"dict", "* **", 0, g_dict, 0},
    {"joiner", "sep", 0, g_joiner, 0},           {"lipsum", "* **", 0, g_lipsum, 0},
    {"namespace", "* **", 0, g_dict, 1},         {"raise_exception", "message", 1, g_raise, 0},
    {"range", "start stop step", 1, g_range, 0}, {"strftime_now", "format", 1, g_strftime, 0},
};

bool qn_jinja_is_global(const char *name)
{
    for (size_t i = 0; i < QN_COUNT(globals); i++)
        if (!strcmp(globals[i].name, name)) return true;
    return false;
}

/* ---- lookup ---- */

const struct builtin *jj_search(const struct builtin *table, size_t n_row, const char *name, size_t n)
{
    for (size_t i = 0; i < n_row && table[i].name; i++)
        if (!strncmp(table[i].name, name, n) && !table[i].name[n]) return &table[i];
    return NULL;
}

const struct builtin *jj_find_filter(const char *name, size_t n)
{
    return n && memchr(name, 0, n) == NULL ? jj_search(filters, QN_COUNT(filters), name, n) : NULL;
}

const struct builtin *jj_find_test(const char *name, size_t n)
{
    return n && memchr(name, 0, n) == NULL ? jj_search(tests, QN_COUNT(tests), name, n) : NULL;
}

const struct builtin *jj_find_global(const char *name, size_t n)
{
    return jj_search(globals, QN_COUNT(globals), name, n);
}
