/* Token masks.
 *
 * The trie in preorder: node i has byte[i], its subtree is [i, next[i]), and the tokens that end in the
 * subtree are order[first[i]] .. order[first[next[i]] - 1] (tokens sorted by their bytes). Node 0 is the
 * root. SPDX-License-Identifier: Apache-2.0 */
#include "text/mask.h"

#include "base/hash.h"
#include "base/mem.h"
#include "text/freetext.h"
#include "text/term.h"

#define MIN_SUBTREE 2   /* tokens below a node from which on its bytes are known */
#define BIG_SUBTREE 16  /* and from which on it is worth finding out whether they loop */
#define MAX_LOOPS   48  /* byte sets whose tokens are known */
#define LOOP_BYTES  64  /* a state that loops on this many bytes is worth a set */
#define MIN_COUNT   8   /* repetitions left from which on a bounded string is masked like an endless one */
#define MAX_TEXTS   512 /* states of free text whose masks are known to all grammars */
#define MAX_PARTS   8   /* alternatives of a state that are looked at one by one */
#define MAX_GENERIC (1u << 16)
#define NO_SET      UINT32_MAX

struct set {
    uint64_t bits[4];
};

/* Tokens made of the bytes of a set only, and the nodes where the first other byte is. With is_utf8 also
 * characters beyond ASCII count, whole ones and one that the token's end cuts. */
struct loop {
    struct set set, heads; /* heads: first bytes of such tokens */
    bool is_utf8;
    uint64_t *bits;
    uint32_t *edges; /* nodes, grouped by byte; those right below the root are left out */
    uint32_t start[257];
};

/* What free text allows, whatever the parameter: all but what follows a closer or the name of an opener,
 * which begins at one of the stops. */
struct text {
    uint64_t *bits;
    uint32_t *stops;
    int n_stop, stop_capacity;
};

struct entry {
    uint64_t serial;
    qn_gstate state;
    int n_allowed;
};

struct qn_mask {
    bool is_shared; /* the vocabulary and its trie are another's */
    int n_vocab, max_len;
    size_t n_word;
    char *text;             /* all bytes */
    uint32_t *offset, *len; /* [n_vocab]; len 0: no text */
    uint8_t *kind;
    int *ends; /* end tokens [n_end] */
    int n_end;
    int markers[QN_N_MARKER]; /* their tokens, -1: none */
    uint32_t *order;          /* text tokens sorted by bytes [n_order] */
    uint32_t *by_len;         /* the same, longest first */
    uint32_t n_order;
    /* nodes [n_node + 1] */
    uint32_t n_node, cap_node;
    uint8_t *byte;
    uint32_t *next, *first, *set_of;
    struct set *sets;
    uint32_t n_set, cap_set;
    struct loop loops[MAX_LOOPS];
    int n_loop;
    /* cache: a ring of masks */
    struct entry *entries;
    uint64_t *cached;
    uint32_t n_entry, at_entry;
    struct qn_map places;     /* (grammar, state) -> entry + 1 */
    struct qn_terms *generic; /* free text without a context */
    struct text texts[MAX_TEXTS];
    struct qn_map text_at; /* word of a text -> place + 1 */
    int n_text;
    struct qn_mask_stats stats;
    qn_gstate *stack; /* of a walk, by depth [max_len + 2] */
    uint32_t *path;
};

static bool has_bit(const struct set *s, unsigned char b)
{
    return s->bits[b >> 6] >> (b & 63) & 1;
}

/* --- the trie --- */

static const struct qn_mask *sorting; /* qsort has no context; creation is serialised by its caller */

