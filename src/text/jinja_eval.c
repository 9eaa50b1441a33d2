/* Evaluator of the Jinja interpreter: scopes, statements, expressions, calls, and the render itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <stdarg.h>

enum { FLOW_BREAK = 1, FLOW_CONTINUE = 2 };

/* ---- leaving ---- */

QN_NORETURN static void leave(struct run *r, int rc, const char *text)
{
    r->rc = qn_err_set(r->e, rc, __FILE__, __LINE__, "%s:%d: %s", r->t->name, r->line, text);
    longjmp(r->leave, 1);
}

void jj_fail(struct run *r, const char *fmt, ...)
{
    char text[240];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    leave(r, QN_INTERNAL, text);
}

void jj_fail_cap(struct run *r, const char *fmt, ...)
{
    char text[200] = "the template ";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + 13, sizeof text - 13, fmt, ap);
    va_end(ap);
    leave(r, QN_TOOBIG, text);
}

void jj_fail_raised(struct run *r, struct val message)
{
    const struct str *s = jj_flat(r, message);
    r->raised = xstrndup(s->p, s->n);
    r->rc = qn_err_set(r->e, QN_INVAL, __FILE__, __LINE__, "%s", r->raised);
    longjmp(r->leave, 1);
}

void jj_fail_undef(struct run *r, struct val v)
{
    const struct node *n = v.u.node;
    const char *asked = v.flag == V_DICT ? "dict" : jj_type_name((struct val){.type = V_NONE});
    static const char *const names[] = {
        [V_NONE] = "None",      [V_BOOL] = "bool",       [V_INT] = "int",     [V_BIG] = "int",
        [V_FLOAT] = "float",    [V_STR] = "str",         [V_LIST] = "list",   [V_DICT] = "dict",
        [V_ITER] = "generator", [V_SPACE] = "namespace", [V_MACRO] = "macro", [V_FUNC] = "function",
        [V_LOOP] = "loop"};
    if (v.flag < QN_COUNT(names) && names[v.flag]) asked = names[v.flag];
    if (!n) jj_fail(r, "a value is undefined");
    if (n->kind == E_NAME) jj_fail(r, "'%.*s' is undefined", (int)QN_MIN(n->n, (size_t)80), n->text);
    if (n->kind == E_ATTR)
        jj_fail(r, "'%.*s' is undefined: %s has no such attribute", (int)QN_MIN(n->n, (size_t)80), n->text,
                asked);
    if (n->kind == E_ITEM && n->b->kind == E_CONST && n->b->value.type == V_STR)
        jj_fail(r, "'%.*s' is undefined: %s has no such item", (int)QN_MIN(n->b->value.u.s->n, (size_t)80),
                n->b->value.u.s->p, asked);
    jj_fail(r, "a value is undefined: %s has no such item", asked);
}

void jj_tick(struct run *r, size_t n_byte)
{
    r->steps_left -= 1 + (int64_t)(n_byte / 64);
    if (r->steps_left < 0) jj_fail_cap(r, "takes more than %" PRId64 " steps", r->max_steps);
}

void jj_enter(struct run *r)
{
    if (++r->depth > r->max_depth)
        jj_fail_cap(r, "nests calls and values deeper than %d levels", r->max_depth);
}

/* ---- scopes ---- */

static struct scope *scope_new(struct run *r, struct scope *parent)
{
    struct scope *s = jj_alloc(r, sizeof *s);
    s->parent = parent;
    return s;
}

static void scope_set(struct run *r, struct scope *s, int sym, struct val v)
{
    if (!s->parent) {
        r->root[sym] = v;
        return;
    }
    for (int i = 0; i < s->n; i++)
        if (s->vars[i].sym == sym) {
            s->vars[i].v = v;
            return;
        }
    if (s->n == s->capacity) {
        int capacity = s->capacity ? s->capacity * 2 : 4;
        struct binding *vars = jj_alloc(r, (size_t)capacity * sizeof *vars);
        if (s->n) memcpy(vars, s->vars, (size_t)s->n * sizeof *vars);
        s->vars = vars;
        s->capacity = capacity;
    }
    s->vars[s->n++] = (struct binding){sym, v};
}

static struct val scope_get(struct run *r, const struct scope *s, int sym)
{
    for (; s->parent; s = s->parent)
        for (int i = 0; i < s->n; i++)
            if (s->vars[i].sym == sym) return s->vars[i].v;
    return r->root[sym];
}

/* ---- attributes and items ---- */

static struct val bound(struct run *r, const struct builtin *b, struct val self)
{
    struct func *f = jj_alloc(r, sizeof *f);
    f->b = b;
    f->self = self;
    return (struct val){.type = V_FUNC, .u.fn = f};
}

static struct val item_or_undef(const struct list *l, size_t i, const struct node *node)
{
    return i < l->n ? l->items[i] : jj_undef_value(node, V_LOOP);
}

