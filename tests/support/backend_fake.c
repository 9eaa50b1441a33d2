/* The scripted backend.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/backend_fake.h"

#include <math.h>
#include <unistd.h>

#include "backend/draw.h"
#include "backend/step_wire.h"
#include "base/hash.h"
#include "base/mem.h"

#define NO_CARRY 0xbadu /* the hidden row of a step that kept nothing of the MTP layer */

struct page {
    uint64_t kv[QN_PAGE], mtp[QN_PAGE], hidden[QN_PAGE];
    uint64_t what[QN_PAGE]; /* the token, or a hash of the embedding in its place */
    int32_t tok[QN_PAGE], rope[QN_PAGE];
    unsigned char is_rejected[QN_PAGE];
    uint64_t sum; /* of kv, when sum_is_right */
    bool sum_is_right;
    int rank;
};

struct slot {
    uint64_t state, carry;
    int64_t n_tok;
    int rank; /* in the host's copies */
};

struct lane {
    int n_row;
    uint64_t what[QN_MAX_DRAFT + 1];
    uint64_t hidden[QN_MAX_DRAFT + 1];
};

/* The sequence between two of its slices. */
struct slice {
    int to; /* parts it is through; 0: there is none */
    struct qn_step_seq seq;
    struct slot before; /* of it, when the first slice came */
};

struct run {
    struct qn_fake *fake;
    struct qn_device_options o;
    int rank, n_step;
    struct page *page;
    struct slot *slot;
    struct lane *lane;
    float *logit, *sorted; /* [V] */
    int32_t *history, n_history;
    struct slice slice;
};

void qn_fake_init(struct qn_fake *f, const struct qn_fake_options *o)
{
    memset(f, 0, sizeof *f);
    if (o) f->options = *o;
    if (!f->options.vocab) f->options.vocab = 256;
    if (!f->options.max_context) f->options.max_context = 4096;
    if (!f->options.accept_percent) f->options.accept_percent = 70;
    if (!f->options.stop_tok) f->options.stop_tok = f->options.vocab - 1;
    struct qn_config *c = &f->config;
    snprintf(c->architecture, sizeof c->architecture, "Scripted");
    c->vocab = f->options.vocab;
    c->max_context = f->options.max_context;
    c->hidden = 8;
    c->n_layer = 4;
    c->n_full = 1;
    c->n_gdn = 3;
    c->is_full[3] = 1;
    c->stop_tok[c->n_stop++] = f->options.stop_tok;
    c->pad_tok = -1;
    c->temperature = c->top_p = c->min_p = c->presence_penalty = c->repetition_penalty = NAN;
    c->gen_top_k = -1;
    c->n_mtp = !f->options.no_mtp;
}

void qn_fake_engine_options(struct qn_fake *f, struct qn_engine_options *out)
{
    *out = (struct qn_engine_options){
        .config = &f->config,
        .runner = &qn_runner_fake,
        .runner_user = f,
        .kv = -1,
        .max_context = f->config.max_context,
        .max_seqs = 8,
        .step_tokens = 256,
        .n_page = 8 * f->config.max_context / QN_PAGE,
        .n_slot = 24,
        .mtp = -1,
        .ram_tier_bytes = -1,
        .checks_pools = true,
    };
}

static void fake_sizes(void *user, const struct qn_forward_options *o, struct qn_device_sizes *out)
{
    (void)user;
    (void)o;
    *out = (struct qn_device_sizes){sizeof(struct page), sizeof(struct slot), sizeof(struct lane), 4096};
}

