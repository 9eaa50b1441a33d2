/* A walk through a grammar, as a sampler would take it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FUZZ_WALK_H
#define FUZZ_WALK_H

#include "base/rng.h"
#include "text/grammar.h"
#include "text/term.h"

#define FUZZ_WALK_STEPS 48
/* Steps of derivatives a walk may make; 2^17 are some 10 ms under sanitizers. Short walks find as much in a
 * second as long ones and more inputs get theirs, so one seed in 16 walks far and one in 256 to the end. */
#define FUZZ_WALK_NEAR (1u << 10)
#define FUZZ_WALK_FAR  (1u << 17)

/* Forced bytes and markers are taken as they are, else the first live byte from a random place on. */
static inline void fuzz_walk(struct qn_grammar *g, uint64_t seed)
{
    qn_gstate s = qn_grammar_start(g);
    seed &= 255;
    uint64_t until =
        seed == 255 ? UINT64_MAX
                    : qn_terms_work(qn_grammar_algebra(g)) + (seed >= 240 ? FUZZ_WALK_FAR : FUZZ_WALK_NEAR);
    for (uint64_t i = 0; i < FUZZ_WALK_STEPS && s != QN_GSTATE_DEAD; i++) {
        if (qn_terms_work(qn_grammar_algebra(g)) > until) break;
        int marker = qn_grammar_forced_marker(g, s);
        if (marker >= 0) {
            s = qn_grammar_advance_marker(g, s, (enum qn_marker)marker);
            QN_CHECK(s != QN_GSTATE_DEAD || qn_grammar_failed(g));
            continue;
        }
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
        for (int k = 0; k < QN_N_MARKER && next == QN_GSTATE_DEAD; k++)
            next = qn_grammar_advance_marker(g, s, (enum qn_marker)k);
        s = next;
    }
}

#endif