static bool is_word(const char *name, size_t n, const char *word)
{
    return n == strlen(word) && !memcmp(name, word, n);
}

static struct val loop_attr(const struct loop *o, const char *name, size_t n, const struct node *node)
{
    int64_t at = (int64_t)o->at, len = (int64_t)o->l->n;
    if (is_word(name, n, "index")) return jj_int_value(at + 1);
    if (is_word(name, n, "index0")) return jj_int_value(at);
    if (is_word(name, n, "first")) return jj_bool_value(at == 0);
    if (is_word(name, n, "last")) return jj_bool_value(at == len - 1);
    if (is_word(name, n, "length")) return jj_int_value(len);
    if (is_word(name, n, "revindex")) return jj_int_value(len - at);
    if (is_word(name, n, "revindex0")) return jj_int_value(len - at - 1);
    if (is_word(name, n, "depth")) return jj_int_value(o->level + 1);
    if (is_word(name, n, "depth0")) return jj_int_value(o->level);
    if (is_word(name, n, "previtem")) return item_or_undef(o->l, o->at - 1, node);
    if (is_word(name, n, "nextitem")) return item_or_undef(o->l, o->at + 1, node);
    return jj_undef_value(node, V_LOOP);
}

/* What is not a method. */
static struct val plain_attr(struct run *r, struct val v, const char *name, size_t n, const struct node *node)
{
    struct val out;
    switch (v.type) {
    case V_UNDEF:
        jj_fail_undef(r, v);
    case V_DICT:
    case V_SPACE:
        if (jj_dict_get_str(r, jj_dict_of(r, v), name, n, &out)) return out;
        break;
    case V_LOOP:
        return loop_attr(v.u.loop, name, n, node);
    case V_CYCLER:
        if (is_word(name, n, "current")) return v.u.g->items->items[v.u.g->at];
        break;
    case V_MACRO:
        if (is_word(name, n, "name"))
            return jj_str_value(r, v.u.m->node->text, v.u.m->node->n, QN_JINJA_LITERAL);
        break;
    case V_LIST:
        if (v.u.l->is_group && is_word(name, n, "grouper")) return v.u.l->items[0];
        if (v.u.l->is_group && is_word(name, n, "list")) return v.u.l->items[1];
        break;
    default:
        break;
    }
    return jj_undef_value(node, v.type);
}

struct val jj_get_attr(struct run *r, struct val v, const char *name, size_t n, const struct node *node)
{
    const struct builtin *b = jj_find_method(v, name, n);
    return b ? bound(r, b, v) : plain_attr(r, v, name, n, node);
}

struct val jj_get_item(struct run *r, struct val v, struct val key, const struct node *node)
{
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type == V_DICT) {
        struct val out;
        bool hashable = key.type <= V_STR || (key.type == V_LIST && key.u.l->kind == LIST_TUPLE);
        if (hashable && jj_dict_get(r, jj_dict_of(r, v), key, &out)) return out;
    }
    if ((v.type == V_LIST || v.type == V_STR) && (key.type == V_INT || key.type == V_BOOL)) {
        int64_t at = jj_want_int(r, key, "the index"), n = (int64_t)jj_value_len(r, v);
        if (at < 0) at += n;
        if (at < 0 || at >= n) return jj_undef_value(node, v.type);
        if (v.type == V_LIST) return jj_list_of(r, v)->items[at];
        const struct str *s = jj_flat(r, v);
        size_t from = jj_cp_offset(s, at);
        int32_t cp;
        struct val out = jj_slice_value(r, s, from, jj_next_cp(s->p + from, s->n - from, &cp));
        out.flag = v.flag;
        if (s->n_cp != (int64_t)s->n) jj_tick(r, from);
        return out;
    }
    if (key.type == V_STR) {
        const struct str *name = jj_flat(r, key);
        const struct builtin *b = jj_find_method(v, name->p, name->n);
        if (b) return bound(r, b, v);
        if (v.type != V_DICT) return plain_attr(r, v, name->p, name->n, node);
    }
    return jj_undef_value(node, v.type);
}

/* Python's slice.indices: start, stop for a length, by the sign of step. */
static void slice_bounds(int64_t n, int64_t step, bool has_start, int64_t *start, bool has_stop,
                         int64_t *stop)
{
    int64_t lo = step < 0 ? -1 : 0, hi = step < 0 ? n - 1 : n;
    if (!has_start)
        *start = step < 0 ? hi : lo;
    else if (*start < 0)
        *start = QN_MAX(*start + n, lo);
    else
        *start = QN_MIN(*start, hi);
    if (!has_stop)
        *stop = step < 0 ? lo : hi;
    else if (*stop < 0)
        *stop = QN_MAX(*stop + n, lo);
    else
        *stop = QN_MIN(*stop, hi);
}