static int fake_open(void *user, void **out, const struct qn_model *model, const struct qn_forward_options *o,
                     struct qn_err *e)
{
    (void)model;
    struct run *r = xcalloc(1, sizeof *r);
    r->fake = user;
    r->o = o->device;
    r->rank = o->rank;
    if (r->fake->options.open_fails && r->rank >= r->fake->options.open_fails) {
        free(r);
        return qn_err_set(e, QN_DEVICE, __FILE__, __LINE__, "scripted: no such device");
    }
    r->page = xcalloc((size_t)r->o.n_page, sizeof *r->page);
    r->slot = xcalloc((size_t)r->o.n_slot, sizeof *r->slot);
    r->lane = xcalloc((size_t)r->o.n_lane, sizeof *r->lane);
    size_t vocab = (size_t)r->fake->options.vocab;
    r->logit = xcalloc(vocab, sizeof *r->logit);
    r->sorted = xcalloc(vocab, sizeof *r->sorted);
    if (r->fake->options.load_us) usleep((unsigned)r->fake->options.load_us);
    *out = r;
    return QN_OK;
}

static void fake_close(void *run)
{
    struct run *r = run;
    free(r->page);
    free(r->slot);
    free(r->lane);
    free(r->logit);
    free(r->sorted);
    free(r->history);
    free(r);
}

static void violated(struct run *r, const char *what, int64_t a, int64_t b)
{
    if (atomic_fetch_add(&r->fake->n_violation, 1) == 0 && r->fake->options.fault == QN_FAKE_OK)
        fprintf(stderr, "backend_fake: %s (%lld, %lld)\n", what, (long long)a, (long long)b);
}

/* --- the model --- */

static uint64_t fold(uint64_t state, uint64_t what)
{
    return qn_mix64(state ^ (what + 1) * 0x9e3779b97f4a7c15u);
}

/* Rope position as one number: that of text is its T. */
static int32_t rope_number(const int32_t *rope)
{
    return rope[0] + 131 * (rope[1] - rope[0]) + 65521 * (rope[2] - rope[0]);
}

static int32_t rope_of(const struct qn_step *s, int row)
{
    return s->rope_pos ? rope_number(s->rope_pos + 3 * (size_t)row) : s->pos[row];
}

static uint64_t entry(uint64_t state, int rope)
{
    return qn_mix64(state + (uint64_t)rope * 0xd1342543de82ef95u);
}

/* What enters the model at a row. */
static uint64_t what_of(struct run *r, const struct qn_step *s, int row)
{
    uint64_t sum = 0;
    if (!s->embed_row || s->embed_row[row] < 0) return (uint32_t)s->tok[row];
    if (s->embed_row[row] >= s->n_embed) violated(r, "an embedding", s->embed_row[row], s->n_embed);
    const float *p = s->embed + (size_t)s->embed_row[row] * (size_t)r->fake->config.hidden;
    for (int i = 0; i < r->fake->config.hidden; i++) {
        uint32_t bits;
        memcpy(&bits, &p[i], sizeof bits);
        sum = qn_mix64(sum ^ bits);
    }
    return sum | (uint64_t)1 << 63;
}

static struct page *page_of(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos)
{
    QN_CHECK(pos / QN_PAGE < q->n_page);
    int page = s->pages[q->first_page + pos / QN_PAGE];
    QN_CHECK(page >= 0 && page < r->o.n_page);
    return &r->page[page];
}

/* Sum of the entries of places 0..pos. */
static uint64_t attend(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos)
{
    uint64_t sum = 0;
    for (int i = 0; i < pos / QN_PAGE; i++) {
        struct page *p = page_of(r, s, q, i * QN_PAGE);
        if (!p->sum_is_right) {
            p->sum = 0;
            for (int k = 0; k < QN_PAGE; k++) p->sum += p->kv[k];
            p->sum_is_right = true;
        }
        sum += p->sum;
    }
    const struct page *p = page_of(r, s, q, pos);
    for (int k = 0; k <= pos % QN_PAGE; k++) sum += p->kv[k];
    return sum;
}

static uint64_t hidden_of(uint64_t state, uint64_t sum)
{
    return qn_mix64(state ^ qn_mix64(sum));
}