static int by_bytes(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t n = QN_MIN(sorting->len[x], sorting->len[y]);
    int order = memcmp(sorting->text + sorting->offset[x], sorting->text + sorting->offset[y], n);
    if (order) return order;
    if (sorting->len[x] != sorting->len[y]) return sorting->len[x] < sorting->len[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

static uint32_t add_node(struct qn_mask *m, unsigned char b, uint32_t first)
{
    if (m->n_node + 1 >= m->cap_node) {
        m->cap_node = m->cap_node ? 2 * m->cap_node : 1024;
        m->byte = xreallocarray(m->byte, m->cap_node, sizeof *m->byte);
        m->next = xreallocarray(m->next, m->cap_node, sizeof *m->next);
        m->first = xreallocarray(m->first, m->cap_node, sizeof *m->first);
        m->set_of = xreallocarray(m->set_of, m->cap_node, sizeof *m->set_of);
    }
    m->byte[m->n_node] = b;
    m->first[m->n_node] = first;
    m->set_of[m->n_node] = NO_SET;
    return m->n_node++;
}

struct open {
    uint32_t node;
    struct set below; /* bytes of the subtree, the node's own not included */
};

static void close_node(struct qn_mask *m, struct open *stack, int depth, uint32_t n_token)
{
    struct open *o = &stack[depth];
    m->next[o->node] = m->n_node;
    if (n_token - m->first[o->node] >= MIN_SUBTREE) {
        if (m->n_set == m->cap_set) {
            m->cap_set = m->cap_set ? 2 * m->cap_set : 256;
            m->sets = xreallocarray(m->sets, m->cap_set, sizeof *m->sets);
        }
        m->set_of[o->node] = m->n_set;
        m->sets[m->n_set++] = o->below;
    }
    if (!depth) return;
    for (int w = 0; w < 4; w++) stack[depth - 1].below.bits[w] |= o->below.bits[w];
    unsigned char b = m->byte[o->node];
    stack[depth - 1].below.bits[b >> 6] |= (uint64_t)1 << (b & 63);
}

static void build_trie(struct qn_mask *m)
{
    struct open *stack = xcalloc((size_t)m->max_len + 2, sizeof *stack);
    int depth = 0;
    stack[0].node = add_node(m, 0, 0);
    const char *path = "";
    for (uint32_t i = 0; i < m->n_order; i++) {
        const char *text = m->text + m->offset[m->order[i]];
        int len = (int)m->len[m->order[i]], common = 0;
        while (common < depth && common < len && path[common] == text[common]) common++;
        for (; depth > common; depth--) close_node(m, stack, depth, i);
        for (; depth < len; depth++) {
            stack[depth + 1] = (struct open){.node = add_node(m, (unsigned char)text[depth], i)};
        }
        path = text;
    }
    for (; depth >= 0; depth--) close_node(m, stack, depth, m->n_order);
    m->first[m->n_node] = m->n_order; /* sentinel: add_node keeps room for one more */
    free(stack);
}

static void prepare(struct qn_mask *m);

static bool is_text(int kind)
{
    return kind == QN_MASK_TEXT || kind == QN_MASK_MARKER;
}

/* The marker whose token this is, or -1. */
static int marker_of(const struct qn_mask *m, int token)
{
    for (int i = 0; m->kind[token] == QN_MASK_MARKER && i < QN_N_MARKER; i++)
        if (m->markers[i] == token) return i;
    return -1;
}

static void set_marker(struct qn_mask *m, int id)
{
    int marker = qn_marker_of(m->text + m->offset[id], m->len[id]);
    if (marker >= 0) m->markers[marker] = id;
}

static void open_caches(struct qn_mask *m, size_t cache_bytes)
{
    m->n_entry = (uint32_t)QN_CLAMP(cache_bytes / (m->n_word * 8), 4, 65536);
    m->entries = xcalloc(m->n_entry, sizeof *m->entries);
    m->cached = xcalloc(m->n_entry * m->n_word, sizeof *m->cached);
    m->stack = xcalloc((size_t)m->max_len + 2, sizeof *m->stack);
    m->path = xcalloc((size_t)m->max_len + 2, sizeof *m->path);
    prepare(m);
    m->stats.cache_bytes = m->n_entry * m->n_word * 8;
}

struct qn_mask *qn_mask_share(const struct qn_mask *of, size_t cache_bytes)
{
    struct qn_mask *m = xcalloc(1, sizeof *m);
    *m = (struct qn_mask){.is_shared = true,
                          .n_vocab = of->n_vocab,
                          .max_len = of->max_len,
                          .n_word = of->n_word,
                          .text = of->text,
                          .offset = of->offset,
                          .len = of->len,
                          .kind = of->kind,
                          .ends = of->ends,
                          .n_end = of->n_end,
                          .order = of->order,
                          .by_len = of->by_len,
                          .n_order = of->n_order,
                          .n_node = of->n_node,
                          .cap_node = of->cap_node,
                          .byte = of->byte,
                          .next = of->next,
                          .first = of->first,
                          .set_of = of->set_of,
                          .sets = of->sets,
                          .n_set = of->n_set,
                          .cap_set = of->cap_set};
    memcpy(m->markers, of->markers, sizeof m->markers);
    open_caches(m, cache_bytes);
    return m;
}

int qn_mask_create(struct qn_mask **out, const struct qn_mask_vocab *vocab, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_mask *m = xcalloc(1, sizeof *m);
    size_t n_byte = 0, at = 0, n;
    QN_FAIL_IF(vocab->n_vocab <= 0 || vocab->n_vocab > 1 << 24, e, QN_INVAL, "a vocabulary of %d tokens",
               vocab->n_vocab);
    m->n_vocab = vocab->n_vocab;
    m->n_word = ((size_t)m->n_vocab + 63) / 64;
    m->offset = xcalloc((size_t)m->n_vocab, sizeof *m->offset);
    m->len = xcalloc((size_t)m->n_vocab, sizeof *m->len);
    m->kind = xcalloc((size_t)m->n_vocab, 1);
    m->ends = xcalloc((size_t)m->n_vocab, sizeof *m->ends);
    m->order = xcalloc((size_t)m->n_vocab, sizeof *m->order);
    for (int i = 0; i < QN_N_MARKER; i++) m->markers[i] = -1;
    for (int id = 0; id < m->n_vocab; id++) {
        int kind = QN_MASK_TEXT;
        const char *bytes = vocab->bytes(vocab->ctx, id, &n, &kind);
        n_byte += bytes && is_text(kind) ? n : 0;
    }
    QN_FAIL_IF(n_byte > UINT32_MAX / 2, e, QN_TOOBIG, "a vocabulary of %zu bytes", n_byte);
    m->text = xmalloc(n_byte + 1);
    for (int id = 0; id < m->n_vocab; id++) {
        int kind = QN_MASK_TEXT;
        const char *bytes = vocab->bytes(vocab->ctx, id, &n, &kind);
        m->kind[id] = (uint8_t)kind;
        if (kind == QN_MASK_END) m->ends[m->n_end++] = id;
        if (!bytes || !n || !is_text(kind)) continue;
        memcpy(m->text + at, bytes, n);
        m->offset[id] = (uint32_t)at;
        m->len[id] = (uint32_t)n;
        m->max_len = QN_MAX(m->max_len, (int)n);
        m->order[m->n_order++] = (uint32_t)id;
        at += n;
        if (kind == QN_MASK_MARKER) set_marker(m, id);
    }
    sorting = m;
    qsort(m->order, m->n_order, sizeof *m->order, by_bytes);
    build_trie(m);
    m->by_len = xmalloc(m->n_order * sizeof *m->by_len + 1);
    size_t k = 0;
    for (int len = m->max_len; len > 0; len--) /* few lengths: a pass each is quick enough once */
        for (uint32_t i = 0; i < m->n_order; i++)
            if (m->len[m->order[i]] == (uint32_t)len) m->by_len[k++] = m->order[i];
    open_caches(m, vocab->cache_bytes ? vocab->cache_bytes : (size_t)64 << 20);
    m->stats.trie_bytes = (size_t)m->cap_node * 13 + m->cap_set * sizeof(struct set) + n_byte;
    *out = m;
    m = NULL;
out:
    qn_mask_free(m);
    return rc;
}

static void forget_texts(struct qn_mask *m);

void qn_mask_free(struct qn_mask *m)
{
    if (!m) return;
    for (int i = 0; i < m->n_loop; i++) {
        free(m->loops[i].bits);
        free(m->loops[i].edges);
    }
    forget_texts(m);
    if (!m->is_shared) {
        free(m->text);
        free(m->offset);
        free(m->len);
        free(m->kind);
        free(m->ends);
        free(m->order);
        free(m->by_len);
        free(m->byte);
        free(m->next);
        free(m->first);
        free(m->set_of);
        free(m->sets);
    }
    free(m->entries);
    free(m->cached);
    free(m->stack);
    free(m->path);
    qn_map_free(&m->places);
    free(m);
}

size_t qn_mask_words(const struct qn_mask *m)
{
    return m->n_word;
}

/* --- masks --- */

static void set_tokens(const struct qn_mask *m, uint64_t *bits, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) bits[m->order[i] >> 6] |= (uint64_t)1 << (m->order[i] & 63);
}

static void clear_tokens(const struct qn_mask *m, uint64_t *bits, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) bits[m->order[i] >> 6] &= ~((uint64_t)1 << (m->order[i] & 63));
}

