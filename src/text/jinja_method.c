/* Methods of the values that the Jinja interpreter knows: lists, tuples, dictionaries, loop, cycler.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#define X (c->x)

/* ---- lists ---- */

static struct list *own_list(struct run *r, struct val v)
{
    struct list *l = jj_list_of(r, v);
    if (!l->is_ours || l->kind != LIST_LIST)
        jj_fail(r, "a %s that the template did not make cannot be changed", jj_type_name(v));
    return l;
}

static struct val l_append(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    jj_list_push(r, own_list(r, v), a[0]);
    return jj_none_value();
}

static struct val l_extend(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = own_list(r, v), *more = jj_to_items(r, a[0]);
    size_t n = more->n;
    for (size_t i = 0; i < n; i++) {
        jj_tick(r, 0);
        jj_list_push(r, l, more->items[i]);
    }
    return jj_none_value();
}

static struct val l_insert(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = own_list(r, v);
    int64_t at = jj_want_int(r, a[0], "the index"), n = (int64_t)l->n;
    if (at < 0) at = QN_MAX(at + n, 0);
    if (at > n) at = n;
    jj_tick(r, l->n * 16);
    jj_list_push(r, l, a[1]);
    memmove(l->items + at + 1, l->items + at, (size_t)(n - at) * sizeof *l->items);
    l->items[at] = a[1];
    return jj_none_value();
}

static struct val l_pop(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = own_list(r, v);
    int64_t n = (int64_t)l->n, at = jj_given(a[0]) ? jj_want_int(r, a[0], "the index") : n - 1;
    if (at < 0) at += n;
    if (at < 0 || at >= n) jj_fail(r, "pop: the list has no such place");
    struct val out = l->items[at];
    jj_tick(r, (size_t)(n - at) * 16);
    memmove(l->items + at, l->items + at + 1, (size_t)(n - at - 1) * sizeof *l->items);
    l->n--;
    return out;
}

static size_t find_item(struct run *r, const struct list *l, struct val x, size_t from)
{
    for (; from < l->n; from++) {
        jj_tick(r, 0);
        if (jj_equal(r, l->items[from], x)) return from;
    }
    return SIZE_MAX;
}

static struct val l_index(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = jj_list_of(r, v);
    int64_t from = jj_given(a[1]) ? jj_want_int(r, a[1], "start") : 0;
    if (from < 0) from = QN_MAX(from + (int64_t)l->n, 0);
    size_t at = find_item(r, l, a[0], (size_t)from);
    if (at == SIZE_MAX) jj_fail(r, "index: the %s does not hold this value", jj_type_name(v));
    return jj_int_value((int64_t)at);
}

static struct val l_count(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = jj_list_of(r, v);
    int64_t n = 0;
    for (size_t at = 0; (at = find_item(r, l, a[0], at)) != SIZE_MAX; at++) n++;
    return jj_int_value(n);
}

static struct val l_remove(struct run *r, struct val v, struct val *a, struct call *c)
{
    struct list *l = own_list(r, v);
    size_t at = find_item(r, l, a[0], 0);
    if (at == SIZE_MAX) jj_fail(r, "remove: the list does not hold this value");
    struct val index[1] = {jj_int_value((int64_t)at)};
    l_pop(r, v, index, c);
    return jj_none_value();
}

static struct val l_copy(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    return jj_list_value(jj_list_copy(r, v));
}

static struct val l_clear(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    own_list(r, v)->n = 0;
    return jj_none_value();
}

