/* Choosing a token.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/draw.h"

#include <math.h>

#include "backend/noise.h"
#include "base/mem.h"
#include "base/rng.h"

static float plain_max(const float *x, int n)
{
    float max = -INFINITY;
    bool bad = false;
    for (int i = 0; i < n; i++) {
        bad |= isnan(x[i]);
        if (x[i] > max) max = x[i];
    }
    return bad ? NAN : max;
}

static int plain_above(const float *x, int from, int n, float than)
{
    while (from < n && !(x[from] > than)) from++;
    return from;
}

static double plain_sum_exp(const float *x, int n, float max, float scale)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += expf((x[i] - max) * scale);
    return sum;
}

const struct qn_scan qn_scan_plain = {plain_max, plain_above, plain_sum_exp};

float qn_gumbel(uint64_t seed, int position, int tok)
{
    return qn_noise_gumbel(qn_rng_unit(qn_rng64(seed, (uint64_t)position, (uint64_t)tok)));
}

/* A heap of ids whose root is the worst: smallest value, highest id among equals. */
static bool is_worse(const float *x, int32_t a, int32_t b)
{
    return x[a] < x[b] || (x[a] == x[b] && a > b);
}

static void sift(const float *x, int32_t *heap, int n, int i)
{
    for (;;) {
        int worst = i;
        for (int child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++)
            if (is_worse(x, heap[child], heap[worst])) worst = child;
        if (worst == i) return;
        int32_t t = heap[i];
        heap[i] = heap[worst];
        heap[worst] = t;
        i = worst;
    }
}

/* Sorts best first (the heap gives up its worst, one after the other). */
static void sort_heap(const float *x, int32_t *heap, int n)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift(x, heap, n, i);
    for (int last = n - 1; last > 0; last--) {
        int32_t t = heap[0];
        heap[0] = heap[last];
        heap[last] = t;
        sift(x, heap, last, 0);
    }
}

int qn_draw_top(const struct qn_scan *scan, const float *x, int n, int n_top, int32_t *tok)
{
    n_top = QN_MIN(n_top, n);
    if (n_top <= 0) return 0;
    for (int i = 0; i < n_top; i++) tok[i] = i;
    for (int i = n_top / 2 - 1; i >= 0; i--) sift(x, tok, n_top, i);
    for (int i = n_top; (i = scan->above(x, i, n, x[tok[0]])) < n; i++) {
        tok[0] = i;
        sift(x, tok, n_top, 0);
    }
    sort_heap(x, tok, n_top);
    return n_top;
}

struct best {
    int32_t tok;
    float score;
};

static void offer(struct best *b, const float *x, int32_t tok, const struct qn_sample *p, int position)
{
    float score = x[tok] / p->temperature + qn_gumbel(p->seed, position, tok);
    if (b->tok < 0 || score > b->score || (score == b->score && tok < b->tok)) *b = (struct best){tok, score};
}

/* Every token competes, except those below `than` (min_p). The likeliest goes first: its score tells which
 * others can win at all. */
static int32_t draw_all(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p,
                        int position, float max, float than)
{
    struct best b = {-1, 0};
    offer(&b, x, scan->above(x, 0, n, nextafterf(max, -INFINITY)), p, position);
    for (int i = 0;; i++) {
        float need = (b.score - QN_GUMBEL_MAX) * p->temperature;
        /* one step below, so that rounding in the product excludes nobody */
        need -= fabsf(need) * 1e-6f;
        i = scan->above(x, i, n, fmaxf(need, than));
        if (i >= n) return b.tok;
        offer(&b, x, i, p, position);
    }
}

/* The most likely tokens that together reach top_p, best first: candidates above a falling bar until they
 * hold enough of the total. Returns their number; *out is the caller's to free. */
static int nucleus(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p, float max,
                   int32_t **out)
{
    float inv = 1.0f / p->temperature;
    double want = scan->sum_exp(x, n, max, inv) * (double)p->top_p;
    int32_t *tok = NULL;
    for (float depth = 4;; depth *= 2) {
        bool is_last = depth > 200;
        float bar = is_last ? -INFINITY : max - depth * p->temperature;
        int n_tok = 0, room = 256;
        double sum = 0;
        free(tok);
        tok = xmalloc((size_t)room * sizeof *tok);
        for (int i = 0; (i = scan->above(x, i, n, bar)) < n; i++) {
            if (n_tok == room) tok = xreallocarray(tok, (size_t)(room *= 2), sizeof *tok);
            tok[n_tok++] = i;
            sum += expf((x[i] - max) * inv);
        }
        if (sum < want && !is_last) continue;
        sort_heap(x, tok, n_tok);
        *out = tok;
        return n_tok;
    }
}