static struct val slice_str(struct run *r, struct val v, int64_t start, int64_t step, int64_t count)
{
    struct str *s = jj_flat(r, v);
    struct val out;
    jj_tick(r, s->n);
    if (step == 1) {
        size_t from = jj_cp_offset(s, start), to = from;
        int32_t cp;
        if (s->n_cp == (int64_t)s->n)
            to = from + (size_t)count;
        else
            for (int64_t i = 0; i < count; i++) to += jj_next_cp(s->p + to, s->n - to, &cp);
        out = jj_slice_value(r, s, from, to - from);
    } else {
        struct list *chars = jj_to_items(r, v);
        jj_sink_begin(r);
        for (int64_t i = 0; i < count; i++) jj_put_str(r, chars->items[start + i * step].u.s);
        out = jj_sink_end(r);
    }
    out.flag = v.flag;
    return out;
}

static struct val eval(struct run *r, const struct node *n, struct scope *s);

static struct val eval_slice(struct run *r, const struct node *n, struct val v, struct scope *s)
{
    const struct node *parts[3] = {n->b->a, n->b->b, n->b->c};
    int64_t x[3] = {0, 0, 1};
    bool has[3] = {false, false, false};
    for (int i = 0; i < 3; i++) {
        if (!parts[i]) continue;
        struct val part = eval(r, parts[i], s);
        if (part.type == V_NONE) continue;
        x[i] = QN_CLAMP(jj_want_int(r, part, "a slice"), -((int64_t)1 << 40), (int64_t)1 << 40);
        has[i] = true;
    }
    r->line = n->line;
    if (!x[2]) jj_fail(r, "a slice with step 0");
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type != V_LIST && v.type != V_STR) jj_fail(r, "%s cannot be sliced", jj_type_name(v));
    int64_t len = (int64_t)jj_value_len(r, v);
    slice_bounds(len, x[2], has[0], &x[0], has[1], &x[1]);
    int64_t count = x[2] > 0 ? (x[1] - x[0] + x[2] - 1) / x[2] : (x[0] - x[1] - x[2] - 1) / -x[2];
    if ((x[2] > 0) != (x[1] > x[0]) || count < 0 || x[0] == x[1]) count = 0;
    if (v.type == V_STR) return slice_str(r, v, x[0], x[2], count);
    struct list *l = jj_list_of(r, v), *out = jj_list_new(r, l->kind, (size_t)count);
    jj_tick(r, (size_t)count * 16);
    for (int64_t i = 0; i < count; i++) out->items[i] = l->items[x[0] + i * x[2]];
    out->n = (size_t)count;
    if (l->kind == LIST_RANGE) {
        out->is_ours = false;
        out->start = l->start + x[0] * l->step;
        out->stop = l->start + x[1] * l->step;
        out->step = l->step * x[2];
    }
    return jj_list_value(out);
}

/* ---- calls ---- */

/* Binds the arguments of a call to the names of a builtin. */
static void bind(struct run *r, const struct builtin *b, const struct call *c, struct val *a)
{
    int n_param = 0;
    struct {
        const char *p;
        size_t n;
    } names[MAX_PARAMS];
    for (const char *p = b->params; *p;) {
        size_t n = strcspn(p, " ");
        names[n_param].p = p;
        names[n_param++].n = n;
        p += n + (p[n] == ' ');
    }
    for (int i = 0; i < MAX_PARAMS; i++) a[i] = (struct val){.type = V_ABSENT};
    if (c->n > n_param)
        jj_fail(r, "%s takes at most %d argument%s, not %d", b->name, n_param, n_param == 1 ? "" : "s", c->n);
    for (int i = 0; i < c->n; i++) a[i] = c->args[i];
    for (int k = 0; k < c->n_kw; k++) {
        int i = 0;
        while (i < n_param && !(names[i].n == c->kw[k].n && !memcmp(names[i].p, c->kw[k].name, names[i].n)))
            i++;
        if (i == n_param)
            jj_fail(r, "%s takes no argument '%.*s'", b->name, (int)QN_MIN(c->kw[k].n, (size_t)60),
                    c->kw[k].name);
        if (a[i].type != V_ABSENT)
            jj_fail(r, "%s got its argument '%.*s' twice", b->name, (int)names[i].n, names[i].p);
        a[i] = c->kw[k].v;
    }
    for (int i = 0; i < b->n_required; i++)
        if (a[i].type == V_ABSENT)
            jj_fail(r, "%s needs its argument '%.*s'", b->name, (int)names[i].n, names[i].p);
}

struct val jj_call_builtin(struct run *r, const struct builtin *b, struct val self, struct call *c)
{
    struct val a[MAX_PARAMS];
    jj_tick(r, 0);
    c->x = b->x;
    if (b->params[0] != '*') bind(r, b, c, a);
    return b->fn(r, self, a, c);
}

