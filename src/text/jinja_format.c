/* Formatting of the Jinja interpreter: format specifications, the % operator, the fields of str.format.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <ctype.h>
#include <math.h>

/* ---- numbers in fields ---- */

struct spec {
    char fill[5];
    size_t n_fill;
    char align, sign, type, group;
    bool alternative, zero;
    int64_t width, precision; /* -1: none */
};

/* Text of |f| in the style of C and Python, which agree on e f g; infinities as Python has them. */
static void double_text(char *out, size_t n, char type, int64_t precision, double f, bool alternative)
{
    bool upper = type >= 'A' && type <= 'Z';
    if (isnan(f) || isinf(f)) {
        snprintf(out, n, "%s", isnan(f) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
        return;
    }
    char fmt[16];
    snprintf(fmt, sizeof fmt, alternative ? "%%#.*%c" : "%%.*%c", type);
    snprintf(out, n, fmt, (int)precision, fabs(f));
}

#define NUMBER_TEXT 1500

/* Digits of an integer of 64 bits in a base, without sign. */
static void int_text(char *out, uint64_t u, int base, bool upper)
{
    char back[72];
    int n = 0;
    do {
        back[n++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[u % (unsigned)base];
        u /= (unsigned)base;
    } while (u);
    for (int i = 0; i < n; i++) out[i] = back[n - 1 - i];
    out[n] = 0;
}

/* Groups the digits before the point or exponent in threes (fours for hex, octal, binary). */
static void group_digits(char *text, size_t size, char sep, size_t by)
{
    size_t n_int = strspn(text, "0123456789abcdefABCDEF"), n = strlen(text);
    if (by == 3) n_int = strspn(text, "0123456789");
    size_t n_sep = n_int ? (n_int - 1) / by : 0;
    if (n + n_sep + 1 > size) return;
    memmove(text + n_int + n_sep, text + n_int, n - n_int + 1);
    for (size_t i = n_int, at = n_int + n_sep, k = 0; i-- > 0;) {
        text[--at] = text[i];
        if (++k % by == 0 && at) text[--at] = sep;
    }
}

/* sign + prefix + digits in a field */
static void put_number(struct run *r, const struct spec *f, bool negative, const char *prefix,
                       const char *digits)
{
    const char *sign = negative ? "-" : f->sign == '+' ? "+" : f->sign == ' ' ? " " : "";
    int64_t pad = jj_check_width(r, f->width) - (int64_t)(strlen(sign) + strlen(prefix) + strlen(digits));
    char align = f->align ? f->align : f->zero ? '=' : '>';
    const char *fill = f->n_fill ? f->fill : f->zero ? "0" : " ";
    int64_t left = align == '>'   ? pad
                   : align == '^' ? pad / 2
                                  : 0,
            right = align == '<'   ? pad
                    : align == '^' ? pad - pad / 2
                                   : 0;
    jj_tick(r, pad > 0 ? (size_t)pad * 8 : 0);
    for (; left > 0; left--) jj_puts_lit(r, fill);
    jj_puts_lit(r, sign);
    jj_puts_lit(r, prefix);
    for (int64_t mid = align == '=' ? pad : 0; mid > 0; mid--) jj_puts_lit(r, fill);
    jj_puts_lit(r, digits);
    for (; right > 0; right--) jj_puts_lit(r, fill);
}

static void put_text_field(struct run *r, const struct spec *f, struct str *s)
{
    size_t n = s->n;
    int64_t n_cp = jj_count_cp(s);
    if (f->precision >= 0 && f->precision < n_cp) {
        n_cp = f->precision;
        n = jj_cp_offset(s, n_cp);
    }
    int64_t pad = jj_check_width(r, f->width) - n_cp;
    int64_t left = f->align == '>' ? pad : f->align == '^' ? pad / 2 : 0;
    jj_tick(r, pad > 0 ? (size_t)pad * 8 : 0);
    for (int64_t i = 0; i < left; i++) jj_puts_lit(r, f->n_fill ? f->fill : " ");
    jj_put_slice(r, s, 0, n);
    for (int64_t i = QN_MAX(left, 0); i < pad; i++) jj_puts_lit(r, f->n_fill ? f->fill : " ");
}

static void check_precision(struct run *r, int64_t precision)
{
    if (precision > 1000) jj_fail_cap(r, "formats a number with more than 1000 digits");
}

static void put_float_field(struct run *r, const struct spec *f, double x)
{
    char text[NUMBER_TEXT];
    check_precision(r, f->precision);
    char type = f->type == 'n' ? 'g' : f->type;
    bool percent = type == '%';
    if (percent) {
        x *= 100;
        type = 'f';
    }
    if (!type && f->precision < 0) {
        jj_sink_begin(r);
        jj_put_double(r, fabs(x));
        snprintf(text, sizeof text, "%s", jj_sink_end(r).u.s->p);
    } else if (!type) {
        double_text(text, sizeof text, 'g', QN_MAX(f->precision, 1), x, false);
        if (!strpbrk(text, ".en")) strcat(text, ".0");
    } else {
        double_text(text, sizeof text, type, f->precision < 0 ? 6 : f->precision, x, f->alternative);
    }
    if (f->group) group_digits(text, sizeof text, f->group, 3);
    if (percent) strcat(text, "%");
    put_number(r, f, signbit(x) && !isnan(x), "", text);
}

static void put_int_field(struct run *r, const struct spec *f, struct val v)
{
    char type = f->type ? f->type : 'd';
    if (type == 'c') {
        int64_t cp = jj_want_int(r, v, "the character");
        if (cp < 0 || cp > 0x10ffff) jj_fail(r, "%%c needs a code point");
        jj_sink_begin(r);
        jj_put_cp(r, (int32_t)cp, QN_JINJA_LITERAL);
        put_text_field(r, f, jj_sink_end(r).u.s);
        return;
    }
    if (strchr("eEfFgG%", type)) {
        put_float_field(r, f, jj_to_double(r, v));
        return;
    }
    int base = type == 'd' || type == 'n'   ? 10
               : type == 'b'                ? 2
               : type == 'o'                ? 8
               : type == 'x' || type == 'X' ? 16
                                            : 0;
    if (!base) jj_fail(r, "unknown format code '%c' for an integer", type);
    if (v.type == V_BIG) {
        if (base != 10) jj_fail(r, "integers beyond 64 bits are only written in base 10");
        jj_sink_begin(r);
        jj_put_int(r, v);
        struct str *s = jj_sink_end(r).u.s;
        char *digits = jj_alloc(r, s->n * 2 + 2);
        snprintf(digits, s->n + 1, "%s", s->p + (s->p[0] == '-'));
        if (f->group) group_digits(digits, s->n * 2 + 2, f->group, 3);
        put_number(r, f, s->p[0] == '-', "", digits);
        return;
    }
    int64_t i = v.type == V_BOOL ? v.u.truth : v.u.i;
    char text[NUMBER_TEXT], prefix[] = {'0', type, 0};
    int_text(text, i < 0 ? 0 - (uint64_t)i : (uint64_t)i, base, type == 'X');
    if (f->group) group_digits(text, sizeof text, f->group, base == 10 ? 3 : 4);
    put_number(r, f, i < 0, f->alternative && base != 10 ? prefix : "", text);
}

/* [[fill]align][sign][#][0][width][group][.precision][type] */
static void parse_spec(struct run *r, struct spec *f, const char *p, size_t n)
{
    *f = (struct spec){.width = 0, .precision = -1};
    size_t i = 0;
    int32_t cp;
    size_t k = n ? jj_next_cp(p, n, &cp) : 0;
    if (k < n && strchr("<>=^", p[k])) {
        memcpy(f->fill, p, k);
        f->n_fill = k;
        f->align = p[k];
        i = k + 1;
    } else if (n && strchr("<>=^", p[0])) {
        f->align = p[i++];
    }
    if (i < n && strchr("+- ", p[i])) f->sign = p[i++];
    if (i < n && p[i] == '#') f->alternative = true, i++;
    if (i < n && p[i] == '0') f->zero = true, i++;
    for (; i < n && isdigit((unsigned char)p[i]); i++)
        f->width = jj_check_width(r, f->width * 10 + (p[i] - '0'));
    if (i < n && (p[i] == ',' || p[i] == '_')) f->group = p[i++];
    if (i < n && p[i] == '.') {
        if (++i >= n || !isdigit((unsigned char)p[i])) jj_fail(r, "format specification lacks its precision");
        for (f->precision = 0; i < n && isdigit((unsigned char)p[i]); i++)
            f->precision = jj_check_width(r, f->precision * 10 + (p[i] - '0'));
    }
    if (i < n) f->type = p[i++];
    if (i < n) jj_fail(r, "invalid format specification '%.*s'", (int)QN_MIN(n, (size_t)40), p);
}

struct val jj_format_spec(struct run *r, struct val v, const char *spec, size_t n)
{
    if (!n) return jj_to_str(r, v);
    struct spec f;
    parse_spec(r, &f, spec, n);
    jj_sink_begin(r);
    if (v.type == V_STR) {
        if (f.type && f.type != 's') jj_fail(r, "unknown format code '%c' for a string", f.type);
        if (f.align == '=') jj_fail(r, "'=' alignment is for numbers");
        if (f.zero && !f.n_fill) f.fill[0] = '0', f.n_fill = 1;
        put_text_field(r, &f, jj_flat(r, v));
    } else if (v.type == V_FLOAT) {
        if (f.type && !strchr("eEfFgGn%", f.type)) jj_fail(r, "unknown format code '%c' for a float", f.type);
        put_float_field(r, &f, v.u.f);
    } else if (jj_is_int(v)) {
        put_int_field(r, &f, v);
    } else {
        jj_fail(r, "%s takes no format specification", jj_type_name(v));
    }
    return jj_sink_end(r);
}

/* ---- the % operator ---- */

struct percent {
    struct val args;
    struct list *tuple; /* NULL: args is the one argument */
    size_t used;
    bool named, safe;
};

static struct val next_arg(struct run *r, struct percent *p)
{
    size_t n = p->tuple ? p->tuple->n : 1;
    if (p->used >= n) jj_fail(r, "not enough arguments for the format string");
    return p->tuple ? p->tuple->items[p->used++] : (p->used++, p->args);
}

static void put_percent_field(struct run *r, struct percent *p, struct spec *f, struct val v)
{
    char type = f->type;
    if (type == 's' || type == 'r' || type == 'a') {
        struct val text = v;
        if (type == 's') {
            text = jj_to_str(r, v);
        } else {
            jj_sink_begin(r);
            jj_put_repr(r, v);
            text = jj_sink_end(r);
        }
        if (p->safe && !(text.flag & STR_SAFE)) {
            jj_sink_begin(r);
            jj_put_escaped(r, jj_flat(r, text));
            text = jj_sink_end(r);
        }
        if (f->align != '<') f->align = '>';
        f->n_fill = 0;
        put_text_field(r, f, jj_flat(r, text));
        return;
    }
    if (type == 'c' && v.type == V_STR) {
        if (f->align != '<') f->align = '>';
        put_text_field(r, f, jj_flat(r, v));
        return;
    }
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (!jj_is_number(v)) jj_fail(r, "%%%c needs a number, not %s", type, jj_type_name(v));
    if (strchr("diu", type)) {
        f->type = 'd';
        if (v.type == V_FLOAT) v = jj_int_from_double(r, v.u.f);
    } else if (strchr("xXoc", type)) {
        if (v.type == V_FLOAT) jj_fail(r, "%%%c needs an integer", type);
    } else {
        v = jj_float_value(jj_to_double(r, v));
    }
    if (f->align == '<') f->zero = false;
    if (v.type == V_FLOAT) {
        put_float_field(r, f, v.u.f);
    } else if (f->precision > 0) { /* at least so many digits */
        char text[NUMBER_TEXT];
        check_precision(r, f->precision);
        struct spec digits = {.zero = true, .width = f->precision, .precision = -1, .type = f->type};
        int64_t i = jj_want_int(r, v, "the number");
        jj_sink_begin(r);
        put_int_field(r, &digits, i < 0 ? jj_negate(r, v) : v);
        snprintf(text, sizeof text, "%s", jj_sink_end(r).u.s->p);
        put_number(r, f, i < 0, "", text);
    } else {
        put_int_field(r, f, v);
    }
}

struct val jj_format_percent(struct run *r, struct val fmt, struct val args)
{
    const struct str *s = jj_flat(r, fmt);
    struct percent p = {.args = args, .safe = fmt.flag & STR_SAFE};
    if (args.type == V_LIST && args.u.l->kind == LIST_TUPLE) p.tuple = jj_list_of(r, args);
    jj_sink_begin(r);
    for (size_t i = 0; i < s->n;) {
        const char *hit = memchr(s->p + i, '%', s->n - i);
        size_t at = hit ? (size_t)(hit - s->p) : s->n;
        jj_put_slice(r, s, i, at - i);
        i = at + 1;
        if (at >= s->n) break;
        jj_tick(r, 0);
        struct spec f = {.precision = -1};
        struct val v = {.type = V_ABSENT};
        if (i < s->n && s->p[i] == '(') {
            const char *end = memchr(s->p + i, ')', s->n - i);
            if (!end) jj_fail(r, "a %%(name) in the format string is not closed");
            if (args.type != V_DICT) jj_fail(r, "%%(name) needs a dictionary");
            size_t n = (size_t)(end - s->p) - i - 1;
            if (!jj_dict_get_str(r, jj_dict_of(r, args), s->p + i + 1, n, &v))
                jj_fail(r, "%%(%.*s): no such key", (int)QN_MIN(n, (size_t)60), s->p + i + 1);
            i += n + 2;
            p.named = true;
        }
        for (; i < s->n && strchr("-+ #0", s->p[i]) && s->p[i]; i++) {
            char c = s->p[i];
            if (c == '-') f.align = '<';
            if (c == '+' || (c == ' ' && f.sign != '+')) f.sign = c;
            if (c == '#') f.alternative = true;
            if (c == '0') f.zero = true;
        }
        if (i < s->n && s->p[i] == '*') {
            f.width = jj_want_int(r, next_arg(r, &p), "the width");
            i++;
        } else {
            for (; i < s->n && isdigit((unsigned char)s->p[i]); i++)
                f.width = jj_check_width(r, f.width * 10 + (s->p[i] - '0'));
        }
        if (i < s->n && s->p[i] == '.') {
            f.precision = 0;
            if (++i < s->n && s->p[i] == '*') {
                f.precision = QN_MAX(jj_want_int(r, next_arg(r, &p), "the precision"), 0);
                i++;
            } else {
                for (; i < s->n && isdigit((unsigned char)s->p[i]); i++)
                    f.precision = jj_check_width(r, f.precision * 10 + (s->p[i] - '0'));
            }
        }
        while (i < s->n && strchr("hlL", s->p[i]) && s->p[i]) i++;
        if (i >= s->n) jj_fail(r, "the format string ends inside a %% field");
        f.type = s->p[i++];
        if (f.type == '%') {
            jj_puts_lit(r, "%");
            continue;
        }
        if (!f.type || !strchr("srdiuxXofFeEgGca", f.type))
            jj_fail(r, "unsupported format character '%c'", f.type);
        put_percent_field(r, &p, &f, v.type == V_ABSENT ? next_arg(r, &p) : v);
    }
    size_t n_args = p.tuple ? p.tuple->n : 1;
    if (p.used < n_args && !p.named && args.type != V_DICT && !(args.type == V_LIST && !p.tuple))
        jj_fail(r, "not all arguments are used by the format string");
    struct val out = jj_sink_end(r);
    out.flag = fmt.flag;
    return out;
}

/* ---- str.format ---- */

struct fields {
    struct call *c;
    int next;
    int depth;
    bool is_safe; /* what comes in is made safe */
};

/* name[.attr][[key]]... */
static struct val field_value(struct run *r, struct fields *f, const char *p, size_t n)
{
    size_t k = 0;
    while (k < n && p[k] != '.' && p[k] != '[') k++;
    struct val v = {.type = V_ABSENT};
    bool is_index = true;
    int64_t index = 0;
    for (size_t i = 0; i < k; i++) {
        is_index &= isdigit((unsigned char)p[i]) != 0;
        if (is_index && index < 100000) index = index * 10 + (p[i] - '0');
    }
    if (is_index) {
        if (!k) index = f->next++;
        if (index >= f->c->n || !f->c->args) jj_fail(r, "format: there is no argument %" PRId64, index);
        v = f->c->args[index];
    } else {
        for (int i = 0; i < f->c->n_kw; i++)
            if (f->c->kw[i].n == k && !memcmp(f->c->kw[i].name, p, k)) v = f->c->kw[i].v;
        if (v.type == V_ABSENT)
            jj_fail(r, "format: there is no argument '%.*s'", (int)QN_MIN(k, (size_t)60), p);
    }
    while (k < n) {
        bool bracket = p[k] == '[';
        size_t start = ++k;
        while (k < n && (bracket ? p[k] != ']' : p[k] != '.' && p[k] != '[')) k++;
        if (bracket) {
            struct val key;
            if (!jj_int_from_text(r, p + start, k - start, &key))
                key = jj_str_value(r, p + start, k - start, QN_JINJA_LITERAL);
            v = jj_get_item(r, v, key, NULL);
            if (k < n) k++;
        } else {
            v = jj_get_attr(r, v, p + start, k - start, NULL);
        }
        if (v.type == V_UNDEF)
            jj_fail(r, "format: the field '%.*s' is undefined", (int)QN_MIN(n, (size_t)60), p);
    }
    return v;
}

static void put_fields(struct run *r, struct fields *f, const struct str *s, size_t from, size_t to)
{
    if (f->depth > 2) jj_fail(r, "format: fields nest too deep");
    for (size_t i = from; i < to;) {
        char c = s->p[i];
        jj_tick(r, 0);
        if (c != '{' && c != '}') {
            size_t start = i;
            while (i < to && s->p[i] != '{' && s->p[i] != '}') i++;
            jj_put_slice(r, s, start, i - start);
            continue;
        }
        if (i + 1 < to && s->p[i + 1] == c && f->depth == 0) {
            jj_put_slice(r, s, i, 1);
            i += 2;
            continue;
        }
        if (c == '}') jj_fail(r, "format: a single '}' in the text");
        size_t start = ++i, level = 1;
        for (; i < to && level; i++) level += s->p[i] == '{' ? 1 : s->p[i] == '}' ? (size_t)-1 : 0;
        if (level) jj_fail(r, "format: a '{' is not closed");
        size_t end = i - 1, name = start;
        while (name < end && s->p[name] != '!' && s->p[name] != ':') {
            if (s->p[name] == '[')
                while (name < end && s->p[name] != ']') name++;
            name++;
        }
        name = QN_MIN(name, end);
        struct val v = field_value(r, f, s->p + start, name - start);
        if (name < end && s->p[name] == '!') {
            char how = name + 1 < end ? s->p[name + 1] : 0;
            if (how != 's' && how != 'r') jj_fail(r, "format: unknown conversion '!%c'", how);
            if (how == 's') {
                v = jj_to_str(r, v);
            } else {
                jj_sink_begin(r);
                jj_put_repr(r, v);
                v = jj_sink_end(r);
            }
            name += 2;
        }
        struct val spec = jj_lit_value(r, "");
        if (name < end && s->p[name] == ':') {
            jj_sink_begin(r);
            f->depth++;
            put_fields(r, f, s, name + 1, end);
            f->depth--;
            spec = jj_sink_end(r);
        }
        struct val text = jj_format_spec(r, v, spec.u.s->p, spec.u.s->n);
        if (f->is_safe && !(v.type == V_STR && v.flag & STR_SAFE))
            jj_put_escaped(r, jj_flat(r, text));
        else
            jj_put_str(r, text.u.s);
    }
}

struct val jj_format_fields(struct run *r, struct val self, struct call *c)
{
    struct str *s = jj_flat(r, self);
    struct fields f = {.c = c, .is_safe = self.flag & STR_SAFE};
    jj_sink_begin(r);
    put_fields(r, &f, s, 0, s->n);
    struct val out = jj_sink_end(r);
    out.flag = self.flag;
    return out;
}
