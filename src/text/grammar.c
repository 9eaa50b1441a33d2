/* Grammar states: terms (term.h) behind the engine's narrow view.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/grammar.h"

#include <stdatomic.h>

#include "base/mem.h"
#include "text/term.h"

/* From here on a mask may take milliseconds: tool lists of 128 tools have some 1,600 terms. */
#define HEAVY_WIDTH 200
#define HEAVY_TERMS 8192
#define WORN_TERMS  (1u << 16)
#define WORN_WORK   (QN_GRAMMAR_MAX_TERMS * QN_TERMS_WORK_A_TERM / 4)

struct qn_grammar {
    atomic_int n_ref;
    uint64_t serial;
    struct qn_terms *terms;
    qn_term start;
    atomic_bool is_worn, is_heavy;
};

_Static_assert(QN_GSTATE_DEAD == QN_TERM_EMPTY && QN_GSTATE_END == QN_TERM_EPS, "states are terms");

struct qn_grammar *qn_grammar_create(struct qn_terms *t, qn_term start)
{
    static atomic_uint_fast64_t next_serial = 1;
    struct qn_grammar *g = xcalloc(1, sizeof *g);
    atomic_init(&g->n_ref, 1);
    g->serial = atomic_fetch_add(&next_serial, 1);
    g->terms = t;
    g->start = start;
    atomic_init(&g->is_heavy, qn_terms_widest(t) >= HEAVY_WIDTH || qn_terms_count(t) >= HEAVY_TERMS);
    return g;
}

struct qn_terms *qn_grammar_algebra(const struct qn_grammar *g)
{
    return g->terms;
}

struct qn_grammar *qn_grammar_acquire(struct qn_grammar *g)
{
    atomic_fetch_add(&g->n_ref, 1);
    return g;
}

void qn_grammar_release(struct qn_grammar *g)
{
    if (!g || atomic_fetch_sub(&g->n_ref, 1) != 1) return;
    qn_terms_free(g->terms);
    free(g);
}

bool qn_grammar_is_heavy(const struct qn_grammar *g)
{
    return atomic_load(&g->is_heavy);
}

void qn_grammar_set_heavy(struct qn_grammar *g)
{
    atomic_store(&g->is_heavy, true);
}

qn_gstate qn_grammar_start(const struct qn_grammar *g)
{
    return g->start;
}

static void look_for_wear(struct qn_grammar *g)
{
    if (qn_terms_count(g->terms) > WORN_TERMS || qn_terms_work(g->terms) > WORN_WORK ||
        qn_terms_failed(g->terms))
        atomic_store(&g->is_worn, true);
}

qn_gstate qn_grammar_advance(struct qn_grammar *g, qn_gstate state, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n && state != QN_GSTATE_DEAD; i++)
        state = qn_term_next(g->terms, state, (unsigned char)bytes[i]);
    look_for_wear(g);
    return state;
}

qn_gstate qn_grammar_advance_marker(struct qn_grammar *g, qn_gstate state, enum qn_marker marker)
{
    const char *text = qn_marker_text(marker);
    qn_gstate behind = qn_term_next_marker(g->terms, state, marker);
    return qn_term_alt(g->terms, behind, qn_grammar_advance(g, state, text, strlen(text)));
}

bool qn_grammar_may_end(const struct qn_grammar *g, qn_gstate state)
{
    return qn_term_nullable(g->terms, state);
}

/* The only symbol that may follow: a byte, 256 + a marker; -1: none, -2: several. */
static int only_symbol(struct qn_grammar *g, qn_gstate state)
{
    const qn_term *row = qn_term_row(g->terms, state);
    int only = -1;
    for (int b = 0; b < 256; b++) {
        if (row[b] == QN_TERM_EMPTY) continue;
        if (only >= 0) return -2;
        only = b;
    }
    for (int i = 0; i < QN_N_MARKER; i++) {
        if (qn_term_next_marker(g->terms, state, (enum qn_marker)i) == QN_TERM_EMPTY) continue;
        if (only >= 0) return -2;
        only = 256 + i;
    }
    return only;
}

bool qn_grammar_must_end(struct qn_grammar *g, qn_gstate state)
{
    if (!qn_term_nullable(g->terms, state)) return false;
    return state == QN_GSTATE_END || only_symbol(g, state) == -1;
}

bool qn_grammar_is_free(const struct qn_grammar *g, qn_gstate state)
{
    return qn_term_is_free(g->terms, state);
}

bool qn_grammar_is_starting(const struct qn_grammar *g, qn_gstate state)
{
    return qn_term_same_trigger(g->terms, g->start, state);
}

size_t qn_grammar_forced(struct qn_grammar *g, qn_gstate state, char *bytes, size_t cap)
{
    size_t n = 0;
    while (n < cap && state != QN_GSTATE_DEAD && !qn_term_nullable(g->terms, state)) {
        int only = only_symbol(g, state);
        if (only < 0 || only >= 256) break;
        bytes[n++] = (char)only;
        state = qn_term_next(g->terms, state, (unsigned char)only);
    }
    return n;
}

int qn_grammar_forced_marker(struct qn_grammar *g, qn_gstate state)
{
    if (state == QN_GSTATE_DEAD || qn_term_nullable(g->terms, state)) return -1;
    int only = only_symbol(g, state);
    return only < 256 ? -1 : only - 256;
}

int qn_grammar_failed(const struct qn_grammar *g)
{
    return qn_terms_failed(g->terms);
}

bool qn_grammar_is_worn(const struct qn_grammar *g)
{
    return atomic_load(&g->is_worn);
}

uint64_t qn_grammar_serial(const struct qn_grammar *g)
{
    return g->serial;
}

size_t qn_grammar_terms(const struct qn_grammar *g)
{
    return qn_terms_count(g->terms);
}