static int32_t draw_kept(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p,
                         int position, float max)
{
    float inv = 1.0f / p->temperature, than = -INFINITY;
    if (p->min_p > 0) than = nextafterf(max + p->temperature * qn_noise_log(fminf(fmaxf(p->min_p, 1e-30f), 1)), -INFINITY);
    bool has_k = p->top_k > 0 && p->top_k < n, has_p = p->top_p < 1;
    if (!has_k && !has_p) return draw_all(scan, x, n, p, position, max, than);

    int32_t *tok = NULL;
    int n_tok;
    double total = 0;
    if (has_k) {
        tok = xmalloc((size_t)p->top_k * sizeof *tok);
        n_tok = qn_draw_top(scan, x, n, p->top_k, tok);
        for (int i = 0; i < n_tok; i++) total += expf((x[tok[i]] - max) * inv);
    } else {
        n_tok = nucleus(scan, x, n, p, max, &tok);
        total = scan->sum_exp(x, n, max, inv);
    }
    struct best b = {-1, 0};
    double before = 0;
    for (int i = 0; i < n_tok; i++) {
        if (i && ((has_p && before >= total * (double)p->top_p) || x[tok[i]] <= than)) break;
        if (i && x[tok[i]] == -INFINITY) break;
        offer(&b, x, tok[i], p, position);
        before += expf((x[tok[i]] - max) * inv);
    }
    free(tok);
    return b.tok;
}

void qn_draw(const struct qn_scan *scan, const float *x, int n, const struct qn_sample *p, int position,
             struct qn_step_token *out)
{
    float max = scan->max(x, n);
    out->logprob = NAN;
    out->n_top = 0;
    out->tok = -1;
    if (!isfinite(max)) return;
    if (p->temperature > 0)
        out->tok = draw_kept(scan, x, n, p, position, max);
    else
        out->tok = scan->above(x, 0, n, nextafterf(max, -INFINITY));
    if (p->n_top < 0) return;
    float norm = max + (float)log(scan->sum_exp(x, n, max, 1));
    out->logprob = x[out->tok] - norm;
    out->n_top = qn_draw_top(scan, x, n, QN_MIN(p->n_top, QN_MAX_TOP), out->top_tok);
    for (int i = 0; i < out->n_top; i++) out->top_logprob[i] = x[out->top_tok[i]] - norm;
}

void qn_draw_score(const struct qn_scan *scan, const float *x, int n, int32_t tok, int n_top,
                   struct qn_step_token *out)
{
    *out = (struct qn_step_token){.tok = -1, .logprob = NAN};
    if (tok < 0) return;
    float most = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int i = 0; i < n; i++) sum += exp((double)(x[i] - most));
    double norm = most + log(sum);
    if (!isfinite(norm)) return;
    out->tok = tok;
    out->logprob = (float)(x[tok] - norm);
    out->n_top = qn_draw_top(scan, x, n, QN_MIN(n_top, QN_MAX_TOP), out->top_tok);
    for (int i = 0; i < out->n_top; i++) out->top_logprob[i] = (float)(x[out->top_tok[i]] - norm);
}

static void penalise(const struct qn_sample *p, int count, float *x)
{
    if (p->repetition != 1 && p->repetition > 0) *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
    if (count > 0) *x -= p->presence + p->frequency * (float)count;
}

void qn_draw_adjust(const struct qn_step *s, const struct qn_sample *p, const int32_t *extra, int n_extra,
                    const uint32_t *mask, float *x, int n)
{
    bool has_penalty = p->presence != 0 || p->frequency != 0 || (p->repetition != 1 && p->repetition > 0);
    if (has_penalty) {
        for (int i = p->first_seen; i < p->first_seen + p->n_seen; i++) {
            int count = s->seen_count[i];
            for (int j = 0; j < n_extra; j++) count += extra[j] == s->seen_tok[i];
            if (s->seen_tok[i] >= 0 && s->seen_tok[i] < n) penalise(p, count, &x[s->seen_tok[i]]);
        }
        for (int j = 0; j < n_extra; j++) { /* those the list does not have, each once */
            bool is_known = extra[j] < 0 || extra[j] >= n;
            int count = 0;
            for (int i = p->first_seen; i < p->first_seen + p->n_seen && !is_known; i++)
                is_known = s->seen_tok[i] == extra[j];
            for (int i = 0; i < n_extra; i++) {
                if (i < j && extra[i] == extra[j]) is_known = true;
                count += extra[i] == extra[j];
            }
            if (!is_known) penalise(p, count, &x[extra[j]]);
        }
    }
    for (int i = p->first_bias; i < p->first_bias + p->n_bias; i++)
        if (s->bias_tok[i] >= 0 && s->bias_tok[i] < n) x[s->bias_tok[i]] += s->bias[i];
    if (mask)
        for (int w = 0; w * 32 < n; w++) {
            uint32_t bits = mask[w];
            if (bits == UINT32_MAX) continue;
            for (int i = w * 32; i < QN_MIN(n, w * 32 + 32); i++, bits >>= 1)
                if (!(bits & 1)) x[i] = -INFINITY;
        }
}