/* Tokens that end at the node itself: they come first in its range. */
static uint32_t own_end(const struct qn_mask *m, uint32_t node)
{
    return node + 1 < m->next[node] ? m->first[node + 1] : m->first[m->next[node]];
}

static bool covers(const uint64_t *loop, const struct set *s)
{
    return !((s->bits[0] & ~loop[0]) | (s->bits[1] & ~loop[1]) | (s->bits[2] & ~loop[2]) |
             (s->bits[3] & ~loop[3]));
}

static void add_stop(struct text *x, uint32_t node)
{
    if (x->n_stop == x->stop_capacity) {
        x->stop_capacity = x->stop_capacity ? 2 * x->stop_capacity : 8;
        x->stops = xreallocarray(x->stops, (size_t)x->stop_capacity, sizeof *x->stops);
    }
    x->stops[x->n_stop++] = node;
}

/* The subtree of `top`, whose own byte has led to `state`. With `text`, not beyond its stops. */
static void walk(struct qn_mask *m, struct qn_terms *t, uint32_t top, qn_gstate state, struct text *text,
                 uint64_t *bits)
{
    uint32_t end = m->next[top];
    int depth = 0;
    uint32_t *path = m->path;
    path[0] = top;
    m->stack[0] = state;
    for (uint32_t i = top; i < end;) {
        /* state of node i is stack[depth] */
        set_tokens(m, bits, m->first[i], own_end(m, i));
        m->stats.n_node++;
        bool is_whole = false;
        if (text && (qn_term_nullable(t, m->stack[depth]) || qn_term_has_open_name(t, m->stack[depth]))) {
            add_stop(text, i);
            is_whole = true;
        } else if (m->set_of[i] != NO_SET) {
            const uint64_t *loop = m->first[m->next[i]] - m->first[i] >= BIG_SUBTREE
                                       ? qn_term_loop(t, m->stack[depth])
                                       : qn_term_loop_known(t, m->stack[depth]);
            is_whole = loop && covers(loop, &m->sets[m->set_of[i]]);
            if (is_whole) set_tokens(m, bits, m->first[i], m->first[m->next[i]]);
        }
        uint32_t child = is_whole ? m->next[i] : i + 1;
        path[depth] = i;
        /* the next live node in preorder */
        for (;;) {
            if (child >= end) return;
            while (depth >= 0 && child >= m->next[path[depth]]) depth--;
            qn_term next = qn_term_next(t, m->stack[depth], m->byte[child]);
            if (next != QN_TERM_EMPTY) {
                m->stack[++depth] = next;
                i = child;
                break;
            }
            child = m->next[child];
        }
    }
}