static int exec_body(struct run *r, const struct body *b, struct scope *s);
static int run_loop(struct run *r, const struct node *n, struct scope *outer, struct val iterable, int level);

static const struct kwarg *find_kwarg(const struct call *c, const char *name, size_t n)
{
    for (int i = 0; i < c->n_kw; i++)
        if (c->kw[i].n == n && !memcmp(c->kw[i].name, name, n)) return &c->kw[i];
    return NULL;
}

static bool is_param(const struct run *r, const struct params *p, const struct kwarg *kw)
{
    for (int i = 0; i < p->n; i++) {
        const struct qn_json_key *name = &r->t->syms[p->syms[i]];
        if (name->n == kw->n && !memcmp(name->text, kw->name, kw->n)) return true;
    }
    return false;
}

static struct val call_macro(struct run *r, const struct macro *m, struct call *c)
{
    const struct node *n = m->node;
    const struct params *p = n->params;
    struct scope *s = scope_new(r, m->scope);
    int line = r->line;
    jj_enter(r);
    for (int i = 0; i < p->n; i++) {
        const struct qn_json_key *name = &r->t->syms[p->syms[i]];
        const struct kwarg *kw = find_kwarg(c, name->text, name->n);
        struct val v;
        if (i < c->n) {
            if (kw) jj_fail(r, "macro '%.*s' got its argument '%s' twice", (int)n->n, n->text, name->text);
            v = c->args[i];
        } else if (kw) {
            v = kw->v;
        } else {
            v = p->defaults[i] ? eval(r, p->defaults[i], s) : jj_undef_value(NULL, 0);
        }
        scope_set(r, s, p->syms[i], v);
    }
    struct list *rest = jj_list_new(r, LIST_TUPLE, 0);
    struct dict *kwargs = jj_dict_new(r);
    struct val caller = jj_undef_value(NULL, 0);
    for (int i = p->n; i < c->n; i++) jj_list_push(r, rest, c->args[i]);
    if (rest->n && !p->takes_varargs)
        jj_fail(r, "macro '%.*s' takes at most %d argument%s, not %d", (int)n->n, n->text, p->n,
                p->n == 1 ? "" : "s", c->n);
    for (int i = 0; i < c->n_kw; i++) {
        const struct kwarg *kw = &c->kw[i];
        if (is_param(r, p, kw)) continue;
        if (p->takes_caller && is_word(kw->name, kw->n, "caller"))
            caller = kw->v;
        else if (p->takes_kwargs)
            jj_dict_set(r, kwargs, jj_str_value(r, kw->name, kw->n, QN_JINJA_LITERAL), kw->v);
        else
            jj_fail(r, "macro '%.*s' takes no argument '%.*s'", (int)n->n, n->text,
                    (int)QN_MIN(kw->n, (size_t)60), kw->name);
    }
    if (p->takes_varargs) scope_set(r, s, SYM_VARARGS, jj_list_value(rest));
    if (p->takes_kwargs) scope_set(r, s, SYM_KWARGS, jj_dict_value(kwargs));
    if (p->takes_caller && !is_param(r, p, &(struct kwarg){.name = "caller", .n = 6}))
        scope_set(r, s, SYM_CALLER, caller);
    jj_sink_begin(r);
    exec_body(r, &n->body, s);
    struct val out = jj_sink_end(r);
    r->depth--;
    r->line = line;
    return out;
}

struct val jj_call_value(struct run *r, struct val f, struct call *c)
{
    switch (f.type) {
    case V_FUNC:
        return jj_call_builtin(r, f.u.fn->b, f.u.fn->self, c);
    case V_MACRO:
        return call_macro(r, f.u.m, c);
    case V_LOOP: {
        const struct loop *o = f.u.loop;
        if (!o->node->op) jj_fail(r, "the loop is not recursive: say 'recursive' in its for");
        if (c->n != 1 || c->n_kw) jj_fail(r, "loop() takes one argument");
        jj_enter(r);
        jj_sink_begin(r);
        run_loop(r, o->node, o->outer, c->args[0], o->level + 1);
        struct val out = jj_sink_end(r);
        r->depth--;
        return out;
    }
    case V_JOINER:
        if (f.u.g->is_used) return f.u.g->sep;
        f.u.g->is_used = true;
        return jj_lit_value(r, "");
    case V_UNDEF:
        jj_fail_undef(r, f);
    default:
        jj_fail(r, "%s cannot be called", jj_type_name(f));
    }
}