static float raw_logit(uint64_t hidden, int id)
{
    return qn_rng_unit(qn_mix64(hidden ^ (uint64_t)(id + 1) * 0xa0761d6478bd642fu)) * 8.0f;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The smallest logit that top_k, top_p and min_p keep. */
static float cut(struct run *r, const struct qn_sample *p, int n)
{
    if ((p->top_k <= 0 || p->top_k >= n) && p->top_p >= 1 && p->min_p <= 0) return -INFINITY;
    memcpy(r->sorted, r->logit, (size_t)n * sizeof *r->sorted);
    qsort(r->sorted, (size_t)n, sizeof *r->sorted, by_size);
    int keep = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double total = 0, sum = 0;
    for (int i = 0; i < keep; i++) total += exp((r->sorted[i] - r->sorted[0]) / p->temperature);
    int k = 0;
    while (k < keep) {
        double w = exp((r->sorted[k] - r->sorted[0]) / p->temperature);
        if (k && (sum >= p->top_p * total || w < p->min_p)) break;
        sum += w;
        k++;
    }
    return r->sorted[k - 1];
}

/* -1 as step.h has it. */
static int choose(struct run *r, const struct qn_sample *p, int pos)
{
    int n = r->fake->options.vocab, best = -1;
    float largest = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (isnan(r->logit[i])) return -1;
        largest = fmaxf(largest, r->logit[i]);
    }
    if (!isfinite(largest)) return -1;
    float least = p->temperature > 0 ? cut(r, p, n) : -INFINITY, most = -INFINITY;
    for (int i = 0; i < n; i++) {
        float x = r->logit[i];
        if (x < least || x == -INFINITY) continue;
        if (p->temperature > 0) {
            float u = qn_rng_unit(qn_rng64(p->seed, (uint64_t)pos, (uint64_t)i));
            x = x / p->temperature - logf(-logf(u));
        }
        if (x > most) {
            most = x;
            best = i;
        }
    }
    return best;
}

/* Tokens 0..pos of a sequence, from its pages. */
static const int32_t *history(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos)
{
    if (pos + 1 + QN_MAX_DRAFT > r->n_history) {
        r->n_history = 2 * (pos + 1 + QN_MAX_DRAFT);
        r->history = xreallocarray(r->history, (size_t)r->n_history, sizeof *r->history);
    }
    for (int i = 0; i <= pos; i += QN_PAGE)
        memcpy(r->history + i, page_of(r, s, q, i)->tok,
               (size_t)QN_MIN(QN_PAGE, pos + 1 - i) * sizeof(int32_t));
    return r->history;
}

static void fill(struct run *r, uint64_t hidden)
{
    for (int i = 0; i < r->fake->options.vocab; i++) r->logit[i] = raw_logit(hidden, i);
}

static void spoil(struct run *r)
{
    for (int i = 0; i < r->fake->options.vocab; i++) r->logit[i] = r->fake->options.bad_logit;
}

static bool is_allowed(const struct qn_step *s, int logit, int id)
{
    const uint32_t *mask = logit >= 0 ? qn_step_mask(s, logit) : NULL;
    return !mask || mask[id / 32] >> id % 32 & 1;
}

/* Penalties, bias, mask, in this order. Row r's later tokens are drafts of the same sequence. */
static void adjust(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int row, int logit)
{
    const struct qn_sample *p = &q->sample;
    for (int i = 0; i < p->n_seen; i++) {
        int32_t t = s->seen_tok[p->first_seen + i], n = s->seen_count[p->first_seen + i];
        for (int k = q->first_row + 1; k <= row && q->n_draft; k++)
            if (s->tok[k] == t) n++;
        float *x = &r->logit[t];
        if (p->repetition != 1) *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
        if (n) *x -= p->presence + p->frequency * (float)n;
    }
    for (int k = q->first_row + 1; k <= row && q->n_draft && p->n_seen; k++) { /* drafts not seen before */
        bool known = false;
        int n = 0;
        for (int i = 0; i < p->n_seen && !known; i++) known = s->seen_tok[p->first_seen + i] == s->tok[k];
        for (int i = q->first_row + 1; i < k && !known; i++) known = s->tok[i] == s->tok[k];
        if (known) continue;
        for (int i = k; i <= row; i++) n += s->tok[i] == s->tok[k];
        float *x = &r->logit[s->tok[k]];
        if (p->repetition != 1) *x = *x > 0 ? *x / p->repetition : *x * p->repetition;
        *x -= p->presence + p->frequency * (float)n;
    }
    for (int i = 0; i < p->n_bias; i++)
        r->logit[s->bias_tok[p->first_bias + i]] += s->bias[p->first_bias + i];
    for (int i = 0; i < r->fake->options.vocab; i++)
        if (!is_allowed(s, logit, i)) r->logit[i] = -INFINITY;
}