/* What may follow inside a UTF-8 character: bytes lo to hi, then n - 1 more of 80 to bf. */
struct tail {
    uint8_t n, lo, hi;
};

/* After a lead byte; n 0: it is none. */
static struct tail utf8_lead(unsigned char b)
{
    if (b < 0xc2 || b > 0xf4) return (struct tail){0};
    struct tail out = {b < 0xe0 ? 1 : b < 0xf0 ? 2 : 3, 0x80, 0xbf};
    if (b == 0xe0) out.lo = 0xa0;
    if (b == 0xed) out.hi = 0x9f;
    if (b == 0xf0) out.lo = 0x90;
    if (b == 0xf4) out.hi = 0x8f;
    return out;
}

/* Does every character beyond ASCII lead from the state back to itself, and nothing else begin with such
 * bytes? */
static bool is_utf8_closed(struct qn_terms *t, qn_gstate state)
{
    for (int b = 0x80; b < 0x100; b++) {
        struct tail tail = utf8_lead((unsigned char)b);
        qn_gstate at = qn_term_next(t, state, (unsigned char)b);
        if (!tail.n != (at == QN_GSTATE_DEAD)) return false;
        for (; tail.n; tail = (struct tail){(uint8_t)(tail.n - 1), 0x80, 0xbf}) {
            const qn_gstate *row = qn_term_row(t, at);
            qn_gstate to = row[tail.lo];
            if (to == QN_GSTATE_DEAD || (tail.n == 1 && to != state)) return false;
            for (int c = 0; c < 0x100; c++)
                if (row[c] != (c >= tail.lo && c <= tail.hi ? to : QN_GSTATE_DEAD)) return false;
            at = to;
        }
    }
    return true;
}

/* One pass over the trie: counts the edges, or (is_last) writes them. */
static void find_loop(struct qn_mask *m, struct loop *l, uint32_t count[256], bool is_last)
{
    struct tail *tails = xcalloc((size_t)m->max_len + 2, sizeof *tails);
    uint32_t *path = m->path;
    int depth = 0; /* of the node's parent */
    path[0] = 0;
    for (uint32_t i = 1; i < m->n_node;) {
        while (depth && i >= m->next[path[depth]]) depth--;
        unsigned char b = m->byte[i];
        struct tail tail = tails[depth];
        bool is_in;
        if (tail.n) {
            is_in = b >= tail.lo && b <= tail.hi;
            tail = (struct tail){(uint8_t)(tail.n - 1), 0x80, 0xbf};
        } else {
            if (l->is_utf8) tail = utf8_lead(b);
            is_in = has_bit(&l->set, b) || tail.n;
            if (!is_in && depth) {
                if (is_last) l->edges[l->start[b] + count[b]] = i;
                count[b]++;
            }
        }
        if (!is_in) {
            i = m->next[i];
            continue;
        }
        if (!is_last) set_tokens(m, l->bits, m->first[i], own_end(m, i));
        path[++depth] = i;
        tails[depth] = tail;
        i++;
    }
    free(tails);
}

