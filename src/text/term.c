/* Terms: storage, makers, sealing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"
#include "text/term_impl.h"

#define MAX_POOL  (1u << 24) /* bytes of literals */
#define MAX_LISTS (1u << 24) /* alternatives, all together */
#define MAX_WIDTH (1u << 15) /* alternatives of one state */

/* --- storage --- */

/* Literals, classes and alternatives are equal when what they point to is. */
static bool has_content(const struct term *x)
{
    return x->kind == LIT || x->kind == CLASS || x->kind == ALT;
}

static const void *content(const struct qn_terms *t, const struct term *x, size_t *n_byte)
{
    if (x->kind == CLASS) {
        *n_byte = sizeof t->sets[x->a].bits;
        return t->sets[x->a].bits;
    }
    if (x->kind == LIT) {
        *n_byte = x->b;
        return t->pool + x->a;
    }
    *n_byte = x->b * sizeof(qn_term);
    return t->lists + x->a;
}

static uint64_t hash_term(const struct qn_terms *t, const struct term *x)
{
    uint64_t h = (uint64_t)x->kind << 40 | (uint64_t)x->d << 32;
    if (has_content(x)) {
        size_t n_byte;
        const void *data = content(t, x, &n_byte);
        return qn_hash_bytes(h, data, n_byte);
    }
    return qn_mix64(qn_mix64(h | x->a) ^ ((uint64_t)x->b << 32 | x->c));
}

static bool same_term(const struct qn_terms *t, const struct term *x, const struct term *y)
{
    if (x->kind != y->kind || x->d != y->d || x->b != y->b) return false;
    if (!has_content(x)) return x->a == y->a && x->c == y->c;
    size_t n_byte;
    const void *data = content(t, x, &n_byte);
    return !memcmp(data, content(t, y, &n_byte), n_byte);
}

static void rehash(struct qn_terms *t)
{
    t->table_size = t->table_size ? 2 * t->table_size : 1024;
    free(t->table);
    t->table = xcalloc(t->table_size, sizeof *t->table);
    for (uint32_t i = 0; i < t->n_terms; i++) {
        uint32_t at = (uint32_t)hash_term(t, &t->terms[i]) & (t->table_size - 1);
        while (t->table[at]) at = (at + 1) & (t->table_size - 1);
        t->table[at] = i + 1;
    }
}

qn_term tt_intern(struct qn_terms *t, struct term x)
{
    if (t->failed) return QN_TERM_EMPTY;
    if (2 * t->n_terms >= t->table_size) rehash(t);
    uint32_t at = (uint32_t)hash_term(t, &x) & (t->table_size - 1);
    for (; t->table[at]; at = (at + 1) & (t->table_size - 1))
        if (same_term(t, &t->terms[t->table[at] - 1], &x)) return t->table[at] - 1;
    if (t->n_terms >= t->max_terms) {
        TT_FAIL(t, "%u states and their parts", t->max_terms);
        return QN_TERM_EMPTY;
    }
    uint32_t cap = t->cap_terms;
    GROW(t, terms, 1);
    if (t->cap_terms != cap) {
        t->rows = xreallocarray(t->rows, t->cap_terms, sizeof *t->rows);
        memset(t->rows + cap, 0, (t->cap_terms - cap) * sizeof *t->rows);
    }
    x.nullable = x.alive = 0;
    x.expanded = UNKNOWN;
    t->terms[t->n_terms] = x;
    t->table[at] = t->n_terms + 1;
    return t->n_terms++;
}

qn_term tt_make(struct qn_terms *t, enum kind kind, uint32_t a, uint32_t b, uint32_t c)
{
    return tt_intern(t, (struct term){.kind = (uint8_t)kind, .a = a, .b = b, .c = c});
}