/* As the real thing: from the adjusted logits at temperature 1. */
static void report(struct run *r, const struct qn_sample *p, struct qn_step_token *out)
{
    out->logprob = NAN;
    out->n_top = 0;
    if (p->n_top < 0 || out->tok < 0) return;
    int n = r->fake->options.vocab;
    float most = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, r->logit[i]);
    for (int i = 0; i < n; i++) sum += exp(r->logit[i] - most);
    double norm = most + log(sum);
    out->logprob = (float)(r->logit[out->tok] - norm);
    for (int k = 0; k < p->n_top && k < n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++) {
            bool taken = false;
            for (int m = 0; m < k && !taken; m++) taken = out->top_tok[m] == i;
            if (!taken && (best < 0 || r->logit[i] > r->logit[best])) best = i;
        }
        out->top_tok[k] = best;
        out->top_logprob[k] = (float)(r->logit[best] - norm);
        out->n_top++;
    }
}

/* --- a step --- */

static void flush(struct run *r, int slot, int lane, int n_commit)
{
    struct slot *d = &r->slot[slot];
    const struct lane *l = &r->lane[lane];
    if (n_commit > l->n_row) violated(r, "more rows committed than are pending", n_commit, l->n_row);
    n_commit = QN_MIN(n_commit, l->n_row);
    int n = n_commit;
    if (r->fake->options.fault == QN_FAKE_COMMIT_REJECTED && n && n < l->n_row) n++;
    for (int i = 0; i < n; i++) d->state = fold(d->state, l->what[i]);
    if (n_commit) d->carry = l->hidden[n_commit - 1];
    d->n_tok += n_commit;
}

static void mtp_row(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos,
                    uint64_t what, uint64_t hidden)
{
    if (pos < 1) return;
    page_of(r, s, q, pos)->mtp[pos % QN_PAGE] = fold(hidden, what);
}

/* The entry of the last place before a draft must be of its token and hidden row. */
static void check_mtp(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos)
{
    for (int i = QN_MAX(QN_MAX(1, q->mtp_from), pos - 2 * QN_PAGE); i <= pos; i++) {
        const struct page *p = page_of(r, s, q, i), *before = page_of(r, s, q, i - 1);
        if (p->mtp[i % QN_PAGE] != fold(before->hidden[(i - 1) % QN_PAGE], p->what[i % QN_PAGE])) {
            atomic_fetch_add(&r->fake->n_mtp_hole, 1);
            return;
        }
    }
}

/* Drafts after `tok` at place pos, whose state before is `state` and sum before is `sum`. */
static int draft(struct run *r, const struct qn_step *s, const struct qn_step_seq *q, int pos, int32_t tok,
                 uint64_t state, uint64_t sum, int32_t *out)
{
    int n = 0;
    const struct qn_fake_options *o = &r->fake->options;
    int rope = page_of(r, s, q, pos - 1)->rope[(pos - 1) % QN_PAGE];
    if (o->script) history(r, s, q, pos - 1);
    for (; n < q->n_draft_next; n++, pos++) {
        state = fold(state, (uint32_t)tok);
        sum += entry(state, ++rope);
        uint64_t hidden = hidden_of(state, sum);
        int32_t pick = -1;
        if (o->script) {
            r->history[pos] = tok;
            pick = o->script(o->script_user, r->history, pos + 1);
        }
        if (tok == o->bad_draft_tok && tok) return n;
        if (pick < 0) {
            fill(r, hidden);
            pick = choose(r, &q->sample, pos);
        }
        if ((int)(qn_mix64(hidden ^ 77) % 100) >= o->accept_percent) pick = (pick + 1) % o->vocab;
        out[n] = tok = pick;
    }
    return n;
}

