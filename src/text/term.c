/* Terms and derivatives.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/term.h"

#include "base/hash.h"
#include "base/mem.h"
#include "text/freetext.h"

#define MAX_ROWS      8192       /* remembered rows of derivatives, 1 KiB each; then they are dropped */
#define MAX_ALIVE     4096       /* states looked at to see whether an intersection is empty */
#define MAX_SEARCH    (1u << 23) /* steps spent on that, one grammar; then every state counts as alive */
#define MAX_STRAIGHT  2048       /* bytes gone straight on before that */
#define MAX_POOL      (1u << 24) /* bytes of literals */
#define MAX_LISTS     (1u << 24) /* alternatives, all together */
#define MAX_WIDTH     (1u << 15) /* alternatives of one state */
#define MAX_CONTEXTS  4096
#define MAX_RECURSION 1000
#define MAX_FIRST     256 /* parts looked at for the bytes a term can start with; then every byte counts */
#define MAX_SIGNS     (1 << 15)  /* parts looked at for the bytes that they tell apart */
#define MANY_FIRST    16         /* a part that starts with more bytes gets a row of its own */
#define N_MEMO        8192       /* derivatives of parts remembered */
#define TRY_STEPS     32         /* states looked at to see whether a language is cheap */
#define TRY_WORK      (1u << 17) /* steps that may take */
#define TRY_WIDTH     1024       /* alternatives a state may have there, more than it starts with */
#define UNKNOWN       UINT32_MAX

enum kind {
    EMPTY,
    EPS,
    ANY,
    CLASS,   /* a: set */
    LIT,     /* a: pool offset, b: bytes */
    SEQ,     /* a, b */
    ALT,     /* a: list offset, b: count */
    REPEAT,  /* a, b: min, c: max */
    RULE,    /* a: rule */
    AND,     /* a, b; c: checked */
    NOT,     /* a */
    OBJECT,  /* a: object, b|c: members given (or index of the next), d bit 0: not the first member */
    TEXT,    /* a: context, b|c: struct qn_freetext */
    TRIGGER, /* a: trigger, b: word, c: bytes of it read */
};

struct term {
    uint8_t kind;
    uint8_t nullable; /* 0 unknown, 1 no, 2 yes */
    uint8_t alive;    /* of AND: 0 unknown, 1 no, 2 yes */
    uint8_t d;
    uint32_t a, b, c;
    uint32_t expanded; /* of OBJECT; UNKNOWN before */
};

struct set {
    uint64_t bits[4];
};

struct row {
    qn_term next[256];
    uint64_t loop[4], first[4];
    bool is_full;
};

/* The derivative of a term that has no row: parts are shared by many alternatives. */
struct memo {
    uint64_t key; /* 1 + term and byte; 0: empty */
    qn_term out;
};

struct object {
    struct qn_term_object def;
    struct qn_term_member *members;
};

/* Free text of one parameter: which other names are still open. */
struct context {
    uint32_t object;
    uint64_t given;
    struct qn_freetext_key *keys;
    int n_key;
};

struct trigger {
    char **words;
    size_t *lens;
    qn_term *next;
    int n;
    bool may_end;
    uint64_t first[4]; /* bytes some word starts with */
};

#define GROWABLE(type, name)                                                                                 \
    type *name;                                                                                              \
    uint32_t n_##name, cap_##name

struct qn_terms {
    GROWABLE(struct term, terms);
    GROWABLE(char, pool);
    GROWABLE(qn_term, lists);
    GROWABLE(struct set, sets);
    GROWABLE(struct object, objects);
    GROWABLE(struct context, contexts);
    GROWABLE(struct trigger, triggers);
    GROWABLE(qn_term, rules); /* bodies */
    uint8_t *rule_busy, *rule_nullable;
    uint32_t *table; /* hash -> term, open addressing */
    uint32_t table_size;
    struct row **rows; /* [cap_terms] */
    struct memo *memo; /* [N_MEMO], made when first needed */
    uint32_t n_row;
    uint64_t n_search, n_work;
    uint32_t max_terms;
    int depth;
    int failed;
    bool is_sealed;
};