static struct loop *loop_of(struct qn_mask *m, const uint64_t *set, bool is_utf8)
{
    for (int i = 0; i < m->n_loop; i++)
        if (m->loops[i].is_utf8 == is_utf8 && !memcmp(m->loops[i].set.bits, set, sizeof(struct set)))
            return &m->loops[i];
    if (m->n_loop == MAX_LOOPS) return NULL;
    struct loop *l = &m->loops[m->n_loop++];
    memcpy(l->set.bits, set, sizeof l->set);
    l->heads = l->set;
    l->is_utf8 = is_utf8;
    for (int b = 0; b < 256 && is_utf8; b++)
        if (utf8_lead((unsigned char)b).n) l->heads.bits[b >> 6] |= (uint64_t)1 << (b & 63);
    l->bits = xcalloc(m->n_word, sizeof *l->bits);
    uint32_t count[256] = {0}, total = 0;
    find_loop(m, l, count, false);
    for (int b = 0; b < 256; b++) {
        l->start[b] = total;
        total += count[b];
        count[b] = 0;
    }
    l->start[256] = total;
    l->edges = xcalloc(total + 1, sizeof *l->edges);
    find_loop(m, l, count, true);
    return l;
}

static int n_bits(const uint64_t *words, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++) count += __builtin_popcountll(words[i]);
    return count;
}

/* The state many first bytes lead to and that loops on the most bytes; else DEAD. */
static qn_gstate common_next(struct qn_terms *t, const qn_gstate *row)
{
    qn_gstate best = QN_GSTATE_DEAD;
    int n_best = LOOP_BYTES - 1;
    for (const char *from = "a 0"; *from; from++) { /* what a letter, a blank, a digit leads to */
        qn_gstate to = row[(unsigned char)*from];
        if (to == QN_GSTATE_DEAD) continue;
        int n = n_bits(qn_term_loop(t, to), 4);
        if (n > n_best) best = to, n_best = n;
    }
    return best;
}

/* The mask of a state out of the cache. */
static bool recall(struct qn_mask *m, uint64_t serial, qn_gstate state, uint64_t *bits, int *n_allowed)
{
    uint64_t place;
    if (!qn_map_get(&m->places, qn_mix64(serial ^ (uint64_t)state << 32) | 1, &place)) return false;
    const struct entry *hit = &m->entries[place - 1];
    if (hit->serial != serial || hit->state != state) return false;
    memcpy(bits, m->cached + (place - 1) * m->n_word, m->n_word * sizeof *bits);
    *n_allowed = hit->n_allowed;
    return true;
}

static void remember(struct qn_mask *m, uint64_t serial, qn_gstate state, const uint64_t *bits, int n_allowed)
{
    struct entry *entry = &m->entries[m->at_entry];
    if (entry->serial) qn_map_remove(&m->places, qn_mix64(entry->serial ^ (uint64_t)entry->state << 32) | 1);
    *entry = (struct entry){serial, state, n_allowed};
    memcpy(m->cached + m->at_entry * m->n_word, bits, m->n_word * sizeof *bits);
    qn_map_put(&m->places, qn_mix64(serial ^ (uint64_t)state << 32) | 1, m->at_entry + 1);
    m->at_entry = (m->at_entry + 1) % m->n_entry;
}

/* A grammar's states, or free text without a grammar (g NULL, stops go to `text`). */
struct source {
    struct qn_terms *t;
    struct qn_grammar *g;
    struct text *text;
};

static int plain_mask(struct qn_mask *m, struct qn_grammar *g, qn_gstate state, bool is_common,
                      uint64_t *bits);
static const struct text *text_of(struct qn_mask *m, uint64_t word, bool is_common);

static unsigned char first_byte(const struct qn_mask *m, uint32_t node)
{
    return (unsigned char)m->text[m->offset[m->order[m->first[node]]]];
}

/* The mask of the common state; false: it has none to share. */
static bool common_mask(struct qn_mask *m, const struct source *s, qn_gstate common, const qn_gstate *row,
                        const qn_gstate *common_row, uint64_t *bits)
{
    uint64_t word;
    if (s->g) {
        plain_mask(m, s->g, common, true, bits);
        return true;
    }
    if (!qn_term_is_text(s->t, common, &word)) return false;
    const struct text *text = text_of(m, word, true);
    if (!text) return false;
    memcpy(bits, text->bits, m->n_word * sizeof *bits);
    for (int i = 0; i < text->n_stop; i++) {
        unsigned char b = first_byte(m, text->stops[i]);
        if (row[b] == common_row[b]) add_stop(s->text, text->stops[i]);
    }
    return true;
}

