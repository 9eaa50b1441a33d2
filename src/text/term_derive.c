/* Derivatives of terms.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"
#include "text/term_impl.h"

#define MAX_ROWS     8192       /* remembered rows of derivatives, 1 KiB each; then they are dropped */
#define MAX_ALIVE    4096       /* states looked at to see whether an intersection is empty */
#define MAX_SEARCH   (1u << 23) /* steps spent on that, one grammar; then every state counts as alive */
#define MAX_STRAIGHT 2048       /* bytes gone straight on before that */
#define MAX_CONTEXTS 4096
#define MAX_FIRST    256 /* parts looked at for the bytes a term can start with; then every byte counts */
#define MAX_SIGNS    (1 << 15)  /* parts looked at for the bytes that they tell apart */
#define MANY_FIRST   16         /* a part that starts with more bytes gets a row of its own */
#define N_MEMO       8192       /* derivatives of parts remembered */
#define TRY_STEPS    32         /* states looked at to see whether a language is cheap */
#define TRY_WORK     (1u << 17) /* steps that may take */
#define TRY_WIDTH    1024       /* alternatives a state may have there, more than it starts with */

/* By a symbol: a byte, or 256 + a marker. Text of any kind is read by bytes only. */
static qn_term derive(struct qn_terms *t, qn_term a, unsigned b);

static qn_term text_term(struct qn_terms *t, uint32_t context, struct qn_freetext state)
{
    uint32_t word[2];
    memcpy(word, &state, sizeof word);
    return tt_make(t, TEXT, context, word[0], word[1]);
}

static uint32_t context_of(struct qn_terms *t, uint32_t object, uint64_t given)
{
    const struct object *o = &t->objects[object];
    if (o->def.is_ordered) given = 0; /* every declared name is kept from text then */
    for (uint32_t i = 0; i < t->n_contexts; i++)
        if (t->contexts[i].object == object && t->contexts[i].given == given) return i;
    if (t->n_contexts >= MAX_CONTEXTS) {
        TT_FAIL(t, "%d orders of an object's members", MAX_CONTEXTS);
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
    qn_term closer = qn_term_str(t, CLOSER), framed = QN_TERM_EMPTY;
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
        qn_term rest = tt_intern(
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
        qn_term rest = tt_intern(
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
            return tt_make(t, TRIGGER, x.a, (uint32_t)i, n + 1);
        }
    }
    return tt_make(t, TRIGGER, x.a, 0, 0);
}

static qn_term derive(struct qn_terms *t, qn_term a, unsigned b)
{
    struct term x = t->terms[a];
    if (t->n_work > (uint64_t)t->max_terms * QN_TERMS_WORK_A_TERM)
        TT_FAIL(t, "%" PRIu64 " steps", (uint64_t)t->max_terms * QN_TERMS_WORK_A_TERM);
    if (t->failed) return QN_TERM_EMPTY;
    if (t->rows[a] && t->rows[a]->next[b] != UNKNOWN) return t->rows[a]->next[b];
    const uint64_t key = 1 + ((uint64_t)a << 9 | b);
    struct memo *known = NULL;
    if (x.kind == SEQ || x.kind == ALT || x.kind == REPEAT || x.kind == AND) {
        if (!t->memo) t->memo = xcalloc(N_MEMO, sizeof *t->memo);
        known = &t->memo[qn_mix64(key) % N_MEMO];
        if (known->key == key) return known->out;
    }
    if (t->depth > MAX_RECURSION) {
        TT_FAIL(t, "%d levels of nesting", MAX_RECURSION);
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
        if (b < 256) out = QN_TERM_ANY;
        break;
    case MARKER:
        if (b == 256 + x.a) out = QN_TERM_EPS;
        break;
    case CLASS:
        if (b < 256 && has_bit(t->sets[x.a].bits, (unsigned char)b)) out = QN_TERM_EPS;
        break;
    case LIT:
        if ((unsigned char)t->pool[x.a] == b) {
            out = x.b == 1 ? QN_TERM_EPS : tt_make(t, LIT, x.a + 1, x.b - 1, 0);
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
        if (b < 256) out = qn_term_not(t, derive(t, x.a, b));
        break;
    case OBJECT:
        out = derive(t, expand(t, a), b);
        break;
    case TEXT:
        if (b < 256) out = derive_text(t, x, (unsigned char)b);
        break;
    case TRIGGER:
        if (b < 256) out = derive_trigger(t, a, (unsigned char)b);
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
        case MARKER: /* by no byte */
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
    case MARKER:
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

static qn_term next_of(struct qn_terms *t, qn_term a, unsigned symbol)
{
    if (a == QN_TERM_EMPTY || t->failed) return QN_TERM_EMPTY;
    if (t->n_row >= MAX_ROWS) drop_rows(t);
    struct row *row = row_of(t, a);
    if (row->next[symbol] == UNKNOWN) {
        qn_term out = derive(t, a, symbol);
        row_of(t, a)->next[symbol] = out;
        return t->failed ? QN_TERM_EMPTY : out;
    }
    return row->next[symbol];
}

qn_term qn_term_next(struct qn_terms *t, qn_term a, unsigned char byte)
{
    return next_of(t, a, byte);
}

qn_term qn_term_next_marker(struct qn_terms *t, qn_term a, enum qn_marker marker)
{
    return t->has_marker ? next_of(t, a, 256 + (unsigned)marker) : QN_TERM_EMPTY;
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
bool tt_is_alive(struct qn_terms *t, qn_term checked)
{
    qn_term first = tt_make(t, AND, t->terms[checked].a, t->terms[checked].b, 0);
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