#define GROW(t, name, more)                                                                                  \
    do {                                                                                                     \
        while ((t)->n_##name + (more) > (t)->cap_##name) {                                                   \
            (t)->cap_##name = (t)->cap_##name ? 2 * (t)->cap_##name : 64;                                    \
            (t)->name = xreallocarray((t)->name, (t)->cap_##name, sizeof *(t)->name);                        \
        }                                                                                                    \
    } while (0)

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

static qn_term intern(struct qn_terms *t, struct term x)
{
    if (t->failed) return QN_TERM_EMPTY;
    if (2 * t->n_terms >= t->table_size) rehash(t);
    uint32_t at = (uint32_t)hash_term(t, &x) & (t->table_size - 1);
    for (; t->table[at]; at = (at + 1) & (t->table_size - 1))
        if (same_term(t, &t->terms[t->table[at] - 1], &x)) return t->table[at] - 1;
    if (t->n_terms >= t->max_terms) {
        t->failed = QN_TOOBIG;
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

static qn_term make(struct qn_terms *t, enum kind kind, uint32_t a, uint32_t b, uint32_t c)
{
    return intern(t, (struct term){.kind = (uint8_t)kind, .a = a, .b = b, .c = c});
}

struct qn_terms *qn_terms_create(uint32_t max_terms)
{
    struct qn_terms *t = xcalloc(1, sizeof *t);
    t->max_terms = max_terms;
    QN_CHECK(make(t, EMPTY, 0, 0, 0) == QN_TERM_EMPTY);
    QN_CHECK(make(t, EPS, 0, 0, 0) == QN_TERM_EPS);
    QN_CHECK(make(t, ANY, 0, 0, 0) == QN_TERM_ANY);
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

int qn_terms_failed(const struct qn_terms *t)
{
    return t->failed;
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

static bool has_bit(const uint64_t set[4], unsigned char b)
{
    return set[b >> 6] >> (b & 63) & 1;
}

qn_term qn_term_class(struct qn_terms *t, const uint64_t set[4])
{
    if (!(set[0] | set[1] | set[2] | set[3])) return QN_TERM_EMPTY;
    GROW(t, sets, 1);
    memcpy(t->sets[t->n_sets].bits, set, sizeof(struct set));
    uint32_t before = t->n_terms;
    qn_term out = make(t, CLASS, t->n_sets, 0, 0);
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
        t->failed = QN_TOOBIG;
        return QN_TERM_EMPTY;
    }
    GROW(t, pool, (uint32_t)n);
    memcpy(t->pool + t->n_pool, s, n);
    uint32_t before = t->n_terms;
    qn_term out = make(t, LIT, t->n_pool, (uint32_t)n, 0);
    if (t->n_terms > before) t->n_pool += (uint32_t)n; /* else the same text is there already */
    return out;
}

qn_term qn_term_str(struct qn_terms *t, const char *s)
{
    return qn_term_lit(t, s, strlen(s));
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
    qn_term out = make(t, SEQ, a, b, 0);
    while (n > 0) out = make(t, SEQ, heads[--n], out, 0);
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
        t->failed = QN_TOOBIG;
        out = QN_TERM_EMPTY;
    } else {
        GROW(t, lists, (uint32_t)m);
        memcpy(t->lists + t->n_lists, flat, m * sizeof *flat);
        uint32_t before = t->n_terms;
        out = make(t, ALT, t->n_lists, (uint32_t)m, 0);
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
        return make(t, REPEAT, x->a, x->b * min,
                    (uint32_t)QN_MIN(most, QN_TERM_MANY)); /* no text is as long */
    }
    return make(t, REPEAT, a, min, max);
}

static bool is_alive(struct qn_terms *t, qn_term a);

qn_term qn_term_and(struct qn_terms *t, qn_term a, qn_term b, bool checked)
{
    if (a == QN_TERM_EMPTY || b == QN_TERM_EMPTY) return QN_TERM_EMPTY;
    if (a == QN_TERM_ANY || a == b) return b;
    if (b == QN_TERM_ANY) return a;
    if (t->is_sealed && (a == QN_TERM_EPS || b == QN_TERM_EPS))
        return qn_term_nullable(t, a) && qn_term_nullable(t, b) ? QN_TERM_EPS : QN_TERM_EMPTY;
    qn_term x = make(t, AND, QN_MIN(a, b), QN_MAX(a, b), checked);
    return checked && !is_alive(t, x) ? QN_TERM_EMPTY : x;
}

qn_term qn_term_not(struct qn_terms *t, qn_term a)
{
    if (a == QN_TERM_EMPTY) return QN_TERM_ANY;
    if (a == QN_TERM_ANY) return QN_TERM_EMPTY;
    if (t->terms[a].kind == NOT) return t->terms[a].a;
    return make(t, NOT, a, 0, 0);
}

qn_term qn_term_rule_new(struct qn_terms *t)
{
    GROW(t, rules, 1);
    t->rules[t->n_rules] = QN_TERM_EMPTY;
    return make(t, RULE, t->n_rules++, 0, 0);
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
    o->members = xcalloc((size_t)object->n_member + 1, sizeof *o->members);
    for (int i = 0; i < object->n_member; i++) {
        o->members[i] = object->members[i];
        if (object->members[i].name)
            o->members[i].name = xstrndup(object->members[i].name, object->members[i].n_name);
    }
    o->def.members = o->members;
    if (object->n_member > QN_TERM_TRACKED) o->def.is_ordered = true;
    return make(t, OBJECT, t->n_objects++, 0, 0);
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
    return make(t, TRIGGER, t->n_triggers++, 0, 0);
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

static struct qn_freetext text_state(const struct term *x)
{
    struct qn_freetext state;
    uint32_t word[2] = {x->b, x->c};
    memcpy(&state, word, sizeof state);
    return state;
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
    return make(t, TEXT, 0, (uint32_t)word, (uint32_t)(word >> 32));
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
        yes = t->rule_nullable && t->rule_nullable[x->a];
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
        QN_FAIL_IF(!t->rule_busy[r] && reaches_itself(t, make(t, RULE, r, 0, 0), 0), e, QN_INVAL,
                   "the grammar refers to itself before it has consumed anything (left recursion)");
    }
    memset(t->rule_busy, 0, t->n_rules + 1);
    for (uint32_t r = 0; r < t->n_rules; r++)
        QN_FAIL_IF(!ends[r] && t->rules[r] == QN_TERM_EMPTY, e, QN_INVAL,
                   "the grammar or schema has a part that nothing can satisfy");
    for (uint32_t r = 0; r < t->n_rules; r++)
        QN_FAIL_IF(!ends[r], e, QN_INVAL, "the grammar or schema has a part that recurses without an end");
    QN_FAIL_IF(t->failed, e, t->failed, "the grammar needs more than %u terms", t->max_terms);
    t->is_sealed = true;
out:
    free(ends);
    return rc;
}

/* --- derivatives --- */

static qn_term derive(struct qn_terms *t, qn_term a, unsigned char b);

static qn_term text_term(struct qn_terms *t, uint32_t context, struct qn_freetext state)
{
    uint32_t word[2];
    memcpy(word, &state, sizeof word);
    return make(t, TEXT, context, word[0], word[1]);
}

static uint32_t context_of(struct qn_terms *t, uint32_t object, uint64_t given)
{
    const struct object *o = &t->objects[object];
    if (o->def.is_ordered) given = 0; /* every declared name is kept from text then */
    for (uint32_t i = 0; i < t->n_contexts; i++)
        if (t->contexts[i].object == object && t->contexts[i].given == given) return i;
    if (t->n_contexts >= MAX_CONTEXTS) {
        t->failed = QN_TOOBIG;
        return 0;
    }
    GROW(t, contexts, 1);
    struct context *c = &t->contexts[t->n_contexts];
    *c = (struct context){.object = object, .given = given};
    c->keys = xcalloc((size_t)o->def.n_member + 1, sizeof *c->keys);
    for (int i = 0; i < o->def.n_member; i++)
        if (o->def.is_ordered || !(given >> i & 1))
            c->keys[c->n_key++] = (struct qn_freetext_key){o->members[i].name, o->members[i].n_name};
    return t->n_contexts++;
}

/* Is a required member still to come? given: members, or the index of the next. */
static bool is_owing(const struct qn_terms *t, uint32_t object, uint64_t given)
{
    const struct object *o = &t->objects[object];
    for (int i = 0; i < o->def.n_member; i++) {
        bool is_open = o->def.is_ordered ? (uint64_t)i >= given : !(given >> i & 1);
        if (is_open && o->members[i].is_required) return true;
    }
    return false;
}

static const char CLOSER[] = "</parameter>\n";

/* VALUE NL </parameter> NL of a call; value EMPTY: free text, whose newline may be missing. (A bounded text
 * without one could lose a newline of its own to the parser.) */
static qn_term call_value(struct qn_terms *t, uint32_t object, uint64_t given, qn_term value, bool is_tagged,
                          bool is_bare)
{
    qn_term closer = qn_term_str(t, CLOSER), framed;
    if (value != QN_TERM_EMPTY) {
        framed = qn_term_seq3(t, value, qn_term_str(t, "\n"), closer);
        if (!is_tagged) return framed;
    }
    bool is_free = value == QN_TERM_EMPTY;
    qn_term text =
        text_term(t, context_of(t, object, given), qn_freetext_start(!is_free, is_owing(t, object, given)));
    if (is_free) return text;
    return qn_term_and(t, framed, text, is_bare);
}

static qn_term expand(struct qn_terms *t, qn_term a)
{
    struct term x = t->terms[a];
    if (x.expanded != UNKNOWN) return x.expanded;
    const struct object *o = &t->objects[x.a];
    uint64_t given = (uint64_t)x.b << 32 | x.c;
    bool is_ordered = o->def.is_ordered, is_call = o->def.is_call, can_close = true;
    int n = o->def.n_member;
    qn_term *list = xmalloc(((size_t)n + 2) * sizeof *list);
    size_t n_list = 0;
    qn_term lead = x.d ? o->def.separator : QN_TERM_EPS;
    for (int i = is_ordered ? (int)given : 0; i < n; i++) {
        if (!is_ordered && given >> i & 1) continue;
        const struct qn_term_member m = t->objects[x.a].members[i];
        uint64_t after = is_ordered ? (uint64_t)i + 1 : given | (uint64_t)1 << i;
        qn_term value = is_call ? call_value(t, x.a, after, m.value, m.is_tagged, m.is_bare) : m.value;
        qn_term rest = intern(
            t, (struct term){
                   .kind = OBJECT, .d = 1, .a = x.a, .b = (uint32_t)(after >> 32), .c = (uint32_t)after});
        list[n_list++] = qn_term_seq(t, lead, qn_term_seq3(t, m.key, value, rest));
        if (m.is_required) can_close = false;
        if (is_ordered && m.is_required) break; /* none behind it before it */
    }
    o = &t->objects[x.a];
    /* others once a call has what it needs: a model that does not want to give it would go on with them */
    if (o->def.more != QN_TERM_EMPTY && (can_close || (!is_ordered && !is_call))) {
        uint64_t after = is_ordered ? (uint64_t)n : given;
        qn_term value =
            is_call ? call_value(t, x.a, given, o->def.more_value, o->def.more_tagged, o->def.more_bare)
                    : QN_TERM_EPS;
        qn_term rest = intern(
            t, (struct term){
                   .kind = OBJECT, .d = 1, .a = x.a, .b = (uint32_t)(after >> 32), .c = (uint32_t)after});
        list[n_list++] = qn_term_seq(t, lead, qn_term_seq3(t, t->objects[x.a].def.more, value, rest));
    }
    if (can_close) list[n_list++] = t->objects[x.a].def.end;
    qn_term out = qn_term_alts(t, list, n_list);
    free(list);
    t->terms[a].expanded = out;
    return out;
}

static qn_term derive_text(struct qn_terms *t, struct term x, unsigned char b)
{
    struct qn_freetext state = text_state(&x);
    const struct context *c = &t->contexts[x.a];
    bool is_alive_text = qn_freetext_step(&state, b, c->keys, c->n_key);
    qn_term text = is_alive_text ? text_term(t, x.a, state) : QN_TERM_EMPTY;
    /* the closer stands at the start of a line, or right behind the text when the model leaves that out */
    if (is_alive_text && qn_freetext_can_close(&state))
        text = qn_term_alt(t, text, qn_term_str(t, CLOSER + 1));
    return text;
}

/* The longest end of (what was read + b) that begins a word, or a whole word. */
static qn_term derive_trigger(struct qn_terms *t, qn_term a, unsigned char b)
{
    struct term x = t->terms[a];
    const struct trigger *g = &t->triggers[x.a];
    if (!x.c && !has_bit(g->first, b)) return a;
    const char *read = g->n ? g->words[x.b] : "";
    for (uint32_t from = 0; from <= x.c; from++) {
        uint32_t n = x.c - from; /* bytes of `read` kept, then b */
        unsigned char head = n ? (unsigned char)read[from] : b;
        if (!has_bit(g->first, head)) continue;
        for (int i = 0; i < g->n; i++) {
            if (g->lens[i] <= n || (unsigned char)g->words[i][n] != b || memcmp(g->words[i], read + from, n))
                continue;
            if (g->lens[i] == n + 1) return g->next[i];
            return make(t, TRIGGER, x.a, (uint32_t)i, n + 1);
        }
    }
    return make(t, TRIGGER, x.a, 0, 0);
}

static qn_term derive(struct qn_terms *t, qn_term a, unsigned char b)
{
    struct term x = t->terms[a];
    if (t->n_work > (uint64_t)t->max_terms * QN_TERMS_WORK_A_TERM) t->failed = QN_TOOBIG;
    if (t->failed) return QN_TERM_EMPTY;
    if (t->rows[a] && t->rows[a]->next[b] != UNKNOWN) return t->rows[a]->next[b];
    const uint64_t key = 1 + ((uint64_t)a << 8 | b);
    struct memo *known = NULL;
    if (x.kind == SEQ || x.kind == ALT || x.kind == REPEAT || x.kind == AND) {
        if (!t->memo) t->memo = xcalloc(N_MEMO, sizeof *t->memo);
        known = &t->memo[qn_mix64(key) % N_MEMO];
        if (known->key == key) return known->out;
    }
    if (t->depth > MAX_RECURSION) {
        t->failed = QN_TOOBIG;
        return QN_TERM_EMPTY;
    }
    t->depth++;
    t->n_work++;
    qn_term out = QN_TERM_EMPTY;
    switch ((enum kind)x.kind) {
    case EMPTY:
    case EPS:
        break;
    case ANY:
        out = QN_TERM_ANY;
        break;
    case CLASS:
        if (has_bit(t->sets[x.a].bits, b)) out = QN_TERM_EPS;
        break;
    case LIT:
        if ((unsigned char)t->pool[x.a] == b) {
            out = x.b == 1 ? QN_TERM_EPS : make(t, LIT, x.a + 1, x.b - 1, 0);
        }
        break;
    case SEQ: {
        out = derive(t, x.a, b);
        out = out == QN_TERM_EMPTY ? out : qn_term_seq(t, out, x.b);
        if (qn_term_nullable(t, x.a)) out = qn_term_alt(t, out, derive(t, x.b, b));
        break;
    }
    case ALT: {
        qn_term small[64], *list = x.b <= QN_COUNT(small) ? small : xmalloc(x.b * sizeof *list);
        size_t n = 0;
        for (uint32_t i = 0; i < x.b; i++) {
            qn_term d = derive(t, t->lists[x.a + i], b);
            if (d != QN_TERM_EMPTY) list[n++] = d;
        }
        out = n == 1 ? list[0] : qn_term_alts(t, list, n);
        if (list != small) free(list);
        break;
    }
    case REPEAT:
        out = derive(t, x.a, b);
        if (out != QN_TERM_EMPTY)
            out = qn_term_seq(t, out,
                              qn_term_repeat(t, x.a, x.b ? x.b - 1 : 0, x.c == QN_TERM_MANY ? x.c : x.c - 1));
        break;
    case RULE:
        out = derive(t, t->rules[x.a], b);
        break;
    case AND: {
        qn_term left = derive(t, x.a, b);
        if (left != QN_TERM_EMPTY) out = qn_term_and(t, left, derive(t, x.b, b), x.c);
        break;
    }
    case NOT:
        out = qn_term_not(t, derive(t, x.a, b));
        break;
    case OBJECT:
        out = derive(t, expand(t, a), b);
        break;
    case TEXT:
        out = derive_text(t, x, b);
        break;
    case TRIGGER:
        out = derive_trigger(t, a, b);
        break;
    }
    t->depth--;
    if (known && !t->failed) *known = (struct memo){key, out};
    return out;
}

static void drop_rows(struct qn_terms *t)
{
    for (uint32_t i = 0; i < t->n_terms; i++) {
        free(t->rows[i]);
        t->rows[i] = NULL;
    }
    t->n_row = 0;
}

static struct row *row_of(struct qn_terms *t, qn_term a)
{
    if (t->rows[a]) return t->rows[a];
    struct row *row = xmalloc(sizeof *row);
    memset(row->next, 0xff, sizeof row->next);
    row->is_full = false;
    t->n_row++;
    return t->rows[a] = row;
}

/* Bytes the term can start with, or more. `budget` bounds the parts looked at. */
static void add_first(struct qn_terms *t, qn_term a, uint64_t out[4], int *budget)
{
    const struct term *x = &t->terms[a];
    const uint64_t *more = NULL;
    uint64_t left[4] = {0}, right[4] = {0};
    static const uint64_t every[4] = {~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
    if (t->rows[a] && t->rows[a]->is_full)
        more = t->rows[a]->first;
    else if (--*budget < 0)
        more = every;
    else
        switch ((enum kind)x->kind) {
        case EMPTY:
        case EPS:
            return;
        case CLASS:
            more = t->sets[x->a].bits;
            break;
        case LIT:
            left[(unsigned char)t->pool[x->a] >> 6] = (uint64_t)1 << (t->pool[x->a] & 63);
            more = left;
            break;
        case SEQ: {
            qn_term rest = x->b;
            bool is_nullable = qn_term_nullable(t, x->a);
            add_first(t, t->terms[a].a, out, budget);
            if (is_nullable) add_first(t, rest, out, budget);
            return;
        }
        case ALT:
            for (uint32_t i = 0, from = x->a, n = x->b; i < n; i++)
                add_first(t, t->lists[from + i], out, budget);
            return;
        case REPEAT:
            add_first(t, x->a, out, budget);
            return;
        case RULE:
            add_first(t, t->rules[x->a], out, budget);
            return;
        case AND: {
            qn_term other = x->b;
            add_first(t, x->a, left, budget);
            add_first(t, other, right, budget);
            for (int w = 0; w < 4; w++) left[w] &= right[w];
            more = left;
            break;
        }
        case OBJECT:
            add_first(t, expand(t, a), out, budget);
            return;
        case ANY:
        case NOT:
        case TEXT:
        case TRIGGER:
            more = every;
            break;
        }
    for (int w = 0; w < 4; w++) out[w] |= more[w];
}

/* Bytes that no leading set of a term tells apart lead to the same place: they have the same sign. */
struct signs {
    uint64_t of[256]; /* a bit a set */
    qn_term sets[64]; /* whose sets: classes and literals are often the same in many alternatives */
    int n_set, depth, budget;
};

static bool add_set(struct signs *s, qn_term of, const uint64_t set[4])
{
    for (int i = 0; i < s->n_set; i++)
        if (s->sets[i] == of) return true;
    if (s->n_set == (int)QN_COUNT(s->sets)) return false;
    s->sets[s->n_set++] = of;
    for (int b = 0; b < 256; b++) s->of[b] = s->of[b] << 1 | (set[b >> 6] >> (b & 63) & 1);
    return true;
}

/* False: too many sets, or a part whose derivative looks at the byte itself. */
static bool add_signs(struct qn_terms *t, qn_term a, struct signs *s)
{
    const struct term *x = &t->terms[a];
    uint64_t set[4] = {0};
    bool is_known = false;
    if (--s->budget < 0 || s->depth > MAX_FIRST) return false;
    s->depth++;
    switch ((enum kind)x->kind) {
    case EMPTY:
    case EPS:
    case ANY:
        is_known = true;
        break;
    case CLASS:
        is_known = add_set(s, a, t->sets[x->a].bits);
        break;
    case LIT:
        set[(unsigned char)t->pool[x->a] >> 6] = (uint64_t)1 << (t->pool[x->a] & 63);
        is_known = add_set(s, a, set);
        break;
    case SEQ: {
        qn_term rest = x->b;
        bool is_nullable = qn_term_nullable(t, x->a);
        is_known = add_signs(t, t->terms[a].a, s) && (!is_nullable || add_signs(t, rest, s));
        break;
    }
    case ALT:
        is_known = true;
        for (uint32_t i = 0, from = x->a, n = x->b; i < n && is_known; i++)
            is_known = add_signs(t, t->lists[from + i], s);
        break;
    case REPEAT:
    case NOT:
        is_known = add_signs(t, x->a, s);
        break;
    case RULE:
        is_known = add_signs(t, t->rules[x->a], s);
        break;
    case AND: {
        qn_term other = x->b;
        is_known = add_signs(t, x->a, s) && add_signs(t, other, s);
        break;
    }
    case OBJECT:
        is_known = add_signs(t, expand(t, a), s);
        break;
    case TEXT:
    case TRIGGER:
        break;
    }
    s->depth--;
    return is_known;
}

/* In byte order, the first byte of each sign among `first`; same[b]: that byte, for each b of `first`. 0: the
 * term's signs are not known. */
static int groups_of(struct qn_terms *t, qn_term a, const uint64_t first[4], uint8_t same[256],
                     uint8_t leads[256])
{
    struct signs s = {.budget = MAX_SIGNS};
    int n = 0;
    bool is_known = add_signs(t, a, &s);
    t->n_work += (uint64_t)(MAX_SIGNS - s.budget) / 4;
    if (!is_known) return 0;
    for (int b = 0; b < 256; b++) {
        if (!has_bit(first, (unsigned char)b)) continue;
        int k = 0;
        while (k < n && s.of[leads[k]] != s.of[b]) k++;
        if (k == n) leads[n++] = (uint8_t)b;
        same[b] = leads[k];
    }
    return n;
}

static struct row *full_row(struct qn_terms *t, qn_term a);

/* Parts that start with many bytes get rows: those are shared by all that holds the part. */
static void ready_part(struct qn_terms *t, qn_term a)
{
    uint64_t first[4] = {0};
    int budget = MAX_FIRST, n = 0;
    if (t->depth >= MAX_RECURSION / 4 || (t->rows[a] && t->rows[a]->is_full)) return;
    add_first(t, a, first, &budget);
    for (int w = 0; w < 4; w++) n += __builtin_popcountll(first[w]);
    if (n <= MANY_FIRST) return;
    t->depth++;
    full_row(t, a);
    t->depth--;
}

/* A derivative for each group of bytes. */
static bool fill_by_groups(struct qn_terms *t, qn_term a)
{
    uint8_t same[256], leads[256];
    uint64_t first[4];
    memcpy(first, row_of(t, a)->first, sizeof first);
    int n = groups_of(t, a, first, same, leads);
    if (!n) return false;
    for (int i = 0; i < n; i++) {
        qn_term out = derive(t, a, leads[i]);
        row_of(t, a)->next[leads[i]] = out;
    }
    struct row *row = row_of(t, a);
    for (int b = 0; b < 256; b++)
        if (has_bit(first, (unsigned char)b)) row->next[b] = row->next[same[b]];
    return true;
}

/* A sequence or an intersection from the rows of its parts: bytes that lead its parts to the same places lead
 * it to the same place. */
static bool fill_by_parts(struct qn_terms *t, qn_term a)
{
    struct term x = t->terms[a];
    bool is_and = x.kind == AND;
    if (!is_and && (x.kind != SEQ || qn_term_nullable(t, x.a))) return false;
    ready_part(t, x.a);
    if (is_and) ready_part(t, x.b);
    struct row *row = row_of(t, a);
    qn_term left = QN_TERM_EMPTY, right = QN_TERM_EMPTY, out = QN_TERM_EMPTY;
    for (int b = 0; b < 256; b++) {
        if (!has_bit(row->first, (unsigned char)b) || row->next[b] != UNKNOWN) continue;
        qn_term l = derive(t, x.a, (unsigned char)b),
                r = is_and && l != QN_TERM_EMPTY ? derive(t, x.b, (unsigned char)b) : QN_TERM_EMPTY;
        if (l != left || r != right) {
            left = l;
            right = r;
            out = is_and               ? qn_term_and(t, l, r, x.c)
                  : l == QN_TERM_EMPTY ? QN_TERM_EMPTY
                                       : qn_term_seq(t, l, x.b);
            row = row_of(t, a);
        }
        row->next[b] = out;
    }
    return true;
}

static struct row *full_row(struct qn_terms *t, qn_term a)
{
    struct row *row = row_of(t, a);
    if (row->is_full) return row;
    uint64_t first[4] = {0};
    int budget = MAX_FIRST;
    add_first(t, a, first, &budget);
    row = row_of(t, a);
    memcpy(row->first, first, sizeof first);
    if (!fill_by_groups(t, a) && !fill_by_parts(t, a)) {
        const struct term *x = &t->terms[a];
        for (uint32_t i = 0; x->kind == ALT && i < x->b; i++) {
            ready_part(t, t->lists[x->a + i]);
            x = &t->terms[a];
        }
        if (x->kind == SEQ || x->kind == REPEAT) ready_part(t, x->a);
    }
    row = row_of(t, a);
    memset(row->loop, 0, sizeof row->loop);
    for (int b = 0; b < 256; b++) {
        if (row->next[b] == UNKNOWN) {
            qn_term out = has_bit(first, (unsigned char)b) ? derive(t, a, (unsigned char)b) : QN_TERM_EMPTY;
            row = row_of(t, a);
            row->next[b] = out;
        }
        if (row->next[b] == a) row->loop[b >> 6] |= (uint64_t)1 << (b & 63);
    }
    row->is_full = true;
    return row;
}

qn_term qn_term_next(struct qn_terms *t, qn_term a, unsigned char byte)
{
    if (a == QN_TERM_EMPTY || t->failed) return QN_TERM_EMPTY;
    if (t->n_row >= MAX_ROWS) drop_rows(t);
    struct row *row = row_of(t, a);
    if (row->next[byte] == UNKNOWN) {
        qn_term out = derive(t, a, byte);
        row_of(t, a)->next[byte] = out;
        return t->failed ? QN_TERM_EMPTY : out;
    }
    return row->next[byte];
}

const qn_term *qn_term_row(struct qn_terms *t, qn_term a)
{
    if (t->n_row >= MAX_ROWS) drop_rows(t);
    return full_row(t, a)->next;
}

const uint64_t *qn_term_loop(struct qn_terms *t, qn_term a)
{
    if (t->n_row >= MAX_ROWS) drop_rows(t);
    return full_row(t, a)->loop;
}

const uint64_t *qn_term_loop_known(const struct qn_terms *t, qn_term a)
{
    return t->rows[a] && t->rows[a]->is_full ? t->rows[a]->loop : NULL;
}

/* Goes straight on, with the first of a few bytes that leads anywhere, and looks for the ends that are most
 * often near. */
static bool ends_soon(struct qn_terms *t, qn_term first)
{
    static const char *const ends[] = {"", "\n</parameter>\n", ">\n"};
    static const char on[] = "a0A- @./:T\n";
    qn_term path[MAX_STRAIGHT];
    int n = 0;
    bool is_found = false;
    for (qn_term at = first; n < MAX_STRAIGHT && at != QN_TERM_EMPTY && !is_found;) {
        path[n++] = at;
        is_found = t->terms[at].alive == 2;
        for (size_t i = 0; i < QN_COUNT(ends) && !is_found; i++) {
            qn_term x = at;
            for (const char *c = ends[i]; *c && x != QN_TERM_EMPTY; c++) x = derive(t, x, (unsigned char)*c);
            is_found = x != QN_TERM_EMPTY && qn_term_nullable(t, x);
        }
        qn_term next = QN_TERM_EMPTY;
        for (const char *c = on; *c && next == QN_TERM_EMPTY && !is_found; c++) {
            next = derive(t, at, (unsigned char)*c);
            if (next == at) next = QN_TERM_EMPTY;
        }
        at = next;
    }
    for (int i = 0; i < n && is_found; i++)
        if (t->terms[path[i]].kind == AND) t->terms[path[i]].alive = 2;
    return is_found;
}

/* Is some string in the intersection? Breadth first over its states, bounded; too many count as alive. What
 * is learnt is kept on the unchecked twins, whose derivatives do not look again. */
static bool is_alive(struct qn_terms *t, qn_term checked)
{
    qn_term first = make(t, AND, t->terms[checked].a, t->terms[checked].b, 0);
    if (t->terms[first].alive) return t->terms[first].alive == 2;
    const uint64_t work_before = t->n_work;
    if (t->n_search >= MAX_SEARCH || ends_soon(t, first)) return true;
    uint32_t n_seen = 0, at = 0, cap = 64, found = UNKNOWN;
    struct {
        qn_term term;
        uint32_t parent;
    } *seen = xmalloc(cap * sizeof *seen);
    struct qn_map map = {0};
    seen[n_seen].parent = UNKNOWN;
    seen[n_seen++].term = first;
    qn_map_put(&map, (uint64_t)first + 1, 1);
    for (; at < n_seen && found == UNKNOWN && !t->failed; at++) {
        qn_term x = seen[at].term;
        if (qn_term_nullable(t, x) || t->terms[x].alive == 2 || n_seen >= MAX_ALIVE ||
            t->n_search + (t->n_work - work_before) >= MAX_SEARCH) {
            found = at;
            break;
        }
        if (t->terms[x].alive == 1) continue;
        static const uint64_t every[4] = {~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0};
        uint8_t same[256], leads[256];
        int n_lead = groups_of(t, x, every, same, leads);
        for (int b = 0; b < (n_lead ? n_lead : 256); b++) {
            qn_term next = derive(t, x, n_lead ? leads[b] : (unsigned char)b);
            if (next == QN_TERM_EMPTY || qn_map_get(&map, (uint64_t)next + 1, NULL)) continue;
            qn_map_put(&map, (uint64_t)next + 1, 1);
            if (n_seen == cap) seen = xreallocarray(seen, cap *= 2, sizeof *seen);
            seen[n_seen].parent = at;
            seen[n_seen++].term = next;
        }
    }
    for (uint32_t i = found; i != UNKNOWN; i = seen[i].parent) t->terms[seen[i].term].alive = 2;
    if (found == UNKNOWN && !t->failed)
        for (uint32_t i = 0; i < n_seen; i++) t->terms[seen[i].term].alive = 1;
    t->n_search += t->n_work - work_before;
    qn_map_free(&map);
    free(seen);
    return found != UNKNOWN;
}

/* --- is a language cheap? --- */

static uint32_t width_of(const struct qn_terms *t, qn_term a)
{
    return t->terms[a].kind == ALT ? t->terms[a].b : 1;
}

bool qn_terms_try(struct qn_terms *t, qn_term start)
{
    const uint64_t until = t->n_work + TRY_WORK;
    uint32_t least = width_of(t, start), widest = 0;
    qn_term at = start;
    for (int i = 0; i < TRY_STEPS && at != QN_TERM_EMPTY; i++) {
        const qn_term *row = qn_term_row(t, at);
        widest = 0;
        at = QN_TERM_EMPTY;
        for (int b = 0; b < 256 && !t->failed; b++) {
            if (row[b] == QN_TERM_EMPTY || width_of(t, row[b]) <= widest) continue;
            widest = width_of(t, row[b]);
            at = row[b];
        }
        if (t->failed || t->n_work > until || widest > least + TRY_WIDTH) return false;
        if (!i) least = QN_MAX(least, widest); /* a list of words is as wide as it is long */
    }
    return true;
}