/* Evaluates the arguments. extra: one more keyword argument, or NULL. */
static void eval_args(struct run *r, const struct args *a, struct scope *s, const struct kwarg *extra,
                      struct call *c)
{
    struct list *star = NULL;
    struct dict *star_star = NULL;
    *c = (struct call){0};
    if (!a->pos.n && !a->n_kw && !a->star && !a->star_star && !extra) return;
    size_t n_pos = (size_t)a->pos.n, n_kw = (size_t)a->n_kw + (extra != NULL);
    struct val *pos = n_pos ? jj_alloc(r, n_pos * sizeof *pos) : NULL, *kw_values = NULL;
    for (size_t i = 0; i < n_pos; i++) pos[i] = eval(r, a->pos.items[i], s);
    if (a->n_kw) kw_values = jj_alloc(r, (size_t)a->n_kw * sizeof *kw_values);
    for (int i = 0; i < a->n_kw; i++) kw_values[i] = eval(r, a->kw_values.items[i], s);
    if (a->star) star = jj_to_items(r, eval(r, a->star, s));
    if (a->star_star) {
        struct val v = eval(r, a->star_star, s);
        if (v.type != V_DICT) jj_fail(r, "** needs a mapping, not %s", jj_type_name(v));
        star_star = jj_dict_of(r, v);
    }
    if (star) {
        struct val *all = jj_alloc(r, (n_pos + star->n + 1) * sizeof *all);
        if (n_pos) memcpy(all, pos, n_pos * sizeof *all);
        if (star->n) memcpy(all + n_pos, star->items, star->n * sizeof *all);
        pos = all;
        n_pos += star->n;
    }
    if (star_star) n_kw += star_star->n;
    c->args = pos;
    c->n = (int)n_pos;
    if (!n_kw) return;
    c->kw = jj_alloc(r, n_kw * sizeof *c->kw);
    for (int i = 0; i < a->n_kw; i++)
        c->kw[c->n_kw++] = (struct kwarg){a->kw[i].name, a->kw[i].n, kw_values[i]};
    for (size_t i = 0; star_star && i < star_star->n; i++) {
        const struct str *key = jj_want_str(r, star_star->pairs[i].key, "the name of an argument");
        c->kw[c->n_kw++] = (struct kwarg){key->p, key->n, star_star->pairs[i].value};
    }
    if (extra) c->kw[c->n_kw++] = *extra;
}

static struct val eval_call(struct run *r, const struct node *n, struct scope *s, const struct kwarg *extra)
{
    struct call c;
    if (n->a->kind == E_ATTR) { /* a method: no bound function is made */
        struct val self = eval(r, n->a->a, s);
        const struct builtin *b = jj_find_method(self, n->a->text, n->a->n);
        if (b) {
            eval_args(r, n->args, s, extra, &c);
            r->line = n->line;
            return jj_call_builtin(r, b, self, &c);
        }
        r->line = n->line;
        struct val f = plain_attr(r, self, n->a->text, n->a->n, n->a);
        eval_args(r, n->args, s, extra, &c);
        r->line = n->line;
        return jj_call_value(r, f, &c);
    }
    struct val f = eval(r, n->a, s);
    eval_args(r, n->args, s, extra, &c);
    r->line = n->line;
    return jj_call_value(r, f, &c);
}

/* ---- expressions ---- */

static struct val apply_filter(struct run *r, const struct node *n, struct val v, struct scope *s)
{
    struct call c;
    eval_args(r, n->args, s, NULL, &c);
    r->line = n->line;
    if (!n->builtin) jj_fail(r, "no filter named '%.*s'", (int)QN_MIN(n->n, (size_t)60), n->text);
    return jj_call_builtin(r, n->builtin, v, &c);
}

/* A chain of filters whose innermost operand is the captured text. */
static struct val filter_chain(struct run *r, const struct node *n, struct val captured, struct scope *s)
{
    return apply_filter(r, n, n->a ? filter_chain(r, n->a, captured, s) : captured, s);
}

static struct val eval_test(struct run *r, const struct node *n, struct scope *s)
{
    struct val v = eval(r, n->a, s);
    struct call c;
    eval_args(r, n->args, s, NULL, &c);
    r->line = n->line;
    if (!n->builtin) jj_fail(r, "no test named '%.*s'", (int)QN_MIN(n->n, (size_t)60), n->text);
    return jj_call_builtin(r, n->builtin, v, &c);
}

static struct val eval_compare(struct run *r, const struct node *n, struct scope *s)
{
    struct val left = eval(r, n->a, s);
    for (int i = 0; i < n->list.n; i++) {
        struct val right = eval(r, n->list.items[i], s);
        bool yes;
        int order;
        r->line = n->line;
        switch (n->text[i]) {
        case '=':
            yes = jj_equal(r, left, right);
            break;
        case '!':
            yes = !jj_equal(r, left, right);
            break;
        case 'i':
            yes = jj_contains(r, right, left);
            break;
        case 'n':
            yes = !jj_contains(r, right, left);
            break;
        case '<':
            yes = jj_compare(r, left, right, "<") == -1;
            break;
        case '>':
            yes = jj_compare(r, left, right, ">") == 1;
            break;
        case 'l':
            order = jj_compare(r, left, right, "<=");
            yes = order == -1 || order == 0;
            break;
        default:
            order = jj_compare(r, left, right, ">=");
            yes = order == 1 || order == 0;
        }
        if (!yes) return jj_bool_value(false);
        left = right;
    }
    return jj_bool_value(true);
}