static struct val l_reverse(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct list *l = own_list(r, v);
    jj_tick(r, l->n * 16);
    for (size_t i = 0; i < l->n / 2; i++) {
        struct val t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
    return jj_none_value();
}

static struct val l_sort(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct list *l = own_list(r, v);
    struct val *keys = jj_alloc(r, (l->n + 1) * sizeof *keys);
    if (l->n) memcpy(keys, l->items, l->n * sizeof *keys);
    jj_sort_by_keys(r, l->items, keys, l->n, jj_flag_or(r, a[0], false));
    return jj_none_value();
}

static const struct builtin list_methods[] = {
    {"append", "object", 1, l_append, 0},
    {"clear", "", 0, l_clear, 0},
    {"copy", "", 0, l_copy, 0},
    {"count", "value", 1, l_count, 0},
    {"extend", "iterable", 1, l_extend, 0},
    {"index", "value start", 1, l_index, 0},
    {"insert", "index object", 2, l_insert, 0},
    {"pop", "index", 0, l_pop, 0},
    {"remove", "value", 1, l_remove, 0},
    {"reverse", "", 0, l_reverse, 0},
    {"sort", "reverse", 0, l_sort, 0},
    {NULL, NULL, 0, NULL, 0},
};

static const struct builtin tuple_methods[] = {
    {"count", "value", 1, l_count, 0},
    {"index", "value start", 1, l_index, 0},
    {NULL, NULL, 0, NULL, 0},
};

/* ---- dictionaries ---- */

static struct dict *own_dict(struct run *r, struct val v)
{
    struct dict *d = jj_dict_of(r, v);
    if (!d->is_ours) jj_fail(r, "a dictionary that the template did not make cannot be changed");
    return d;
}

static struct val d_get(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val out;
    return jj_dict_get(r, jj_dict_of(r, v), a[0], &out) ? out : jj_or_none(a[1]);
}

enum { VIEW_ITEMS, VIEW_KEYS, VIEW_VALUES };

static struct val d_view(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct dict *d = jj_dict_of(r, v);
    struct list *l;
    if (X == VIEW_ITEMS) {
        l = jj_dict_items(r, d);
    } else {
        l = jj_list_new(r, LIST_LIST, d->n);
        jj_tick(r, d->n * 16);
        for (size_t i = 0; i < d->n; i++)
            jj_list_push(r, l, X == VIEW_KEYS ? d->pairs[i].key : d->pairs[i].value);
    }
    struct val out = jj_gen_value(r, l);
    out.u.it->is_view = true;
    out.u.it->name = X == VIEW_ITEMS ? "dict_items" : X == VIEW_KEYS ? "dict_keys" : "dict_values";
    return out;
}

static struct val d_pop(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct val out;
    if (jj_dict_remove(r, own_dict(r, v), a[0], &out)) return out;
    if (a[1].type == V_ABSENT) jj_fail(r, "pop: the dictionary has no such key");
    return a[1];
}

static struct val d_popitem(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct dict *d = own_dict(r, v);
    if (!d->n) jj_fail(r, "popitem: the dictionary is empty");
    struct list *pair = jj_list_new(r, LIST_TUPLE, 2);
    struct val value;
    jj_list_push(r, pair, d->pairs[d->n - 1].key);
    jj_list_push(r, pair, d->pairs[d->n - 1].value);
    jj_dict_remove(r, d, pair->items[0], &value);
    return jj_list_value(pair);
}

static struct val d_update(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct dict *d = own_dict(r, v);
    if (c->n > 1) jj_fail(r, "update takes one positional argument");
    if (c->n) jj_dict_merge(r, d, c->args[0]);
    jj_dict_merge_kwargs(r, d, c);
    return jj_none_value();
}

static struct val d_setdefault(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)c;
    struct dict *d = own_dict(r, v);
    struct val out;
    if (jj_dict_get(r, d, a[0], &out)) return out;
    jj_dict_set(r, d, a[0], jj_or_none(a[1]));
    return jj_or_none(a[1]);
}

static struct val d_copy(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct dict *d = jj_dict_new(r);
    jj_dict_merge(r, d, v);
    return jj_dict_value(d);
}

static struct val d_clear(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a, (void)c;
    struct dict *d = own_dict(r, v);
    *d = (struct dict){.is_ours = true};
    return jj_none_value();
}

static const struct builtin dict_methods[] = {
    {"clear", "", 0, d_clear, 0},
    {"copy", "", 0, d_copy, 0},
    {"get", "key default", 1, d_get, 0},
    {"items", "", 0, d_view, VIEW_ITEMS},
    {"keys", "", 0, d_view, VIEW_KEYS},
    {"pop", "key default", 1, d_pop, 0},
    {"popitem", "", 0, d_popitem, 0},
    {"setdefault", "key default", 1, d_setdefault, 0},
    {"update", "* **", 0, d_update, 0},
    {"values", "", 0, d_view, VIEW_VALUES},
    {NULL, NULL, 0, NULL, 0},
};

/* ---- loop, cycler ---- */

static struct val o_cycle(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    if (!c->n) jj_fail(r, "cycle: there is nothing to cycle through");
    return c->args[v.u.loop->at % (size_t)c->n];
}

static struct val o_changed(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)a;
    struct list *l = jj_list_new(r, LIST_TUPLE, (size_t)c->n);
    for (int i = 0; i < c->n; i++) jj_list_push(r, l, c->args[i]);
    struct val now = jj_list_value(l);
    struct loop *loop = v.u.loop;
    bool changed = loop->changed.type == V_ABSENT || !jj_equal(r, loop->changed, now);
    if (changed) loop->changed = now;
    return jj_bool_value(changed);
}

static const struct builtin loop_methods[] = {
    {"changed", "* **", 0, o_changed, 0},
    {"cycle", "* **", 0, o_cycle, 0},
    {NULL, NULL, 0, NULL, 0},
};

static struct val y_next(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)r, (void)a, (void)c;
    struct gadget *g = v.u.g;
    struct val out = g->items->items[g->at];
    g->at = (g->at + 1) % g->items->n;
    return out;
}

static struct val y_reset(struct run *r, struct val v, struct val *a, struct call *c)
{
    (void)r, (void)a, (void)c;
    v.u.g->at = 0;
    return jj_none_value();
}

static const struct builtin cycler_methods[] = {
    {"next", "", 0, y_next, 0},
    {"reset", "", 0, y_reset, 0},
    {NULL, NULL, 0, NULL, 0},
};
const struct builtin *jj_find_method(struct val v, const char *name, size_t n)
{
    const struct builtin *table;
    if (!n || memchr(name, 0, n)) return NULL;
    switch (v.type) {
    case V_STR:
        table = jj_str_methods;
        break;
    case V_LIST:
        if (v.u.l->kind == LIST_LIST)
            table = list_methods;
        else
            table = tuple_methods;
        break;
    case V_DICT:
        table = dict_methods;
        break;
    case V_LOOP:
        table = loop_methods;
        break;
    case V_CYCLER:
        table = cycler_methods;
        break;
    default:
        return NULL;
    }
    return jj_search(table, SIZE_MAX, name, n);
}
