/* Values of the Jinja interpreter: text with origins, lists, dictionaries; Python's truth, equality and order
 * of every value.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <errno.h>
#include <math.h>

void *jj_alloc(struct run *r, size_t n_byte)
{
    void *p = qn_arena_alloc(r->arena, n_byte);
    if (!p) jj_fail_cap(r, "needs more than %zu bytes of memory", r->max_memory_bytes);
    return p;
}

/* ---- sinks ---- */

static void sink_grow(struct run *r, struct sink *s, size_t more)
{
    if (more > r->max_output_bytes - QN_MIN(s->n, r->max_output_bytes))
        jj_fail_cap(r, "makes a text of more than %zu bytes", r->max_output_bytes);
    size_t need = s->n + more + 1;
    if (need <= s->capacity) return;
    size_t capacity = QN_MAX(need, s->capacity * 2);
    size_t total = r->sink_bytes - s->capacity + capacity;
    if (total > r->max_memory_bytes)
        jj_fail_cap(r, "needs more than %zu bytes of memory", r->max_memory_bytes);
    char *p = try_realloc(s->p, capacity, 1);
    if (p) s->p = p;
    uint8_t *origin = try_realloc(s->origin, capacity, 1);
    if (origin) s->origin = origin;
    if (!p || !origin) jj_fail_cap(r, "needs more memory than there is");
    r->sink_bytes = total;
    s->capacity = capacity;
}

void jj_sink_begin(struct run *r)
{
    if (r->sinks_open == MAX_SINKS) jj_fail_cap(r, "nests %d texts in one another", MAX_SINKS);
    if (r->sinks_open == r->n_sink) {
        if (r->n_sink == r->sink_capacity) {
            r->sink_capacity = r->sink_capacity ? r->sink_capacity * 2 : 16;
            r->sinks = xreallocarray(r->sinks, (size_t)r->sink_capacity, sizeof *r->sinks);
        }
        r->sinks[r->n_sink++] = (struct sink){0};
    }
    struct sink *s = &r->sinks[r->sinks_open++];
    s->n = 0;
    s->is_mixed = false;
}

struct val jj_sink_end(struct run *r)
{
    struct sink *s = &r->sinks[--r->sinks_open];
    char *p = jj_alloc(r, s->n + 1);
    if (s->n) memcpy(p, s->p, s->n);
    struct val v = jj_str_value(r, p, s->n, s->n ? s->first : QN_JINJA_LITERAL);
    if (s->is_mixed) {
        uint8_t *origin = jj_alloc(r, s->n);
        memcpy(origin, s->origin, s->n);
        v.u.s->origin = origin;
    }
    return v;
}

void jj_put(struct run *r, const char *p, size_t n, uint8_t origin)
{
    if (!n) return;
    struct sink *s = &r->sinks[r->sinks_open - 1];
    sink_grow(r, s, n);
    memcpy(s->p + s->n, p, n);
    memset(s->origin + s->n, origin, n);
    if (!s->n) s->first = origin;
    s->is_mixed |= origin != s->first;
    s->n += n;
    if (n >= 64) jj_tick(r, n);
}

void jj_puts_lit(struct run *r, const char *text)
{
    jj_put(r, text, strlen(text), QN_JINJA_LITERAL);
}

void jj_put_slice(struct run *r, const struct str *s, size_t from, size_t n)
{
    if (!n) return;
    if (!s->origin) {
        jj_put(r, s->p + from, n, s->uniform);
        return;
    }
    struct sink *k = &r->sinks[r->sinks_open - 1];
    sink_grow(r, k, n);
    memcpy(k->p + k->n, s->p + from, n);
    memcpy(k->origin + k->n, s->origin + from, n);
    if (!k->n) k->first = s->origin[from];
    k->is_mixed = true; /* perhaps not, but the mask is right in any case */
    k->n += n;
    if (n >= 64) jj_tick(r, n);
}