static struct val eval_container(struct run *r, const struct node *n, struct scope *s)
{
    if (n->kind == E_DICT) {
        struct dict *d = jj_dict_new(r);
        for (int i = 0; i + 1 < n->list.n; i += 2) {
            struct val key = eval(r, n->list.items[i], s), value = eval(r, n->list.items[i + 1], s);
            jj_dict_set(r, d, key, value);
        }
        return jj_dict_value(d);
    }
    struct list *l = jj_list_new(r, n->kind == E_TUPLE ? LIST_TUPLE : LIST_LIST, (size_t)n->list.n);
    for (int i = 0; i < n->list.n; i++) l->items[l->n++] = eval(r, n->list.items[i], s);
    return jj_list_value(l);
}

static struct val eval_concat(struct run *r, const struct node *n, struct scope *s)
{
    struct val out = jj_to_str(r, eval(r, n->list.items[0], s));
    for (int i = 1; i < n->list.n; i++)
        out = jj_concat_value(r, out, jj_to_str(r, eval(r, n->list.items[i], s)));
    out.flag = 0;
    return out;
}

static struct val eval_bin(struct run *r, const struct node *n, struct scope *s)
{
    struct val a = eval(r, n->a, s), b = eval(r, n->b, s);
    r->line = n->line;
    return jj_arith(r, (char)n->op, a, b);
}

static struct val eval_name(struct run *r, const struct node *n, const struct scope *s)
{
    struct val v = scope_get(r, s, n->sym);
    return v.type == V_ABSENT ? jj_undef_value(n, 0) : v;
}

static struct val eval_access(struct run *r, const struct node *n, struct scope *s)
{
    struct val v = eval(r, n->a, s);
    if (n->kind == E_ATTR) {
        r->line = n->line;
        return jj_get_attr(r, v, n->text, n->n, n);
    }
    if (n->b->kind == E_SLICE) return eval_slice(r, n, v, s);
    struct val key = eval(r, n->b, s);
    r->line = n->line;
    return jj_get_item(r, v, key, n);
}

static struct val eval_deep(struct run *r, const struct node *n, struct scope *s)
{
    struct val v;
    switch ((enum node_kind)n->kind) {
    case E_ATTR:
    case E_ITEM:
        return eval_access(r, n, s);
    case E_CALL:
        return eval_call(r, n, s, NULL);
    case E_FILTER:
        return apply_filter(r, n, eval(r, n->a, s), s);
    case E_TEST:
        return eval_test(r, n, s);
    case E_LIST:
    case E_TUPLE:
    case E_DICT:
        return eval_container(r, n, s);
    case E_NOT:
        return jj_bool_value(!jj_truthy(r, eval(r, n->a, s)));
    case E_NEG:
        return jj_negate(r, eval(r, n->a, s));
    case E_POS:
        v = eval(r, n->a, s);
        if (v.type == V_UNDEF) jj_fail_undef(r, v);
        if (!jj_is_number(v)) jj_fail(r, "+ needs a number, not %s", jj_type_name(v));
        return v.type == V_BOOL ? jj_int_value(v.u.truth) : v;
    case E_BIN:
        return eval_bin(r, n, s);
    case E_AND:
        v = eval(r, n->a, s);
        return jj_truthy(r, v) ? eval(r, n->b, s) : v;
    case E_OR:
        v = eval(r, n->a, s);
        return jj_truthy(r, v) ? v : eval(r, n->b, s);
    case E_CONCAT:
        return eval_concat(r, n, s);
    case E_COMPARE:
        return eval_compare(r, n, s);
    case E_COND:
        if (jj_truthy(r, eval(r, n->b, s))) return eval(r, n->a, s);
        return n->c ? eval(r, n->c, s) : jj_undef_value(NULL, 0);
    default:
        jj_fail(r, "this is no expression");
    }
}

static struct val eval(struct run *r, const struct node *n, struct scope *s)
{
    jj_tick(r, 0);
    r->line = n->line;
    if (n->kind == E_CONST) return n->value;
    if (n->kind == E_NAME) return eval_name(r, n, s);
    jj_enter(r);
    struct val v = eval_deep(r, n, s);
    r->depth--;
    return v;
}

/* ---- statements ---- */

