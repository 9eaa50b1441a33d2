/* A walk through a grammar, as a sampler would take it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FUZZ_WALK_H
#define FUZZ_WALK_H

#include "base/rng.h"
#include "text/grammar.h"

#define FUZZ_WALK_STEPS 48

/* Forced bytes are taken as they are, else the first live byte from a random place on. */
static inline void fuzz_walk(struct qn_grammar *g, uint64_t seed)
{
    qn_gstate s = qn_grammar_start(g);
    for (uint64_t i = 0; i < FUZZ_WALK_STEPS && s != QN_GSTATE_DEAD; i++) {
        char bytes[64];
        size_t n = qn_grammar_forced(g, s, bytes, sizeof bytes);
        if (n) {
            s = qn_grammar_advance(g, s, bytes, n);
            QN_CHECK(s != QN_GSTATE_DEAD || qn_grammar_failed(g));
            continue;
        }
        if (qn_grammar_must_end(g, s)) break;
        qn_gstate next = QN_GSTATE_DEAD;
        unsigned from = (unsigned)(qn_rng64(seed, i, 3) & 255);
        for (unsigned k = 0; k < 256 && next == QN_GSTATE_DEAD; k++) {
            char b = (char)(from + k);
            next = qn_grammar_advance(g, s, &b, 1);
        }
        s = next;
    }
}

#endif
