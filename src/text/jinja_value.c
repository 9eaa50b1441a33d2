/* Values of the Jinja interpreter: text with origins, numbers, lists, dictionaries, and Python's spelling,
 * truth, equality and order of each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/jinja_impl.h"

#include <errno.h>
#include <math.h>

#define MAX_VALUE_DEPTH 600 /* nesting that repr, ==, tojson walk; JSON itself stops at QN_JSON_MAX_DEPTH */

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

struct val jj_from_json(struct run *r, const struct qn_json *v)
{
    if (!v) return jj_none_value();
    switch (v->type) {
    case QN_JSON_BOOL:
        return jj_bool_value(v->truth);
    case QN_JSON_INT: {
        struct val out;
        if (!jj_int_from_text(r, v->text, v->n, &out)) jj_fail(r, "'%.40s' is no integer", v->text);
        return out;
    }
    case QN_JSON_REAL:
        return jj_float_value(strtod(v->text, NULL));
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

/* ---- numbers ---- */

#define LIMB 1000000000u

bool jj_is_int(struct val v)
{
    return v.type == V_BOOL || v.type == V_INT || v.type == V_BIG;
}

bool jj_is_number(struct val v)
{
    return jj_is_int(v) || v.type == V_FLOAT;
}

static struct big *big_new(struct run *r, int n)
{
    if (n > QN_JINJA_MAX_INT_DIGITS / 9 + 2)
        jj_fail_cap(r, "makes an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    struct big *b = jj_alloc(r, sizeof *b + (size_t)n * sizeof b->d[0]);
    b->n = n;
    return b;
}

static struct big *to_big(struct run *r, struct val v)
{
    if (v.type == V_BIG) return v.u.big;
    int64_t i = v.type == V_BOOL ? v.u.truth : v.u.i;
    struct big *b = big_new(r, 3);
    b->negative = i < 0;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    b->n = 0;
    while (u) {
        b->d[b->n++] = (uint32_t)(u % LIMB);
        u /= LIMB;
    }
    return b;
}

/* Drops leading zeros and gives an int when it fits. */
static struct val big_value(struct big *b)
{
    while (b->n && !b->d[b->n - 1]) b->n--;
    if (b->n <= 3) {
        unsigned __int128 u = 0;
        for (int i = b->n - 1; i >= 0; i--) u = u * LIMB + b->d[i];
        if (u <= (unsigned __int128)INT64_MAX + (b->negative ? 1 : 0))
            return jj_int_value(b->negative ? (int64_t)(0 - (uint64_t)u) : (int64_t)u);
    }
    return (struct val){.type = V_BIG, .u.big = b};
}

static int big_compare_size(const struct big *a, const struct big *b)
{
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (int i = a->n - 1; i >= 0; i--)
        if (a->d[i] != b->d[i]) return a->d[i] < b->d[i] ? -1 : 1;
    return 0;
}

static int big_compare(const struct big *a, const struct big *b)
{
    bool a_neg = a->negative && a->n, b_neg = b->negative && b->n;
    if (a_neg != b_neg) return a_neg ? -1 : 1;
    int c = big_compare_size(a, b);
    return a_neg ? -c : c;
}

static struct big *big_add(struct run *r, const struct big *a, const struct big *b, bool subtract)
{
    bool b_negative = b->negative != subtract;
    struct big *out;
    if (a->negative == b_negative) {
        out = big_new(r, QN_MAX(a->n, b->n) + 1);
        uint32_t carry = 0;
        for (int i = 0; i < out->n; i++) {
            uint32_t sum = carry + (i < a->n ? a->d[i] : 0) + (i < b->n ? b->d[i] : 0);
            out->d[i] = sum % LIMB;
            carry = sum / LIMB;
        }
        out->negative = a->negative;
        return out;
    }
    int c = big_compare_size(a, b);
    const struct big *x = c >= 0 ? a : b, *y = c >= 0 ? b : a;
    out = big_new(r, x->n);
    int64_t borrow = 0;
    for (int i = 0; i < x->n; i++) {
        int64_t diff = (int64_t)x->d[i] - (i < y->n ? y->d[i] : 0) - borrow;
        borrow = diff < 0;
        out->d[i] = (uint32_t)(diff + (borrow ? (int64_t)LIMB : 0));
    }
    out->negative = c >= 0 ? a->negative : b_negative;
    return out;
}

static struct big *big_mul(struct run *r, const struct big *a, const struct big *b)
{
    struct big *out = big_new(r, a->n + b->n + 1);
    jj_tick(r, (size_t)a->n * (size_t)b->n);
    for (int i = 0; i < a->n; i++) {
        uint64_t carry = 0;
        for (int k = 0; k < b->n || carry; k++) {
            uint64_t sum = out->d[i + k] + carry + (k < b->n ? (uint64_t)a->d[i] * b->d[k] : 0);
            out->d[i + k] = (uint32_t)(sum % LIMB);
            carry = sum / LIMB;
        }
    }
    out->negative = a->negative != b->negative;
    return out;
}

/* |a| = quotient * |b| + rest, both positive; b is not zero. Digit by digit, each found by bisection. */
static void big_divide(struct run *r, const struct big *a, const struct big *b, struct big **quotient,
                       struct big **rest)
{
    struct big *q = big_new(r, a->n), *left = big_new(r, b->n + 1), *trial = big_new(r, b->n + 1);
    left->n = 0;
    jj_tick(r, (size_t)a->n * (size_t)b->n * 32);
    for (int i = a->n - 1; i >= 0; i--) {
        /* left = left * LIMB + a->d[i] */
        if (left->n || a->d[i]) {
            for (int k = left->n; k > 0; k--) left->d[k] = left->d[k - 1];
            left->d[0] = a->d[i];
            left->n++;
        }
        uint32_t lo = 0, hi = LIMB - 1; /* largest digit with digit * b <= left */
        while (lo < hi) {
            uint32_t mid = (uint32_t)(((uint64_t)lo + hi + 1) / 2);
            uint64_t carry = 0;
            trial->n = b->n + 1;
            for (int k = 0; k < trial->n; k++) {
                uint64_t sum = carry + (k < b->n ? (uint64_t)b->d[k] * mid : 0);
                trial->d[k] = (uint32_t)(sum % LIMB);
                carry = sum / LIMB;
            }
            while (trial->n && !trial->d[trial->n - 1]) trial->n--;
            if (big_compare_size(trial, left) <= 0)
                lo = mid;
            else
                hi = mid - 1;
        }
        q->d[i] = lo;
        int64_t borrow = 0;
        uint64_t carry = 0;
        for (int k = 0; k < left->n; k++) {
            uint64_t sum = carry + (k < b->n ? (uint64_t)b->d[k] * lo : 0);
            carry = sum / LIMB;
            int64_t diff = (int64_t)left->d[k] - (int64_t)(sum % LIMB) - borrow;
            borrow = diff < 0;
            left->d[k] = (uint32_t)(diff + (borrow ? (int64_t)LIMB : 0));
        }
        while (left->n && !left->d[left->n - 1]) left->n--;
    }
    *quotient = q;
    *rest = left;
}

bool jj_int_from_text(struct run *r, const char *p, size_t n, struct val *out)
{
    bool negative = n && *p == '-';
    if (n && (*p == '-' || *p == '+')) p++, n--;
    if (!n) return false;
    for (size_t i = 0; i < n; i++)
        if (p[i] < '0' || p[i] > '9') return false;
    while (n > 1 && *p == '0') p++, n--;
    if (n > QN_JINJA_MAX_INT_DIGITS)
        jj_fail_cap(r, "meets an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    if (n <= 18) {
        int64_t v = 0;
        for (size_t i = 0; i < n; i++) v = v * 10 + (p[i] - '0');
        *out = jj_int_value(negative ? -v : v);
        return true;
    }
    struct big *b = big_new(r, (int)((n + 8) / 9));
    for (size_t i = 0; i < n; i++) {
        uint32_t scale = 1;
        for (size_t k = (n - 1 - i) % 9; k; k--) scale *= 10;
        b->d[(n - 1 - i) / 9] += (uint32_t)(p[i] - '0') * scale;
    }
    b->negative = negative;
    *out = big_value(b);
    return true;
}

struct val jj_int_from_double(struct run *r, double f)
{
    if (isnan(f)) jj_fail(r, "cannot convert float NaN to integer");
    if (isinf(f)) jj_fail(r, "cannot convert float infinity to integer");
    f = trunc(f);
    if (fabs(f) < 9e18) return jj_int_value((int64_t)f);
    char text[400];
    int n = snprintf(text, sizeof text, "%.0f", f);
    struct val v = jj_int_value(0);
    jj_int_from_text(r, text, (size_t)n, &v);
    return v;
}

void jj_put_int(struct run *r, struct val v)
{
    char text[32];
    if (v.type != V_BIG) {
        int n = snprintf(text, sizeof text, "%" PRId64, v.type == V_BOOL ? (int64_t)v.u.truth : v.u.i);
        jj_put(r, text, (size_t)n, QN_JINJA_LITERAL);
        return;
    }
    const struct big *b = v.u.big;
    if (b->negative) jj_puts_lit(r, "-");
    for (int i = b->n - 1; i >= 0; i--) {
        int n = snprintf(text, sizeof text, i == b->n - 1 ? "%u" : "%09u", b->d[i]);
        jj_put(r, text, (size_t)n, QN_JINJA_LITERAL);
    }
}

double jj_to_double(struct run *r, struct val v)
{
    switch (v.type) {
    case V_BOOL:
        return v.u.truth;
    case V_INT:
        return (double)v.u.i;
    case V_FLOAT:
        return v.u.f;
    case V_BIG: {
        jj_sink_begin(r);
        jj_put_int(r, v);
        struct val text = jj_sink_end(r);
        return strtod(text.u.s->p, NULL); /* rounds once, as Python does */
    }
    default:
        if (v.type == V_UNDEF) jj_fail_undef(r, v);
        jj_fail(r, "%s is no number", jj_type_name(v));
    }
}

int64_t jj_want_int(struct run *r, struct val v, const char *what)
{
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    if (v.type == V_BOOL) return v.u.truth;
    if (v.type == V_BIG) return v.u.big->negative ? INT64_MIN : INT64_MAX;
    if (v.type != V_INT) jj_fail(r, "%s must be an integer, not %s", what, jj_type_name(v));
    return v.u.i;
}

static struct val power(struct run *r, struct val a, struct val b)
{
    if (a.type == V_FLOAT || b.type == V_FLOAT || jj_compare(r, b, jj_int_value(0), "**") < 0) {
        double x = jj_to_double(r, a), y = jj_to_double(r, b);
        if (x == 0 && y < 0) jj_fail(r, "0 cannot be raised to a negative power");
        return jj_float_value(pow(x, y));
    }
    int64_t n = jj_want_int(r, b, "the exponent");
    struct val base = a.type == V_BOOL ? jj_int_value(a.u.truth) : a, out = jj_int_value(1);
    if (base.type == V_INT && base.u.i >= -1 && base.u.i <= 1)
        return base.u.i == 0                 ? jj_int_value(n == 0)
               : base.u.i == 1 || n % 2 == 0 ? jj_int_value(1)
                                             : jj_int_value(-1);
    if (n > 20000) jj_fail_cap(r, "makes an integer of more than %d digits", QN_JINJA_MAX_INT_DIGITS);
    while (n) {
        if (n & 1) out = jj_arith(r, '*', out, base);
        n >>= 1;
        if (n) base = jj_arith(r, '*', base, base);
    }
    return out;
}

static struct val float_arith(struct run *r, char op, double x, double y)
{
    if (y == 0 && strchr("/F%", op)) jj_fail(r, "division by zero");
    double m, q;
    switch (op) {
    case '+':
        return jj_float_value(x + y);
    case '-':
        return jj_float_value(x - y);
    case '*':
        return jj_float_value(x * y);
    case '/':
        return jj_float_value(x / y);
    case 'F':
        m = fmod(x, y);
        q = (x - m) / y;
        if (m && (m < 0) != (y < 0)) q -= 1;
        m = q ? floor(q) : copysign(0.0, x / y);
        return jj_float_value(q && q - m > 0.5 ? m + 1 : m);
    default:
        m = fmod(x, y);
        if (m && (m < 0) != (y < 0))
            m += y;
        else if (!m)
            m = copysign(0.0, y);
        return jj_float_value(m);
    }
}

static struct val int_arith(struct run *r, char op, struct val a, struct val b)
{
    if (op == '/') {
        double y = jj_to_double(r, b);
        if (y == 0) jj_fail(r, "division by zero");
        return jj_float_value(jj_to_double(r, a) / y);
    }
    if (a.type != V_BIG && b.type != V_BIG) {
        int64_t x = a.type == V_BOOL ? a.u.truth : a.u.i, y = b.type == V_BOOL ? b.u.truth : b.u.i, out;
        if ((op == 'F' || op == '%') && y == 0) jj_fail(r, "division by zero");
        if (op == '+' && !__builtin_add_overflow(x, y, &out)) return jj_int_value(out);
        if (op == '-' && !__builtin_sub_overflow(x, y, &out)) return jj_int_value(out);
        if (op == '*' && !__builtin_mul_overflow(x, y, &out)) return jj_int_value(out);
        if ((op == 'F' || op == '%') && y != -1) {
            int64_t q = x / y, m = x % y;
            if (m && (m < 0) != (y < 0)) q--, m += y;
            return jj_int_value(op == 'F' ? q : m);
        }
        if (op == '%') return jj_int_value(0); /* modulo -1 */
    }
    struct big *x = to_big(r, a), *y = to_big(r, b);
    if (op == '+' || op == '-') return big_value(big_add(r, x, y, op == '-'));
    if (op == '*') return big_value(big_mul(r, x, y));
    if (!y->n) jj_fail(r, "division by zero");
    struct big *q, *m;
    big_divide(r, x, y, &q, &m);
    q->negative = x->negative != y->negative;
    m->negative = x->negative;
    struct val quotient = big_value(q), rest = big_value(m);
    /* towards minus infinity; the rest has the sign of the divisor */
    if (jj_truthy(r, rest) && x->negative != y->negative) {
        quotient = int_arith(r, '-', quotient, jj_int_value(1));
        rest = int_arith(r, '+', rest, b);
    }
    return op == 'F' ? quotient : rest;
}

/* list or text, n times */
static struct val repeat(struct run *r, struct val v, int64_t n)
{
    if (n < 0) n = 0;
    if (v.type == V_STR) {
        struct str *s = jj_flat(r, v);
        jj_sink_begin(r);
        for (int64_t i = 0; i < n && s->n; i++) {
            jj_tick(r, 0);
            jj_put_str(r, s);
        }
        struct val out = jj_sink_end(r);
        out.flag = v.flag;
        return out;
    }
    struct list *l = jj_list_of(r, v), *out = jj_list_new(r, l->kind, 0);
    for (int64_t i = 0; i < n && l->n; i++) {
        jj_tick(r, l->n * 16);
        for (size_t k = 0; k < l->n; k++) jj_list_push(r, out, l->items[k]);
    }
    return jj_list_value(out);
}

/* "+" with a text that |safe made: the other half is escaped, as the reference's Markup does. */
static struct val safe_concat(struct run *r, struct val a, struct val b)
{
    jj_sink_begin(r);
    struct val part[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        if (part[i].flag & STR_SAFE)
            jj_put_str(r, part[i].u.s);
        else
            jj_put_escaped(r, jj_flat(r, part[i]));
    }
    struct val out = jj_sink_end(r);
    out.flag = STR_SAFE;
    return out;
}

struct val jj_arith(struct run *r, char op, struct val a, struct val b)
{
    if (jj_is_number(a) && jj_is_number(b)) {
        if (op == 'P') return power(r, a, b);
        if (a.type == V_FLOAT || b.type == V_FLOAT)
            return float_arith(r, op, jj_to_double(r, a), jj_to_double(r, b));
        return int_arith(r, op, a, b);
    }
    if (a.type == V_UNDEF) jj_fail_undef(r, a);
    if (op == '%' && a.type == V_STR) return jj_format_percent(r, a, b);
    if (b.type == V_UNDEF) jj_fail_undef(r, b);
    if (op == '+' && a.type == V_STR && b.type == V_STR)
        return (a.flag | b.flag) & STR_SAFE ? safe_concat(r, a, b) : jj_concat_value(r, a, b);
    if (op == '+' && a.type == V_LIST && b.type == V_LIST && a.u.l->kind == b.u.l->kind &&
        a.u.l->kind != LIST_RANGE) {
        struct list *x = jj_list_of(r, a), *y = jj_list_of(r, b), *out = jj_list_new(r, x->kind, x->n + y->n);
        jj_tick(r, (x->n + y->n) * 16);
        if (x->n) memcpy(out->items, x->items, x->n * sizeof *x->items);
        if (y->n) memcpy(out->items + x->n, y->items, y->n * sizeof *y->items);
        out->n = x->n + y->n;
        return jj_list_value(out);
    }
    if (op == '*' && jj_is_int(b) && (a.type == V_STR || (a.type == V_LIST && a.u.l->kind != LIST_RANGE)))
        return repeat(r, a, jj_want_int(r, b, "the count"));
    if (op == '*' && jj_is_int(a) && (b.type == V_STR || (b.type == V_LIST && b.u.l->kind != LIST_RANGE)))
        return repeat(r, b, jj_want_int(r, a, "the count"));
    const char *sign = op == 'F' ? "//" : op == 'P' ? "**" : (char[]){op, 0};
    jj_fail(r, "%s %s %s is not defined", jj_type_name(a), sign, jj_type_name(b));
}

struct val jj_negate(struct run *r, struct val v)
{
    if (v.type == V_FLOAT) return jj_float_value(-v.u.f);
    if (jj_is_int(v)) return int_arith(r, '-', jj_int_value(0), v);
    if (v.type == V_UNDEF) jj_fail_undef(r, v);
    jj_fail(r, "%s cannot be negated", jj_type_name(v));
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
    if (a.type == V_BIG || b.type == V_BIG) return !big_compare(to_big(r, a), to_big(r, b));
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
        if (a.type == V_BIG || b.type == V_BIG) return big_compare(to_big(r, a), to_big(r, b));
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
        jj_put_int(r, v);
        return;
    case V_FLOAT:
        jj_put_double(r, v.u.f);
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
        jj_put_int(r, v);
        return;
    case V_FLOAT:
        put_json_double(r, v.u.f);
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