void jj_put_str(struct run *r, struct str *s)
{
    jj_flat(r, (struct val){.type = V_STR, .u.s = s});
    jj_put_slice(r, s, 0, s->n);
}

uint8_t jj_origin_at(const struct str *s, size_t i)
{
    return s->origin ? s->origin[i] : s->uniform;
}

/* ---- makers ---- */

struct val jj_none_value(void)
{
    return (struct val){.type = V_NONE};
}

struct val jj_bool_value(bool truth)
{
    return (struct val){.type = V_BOOL, .u.truth = truth};
}

struct val jj_int_value(int64_t i)
{
    return (struct val){.type = V_INT, .u.i = i};
}

struct val jj_float_value(double f)
{
    return (struct val){.type = V_FLOAT, .u.f = f};
}

struct val jj_undef_value(const struct node *node, uint8_t asked)
{
    return (struct val){.type = V_UNDEF, .flag = asked, .u.node = node};
}

static struct str *str_new(struct run *r, size_t n, uint8_t uniform)
{
    struct str *s = jj_alloc(r, sizeof *s);
    s->n = n;
    s->uniform = uniform;
    s->n_cp = -1;
    return s;
}

struct val jj_str_value(struct run *r, const char *p, size_t n, uint8_t origin)
{
    struct str *s = str_new(r, n, origin);
    s->p = p;
    return (struct val){.type = V_STR, .u.s = s};
}

struct val jj_lit_value(struct run *r, const char *text)
{
    return jj_str_value(r, text, strlen(text), QN_JINJA_LITERAL);
}

struct val jj_slice_value(struct run *r, const struct str *s, size_t from, size_t n)
{
    struct val v = jj_str_value(r, s->p + from, n, s->uniform);
    if (s->origin) v.u.s->origin = s->origin + from;
    return v;
}

#define ROPE_BYTES 512 /* shorter results are copied at once */

static void copy_origin(uint8_t *to, const struct str *s)
{
    if (!s->n) return;
    if (s->origin)
        memcpy(to, s->origin, s->n);
    else
        memset(to, s->uniform, s->n);
}

struct val jj_concat_value(struct run *r, struct val a, struct val b)
{
    struct str *x = a.u.s, *y = b.u.s;
    if (!x->n) return (struct val){.type = V_STR, .u.s = y};
    if (!y->n) return (struct val){.type = V_STR, .u.s = x};
    size_t n = x->n + y->n;
    if (n > r->max_output_bytes) jj_fail_cap(r, "makes a text of more than %zu bytes", r->max_output_bytes);
    struct str *s = str_new(r, n, x->uniform);
    struct val v = {.type = V_STR, .u.s = s};
    if (n >= ROPE_BYTES) {
        s->left = x;
        s->right = y;
        return v;
    }
    char *p = jj_alloc(r, n + 1);
    jj_flat(r, a);
    jj_flat(r, b);
    memcpy(p, x->p, x->n);
    memcpy(p + x->n, y->p, y->n);
    s->p = p;
    if (x->origin || y->origin || x->uniform != y->uniform) {
        uint8_t *origin = jj_alloc(r, n);
        copy_origin(origin, x);
        copy_origin(origin + x->n, y);
        s->origin = origin;
    }
    return v;
}