struct qn_terms *qn_terms_create(uint32_t max_terms)
{
    struct qn_terms *t = xcalloc(1, sizeof *t);
    t->max_terms = max_terms;
    QN_CHECK(tt_make(t, EMPTY, 0, 0, 0) == QN_TERM_EMPTY);
    QN_CHECK(tt_make(t, EPS, 0, 0, 0) == QN_TERM_EPS);
    QN_CHECK(tt_make(t, ANY, 0, 0, 0) == QN_TERM_ANY);
    return t;
}

void qn_terms_free(struct qn_terms *t)
{
    if (!t) return;
    for (uint32_t i = 0; i < t->cap_terms; i++) free(t->rows[i]);
    for (uint32_t i = 0; i < t->n_objects; i++) {
        for (int k = 0; k < t->objects[i].def.n_member; k++) free((char *)t->objects[i].members[k].name);
        free(t->objects[i].members);
    }
    for (uint32_t i = 0; i < t->n_contexts; i++) free(t->contexts[i].keys);
    for (uint32_t i = 0; i < t->n_triggers; i++) {
        for (int k = 0; k < t->triggers[i].n; k++) free(t->triggers[i].words[k]);
        free(t->triggers[i].words);
        free(t->triggers[i].lens);
        free(t->triggers[i].next);
    }
    free(t->terms);
    free(t->pool);
    free(t->lists);
    free(t->sets);
    free(t->objects);
    free(t->contexts);
    free(t->triggers);
    free(t->rules);
    free(t->rule_busy);
    free(t->rule_nullable);
    free(t->table);
    free(t->rows);
    free(t->memo);
    free(t);
}

int qn_terms_check(const struct qn_terms *t, struct qn_err *e)
{
    if (!t->failed) return QN_OK;
    return qn_err_set(e, t->failed, __FILE__, __LINE__,
                      "the grammar of the request needs more than %s; a simpler one helps", t->cap);
}

int qn_terms_failed(const struct qn_terms *t)
{
    return t->failed;
}

size_t qn_terms_widest(const struct qn_terms *t)
{
    return t->widest;
}

size_t qn_terms_count(const struct qn_terms *t)
{
    return t->n_terms;
}

uint64_t qn_terms_work(const struct qn_terms *t)
{
    return t->n_work;
}

/* --- makers --- */

qn_term qn_term_class(struct qn_terms *t, const uint64_t set[4])
{
    if (!(set[0] | set[1] | set[2] | set[3])) return QN_TERM_EMPTY;
    GROW(t, sets, 1);
    memcpy(t->sets[t->n_sets].bits, set, sizeof(struct set));
    uint32_t before = t->n_terms;
    qn_term out = tt_make(t, CLASS, t->n_sets, 0, 0);
    if (t->n_terms > before) t->n_sets++; /* else the same class is there already */
    return out;
}

qn_term qn_term_range(struct qn_terms *t, unsigned char lo, unsigned char hi)
{
    uint64_t set[4] = {0};
    for (int b = lo; b <= hi; b++) set[b >> 6] |= (uint64_t)1 << (b & 63);
    return qn_term_class(t, set);
}

qn_term qn_term_lit(struct qn_terms *t, const char *s, size_t n)
{
    if (!n) return QN_TERM_EPS;
    if (n > MAX_POOL - t->n_pool) {
        TT_FAIL(t, "%u bytes of fixed texts", MAX_POOL);
        return QN_TERM_EMPTY;
    }
    GROW(t, pool, (uint32_t)n);
    memcpy(t->pool + t->n_pool, s, n);
    uint32_t before = t->n_terms;
    qn_term out = tt_make(t, LIT, t->n_pool, (uint32_t)n, 0);
    if (t->n_terms > before) t->n_pool += (uint32_t)n; /* else the same text is there already */
    return out;
}

qn_term qn_term_str(struct qn_terms *t, const char *s)
{
    return qn_term_lit(t, s, strlen(s));
}

qn_term qn_term_marker(struct qn_terms *t, enum qn_marker marker)
{
    t->has_marker = true;
    return tt_make(t, MARKER, (uint32_t)marker, 0, 0);
}