/* A state that loops on many bytes: the tokens of these bytes are known, what is left are tokens with some
 * other byte. */
static void compute_loop(struct qn_mask *m, const struct source *s, qn_gstate state, const qn_gstate *row,
                         uint64_t *bits)
{
    struct set set;
    memcpy(set.bits, qn_term_loop(s->t, state), sizeof set);
    struct loop *l = loop_of(m, set.bits, !(set.bits[2] | set.bits[3]) && is_utf8_closed(s->t, state));
    if (l)
        memcpy(bits, l->bits, m->n_word * sizeof *bits);
    else
        memset(bits, 0, m->n_word * sizeof *bits);
    for (uint32_t i = 1; i < m->n_node; i = m->next[i]) {
        unsigned char b = m->byte[i];
        if (row[b] != QN_GSTATE_DEAD && !(l && has_bit(&l->heads, b)))
            walk(m, s->t, i, row[b], s->text, bits);
    }
    for (int b = 0; l && b < 256; b++) {
        if (row[b] == QN_GSTATE_DEAD) continue;
        for (uint32_t k = l->start[b]; k < l->start[b + 1]; k++)
            walk(m, s->t, l->edges[k], row[b], s->text, bits);
    }
}

/* Most bytes lead to a state that loops (often the state itself), called common. Behind a byte that leads
 * where it leads from the common state tokens fare as they do there, and that mask is remembered: what is
 * left are first bytes that lead elsewhere. */
static void compute(struct qn_mask *m, const struct source *s, qn_gstate state, bool is_common,
                    uint64_t *bits)
{
    qn_gstate row[256], common_row[256];
    memcpy(row, qn_term_row(s->t, state), sizeof row);
    qn_gstate common = is_common ? state : common_next(s->t, row);
    if (common == state) {
        compute_loop(m, s, state, row, bits);
        return;
    }
    if (common != QN_GSTATE_DEAD) memcpy(common_row, qn_term_row(s->t, common), sizeof common_row);
    if (common != QN_GSTATE_DEAD && !common_mask(m, s, common, row, common_row, bits))
        common = QN_GSTATE_DEAD;
    if (common == QN_GSTATE_DEAD) memset(bits, 0, m->n_word * sizeof *bits);
    for (uint32_t i = 1; i < m->n_node; i = m->next[i]) {
        unsigned char b = m->byte[i];
        if (common != QN_GSTATE_DEAD) {
            if (row[b] == common_row[b]) continue;
            clear_tokens(m, bits, m->first[i], m->first[m->next[i]]);
        }
        if (row[b] != QN_GSTATE_DEAD) walk(m, s->t, i, row[b], s->text, bits);
    }
}

/* --- free text, for all grammars --- */

static void forget_texts(struct qn_mask *m)
{
    for (int i = 0; i < m->n_text; i++) {
        free(m->texts[i].bits);
        free(m->texts[i].stops);
        m->texts[i] = (struct text){0};
    }
    m->n_text = 0;
    qn_map_free(&m->text_at);
    qn_terms_free(m->generic);
    m->generic = NULL;
}

/* NULL: no room beside the one being made; try again at the start of a mask. */
static const struct text *text_of(struct qn_mask *m, uint64_t word, bool is_common)
{
    uint64_t place, key = qn_mix64(word) | 1;
    if (qn_map_get(&m->text_at, key, &place)) return &m->texts[place - 1];
    if (m->n_text == MAX_TEXTS) return NULL;
    if (!m->generic) {
        m->generic = qn_terms_create(MAX_GENERIC);
        QN_CHECK(!qn_terms_seal(m->generic, NULL));
    }
    struct text text = {.bits = xmalloc(m->n_word * sizeof *text.bits)};
    struct source s = {.t = m->generic, .text = &text};
    compute(m, &s, qn_term_text_of(m->generic, word), is_common, text.bits);
    if (qn_terms_failed(m->generic) || m->n_text == MAX_TEXTS) {
        free(text.bits);
        free(text.stops);
        return NULL;
    }
    m->texts[m->n_text++] = text;
    qn_map_put(&m->text_at, key, (uint64_t)m->n_text);
    return &m->texts[m->n_text - 1];
}

/* What every server meets: the bytes of free text and of JSON strings (alone, inside a call, of bounded
 * length), and the start of an argument's text. */