static void assign(struct run *r, const struct node *target, struct val v, struct scope *s)
{
    if (target->kind == E_NAME) {
        scope_set(r, s, target->sym, v);
    } else if (target->kind == E_NSREF) {
        struct val space = scope_get(r, s, target->sym);
        if (space.type != V_SPACE)
            jj_fail(r, "'%s' is no namespace; only attributes of a namespace can be set",
                    r->t->syms[target->sym].text);
        jj_dict_set(r, space.u.d, jj_str_value(r, target->text, target->n, QN_JINJA_LITERAL), v);
    } else {
        struct list *l = jj_to_items(r, v);
        if (l->n != (size_t)target->list.n)
            jj_fail(r, "%zu values cannot be assigned to %d names", l->n, target->list.n);
        for (int i = 0; i < target->list.n; i++) assign(r, target->list.items[i], l->items[i], s);
    }
}

/* The items for which the condition of a for holds. */
static struct list *filter_items(struct run *r, const struct node *n, struct scope *outer, struct list *l)
{
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    struct scope *s = scope_new(r, outer);
    for (size_t i = 0; i < l->n; i++) {
        s->n = 0;
        assign(r, n->a, l->items[i], s);
        if (jj_truthy(r, eval(r, n->c, s))) jj_list_push(r, out, l->items[i]);
    }
    return out;
}

/* Runs a for; `outer` is where it stands. */
static int run_loop(struct run *r, const struct node *n, struct scope *outer, struct val iterable_value,
                    int level)
{
    if (!jj_iterable(iterable_value)) {
        if (iterable_value.type == V_UNDEF) jj_fail_undef(r, iterable_value);
        jj_fail(r, "for cannot go through %s", jj_type_name(iterable_value));
    }
    struct list *items = jj_to_items(r, iterable_value);
    if (n->c) items = filter_items(r, n, outer, items);
    struct list *l = jj_alloc(r, sizeof *l); /* a snapshot: the body may change the list */
    *l = *items;
    struct loop *loop = jj_alloc(r, sizeof *loop);
    *loop = (struct loop){.node = n, .outer = outer, .l = l, .level = level, .changed = {.type = V_ABSENT}};
    struct scope *s = scope_new(r, outer);
    bool none_finished = true;
    for (; loop->at < l->n; loop->at++) {
        jj_tick(r, 0);
        s->n = 0;
        r->line = n->line;
        assign(r, n->a, l->items[loop->at], s);
        scope_set(r, s, SYM_LOOP, (struct val){.type = V_LOOP, .u.loop = loop});
        int flow = exec_body(r, &n->body, s);
        if (flow == FLOW_BREAK) break;
        if (flow != FLOW_CONTINUE) none_finished = false;
    }
    /* As the reference does: else runs when no round came to the end of the body. */
    if (none_finished && n->other.n) return exec_body(r, &n->other, scope_new(r, outer));
    return 0;
}

static int exec_if(struct run *r, const struct node *n, struct scope *s)
{
    for (;;) {
        if (jj_truthy(r, eval(r, n->a, s))) return exec_body(r, &n->body, s);
        if (n->other.n != 1 || n->other.items[0]->kind != N_IF) return exec_body(r, &n->other, s);
        n = n->other.items[0]; /* elif */
    }
}

/* Runs a body into a text. The flow is 0 unless the body leaves a loop outside of it. */
static int capture(struct run *r, const struct body *b, struct scope *s, struct val *out)
{
    jj_sink_begin(r);
    int flow = exec_body(r, b, s);
    *out = jj_sink_end(r);
    return flow;
}

static void exec_with(struct run *r, const struct node *n, struct scope *s, struct scope *inner)
{
    struct val *values = jj_alloc(r, ((size_t)n->list.n / 2 + 1) * sizeof *values);
    for (int i = 0; i + 1 < n->list.n; i += 2) values[i / 2] = eval(r, n->list.items[i + 1], s);
    for (int i = 0; i + 1 < n->list.n; i += 2) assign(r, n->list.items[i], values[i / 2], inner);
}

static struct val macro_value(struct run *r, const struct node *n, struct scope *s)
{
    struct macro *m = jj_alloc(r, sizeof *m);
    m->node = n;
    m->scope = s;
    return (struct val){.type = V_MACRO, .u.m = m};
}