qn_term qn_term_marked(struct qn_terms *t, const char *s, size_t n, unsigned tokens)
{
    /* from the end, as sequences lean right */
    qn_term out = QN_TERM_EPS;
    size_t end = n;
    for (size_t i = n; i-- > 0;) {
        int marker = s[i] == '<' ? qn_marker_at(s + i, end - i) : -1;
        if (marker < 0 || !(tokens >> marker & 1)) continue;
        size_t behind = i + strlen(qn_marker_text((enum qn_marker)marker));
        out = qn_term_seq3(t, qn_term_marker(t, (enum qn_marker)marker),
                           qn_term_lit(t, s + behind, end - behind), out);
        end = i;
    }
    return qn_term_seq(t, qn_term_lit(t, s, end), out);
}

qn_term qn_term_seq(struct qn_terms *t, qn_term a, qn_term b)
{
    if (a == QN_TERM_EMPTY || b == QN_TERM_EMPTY) return QN_TERM_EMPTY;
    if (a == QN_TERM_EPS) return b;
    if (b == QN_TERM_EPS) return a;
    /* (x y z) b -> x (y (z b)), from the right and without recursion: a sequence may be long */
    size_t n = 0;
    for (qn_term rest = a; t->terms[rest].kind == SEQ; rest = t->terms[rest].b) n++;
    qn_term small[32], *heads = n <= QN_COUNT(small) ? small : xmalloc(n * sizeof *heads);
    t->n_work += n;
    for (size_t i = 0; i < n; i++, a = t->terms[a].b) heads[i] = t->terms[a].a;
    qn_term out = tt_make(t, SEQ, a, b, 0);
    while (n > 0) out = tt_make(t, SEQ, heads[--n], out, 0);
    if (heads != small) free(heads);
    return out;
}

qn_term qn_term_seq3(struct qn_terms *t, qn_term a, qn_term b, qn_term c)
{
    return qn_term_seq(t, a, qn_term_seq(t, b, c));
}

static int by_number(const void *a, const void *b)
{
    qn_term x = *(const qn_term *)a, y = *(const qn_term *)b;
    return x < y ? -1 : x > y;
}

qn_term qn_term_alts(struct qn_terms *t, const qn_term *list, size_t n)
{
    /* flatten, sort, drop doubles */
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) total += t->terms[list[i]].kind == ALT ? t->terms[list[i]].b : 1;
    qn_term small[32], *flat = total <= QN_COUNT(small) ? small : xmalloc(total * sizeof *flat);
    t->n_work += total;
    t->widest = QN_MAX(t->widest, total);
    for (size_t i = 0; i < n; i++) {
        const struct term *x = &t->terms[list[i]];
        if (x->kind == ALT)
            for (uint32_t k = 0; k < x->b; k++) flat[at++] = t->lists[x->a + k];
        else if (list[i] != QN_TERM_EMPTY)
            flat[at++] = list[i];
    }
    qsort(flat, at, sizeof *flat, by_number);
    size_t m = 0;
    for (size_t i = 0; i < at; i++)
        if (!m || flat[m - 1] != flat[i]) flat[m++] = flat[i];
    qn_term out;
    if (!m) {
        out = QN_TERM_EMPTY;
    } else if (m == 1) {
        out = flat[0];
    } else if (m > MAX_LISTS - t->n_lists || (t->is_sealed && m > MAX_WIDTH)) {
        TT_FAIL(t, "%u alternatives%s", t->is_sealed ? MAX_WIDTH : MAX_LISTS, t->is_sealed ? " at once" : "");
        out = QN_TERM_EMPTY;
    } else {
        GROW(t, lists, (uint32_t)m);
        memcpy(t->lists + t->n_lists, flat, m * sizeof *flat);
        uint32_t before = t->n_terms;
        out = tt_make(t, ALT, t->n_lists, (uint32_t)m, 0);
        if (t->n_terms > before) t->n_lists += (uint32_t)m;
    }
    if (flat != small) free(flat);
    return out;
}