/* The step goes on from the rope position that was last. */
static void check_rope(struct run *r, const struct qn_step *s, const struct qn_step_seq *q)
{
    if (!q->pos0 || r->fake->options.fault != QN_FAKE_OK) return;
    int at = q->pos0 - 1, was = page_of(r, s, q, at)->rope[at % QN_PAGE];
    int is = s->rope_pos ? rope_number(q->rope_before) : at;
    if (is != was) violated(r, "rope position before the rows", is, was);
}

static void run_seq(struct run *r, const struct qn_step *s, int at, struct qn_step_result *result)
{
    const struct qn_step_seq *q = &s->seq[at];
    const struct qn_fake_options *o = &r->fake->options;
    bool is_decode = at < s->n_decode;
    int slot = o->fault == QN_FAKE_ROW_AS_SEQ ? q->first_row % r->o.n_slot : q->slot;
    QN_CHECK(slot >= 0 && slot < r->o.n_slot && q->lane >= 0 && q->lane < r->o.n_lane);
    struct slot *d = &r->slot[slot];
    struct lane *l = &r->lane[q->lane];
    if (q->is_fresh) {
        if (o->fault == QN_FAKE_STALE_SLOT)
            d->n_tok = 0;
        else
            *d = (struct slot){0};
        if (q->pos0) violated(r, "a fresh slot in the middle", q->pos0, 0);
    }
    if (q->n_commit) flush(r, slot, q->lane, q->n_commit);
    if (d->n_tok != q->pos0 && o->fault == QN_FAKE_OK)
        violated(r, "state and position differ", d->n_tok, q->pos0);
    if ((q->pos0 + q->n_row + q->n_draft_next + QN_PAGE) / QN_PAGE > q->n_page)
        violated(r, "too few pages", q->n_page, q->pos0 + q->n_row);
    check_rope(r, s, q);
    l->n_row = 0;
    uint64_t state = d->state, hidden = d->carry, sum = 0;
    uint64_t states[QN_MAX_DRAFT + 1], sums[QN_MAX_DRAFT + 1];
    int n_accepted = 0, first_logit = q->first_logit;
    bool is_open = true; /* all drafts so far were accepted */
    struct qn_step_token last = {0};
    for (int j = 0; j < q->n_row; j++) {
        int row = q->first_row + j, pos = q->pos0 + j;
        int32_t tok = s->tok[row];
        if (s->row_seq[row] != at || s->pos[row] != pos) violated(r, "row arrays", s->row_seq[row], at);
        if (tok < 0 || tok >= o->vocab) violated(r, "token", tok, row);
        uint64_t what = what_of(r, s, row);
        int32_t rope = rope_of(s, row);
        state = fold(state, what);
        struct page *p = page_of(r, s, q, pos);
        if (!(o->fault == QN_FAKE_STALE_KV && p->is_rejected[pos % QN_PAGE]))
            p->kv[pos % QN_PAGE] = entry(state, rope);
        p->is_rejected[pos % QN_PAGE] = 0;
        p->sum_is_right = false;
        p->tok[pos % QN_PAGE] = tok;
        p->what[pos % QN_PAGE] = what;
        p->rope[pos % QN_PAGE] = rope;
        if (!is_decode && q->wants_mtp && (j || q->mtp_from <= pos)) mtp_row(r, s, q, pos, what, hidden);
        sum = j && pos % QN_PAGE ? sum + p->kv[pos % QN_PAGE] : attend(r, s, q, pos);
        hidden = hidden_of(state, sum);
        p->hidden[pos % QN_PAGE] = hidden;
        if (is_decode) {
            l->what[j] = what;
            l->hidden[j] = q->wants_mtp ? hidden : NO_CARRY;
            states[j] = state;
            sums[j] = sum;
            l->n_row = j + 1;
        } else {
            d->state = state;
            d->carry = q->wants_mtp ? hidden : NO_CARRY;
            d->n_tok++;
        }
        int logit = is_decode ? first_logit + j : -1;
        if (!is_decode && q->wants_token && j == q->n_row - 1) logit = first_logit;
        if (s->all_logits) {
            fill(r, hidden);
            if (tok == o->bad_tok && tok) spoil(r);
            if (s->wants_raw)
                memcpy(result->logits + (size_t)row * (size_t)o->vocab, r->logit,
                       (size_t)o->vocab * sizeof(float));
            if (s->score_tok)
                qn_draw_score(&qn_scan_plain, r->logit, o->vocab, s->score_tok[row], s->n_score_top,
                              &result->score[row]);
        }
        if (logit < 0 || !q->wants_token) continue;
        if (s->logit_row[logit] != row || s->logit_seq[logit] != at) violated(r, "logit arrays", logit, row);
        bool is_bad = tok == o->bad_tok && tok;
        fill(r, hidden);
        if (is_bad) spoil(r);
        adjust(r, s, q, row, logit);
        struct qn_step_token *out = &result->token[logit];
        int32_t scripted = -1;
        if (o->script && is_open && !is_bad)
            scripted = o->script(o->script_user, history(r, s, q, pos), pos + 1);
        out->tok = scripted >= 0 && is_allowed(s, logit, scripted) ? scripted : choose(r, &q->sample, pos);
        report(r, &q->sample, out);
        if (!is_open) continue;
        last = *out;
        if (is_decode && j < q->n_draft && s->tok[row + 1] == out->tok)
            n_accepted++;
        else
            is_open = false;
    }
    result->n_accepted[at] = n_accepted;
    result->n_drafted[at] = 0;
    if (is_decode)
        for (int j = n_accepted + 1; j < q->n_row; j++)
            page_of(r, s, q, q->pos0 + j)->is_rejected[(q->pos0 + j) % QN_PAGE] = 1;
    if (!q->wants_token || !q->wants_mtp) return;
    int end = is_decode ? q->pos0 + n_accepted + 1 : q->pos0 + q->n_row; /* place of the token just picked */
    if (is_decode) {
        for (int j = 0; j < n_accepted; j++) mtp_row(r, s, q, q->pos0 + j + 1, l->what[j + 1], l->hidden[j]);
        hidden = l->hidden[n_accepted];
        state = states[n_accepted];
        sum = sums[n_accepted];
    }
    if (last.tok < 0) return;
    mtp_row(r, s, q, end, (uint32_t)last.tok, hidden);
    if (!q->n_draft_next) return;
    check_mtp(r, s, q, end - 1);
    result->n_drafted[at] =
        draft(r, s, q, end, last.tok, state, sum, result->draft + (size_t)at * QN_MAX_DRAFT);
}