static int exec(struct run *r, const struct node *n, struct scope *s)
{
    struct val v;
    struct scope *inner;
    int flow;
    switch ((enum node_kind)n->kind) {
    case N_DATA:
        jj_put(r, n->text, n->n, QN_JINJA_LITERAL);
        return 0;
    case N_PRINT:
        jj_put_value(r, eval(r, n->a, s));
        return 0;
    case N_IF:
        return exec_if(r, n, s);
    case N_FOR:
        return run_loop(r, n, s, eval(r, n->b, s), 0);
    case N_SET:
        v = eval(r, n->b, s);
        r->line = n->line;
        assign(r, n->a, v, s);
        return 0;
    case N_SETBLOCK:
        flow = capture(r, &n->body, scope_new(r, s), &v);
        if (flow) return flow;
        assign(r, n->a, n->b ? filter_chain(r, n->b, v, s) : v, s);
        return 0;
    case N_MACRO:
        scope_set(r, s, n->sym, macro_value(r, n, s));
        return 0;
    case N_CALLBLOCK:
        v = macro_value(r, n, s);
        jj_put_value(r, eval_call(r, n->a, s, &(struct kwarg){"caller", 6, v}));
        return 0;
    case N_FILTER:
        inner = scope_new(r, s);
        flow = capture(r, &n->body, inner, &v);
        if (flow) return flow;
        jj_put_value(r, filter_chain(r, n->a, v, inner));
        return 0;
    case N_WITH:
        inner = scope_new(r, s);
        exec_with(r, n, s, inner);
        return exec_body(r, &n->body, inner);
    case N_SCOPE:
        return exec_body(r, &n->body, scope_new(r, n->op ? &r->root_scope : s));
    case N_BREAK:
        return FLOW_BREAK;
    case N_CONTINUE:
        return FLOW_CONTINUE;
    case N_DO:
        eval(r, n->a, s);
        return 0;
    default:
        jj_fail(r, "this is no statement");
    }
}

static int exec_body(struct run *r, const struct body *b, struct scope *s)
{
    jj_enter(r);
    for (int i = 0; i < b->n; i++) {
        jj_tick(r, 0);
        r->line = b->items[i]->line;
        int flow = exec(r, b->items[i], s);
        if (flow) {
            r->depth--;
            return flow;
        }
    }
    r->depth--;
    return 0;
}

/* ---- the render ---- */

static void bind_root(struct run *r, const struct qn_json *vars)
{
    const struct qn_jinja *t = r->t;
    r->root = jj_alloc(r, (size_t)t->n_sym * sizeof *r->root);
    for (int i = 0; i < t->n_sym; i++) {
        const struct builtin *b = jj_find_global(t->syms[i].text, t->syms[i].n);
        r->root[i] = b ? bound(r, b, jj_none_value()) : (struct val){.type = V_ABSENT};
        for (size_t k = 0; qn_json_is(vars, QN_JSON_OBJECT) && k < vars->n; k++)
            if (vars->keys[k].n == t->syms[i].n && !memcmp(vars->keys[k].text, t->syms[i].text, t->syms[i].n))
                r->root[i] = jj_from_json(r, vars->items[k]);
    }
}

/* Its own function, so that no variable of the caller lives across the jump. */
static int render_guarded(struct run *r, const struct qn_json *vars)
{
    if (setjmp(r->leave)) return r->rc;
    bind_root(r, vars);
    jj_sink_begin(r);
    exec_body(r, &r->t->body, &r->root_scope);
    return QN_OK;
}

int qn_jinja_render(struct qn_jinja_out *out, const struct qn_jinja *t, const struct qn_json *vars,
                    const struct qn_jinja_opt *opt, struct qn_err *e)
{
    static const struct qn_jinja_opt plain;
    int rc = QN_OK;
    if (!opt) opt = &plain;
    *out = (struct qn_jinja_out){0};
    struct run *r = xcalloc(1, sizeof *r);
    r->t = t;
    r->e = e;
    r->max_steps = r->steps_left = opt->max_steps ? opt->max_steps : QN_JINJA_MAX_STEPS;
    r->max_depth = opt->max_depth ? opt->max_depth : QN_JINJA_MAX_DEPTH;
    r->max_output_bytes = opt->max_output_bytes ? opt->max_output_bytes : QN_JINJA_MAX_OUTPUT_BYTES;
    r->max_memory_bytes = opt->max_memory_bytes ? opt->max_memory_bytes : QN_JINJA_MAX_MEMORY_BYTES;
    r->now_s = opt->now_s;
    r->arena = qn_arena_create(r->max_memory_bytes);
    for (size_t i = 0; i < opt->n_mark; i++)
        qn_map_put(&r->marks, (uint64_t)(uintptr_t)opt->marks[i].string, opt->marks[i].origin);
    rc = render_guarded(r, vars);
    out->raised = r->raised;
    if (rc) {
        out->line = r->line;
    } else {
        struct sink *s = &r->sinks[0];
        out->n_byte = s->n;
        out->text = s->p ? s->p : xstrdup("");
        out->text[s->n] = 0;
        out->origin = s->origin ? s->origin : xcalloc(1, 1);
        s->p = NULL;
        s->origin = NULL;
    }
    for (int i = 0; i < r->n_sink; i++) {
        free(r->sinks[i].p);
        free(r->sinks[i].origin);
    }
    free(r->sinks);
    qn_map_free(&r->marks);
    qn_arena_free(r->arena);
    free(r);
    return rc;
}

void qn_jinja_out_free(struct qn_jinja_out *out)
{
    free(out->text);
    free(out->origin);
    free(out->raised);
    *out = (struct qn_jinja_out){0};
}