struct str *jj_flat(struct run *r, struct val v)
{
    struct str *root = v.u.s;
    if (root->p || !root->left) {
        if (!root->p) root->p = "";
        return root;
    }
    /* Fill from the end: a text grown by appending is deep on the left, so the stack stays short. */
    jj_tick(r, root->n);
    char *p = jj_alloc(r, root->n + 1);
    uint8_t *origin = jj_alloc(r, root->n);
    size_t at = root->n, n_stack = 0, capacity = 64;
    struct str **stack = jj_alloc(r, capacity * sizeof(void *));
    bool mixed = false;
    int first = -1;
    stack[n_stack++] = root;
    while (n_stack) {
        struct str *s = stack[--n_stack];
        if (!s->p && s->left) {
            if (n_stack + 2 > capacity) {
                struct str **bigger = jj_alloc(r, capacity * 2 * sizeof(void *));
                memcpy(bigger, stack, n_stack * sizeof(void *));
                stack = bigger;
                capacity *= 2;
            }
            stack[n_stack++] = s->left;
            stack[n_stack++] = s->right;
            continue;
        }
        at -= s->n;
        if (s->n && s->p) memcpy(p + at, s->p, s->n);
        copy_origin(origin + at, s);
        if (first < 0) first = s->uniform;
        mixed |= s->origin || s->uniform != first;
    }
    root->p = p;
    root->left = root->right = NULL;
    if (mixed) root->origin = origin;
    root->uniform = (uint8_t)first;
    return root;
}

struct val jj_to_str(struct run *r, struct val v)
{
    if (v.type == V_STR) return v;
    if (v.type == V_UNDEF) return jj_lit_value(r, "");
    jj_sink_begin(r);
    jj_put_value(r, v);
    return jj_sink_end(r);
}

const struct str *jj_want_str(struct run *r, struct val v, const char *what)
{
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type != V_STR) jj_fail(r, "%s must be a string, not %s", what, jj_type_name(v));
    return jj_flat(r, v);
}

int64_t jj_count_cp(struct str *s)
{
    if (s->n_cp < 0) {
        int64_t n = 0;
        int32_t cp;
        for (size_t i = 0; i < s->n; n++) i += jj_next_cp(s->p + i, s->n - i, &cp);
        s->n_cp = n;
    }
    return s->n_cp;
}

size_t jj_cp_offset(const struct str *s, int64_t i)
{
    if (s->n_cp == (int64_t)s->n) return (size_t)i;
    size_t at = 0;
    int32_t cp;
    while (i-- > 0 && at < s->n) at += jj_next_cp(s->p + at, s->n - at, &cp);
    return at;
}

bool jj_str_is(const struct str *s, const char *text)
{
    return s->n == strlen(text) && !memcmp(s->p, text, s->n);
}

/* ---- lists ---- */

struct list *jj_list_new(struct run *r, enum list_kind kind, size_t capacity)
{
    struct list *l = jj_alloc(r, sizeof *l);
    l->kind = kind;
    l->is_ours = true;
    if (capacity) {
        size_t n_byte;
        if (!qn_mul_size(capacity, sizeof *l->items, &n_byte))
            jj_fail_cap(r, "needs more than %zu bytes of memory", r->max_memory_bytes);
        l->items = jj_alloc(r, n_byte);
        l->capacity = capacity;
    }
    return l;
}

void jj_list_push(struct run *r, struct list *l, struct val v)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 8;
        struct val *items = jj_alloc(r, capacity * sizeof *items);
        if (l->n) memcpy(items, l->items, l->n * sizeof *items);
        l->items = items;
        l->capacity = capacity;
    }
    l->items[l->n++] = v;
}

struct val jj_list_value(struct list *l)
{
    return (struct val){.type = V_LIST, .u.l = l};
}

struct val jj_gen_value(struct run *r, struct list *l)
{
    struct iter *it = jj_alloc(r, sizeof *it);
    it->l = l;
    it->name = "generator";
    return (struct val){.type = V_ITER, .u.it = it};
}

struct list *jj_list_of(struct run *r, struct val v)
{
    struct list *l = v.u.l;
    if (l->src) {
        const struct qn_json *src = l->src;
        jj_tick(r, src->n * 64);
        l->items = jj_alloc(r, src->n * sizeof *l->items);
        for (size_t i = 0; i < src->n; i++) l->items[i] = jj_from_json(r, src->items[i]);
        l->n = l->capacity = src->n;
        l->src = NULL;
    }
    return l;
}

/* ---- dictionaries ---- */