/* The last sequence of a step with a slice. Its slot is of no use until the last part, which does it all. */
static void run_slice(struct run *r, const struct qn_step *s, struct qn_step_result *result)
{
    struct slice *l = &r->slice;
    const struct qn_step_seq *q = &s->seq[s->n_seq - 1];
    struct slot *d = &r->slot[q->slot];
    int n_part = r->fake->config.n_layer + 1;
    if (s->n_seq == s->n_decode || s->slice_to <= s->slice_from || s->slice_to > n_part)
        violated(r, "a slice", s->slice_from, s->slice_to);
    if (!s->slice_from) {
        *l = (struct slice){.seq = *q, .before = *d};
    } else if (l->to != s->slice_from || l->seq.slot != q->slot || l->seq.lane != q->lane ||
               l->seq.pos0 != q->pos0 || l->seq.n_row != q->n_row || l->seq.n_commit != q->n_commit ||
               l->seq.is_fresh != q->is_fresh || l->seq.wants_mtp != q->wants_mtp) {
        violated(r, "a slice of something else", s->slice_from, q->pos0);
        return;
    }
    l->to = s->slice_to;
    if (l->to < n_part) {
        if (q->wants_token) violated(r, "a token of a slice that is not the last", l->to, q->pos0);
        *d = (struct slot){.state = ~d->state, .carry = NO_CARRY, .n_tok = q->is_fresh ? 0 : q->pos0};
        result->n_accepted[s->n_seq - 1] = result->n_drafted[s->n_seq - 1] = 0;
        return;
    }
    *d = l->before;
    l->to = 0;
    run_seq(r, s, s->n_seq - 1, result);
}