qn_term qn_term_alt(struct qn_terms *t, qn_term a, qn_term b)
{
    if (a == QN_TERM_EMPTY || a == b) return b;
    if (b == QN_TERM_EMPTY) return a;
    return qn_term_alts(t, (qn_term[]){a, b}, 2);
}

qn_term qn_term_repeat(struct qn_terms *t, qn_term a, uint32_t min, uint32_t max)
{
    if (!max || a == QN_TERM_EPS) return QN_TERM_EPS;
    if (a == QN_TERM_EMPTY) return min ? QN_TERM_EMPTY : QN_TERM_EPS;
    if (min == 1 && max == 1) return a;
    if (min > max) return QN_TERM_EMPTY;
    const struct term *x = &t->terms[a];
    if (x->kind == REPEAT && x->b <= 1) { /* (a{0,3}){2,5} is a{0,15}: without a gap, one count does */
        bool is_many = max == QN_TERM_MANY || x->c == QN_TERM_MANY;
        uint64_t most = is_many ? QN_TERM_MANY : (uint64_t)x->c * max;
        return tt_make(t, REPEAT, x->a, x->b * min,
                       (uint32_t)QN_MIN(most, QN_TERM_MANY)); /* no text is as long */
    }
    return tt_make(t, REPEAT, a, min, max);
}

qn_term qn_term_and(struct qn_terms *t, qn_term a, qn_term b, bool checked)
{
    if (a == QN_TERM_EMPTY || b == QN_TERM_EMPTY) return QN_TERM_EMPTY;
    if (a == QN_TERM_ANY || a == b) return b;
    if (b == QN_TERM_ANY) return a;
    if (t->is_sealed && (a == QN_TERM_EPS || b == QN_TERM_EPS))
        return qn_term_nullable(t, a) && qn_term_nullable(t, b) ? QN_TERM_EPS : QN_TERM_EMPTY;
    qn_term x = tt_make(t, AND, QN_MIN(a, b), QN_MAX(a, b), checked);
    return checked && !tt_is_alive(t, x) ? QN_TERM_EMPTY : x;
}

qn_term qn_term_not(struct qn_terms *t, qn_term a)
{
    if (a == QN_TERM_EMPTY) return QN_TERM_ANY;
    if (a == QN_TERM_ANY) return QN_TERM_EMPTY;
    if (t->terms[a].kind == NOT) return t->terms[a].a;
    return tt_make(t, NOT, a, 0, 0);
}

qn_term qn_term_rule_new(struct qn_terms *t)
{
    GROW(t, rules, 1);
    t->rules[t->n_rules] = QN_TERM_EMPTY;
    return tt_make(t, RULE, t->n_rules++, 0, 0);
}

void qn_term_rule_set(struct qn_terms *t, qn_term rule, qn_term body)
{
    if (t->terms[rule].kind == RULE) t->rules[t->terms[rule].a] = body;
}

qn_term qn_term_object(struct qn_terms *t, const struct qn_term_object *object)
{
    GROW(t, objects, 1);
    struct object *o = &t->objects[t->n_objects];
    *o = (struct object){.def = *object};
    t->widest = QN_MAX(t->widest, (size_t)object->n_member);
    o->members = xcalloc((size_t)object->n_member + 1, sizeof *o->members);
    for (int i = 0; i < object->n_member; i++) {
        o->members[i] = object->members[i];
        if (object->members[i].name)
            o->members[i].name = xstrndup(object->members[i].name, object->members[i].n_name);
    }
    o->def.members = o->members;
    if (object->n_member > QN_TERM_TRACKED) o->def.is_ordered = true;
    return tt_make(t, OBJECT, t->n_objects++, 0, 0);
}