static uint64_t hash_value(struct run *r, struct val v)
{
    switch (v.type) {
    case V_STR: {
        const struct str *s = jj_flat(r, v);
        return qn_hash_bytes(1, s->p, s->n);
    }
    case V_NONE:
        return 7;
    case V_BOOL:
    case V_INT: {
        int64_t i = v.type == V_BOOL ? v.u.truth : v.u.i;
        double f = (double)i; /* 1, 1.0 and True are one key */
        return qn_hash_bytes(2, &f, sizeof f);
    }
    case V_BIG:
    case V_FLOAT: {
        double f = jj_to_double(r, v) + 0.0;
        return qn_hash_bytes(2, &f, sizeof f);
    }
    case V_LIST:
        if (v.u.l->kind == LIST_TUPLE) {
            uint64_t h = 3;
            jj_enter(r);
            for (size_t i = 0; i < jj_list_of(r, v)->n; i++) h = qn_mix64(h ^ hash_value(r, v.u.l->items[i]));
            r->depth--;
            return h;
        }
        break;
    case V_UNDEF:
        return 5;
    default:
        break;
    }
    jj_fail(r, "%s cannot be a key of a dictionary", jj_type_name(v));
}

struct dict *jj_dict_new(struct run *r)
{
    struct dict *d = jj_alloc(r, sizeof *d);
    d->is_ours = true;
    return d;
}

static bool same_key(struct run *r, const struct pair *p, uint64_t hash, struct val key)
{
    if (p->hash != hash) return false;
    return jj_equal(r, p->key, key);
}

static void index_put(struct dict *d, size_t place)
{
    size_t i = d->pairs[place].hash & (d->n_index - 1);
    while (d->index[i]) i = (i + 1) & (d->n_index - 1);
    d->index[i] = (uint32_t)place + 1;
}

static void index_build(struct run *r, struct dict *d)
{
    if (d->n_index < d->capacity * 2) {
        d->n_index = 32;
        while (d->n_index < d->capacity * 2) d->n_index *= 2;
        d->index = jj_alloc(r, d->n_index * sizeof *d->index);
    } else {
        memset(d->index, 0, d->n_index * sizeof *d->index);
    }
    for (size_t i = 0; i < d->n; i++) index_put(d, i);
}

/* Place of key, or SIZE_MAX. */
static size_t dict_find(struct run *r, struct dict *d, struct val key, uint64_t hash)
{
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (same_key(r, &d->pairs[i], hash, key)) return i;
        return SIZE_MAX;
    }
    for (size_t i = hash & (d->n_index - 1); d->index[i]; i = (i + 1) & (d->n_index - 1))
        if (same_key(r, &d->pairs[d->index[i] - 1], hash, key)) return d->index[i] - 1;
    return SIZE_MAX;
}

/* Appends without looking for the key. */
static void dict_append(struct run *r, struct dict *d, struct val key, struct val value, uint64_t hash)
{
    if (d->n == d->capacity) {
        size_t capacity = d->capacity ? d->capacity * 2 : 4;
        struct pair *pairs = jj_alloc(r, capacity * sizeof *pairs);
        if (d->n) memcpy(pairs, d->pairs, d->n * sizeof *pairs);
        d->pairs = pairs;
        d->capacity = capacity;
        if (capacity > 8) index_build(r, d);
    }
    d->pairs[d->n++] = (struct pair){key, value, hash};
    if (d->index) index_put(d, d->n - 1);
}

void jj_dict_set(struct run *r, struct dict *d, struct val key, struct val value)
{
    uint64_t hash = hash_value(r, key);
    size_t at = dict_find(r, d, key, hash);
    if (at != SIZE_MAX)
        d->pairs[at].value = value;
    else
        dict_append(r, d, key, value, hash);
}

bool jj_dict_get(struct run *r, struct dict *d, struct val key, struct val *out)
{
    size_t at = dict_find(r, d, key, hash_value(r, key));
    if (at == SIZE_MAX) return false;
    *out = d->pairs[at].value;
    return true;
}

