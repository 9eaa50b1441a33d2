/* Rules of rows: minimum length, thinking budget, grammar, allowed tokens, forbidden sequences, loops.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/pick.h"

#include <math.h>

#include "base/mem.h"
#include "engine/loop.h"

/* A thought, and output under a constraint, that says the same over and over. */
#define THINK_LEAST 192
#define THINK_TIMES 6
#define VALUE_LEAST 1024
#define VALUE_TIMES 16

void qn_pick_init(struct qn_pick *k, const struct qn_request_params *params, struct qn_mask *mask,
                  const struct qn_ban *ban)
{
    *k = (struct qn_pick){.params = params, .ban = ban};
    if (params->constraint) {
        k->mask = mask;
        k->state = qn_grammar_start(params->constraint);
    }
    k->in_think = params->is_thinking && params->n_think_close > 0;
    k->think_limit = params->think_budget > 0 ? params->think_budget : INT32_MAX;
}

int32_t qn_pick_forced(const struct qn_pick *k)
{
    if (!k->in_think || k->n_think < k->think_limit) return -1;
    return k->params->think_close[k->n_forced];
}

static bool holds_back_stops(const struct qn_pick *k)
{
    return (k->n_new < k->params->min_new || k->in_think) && k->params->n_stop && !k->params->ignore_eos;
}

bool qn_pick_is_free(const struct qn_pick *k)
{
    if (k->mask && !qn_grammar_is_free(k->params->constraint, k->state)) return false;
    if (k->params->allowed_bits || k->ban) return false;
    return qn_pick_forced(k) < 0 && !holds_back_stops(k);
}

int32_t qn_pick_guess(const struct qn_pick *k)
{
    if (!k->mask || qn_pick_forced(k) >= 0) return -1;
    return qn_mask_forced(k->mask, k->params->constraint, k->state);
}

static bool is_stop(const struct qn_pick *k, int32_t tok)
{
    return qn_is_listed(k->params->stop_tok, k->params->n_stop, tok);
}

static bool may_come(const struct qn_request_params *p, int32_t tok)
{
    if (!p->allowed_bits) return true;
    return tok / 32 < p->n_allowed_word && p->allowed_bits[tok / 32] >> tok % 32 & 1;
}

/* Without the forbidden sequences, which give way where nothing else would be left. */
static int base_mask(const struct qn_pick *k, uint32_t *words, int vocab)
{
    const struct qn_request_params *p = k->params;
    int n_word = (int)QN_CEIL_DIV(vocab, 64) * 2, n_allowed = vocab;
    if (k->mask && !qn_grammar_is_free(p->constraint, k->state)) {
        uint64_t *bits = (uint64_t *)(void *)words; /* little endian: word 2i is the low half of bits i */
        memset(words, 0, (size_t)n_word * sizeof *words);
        n_allowed = qn_mask_fill(k->mask, p->constraint, k->state, bits);
    } else {
        memset(words, 0xff, (size_t)n_word * sizeof *words);
    }
    if (p->allowed_bits) {
        n_allowed = 0;
        for (int i = 0; i < n_word; i++) {
            words[i] &= i < p->n_allowed_word ? p->allowed_bits[i] : 0;
            n_allowed += __builtin_popcount(words[i]);
        }
    }
    if (!holds_back_stops(k)) return n_allowed;
    for (int i = 0; i < p->n_stop; i++) {
        int32_t tok = p->stop_tok[i];
        uint32_t bit = 1u << tok % 32;
        if (k->mask && n_allowed == 1 && words[tok / 32] & bit) continue; /* the grammar wants nothing else */
        if (words[tok / 32] & bit) n_allowed--;
        words[tok / 32] &= ~bit;
    }
    return n_allowed;
}