static void run_step(struct run *r, const struct qn_step *s, struct qn_step_result *result)
{
    const struct qn_fake_options *o = &r->fake->options;
    int n = ++r->n_step;
    if (!r->rank) atomic_fetch_add(&r->fake->n_step, 1);
    if (!r->rank) atomic_fetch_add(&r->fake->n_row, s->n_row);
    result->fault = QN_OK;
    if (n == o->fail_at_step && r->rank == o->fail_rank && !o->astray_rank) {
        result->fault = QN_DEVICE;
        snprintf(result->fault_text, sizeof result->fault_text, "scripted fault at step %d", n);
        return;
    }
    while (n == o->hang_at_step && !atomic_load(&r->fake->is_released)) usleep(1000);
    if (s->n_row > r->o.max_rows) violated(r, "too many rows", s->n_row, r->o.max_rows);
    if (s->n_logit > r->o.max_logits) violated(r, "too many logits", s->n_logit, r->o.max_logits);
    if (s->n_seq > r->o.max_seqs) violated(r, "too many sequences", s->n_seq, r->o.max_seqs);
    for (int i = 0; i < s->n_seq; i++) {
        for (int k = 0; k < i; k++)
            if (s->seq[k].slot == s->seq[i].slot || s->seq[k].lane == s->seq[i].lane)
                violated(r, "two sequences share a slot or a lane", s->seq[i].slot, s->seq[i].lane);
        if (s->slice_to && i == s->n_seq - 1)
            run_slice(r, s, result);
        else
            run_seq(r, s, i, result);
    }
    if (o->astray_rank && r->rank == o->astray_rank && n >= o->fail_at_step && s->n_logit)
        result->token[0].tok ^= 1;
    if (!o->step_us && !o->row_us) return;
    int n_part = r->fake->config.n_layer + 1, n_sliced = s->slice_to ? s->seq[s->n_seq - 1].n_row : 0;
    int row_parts = s->n_row * n_part - n_sliced * (n_part - (s->slice_to - s->slice_from));
    usleep((unsigned)(o->step_us + o->row_us * row_parts / n_part));
}

/* As to a rank of another process and back. */
static void run_over_wire(struct run *r, const struct qn_step *s, struct qn_step_result *result)
{
    int hidden = r->fake->config.hidden, vocab = r->fake->config.vocab;
    struct qn_step_limits limits = {.max_rows = r->o.max_rows,
                                    .max_logits = r->o.max_logits,
                                    .max_seqs = r->o.max_seqs,
                                    .max_context = r->o.max_context,
                                    .n_page = r->o.n_page,
                                    .n_slot = r->o.n_slot,
                                    .n_lane = r->o.n_lane,
                                    .n_part = r->fake->config.n_layer + 1,
                                    .vocab = vocab,
                                    .hidden = hidden};
    struct qn_step_in in = {0};
    struct qn_err e = {0};
    size_t n = qn_step_bytes(s, hidden);
    void *bytes = xmalloc(n);
    qn_step_put(s, hidden, bytes);
    if (qn_step_get(&in, bytes, n, &limits, &e)) {
        fprintf(stderr, "backend_fake: %s\n", e.text);
        violated(r, "a step cannot be read", (int64_t)n, 0);
    } else {
        run_step(r, &in.step, result);
        size_t n_result = qn_result_bytes(&in.step, result, vocab);
        void *back = xmalloc(n_result);
        qn_result_put(&in.step, result, vocab, back);
        if (qn_result_get(s, result, vocab, back, n_result, &e)) violated(r, "a result cannot be read", 0, 0);
        free(back);
    }
    free(bytes);
    qn_step_in_fini(&in);
}