bool jj_dict_get_str(struct run *r, struct dict *d, const char *key, size_t n, struct val *out)
{
    struct str s = {.p = key, .n = n, .n_cp = -1};
    return jj_dict_get(r, d, (struct val){.type = V_STR, .u.s = &s}, out);
}

bool jj_dict_remove(struct run *r, struct dict *d, struct val key, struct val *out)
{
    size_t at = dict_find(r, d, key, hash_value(r, key));
    if (at == SIZE_MAX) return false;
    *out = d->pairs[at].value;
    jj_tick(r, (d->n - at) * sizeof *d->pairs);
    memmove(d->pairs + at, d->pairs + at + 1, (d->n - at - 1) * sizeof *d->pairs);
    d->n--;
    if (d->index) index_build(r, d);
    return true;
}

struct val jj_dict_value(struct dict *d)
{
    return (struct val){.type = V_DICT, .u.d = d};
}

struct dict *jj_dict_of(struct run *r, struct val v)
{
    struct dict *d = v.u.d;
    if (d->src) {
        const struct qn_json *src = d->src;
        d->src = NULL;
        jj_tick(r, src->n * 64);
        d->capacity = src->n;
        d->pairs = jj_alloc(r, src->n * sizeof *d->pairs);
        if (d->capacity > 8) index_build(r, d);
        for (size_t i = 0; i < src->n; i++) {
            struct val key = jj_str_value(r, src->keys[i].text, src->keys[i].n, QN_JINJA_INPUT);
            dict_append(r, d, key, jj_from_json(r, src->items[i]), hash_value(r, key));
        }
    }
    return d;
}

/* A number keeps its own spelling as long as nothing is reckoned with it: 1.50 is not 1.5 to a reader. */
static struct val spelled(struct run *r, struct val v, const struct qn_json *number)
{
    if (r->n_spelling == r->cap_spelling) {
        uint32_t cap = r->cap_spelling ? 2 * r->cap_spelling : 16;
        const struct qn_json **more = jj_alloc(r, cap * sizeof *more);
        if (r->n_spelling) memcpy(more, r->spellings, r->n_spelling * sizeof *more);
        r->spellings = more;
        r->cap_spelling = cap;
    }
    r->spellings[r->n_spelling++] = number;
    v.spelling = r->n_spelling;
    return v;
}

struct val jj_from_json(struct run *r, const struct qn_json *v)
{
    if (!v) return jj_none_value();
    switch (v->type) {
    case QN_JSON_BOOL:
        return jj_bool_value(v->truth);
    case QN_JSON_INT: {
        struct val out;
        if (!jj_int_from_text(r, v->text, v->n, &out)) jj_fail(r, "'%.40s' is no integer", v->text);
        return v->n == 2 && !memcmp(v->text, "-0", 2) ? spelled(r, out, v) : out;
    }
    case QN_JSON_REAL:
        return spelled(r, jj_float_value(strtod(v->text, NULL)), v);
    case QN_JSON_STRING: {
        uint64_t origin = QN_JINJA_INPUT;
        if (r->marks.n) qn_map_get(&r->marks, (uint64_t)(uintptr_t)v, &origin);
        return jj_str_value(r, v->text, v->n, (uint8_t)origin);
    }
    case QN_JSON_ARRAY: {
        struct list *l = jj_list_new(r, LIST_LIST, 0);
        l->is_ours = false;
        if (v->n) l->src = v;
        return jj_list_value(l);
    }
    case QN_JSON_OBJECT: {
        struct dict *d = jj_dict_new(r);
        d->is_ours = false;
        if (v->n) d->src = v;
        return jj_dict_value(d);
    }
    default:
        return jj_none_value();
    }
}

/* ---- iteration ---- */

bool jj_iterable(struct val v)
{
    return v.type == V_STR || v.type == V_LIST || v.type == V_DICT || v.type == V_ITER || v.type == V_UNDEF ||
           v.type == V_LOOP;
}