static void prepare(struct qn_mask *m)
{
    static const struct {
        const char *out; /* printable bytes that are left out */
        bool has_controls, is_ascii;
    } sets[] = {{"<", true, false}, {"\"\\", false, false}, {"\"\\<", false, false}, {"\"\\", false, true}};
    for (size_t i = 0; i < QN_COUNT(sets); i++) {
        struct set set = {{~(uint64_t)0 << (sets[i].has_controls ? 0 : 32), ~(uint64_t)0, 0, 0}};
        if (sets[i].has_controls) set.bits[0] &= ~((uint64_t)1 << '\n');
        for (const char *c = sets[i].out; *c; c++) set.bits[*c >> 6] &= ~((uint64_t)1 << (*c & 63));
        if (!sets[i].is_ascii) set.bits[2] = set.bits[3] = ~(uint64_t)0;
        loop_of(m, set.bits, sets[i].is_ascii);
    }
    for (int is_owing = 0; is_owing < 2; is_owing++) {
        struct qn_freetext start = qn_freetext_start(false, is_owing);
        uint64_t word;
        _Static_assert(sizeof word == sizeof start, "a state of free text is one word");
        memcpy(&word, &start, sizeof word);
        text_of(m, word, false);
    }
}

/* The state behind a node's bytes. */
static qn_gstate state_at(const struct qn_mask *m, struct qn_terms *t, qn_gstate state, uint32_t node)
{
    /* of the tokens below a node the first in order is the shortest or shares most: the depth tells */
    uint32_t depth = 0;
    for (uint32_t i = 0; i != node;) {
        uint32_t child = i + 1;
        while (m->next[child] <= node) child = m->next[child];
        i = child;
        depth++;
    }
    const char *text = m->text + m->offset[m->order[m->first[node]]];
    for (uint32_t i = 0; i < depth && state != QN_GSTATE_DEAD; i++)
        state = qn_term_next(t, state, (unsigned char)text[i]);
    return state;
}

/* A state some of whose alternatives are free text of a parameter: what the text allows is known, the other
 * alternatives are walked. false: it is none, or there is no room for what would be known. */
static bool compute_text(struct qn_mask *m, struct qn_grammar *g, qn_gstate state, uint64_t *bits)
{
    struct qn_terms *t = qn_grammar_algebra(g);
    struct qn_term_part parts[MAX_PARTS];
    uint64_t word;
    int n = qn_term_parts(t, state, parts, MAX_PARTS), n_text = 0;
    for (int i = 0; i < n; i++) n_text += qn_term_is_text(t, parts[i].head, &word);
    if (!n_text) return false;
    if (m->n_text > MAX_TEXTS - 2 * MAX_PARTS || (m->generic && qn_terms_failed(m->generic))) forget_texts(m);
    qn_term others = QN_TERM_EMPTY;
    for (int i = 0; i < n; i++)
        if (!qn_term_is_text(t, parts[i].head, &word)) {
            qn_term one = qn_term_seq(t, parts[i].head, parts[i].rest);
            others = qn_term_alt(t, others, one);
        }
    if (others == QN_TERM_EMPTY)
        memset(bits, 0, m->n_word * sizeof *bits);
    else
        compute(m, &(struct source){.t = t, .g = g}, others, false, bits);
    for (int i = 0; i < n; i++) {
        if (!qn_term_is_text(t, parts[i].head, &word)) continue;
        const struct text *text = text_of(m, word, false);
        if (!text) return false;
        for (size_t w = 0; w < m->n_word; w++) bits[w] |= text->bits[w];
        qn_gstate own = qn_term_seq(t, parts[i].head, parts[i].rest);
        for (int k = 0; k < text->n_stop; k++) {
            qn_gstate next = state_at(m, t, own, text->stops[k]);
            if (next != QN_GSTATE_DEAD) walk(m, t, text->stops[k], next, NULL, bits);
        }
    }
    return true;
}

/* The walk knows bytes only; and what a state has from its common one need not hold for a marker. */
static void set_markers(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state, uint64_t *bits)
{
    for (int i = 0; i < QN_N_MARKER; i++) {
        int id = m->markers[i];
        if (id < 0) continue;
        uint64_t bit = (uint64_t)1 << (id & 63);
        if (qn_grammar_advance_marker(g, state, (enum qn_marker)i) != QN_GSTATE_DEAD)
            bits[id >> 6] |= bit;
        else
            bits[id >> 6] &= ~bit;
    }
}

static void set_ends(const struct qn_mask *m, uint64_t *bits)
{
    for (int i = 0; i < m->n_end; i++) bits[m->ends[i] >> 6] |= (uint64_t)1 << (m->ends[i] & 63);
}