static void fake_run(void *run, const struct qn_step *s, struct qn_step_result *result)
{
    struct run *r = run;
    if (r->fake->options.over_wire)
        run_over_wire(r, s, result);
    else
        run_step(r, s, result);
}

static int fake_mtp_logits(void *run, const struct qn_step *s, float *logits, struct qn_err *e)
{
    (void)e;
    struct run *r = run;
    int vocab = r->fake->options.vocab, out = 0;
    int32_t none[QN_MAX_DRAFT], accepted = 0, drafted = 0;
    struct qn_step_token token;
    struct qn_step_result result = {
        .token = &token, .n_accepted = &accepted, .draft = none, .n_drafted = &drafted};
    run_seq(r, s, 0, &result);
    for (int j = 0; j < s->n_row; j++) {
        int pos = s->seq[0].pos0 + j;
        if (!pos) continue;
        uint64_t hidden = page_of(r, s, &s->seq[0], pos)->mtp[pos % QN_PAGE];
        for (int i = 0; i < vocab; i++)
            logits[(size_t)out * (size_t)vocab + (size_t)i] = raw_logit(hidden, i);
        out++;
    }
    return QN_OK;
}

static void fake_chore(void *run, const struct qn_chore *c)
{
    struct run *r = run;
    enum qn_fake_fault fault = r->fake->options.fault;
    switch (c->kind) {
    case QN_CHORE_KV_COPY:
        if (fault == QN_FAKE_TAIL_NOT_COPIED) break;
        for (int i = 0; i < c->n; i++) {
            struct page *to = &r->page[c->to];
            const struct page *from = &r->page[c->from];
            to->kv[i] = from->kv[i];
            to->mtp[i] = from->mtp[i];
            to->hidden[i] = from->hidden[i];
            to->tok[i] = from->tok[i];
            to->what[i] = from->what[i];
            to->rope[i] = from->rope[i];
            to->is_rejected[i] = 0;
        }
        r->page[c->to].sum_is_right = false;
        break;
    case QN_CHORE_KV_READ:
        r->page[c->from].rank = r->rank;
        memcpy(c->host, &r->page[c->from], sizeof *r->page);
        break;
    case QN_CHORE_KV_WRITE:
        memcpy(&r->page[c->to], c->host, sizeof *r->page);
        if (r->page[c->to].rank != r->rank)
            violated(r, "a page of another rank", r->page[c->to].rank, r->rank);
        break;
    case QN_CHORE_STATE_COPY:
        r->slot[c->to] = r->slot[c->from];
        break;
    case QN_CHORE_STATE_FLUSH:
        if (fault == QN_FAKE_SNAPSHOT_EARLY) {
            r->slot[c->to].n_tok += c->n;
            break;
        }
        flush(r, c->to, c->from, c->n);
        break;
    case QN_CHORE_STATE_READ:
        r->slot[c->from].rank = r->rank;
        memcpy(c->host, &r->slot[c->from], sizeof *r->slot);
        break;
    case QN_CHORE_STATE_WRITE:
        memcpy(&r->slot[c->to], c->host, sizeof *r->slot);
        if (r->slot[c->to].rank != r->rank)
            violated(r, "state of another rank", r->slot[c->to].rank, r->rank);
        break;
    }
}

static int fake_sync(void *run, struct qn_err *e)
{
    (void)run;
    (void)e;
    return QN_OK;
}

static bool fake_has_mtp(void *run)
{
    return !((struct run *)run)->fake->options.no_mtp;
}

static void fake_describe(void *run, struct qn_device_info *out)
{
    (void)run;
    *out = (struct qn_device_info){.isa = "scripted", .n_thread = 1};
}

const struct qn_runner qn_runner_fake = {
    .name = "fake",
    .sizes = fake_sizes,
    .open = fake_open,
    .close = fake_close,
    .run = fake_run,
    .mtp_logits = fake_mtp_logits,
    .chore = fake_chore,
    .sync = fake_sync,
    .has_mtp = fake_has_mtp,
    .describe = fake_describe,
};