struct list *jj_walk_iter(struct run *r, struct iter *it)
{
    if (it->is_view || !it->pos) {
        if (!it->is_view) it->pos = it->l->n;
        return it->l;
    }
    struct list *rest = jj_list_new(r, LIST_LIST, 0);
    rest->items = it->l->items + it->pos;
    rest->n = rest->capacity = it->l->n - it->pos;
    it->pos = it->l->n;
    return rest;
}

struct list *jj_to_items(struct run *r, struct val v)
{
    struct list *l;
    switch (v.type) {
    case V_LIST:
        return jj_list_of(r, v);
    case V_ITER:
        return jj_walk_iter(r, v.u.it);
    case V_UNDEF:
        return jj_list_new(r, LIST_LIST, 0);
    case V_DICT: {
        struct dict *d = jj_dict_of(r, v);
        l = jj_list_new(r, LIST_LIST, d->n);
        for (size_t i = 0; i < d->n; i++) l->items[l->n++] = d->pairs[i].key;
        return l;
    }
    case V_STR: {
        struct str *s = jj_flat(r, v);
        jj_tick(r, s->n * 64);
        l = jj_list_new(r, LIST_LIST, (size_t)jj_count_cp(s));
        int32_t cp;
        for (size_t i = 0, k; i < s->n; i += k) {
            k = jj_next_cp(s->p + i, s->n - i, &cp);
            l->items[l->n++] = jj_slice_value(r, s, i, k);
        }
        return l;
    }
    default:
        jj_fail(r, "%s cannot be iterated", jj_type_name(v));
    }
}

struct list *jj_list_copy(struct run *r, struct val v)
{
    struct list *l = jj_to_items(r, v), *out = jj_list_new(r, LIST_LIST, l->n);
    jj_tick(r, l->n * 16);
    if (l->n) memcpy(out->items, l->items, l->n * sizeof *l->items);
    out->n = l->n;
    return out;
}

struct list *jj_dict_items(struct run *r, struct dict *d)
{
    struct list *out = jj_list_new(r, LIST_LIST, 0);
    jj_tick(r, d->n * 64);
    for (size_t i = 0; i < d->n; i++) {
        struct list *pair = jj_list_new(r, LIST_TUPLE, 2);
        jj_list_push(r, pair, d->pairs[i].key);
        jj_list_push(r, pair, d->pairs[i].value);
        jj_list_push(r, out, jj_list_value(pair));
    }
    return out;
}

void jj_dict_merge(struct run *r, struct dict *d, struct val from)
{
    if (from.type == V_DICT || from.type == V_SPACE) {
        struct dict *more = jj_dict_of(r, from);
        for (size_t i = 0; i < more->n; i++) {
            jj_tick(r, 0);
            jj_dict_set(r, d, more->pairs[i].key, more->pairs[i].value);
        }
        return;
    }
    struct list *l = jj_to_items(r, from);
    for (size_t i = 0; i < l->n; i++) {
        struct list *pair = jj_to_items(r, l->items[i]);
        if (pair->n != 2) jj_fail(r, "a dictionary is made from pairs; item %zu has %zu parts", i, pair->n);
        jj_dict_set(r, d, pair->items[0], pair->items[1]);
    }
}

void jj_dict_merge_kwargs(struct run *r, struct dict *d, const struct call *c)
{
    for (int i = 0; i < c->n_kw; i++)
        jj_dict_set(r, d, jj_str_value(r, c->kw[i].name, c->kw[i].n, QN_JINJA_LITERAL), c->kw[i].v);
}

size_t jj_value_len(struct run *r, struct val v)
{
    switch (v.type) {
    case V_STR:
        return (size_t)jj_count_cp(jj_flat(r, v));
    case V_LIST:
        return jj_list_of(r, v)->n;
    case V_DICT:
        return jj_dict_of(r, v)->n;
    case V_UNDEF:
        return 0;
    case V_LOOP:
        return v.u.loop->l->n;
    case V_ITER:
        if (v.u.it->is_view) return v.u.it->l->n;
        /* fall through */
    default:
        jj_fail(r, "%s has no length", jj_type_name(v));
    }
}