bool qn_pick_allows(const struct qn_pick *k, int32_t tok)
{
    int32_t forced = qn_pick_forced(k);
    if (forced >= 0) return tok == forced;
    if (k->mask && !qn_mask_allows(k->mask, k->params->constraint, k->state, tok)) return false;
    if (!may_come(k->params, tok) || (k->ban && !qn_ban_allows(k->ban, k->banned, tok))) return false;
    return !(holds_back_stops(k) && is_stop(k, tok));
}

bool qn_pick_mask(const struct qn_pick *k, uint32_t *words, int vocab)
{
    int32_t forced = qn_pick_forced(k);
    if (forced >= 0) { /* a spent thinking budget goes before the grammar */
        memset(words, 0, (size_t)QN_CEIL_DIV(vocab, 64) * 8);
        words[forced / 32] |= 1u << forced % 32;
        return true;
    }
    int n_allowed = base_mask(k, words, vocab);
    if (k->ban && n_allowed > 0 && qn_ban_clear(k->ban, k->banned, words) >= n_allowed)
        base_mask(k, words, vocab);
    return n_allowed > 0;
}

bool qn_pick_stops(const struct qn_pick *k, int32_t tok)
{
    return !k->params->ignore_eos && qn_pick_forced(k) < 0 && is_stop(k, tok);
}

void qn_pick_advance(struct qn_pick *k, int32_t tok)
{
    k->n_new++;
    if (k->mask) k->state = qn_mask_advance(k->mask, k->params->constraint, k->state, tok);
    if (k->ban) k->banned = qn_ban_next(k->ban, k->banned, tok);
    if (!k->in_think) return;
    if (qn_pick_forced(k) >= 0) {
        if (++k->n_forced == k->params->n_think_close) k->in_think = false;
    } else if (tok == k->params->think_end ||
               (k->mask && !qn_grammar_is_starting(k->params->constraint, k->state))) {
        k->in_think = false; /* closed, or a call began inside it */
    } else {
        k->n_think++;
    }
}

bool qn_pick_watch(struct qn_pick *k, const int32_t *tok, int n_tok)
{
    return qn_pick_watch_as(k, tok, n_tok, !k->mask || qn_grammar_is_free(k->params->constraint, k->state));
}

bool qn_pick_watch_as(struct qn_pick *k, const int32_t *tok, int n_tok, bool is_free)
{
    if (k->n_new % QN_LOOP_EVERY || k->params->ignore_eos) return false;
    if (k->in_think) {
        if (k->n_forced || k->think_limit - k->n_think <= QN_LOOP_DELAY) return false;
        if (qn_loop_period(tok, n_tok, QN_LOOP_PERIOD, THINK_LEAST, THINK_TIMES))
            k->think_limit = k->n_think + QN_LOOP_DELAY;
        return false;
    }
    if (is_free) return false;
    return qn_loop_period(tok, n_tok, QN_LOOP_PERIOD / 4, VALUE_LEAST, VALUE_TIMES) > 0;
}

bool qn_seen_is_needed(const struct qn_sample *s)
{
    return s->presence != 0 || s->frequency != 0 || s->repetition != 1;
}

void qn_seen_add(struct qn_seen *h, int32_t tok, bool is_generated)
{
    uint64_t at;
    if (!qn_map_get(&h->at, (uint64_t)tok + 1, &at)) {
        if (h->n == h->capacity) {
            h->capacity = QN_MAX(64, h->capacity * 2);
            h->tok = xreallocarray(h->tok, (size_t)h->capacity, sizeof *h->tok);
            h->count = xreallocarray(h->count, (size_t)h->capacity, sizeof *h->count);
        }
        at = (uint64_t)h->n++;
        h->tok[at] = tok;
        h->count[at] = 0;
        qn_map_put(&h->at, (uint64_t)tok + 1, at);
    }
    if (is_generated) h->count[at]++;
}

void qn_seen_fini(struct qn_seen *h)
{
    qn_map_free(&h->at);
    free(h->tok);
    free(h->count);
    *h = (struct qn_seen){0};
}