/* The mask without end tokens, out of the cache or into it. */
static int plain_mask(struct qn_mask *m, struct qn_grammar *g, qn_gstate state, bool is_common,
                      uint64_t *bits)
{
    uint64_t serial = qn_grammar_serial(g);
    int n_allowed;
    if (recall(m, serial, state, bits, &n_allowed)) return n_allowed;
    if (!compute_text(m, g, state, bits))
        compute(m, &(struct source){.t = qn_grammar_algebra(g), .g = g}, state, is_common, bits);
    set_markers(m, g, state, bits);
    n_allowed = n_bits(bits, m->n_word);
    if (!qn_grammar_failed(g)) remember(m, serial, state, bits, n_allowed);
    return n_allowed;
}

int qn_mask_fill(struct qn_mask *m, struct qn_grammar *g, qn_gstate state, uint64_t *bits)
{
    struct qn_terms *t = qn_grammar_algebra(g);
    uint64_t serial = qn_grammar_serial(g), n_before = m->stats.n_node;
    uint32_t exact;
    int n_allowed;
    m->stats.n_fill++;
    if (state == QN_GSTATE_DEAD || qn_grammar_failed(g)) goto dead;
    if (!recall(m, serial, state, bits, &n_allowed)) {
        qn_gstate wide = qn_term_saturate(t, state, MIN_COUNT, (uint32_t)m->max_len, &exact);
        n_allowed = plain_mask(m, g, wide, false, bits);
        /* longer tokens may overrun the bound: ask the state itself */
        for (uint32_t i = 0; i < m->n_order && m->len[m->by_len[i]] > exact; i++) {
            uint32_t id = m->by_len[i];
            if (!(bits[id >> 6] >> (id & 63) & 1) || qn_mask_allows(m, g, state, (int)id)) continue;
            bits[id >> 6] &= ~((uint64_t)1 << (id & 63));
            n_allowed--;
        }
        if (qn_grammar_failed(g)) goto dead;
        if (exact < (uint32_t)m->max_len) remember(m, serial, state, bits, n_allowed);
    }
    if (m->stats.n_node == n_before) m->stats.n_hit++;
    if (qn_term_nullable(t, state)) {
        set_ends(m, bits);
        n_allowed += m->n_end;
    }
    return n_allowed;
dead:
    memset(bits, 0, m->n_word * sizeof *bits);
    return 0;
}

qn_gstate qn_mask_advance(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state, int token)
{
    if (token < 0 || token >= m->n_vocab || state == QN_GSTATE_DEAD) return QN_GSTATE_DEAD;
    if (m->kind[token] == QN_MASK_END) return qn_grammar_may_end(g, state) ? QN_GSTATE_END : QN_GSTATE_DEAD;
    if (!m->len[token]) return qn_grammar_is_free(g, state) ? state : QN_GSTATE_DEAD;
    int marker = marker_of(m, token);
    if (marker >= 0) return qn_grammar_advance_marker(g, state, (enum qn_marker)marker);
    return qn_grammar_advance(g, state, m->text + m->offset[token], m->len[token]);
}

bool qn_mask_allows(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state, int token)
{
    if (token >= 0 && token < m->n_vocab && !m->len[token] && m->kind[token] != QN_MASK_END) return false;
    return qn_mask_advance(m, g, state, token) != QN_GSTATE_DEAD;
}

int qn_mask_forced(const struct qn_mask *m, struct qn_grammar *g, qn_gstate state)
{
    char bytes[64];
    if (state == QN_GSTATE_END || qn_grammar_must_end(g, state)) return m->n_end == 1 ? m->ends[0] : -1;
    size_t n = qn_grammar_forced(g, state, bytes, sizeof bytes);
    if (!n) {
        int marker = qn_grammar_forced_marker(g, state);
        return marker < 0 ? -1 : m->markers[marker];
    }
    /* forced only when one token spells the beginning: the first byte has no shorter token than the whole */
    int found = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t child = node + 1, end = m->next[node];
        while (child < end && m->byte[child] != (unsigned char)bytes[i]) child = m->next[child];
        if (child >= end) break;
        node = child;
        if (own_end(m, node) > m->first[node]) {
            if (found >= 0 || own_end(m, node) > m->first[node] + 1) return -1;
            found = (int)m->order[m->first[node]];
        }
        /* longer tokens that agree so far and then leave the known bytes are a choice, too */
        if (i + 1 == n && m->next[node] > node + 1) return -1;
    }
    return found;
}

struct qn_mask_stats qn_mask_stats(const struct qn_mask *m)
{
    return m->stats;
}