/* ---- truth, equality, order ---- */

bool jj_truthy(struct run *r, struct val v)
{
    (void)r;
    switch (v.type) {
    case V_UNDEF:
    case V_NONE:
        return false;
    case V_BOOL:
        return v.u.truth;
    case V_INT:
        return v.u.i != 0;
    case V_FLOAT:
        return v.u.f != 0;
    case V_STR:
        return v.u.s->n > 0;
    case V_LIST:
        return v.u.l->src ? v.u.l->src->n > 0 : v.u.l->n > 0;
    case V_DICT:
        return v.u.d->src ? v.u.d->src->n > 0 : v.u.d->n > 0;
    case V_ITER:
        return !v.u.it->is_view || v.u.it->l->n > 0;
    default:
        return true;
    }
}

static bool equal_numbers(struct run *r, struct val a, struct val b)
{
    if (a.type == V_FLOAT || b.type == V_FLOAT) return jj_to_double(r, a) == jj_to_double(r, b);
    if (a.type == V_BIG || b.type == V_BIG) return !jj_int_compare(r, a, b);
    return (a.type == V_BOOL ? a.u.truth : a.u.i) == (b.type == V_BOOL ? b.u.truth : b.u.i);
}

bool jj_equal(struct run *r, struct val a, struct val b)
{
    if (jj_is_number(a) && jj_is_number(b)) return equal_numbers(r, a, b);
    if (a.type != b.type) return false;
    switch (a.type) {
    case V_UNDEF:
    case V_NONE:
        return true;
    case V_STR: {
        if (a.u.s == b.u.s) return true;
        if (a.u.s->n != b.u.s->n) return false;
        const struct str *x = jj_flat(r, a), *y = jj_flat(r, b);
        if (x->n >= 64) jj_tick(r, x->n);
        return !memcmp(x->p, y->p, x->n);
    }
    case V_LIST: {
        if (a.u.l == b.u.l) return true;
        if (a.u.l->kind != b.u.l->kind) return false;
        struct list *x = jj_list_of(r, a), *y = jj_list_of(r, b);
        if (x->n != y->n) return false;
        jj_enter(r);
        for (size_t i = 0; i < x->n; i++) {
            jj_tick(r, 0);
            if (!jj_equal(r, x->items[i], y->items[i])) {
                r->depth--;
                return false;
            }
        }
        r->depth--;
        return true;
    }
    case V_DICT: {
        if (a.u.d == b.u.d) return true;
        struct dict *x = jj_dict_of(r, a), *y = jj_dict_of(r, b);
        if (x->n != y->n) return false;
        jj_enter(r);
        for (size_t i = 0; i < x->n; i++) {
            jj_tick(r, 0);
            size_t at = dict_find(r, y, x->pairs[i].key, x->pairs[i].hash);
            if (at == SIZE_MAX || !jj_equal(r, x->pairs[i].value, y->pairs[at].value)) {
                r->depth--;
                return false;
            }
        }
        r->depth--;
        return true;
    }
    default:
        return a.u.node == b.u.node;
    }
}