qn_term qn_term_trigger(struct qn_terms *t, const char *const *words, const qn_term *next, int n,
                        bool may_end)
{
    GROW(t, triggers, 1);
    struct trigger *g = &t->triggers[t->n_triggers];
    *g = (struct trigger){.n = n, .may_end = may_end};
    g->words = xcalloc((size_t)n + 1, sizeof *g->words);
    g->lens = xcalloc((size_t)n + 1, sizeof *g->lens);
    g->next = xcalloc((size_t)n + 1, sizeof *g->next);
    for (int i = 0; i < n; i++) {
        g->words[i] = xstrdup(words[i]);
        g->lens[i] = strlen(words[i]);
        g->next[i] = next[i];
        unsigned char c = (unsigned char)words[i][0];
        g->first[c >> 6] |= (uint64_t)1 << (c & 63);
    }
    return tt_make(t, TRIGGER, t->n_triggers++, 0, 0);
}

bool qn_term_same_trigger(const struct qn_terms *t, qn_term a, qn_term b)
{
    const struct term *x = &t->terms[a], *y = &t->terms[b];
    return x->kind == TRIGGER && y->kind == TRIGGER && x->a == y->a;
}

bool qn_term_is_free(const struct qn_terms *t, qn_term a)
{
    if (a == QN_TERM_ANY) return true;
    const struct term *x = &t->terms[a];
    for (int i = 0; i < 8 && x->kind == RULE; i++) x = &t->terms[t->rules[x->a]];
    if (x->kind != TRIGGER || x->c) return false;
    const struct trigger *g = &t->triggers[x->a];
    bool is_free = g->may_end;
    for (int i = 0; i < g->n; i++) is_free &= g->next[i] != QN_TERM_EMPTY;
    return is_free;
}

struct saturation {
    uint32_t least, limit, exact;
};

static qn_term saturate(struct qn_terms *t, qn_term a, struct saturation *s, int spine)
{
    struct term x = t->terms[a];
    if (x.kind == REPEAT) {
        uint32_t min = x.b, max = x.c;
        if (max != QN_TERM_MANY && max >= s->least && min <= max - s->least) {
            s->exact = QN_MIN(s->exact, max);
            max = QN_TERM_MANY;
        }
        if (min > s->limit && max == QN_TERM_MANY) min = s->limit + 1;
        return qn_term_repeat(t, x.a, min, max);
    }
    if (x.kind == SEQ && spine > 0) {
        qn_term head = saturate(t, x.a, s, 0), rest = saturate(t, x.b, s, spine - 1);
        return head == x.a && rest == x.b ? a : qn_term_seq(t, head, rest);
    }
    if (x.kind == ALT && spine > 0 && x.b <= 8) {
        qn_term list[8];
        for (uint32_t i = 0; i < x.b; i++) list[i] = saturate(t, t->lists[x.a + i], s, spine - 1);
        return qn_term_alts(t, list, x.b);
    }
    return a;
}

qn_term qn_term_saturate(struct qn_terms *t, qn_term a, uint32_t least, uint32_t limit, uint32_t *exact)
{
    struct saturation s = {least, limit, UINT32_MAX};
    qn_term out = saturate(t, a, &s, 4);
    *exact = s.exact;
    return out;
}

/* --- looking inside --- */

int qn_term_parts(const struct qn_terms *t, qn_term a, struct qn_term_part *parts, int max)
{
    const struct term *x = &t->terms[a];
    int n = 0;
    for (uint32_t i = 0, n_alt = x->kind == ALT ? x->b : 1; i < n_alt; i++) {
        qn_term one = x->kind == ALT ? t->lists[x->a + i] : a, rest = QN_TERM_EPS;
        const struct term *y = &t->terms[one];
        if (y->kind == SEQ) {
            rest = y->b;
            one = y->a;
            y = &t->terms[one];
        }
        for (uint32_t k = 0, n_head = y->kind == ALT ? y->b : 1; k < n_head; k++) {
            if (n == max) return -1;
            parts[n++] = (struct qn_term_part){y->kind == ALT ? t->lists[y->a + k] : one, rest};
        }
    }
    return n;
}