int jj_compare(struct run *r, struct val a, struct val b, const char *op)
{
    if (jj_is_number(a) && jj_is_number(b)) {
        if (a.type == V_FLOAT || b.type == V_FLOAT) {
            double x = jj_to_double(r, a), y = jj_to_double(r, b);
            return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; /* 2: NaN, no order */
        }
        if (a.type == V_BIG || b.type == V_BIG) return jj_int_compare(r, a, b);
        int64_t x = a.type == V_BOOL ? a.u.truth : a.u.i, y = b.type == V_BOOL ? b.u.truth : b.u.i;
        return x < y ? -1 : x > y;
    }
    if (a.type == V_UNDEF) jj_fail_undef(r, a);
    if (b.type == V_UNDEF) jj_fail_undef(r, b);
    if (a.type == V_STR && b.type == V_STR) {
        const struct str *x = jj_flat(r, a), *y = jj_flat(r, b);
        size_t n = QN_MIN(x->n, y->n);
        if (n >= 64) jj_tick(r, n);
        int c = n ? memcmp(x->p, y->p, n) : 0; /* the order of UTF-8 bytes is that of code points */
        if (c) return c < 0 ? -1 : 1;
        return x->n < y->n ? -1 : x->n > y->n;
    }
    if (a.type == V_LIST && b.type == V_LIST && a.u.l->kind == b.u.l->kind && a.u.l->kind != LIST_RANGE) {
        struct list *x = jj_list_of(r, a), *y = jj_list_of(r, b);
        jj_enter(r);
        for (size_t i = 0; i < x->n && i < y->n; i++) {
            jj_tick(r, 0);
            if (jj_equal(r, x->items[i], y->items[i])) continue;
            int c = jj_compare(r, x->items[i], y->items[i], op);
            r->depth--;
            return c;
        }
        r->depth--;
        return x->n < y->n ? -1 : x->n > y->n;
    }
    jj_fail(r, "'%s' is not defined between %s and %s", op, jj_type_name(a), jj_type_name(b));
}

bool jj_contains(struct run *r, struct val container, struct val item)
{
    switch (container.type) {
    case V_STR: {
        if (item.type != V_STR)
            jj_fail(r, "'in' asks whether a string holds a %s; it can only hold strings", jj_type_name(item));
        const struct str *hay = jj_flat(r, container), *needle = jj_flat(r, item);
        if (hay->n >= 64) jj_tick(r, hay->n / 4);
        return jj_find_bytes(hay->p, hay->n, needle->p, needle->n) != SIZE_MAX;
    }
    case V_DICT: {
        struct val out;
        return jj_dict_get(r, jj_dict_of(r, container), item, &out);
    }
    case V_LIST:
    case V_ITER: {
        struct list *l = jj_to_items(r, container);
        for (size_t i = 0; i < l->n; i++) {
            jj_tick(r, 0);
            if (jj_equal(r, l->items[i], item)) return true;
        }
        return false;
    }
    case V_UNDEF:
        return false;
    default:
        jj_fail(r, "'in' cannot look into %s", jj_type_name(container));
    }
}

static int compare_sort(struct run *r, struct val a, struct val b)
{
    jj_tick(r, 0);
    return jj_compare(r, a, b, "<") == -1 ? -1 : 0;
}

void jj_sort_by_keys(struct run *r, struct val *items, struct val *keys, size_t n, bool reverse)
{
    /* bottom-up merge; with reverse, equal ones keep their order too */
    struct val *items2 = jj_alloc(r, (n + 1) * sizeof *items2), *keys2 = jj_alloc(r, (n + 1) * sizeof *keys2);
    struct val *from = items, *from_keys = keys, *to = items2, *to_keys = keys2;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n; start += 2 * width) {
            size_t a = start, mid = QN_MIN(start + width, n), b = mid, end = QN_MIN(start + 2 * width, n);
            for (size_t k = start; k < end; k++) {
                bool take_b = a >= mid;
                if (!take_b && b < end)
                    take_b = reverse ? compare_sort(r, from_keys[a], from_keys[b]) < 0
                                     : compare_sort(r, from_keys[b], from_keys[a]) < 0;
                size_t i = take_b ? b++ : a++;
                to[k] = from[i];
                to_keys[k] = from_keys[i];
            }
        }
        struct val *t = from;
        from = to;
        to = t;
        t = from_keys;
        from_keys = to_keys;
        to_keys = t;
    }
    if (from != items && n) {
        memcpy(items, from, n * sizeof *items);
        memcpy(keys, from_keys, n * sizeof *keys);
    }
}