bool qn_term_is_text(const struct qn_terms *t, qn_term a, uint64_t *word)
{
    const struct term *x = &t->terms[a];
    if (x->kind != TEXT) return false;
    struct qn_freetext state = text_state(x);
    *word = (uint64_t)x->c << 32 | x->b;
    return !qn_freetext_is_key(&state);
}

qn_term qn_term_text_of(struct qn_terms *t, uint64_t word)
{
    if (!t->n_contexts) {
        GROW(t, contexts, 1);
        t->contexts[t->n_contexts++] = (struct context){0};
    }
    return tt_make(t, TEXT, 0, (uint32_t)word, (uint32_t)(word >> 32));
}

bool qn_term_has_open_name(const struct qn_terms *t, qn_term a)
{
    const struct term *x = &t->terms[a];
    for (uint32_t i = 0, n = x->kind == ALT ? x->b : 1; i < n; i++) {
        const struct term *y = &t->terms[x->kind == ALT ? t->lists[x->a + i] : a];
        if (y->kind != TEXT) continue;
        struct qn_freetext state = text_state(y);
        if (qn_freetext_is_key(&state)) return true;
    }
    return false;
}

/* --- nullable --- */

bool qn_term_nullable(struct qn_terms *t, qn_term a)
{
    struct term *x = &t->terms[a];
    if (x->nullable && t->is_sealed) return x->nullable == 2;
    bool yes = false;
    qn_term last = a; /* of a sequence, which may be long */
    if (++t->depth > MAX_RECURSION) {
        t->depth--;
        return false;
    }
    switch ((enum kind)x->kind) {
    case EPS:
    case ANY:
        yes = true;
        break;
    case SEQ:
        while (t->terms[last].kind == SEQ && qn_term_nullable(t, t->terms[last].a)) last = t->terms[last].b;
        yes = t->terms[last].kind != SEQ && qn_term_nullable(t, last);
        break;
    case ALT:
        for (uint32_t i = 0, from = x->a, n = x->b; i < n && !yes; i++)
            yes = qn_term_nullable(t, t->lists[from + i]);
        break;
    case REPEAT:
        yes = !x->b || qn_term_nullable(t, x->a);
        break;
    case RULE:
        if (t->rule_nullable) {
            yes = t->rule_nullable[x->a];
        } else if (!t->in_rule) { /* not sealed yet: as far as the rule's own body tells */
            t->in_rule = true;
            yes = qn_term_nullable(t, t->rules[x->a]);
            t->in_rule = false;
        }
        break;
    case AND:
        yes = qn_term_nullable(t, x->a) && qn_term_nullable(t, t->terms[a].b);
        break;
    case NOT:
        yes = !qn_term_nullable(t, x->a);
        break;
    case TRIGGER:
        yes = t->triggers[x->a].may_end;
        break;
    default:
        break;
    }
    t->depth--;
    if (t->is_sealed) t->terms[a].nullable = yes ? 2 : 1;
    return yes;
}

/* --- sealing: recursion that consumes nothing, rules that cannot end --- */

static bool reaches_itself(struct qn_terms *t, qn_term a, int depth)
{
    const struct term *x = &t->terms[a];
    if (depth > MAX_RECURSION) return true;
    switch ((enum kind)x->kind) {
    case SEQ:
        for (; t->terms[a].kind == SEQ; a = t->terms[a].b) {
            if (reaches_itself(t, t->terms[a].a, depth + 1)) return true;
            if (!qn_term_nullable(t, t->terms[a].a)) return false;
        }
        return reaches_itself(t, a, depth + 1);
    case AND:
        return reaches_itself(t, x->a, depth + 1) || reaches_itself(t, t->terms[a].b, depth + 1);
    case ALT:
        for (uint32_t i = 0; i < x->b; i++)
            if (reaches_itself(t, t->lists[t->terms[a].a + i], depth + 1)) return true;
        return false;
    case REPEAT:
    case NOT:
        return reaches_itself(t, x->a, depth + 1);
    case RULE: {
        uint32_t r = x->a;
        if (t->rule_busy[r] == 2) return false;
        if (t->rule_busy[r] == 1) return true;
        t->rule_busy[r] = 1;
        bool yes = reaches_itself(t, t->rules[r], depth + 1);
        t->rule_busy[r] = 2;
        return yes;
    }
    default:
        return false;
    }
}

/* Can the term end in finitely many bytes, given which rules can? */
static bool can_end(const struct qn_terms *t, qn_term a, const uint8_t *rules, int depth)
{
    const struct term *x = &t->terms[a];
    if (depth > MAX_RECURSION) return false;
    switch ((enum kind)x->kind) {
    case EMPTY:
        return false;
    case SEQ:
        for (; t->terms[a].kind == SEQ; a = t->terms[a].b)
            if (!can_end(t, t->terms[a].a, rules, depth + 1)) return false;
        return can_end(t, a, rules, depth + 1);
    case AND:
        return can_end(t, x->a, rules, depth + 1) && can_end(t, x->b, rules, depth + 1);
    case ALT:
        for (uint32_t i = 0; i < x->b; i++)
            if (can_end(t, t->lists[x->a + i], rules, depth + 1)) return true;
        return false;
    case REPEAT:
        return !x->b || can_end(t, x->a, rules, depth + 1);
    case RULE:
        return rules[x->a];
    case OBJECT: {
        const struct object *o = &t->objects[x->a];
        for (int i = 0; i < o->def.n_member; i++)
            if (o->members[i].is_required && !(o->def.is_call && o->members[i].value == QN_TERM_EMPTY) &&
                !can_end(t, o->members[i].value, rules, depth + 1))
                return false;
        return true;
    }
    case TRIGGER: {
        const struct trigger *g = &t->triggers[x->a];
        if (g->may_end) return true;
        for (int i = 0; i < g->n; i++)
            if (can_end(t, g->next[i], rules, depth + 1)) return true;
        return false;
    }
    default:
        return true;
    }
}

int qn_terms_seal(struct qn_terms *t, struct qn_err *e)
{
    int rc = QN_OK;
    uint8_t *ends = xcalloc(t->n_rules + 1, 1);
    t->rule_busy = xcalloc(t->n_rules + 1, 1);
    t->rule_nullable = xcalloc(t->n_rules + 1, 1);
    for (bool again = true; again;) {
        again = false;
        for (uint32_t r = 0; r < t->n_rules; r++) {
            if (!t->rule_nullable[r] && qn_term_nullable(t, t->rules[r])) t->rule_nullable[r] = again = true;
            if (!ends[r] && can_end(t, t->rules[r], ends, 0)) ends[r] = again = true;
        }
    }
    for (uint32_t r = 0; r < t->n_rules; r++) {
        QN_FAIL_IF(!t->rule_busy[r] && reaches_itself(t, tt_make(t, RULE, r, 0, 0), 0), e, QN_INVAL,
                   "the grammar refers to itself before it has consumed anything (left recursion)");
    }
    memset(t->rule_busy, 0, t->n_rules + 1);
    QN_TRY(qn_terms_check(t, e));
    for (uint32_t r = 0; r < t->n_rules; r++)
        QN_FAIL_IF(!ends[r] && t->rules[r] == QN_TERM_EMPTY, e, QN_INVAL,
                   "the grammar or schema has a part that nothing can satisfy");
    for (uint32_t r = 0; r < t->n_rules; r++)
        QN_FAIL_IF(!ends[r], e, QN_INVAL, "the grammar or schema has a part that recurses without an end");
    QN_TRY(qn_terms_check(t, e));
    t->is_sealed = true;
out:
    free(ends);
    return rc;
}
