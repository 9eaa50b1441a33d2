/* Choosing tokens: what backend/draw.h says, a block a row of logits.
 *
 * Sums of probabilities are whole numbers (2^40 for the likeliest), so they do not depend on the order. The
 * k largest, and the shortest list that reaches top_p, are found digit by digit of an ordered key, in four
 * passes over the row; ties go to the lowest id. Of the rest only tokens that can still win draw noise.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/cuda/cuda.h"
#include "backend/cuda/math.h"

extern "C" {
#include "base/rng.h"
}

#define GUMBEL_MAX 17.0f /* draw.h */

struct Limit { /* tokens above the key, and those at it up to id */
    uint32_t key;
    int id;
};
struct PickShared {
    unsigned count[256];
    uint64_t mass[256];
    uint64_t sum[32];
    float score[32];
    int id[32];
    Limit limit;
    uint32_t prefix;
    unsigned need;
    double above, want;
    int known[1 + 2 * QN_MAX_DRAFT];
    int top[QN_MAX_TOP];
    unsigned n_top;
    int bad;
};

/* Grows with x; not for NaN. */
DEV uint32_t key_of(float x)
{
    uint32_t u = float_bits(x);
    if (u == 0x80000000) u = 0; /* equal zeros */
    return u >> 31 ? ~u : u | 0x80000000;
}
DEV bool is_within(Limit l, uint32_t key, int id)
{
    return key > l.key || (key == l.key && id <= l.id);
}
DEV uint64_t mass_of(float x, float most, float inv)
{
    return (uint64_t)(dev_exp((x - most) * inv) * 1099511627776.0f);
}
DEV float next_below(float x) /* not of -inf */
{
    uint32_t u = float_bits(x);
    if (!(u << 1)) return bits_float(0x80000001);
    return bits_float(u >> 31 ? u + 1 : u - 1);
}
DEV uint64_t block_sum64(uint64_t v, PickShared *sm)
{
    for (int m = 16; m; m >>= 1) {
        uint64_t other = shfl_xor_u((uint32_t)v, m);
        other |= (uint64_t)shfl_xor_u((uint32_t)(v >> 32), m) << 32;
        v += other;
    }
    if (!LANE) sm->sum[WARP] = v;
    __syncthreads();
    uint64_t all = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) all += sm->sum[w];
    __syncthreads();
    return all;
}
/* The largest score, lowest id first; every thread gets the id. id -1: none of the thread's. */
DEV int block_best(float score, int id, PickShared *sm, float *out)
{
    for (int m = 16; m; m >>= 1) {
        float s = shfl_xor(score, m);
        int i = (int)shfl_xor_u((uint32_t)id, m);
        if (i >= 0 && (id < 0 || s > score || (s == score && i < id))) score = s, id = i;
    }
    if (!LANE) sm->score[WARP] = score, sm->id[WARP] = id;
    __syncthreads();
    int best = -1;
    float most = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) {
        float s = sm->score[w];
        int i = sm->id[w];
        if (i >= 0 && (best < 0 || s > most || (s == most && i < best))) most = s, best = i;
    }
    __syncthreads();
    *out = most;
    return best;
}

/* The id of tie number `need` (from 1) at a key, in order of ids: each thread counts a run of ids. */
DEV int nth_tie(const float *x, int n, uint32_t key, unsigned need, PickShared *sm)
{
    int each = (n + (int)blockDim.x - 1) / (int)blockDim.x, from = each * (int)threadIdx.x;
    int to = from + each < n ? from + each : n;
    unsigned own = 0;
    for (int i = from; i < to; i++) own += key_of(x[i]) == key;
    for (int turn = 0; turn < (int)blockDim.x; turn += 256) { /* 256 counts at a time */
        int at = (int)threadIdx.x - turn;
        if (at >= 0 && at < 256) sm->count[at] = own;
        __syncthreads();
        unsigned here = 0, mine = 0;
        for (int i = 0; i < 256 && turn + i < (int)blockDim.x; i++) {
            if (i < at) mine += sm->count[i];
            here += sm->count[i];
        }
        if (at >= 0 && at < 256 && mine < need && need <= mine + own) {
            unsigned left = need - mine;
            for (int i = from; i < to; i++)
                if (key_of(x[i]) == key && !--left) {
                    sm->limit.id = i;
                    break;
                }
        }
        __syncthreads();
        if (need <= here) break;
        need -= here;
    }
    return sm->limit.id;
}

/* The k largest, 1 <= k < n. */
DEV Limit largest(const float *x, int n, unsigned k, PickShared *sm)
{
    uint32_t prefix = 0, mask = 0;
    unsigned need = k, ties = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) sm->count[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t key = key_of(x[i]);
            if ((key & mask) == prefix) atomic_add(&sm->count[key >> shift & 255], 1);
        }
        __syncthreads();
        int b = 255;
        for (unsigned sum = sm->count[b]; sum < need; sum = sm->count[b]) need -= sum, b--;
        ties = sm->count[b];
        prefix |= (uint32_t)b << shift;
        mask |= 255u << shift;
        __syncthreads();
    }
    Limit l = {prefix, n - 1};
    if (need < ties) l.id = nth_tie(x, n, prefix, need, sm);
    __syncthreads();
    return l;
}

/* Of those within l the shortest list, best first, whose mass reaches top_p of theirs. */
DEV Limit nucleus(const float *x, int n, Limit l, float top_p, float most, float inv, PickShared *sm)
{
    uint32_t prefix = 0, mask = 0;
    uint64_t total = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (is_within(l, key_of(x[i]), i)) total += mass_of(x[i], most, inv);
    total = block_sum64(total, sm);
    double want = (double)total * (double)top_p, above = 0;
    unsigned ties = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) sm->count[i] = 0, sm->mass[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t key = key_of(x[i]);
            if ((key & mask) != prefix || !is_within(l, key, i)) continue;
            atomic_add(&sm->count[key >> shift & 255], 1);
            atomic_add64(&sm->mass[key >> shift & 255], mass_of(x[i], most, inv));
        }
        __syncthreads();
        int b = 255, last = -1; /* last: the lowest bucket met that holds something */
        for (; b >= 0; b--) {
            if (!sm->count[b]) continue;
            last = b;
            if (above + (double)sm->mass[b] >= want) break;
            above += (double)sm->mass[b];
        }
        if (b < 0) b = last, above -= (double)sm->mass[b];
        ties = sm->count[b];
        prefix |= (uint32_t)b << shift;
        mask |= 255u << shift;
        __syncthreads();
    }
    double each = (double)mass_of(bits_float(prefix >> 31 ? prefix & 0x7fffffff : ~prefix), most, inv);
    unsigned need = 1;
    if (each > 0 && want > above + each) need = (unsigned)ceil((want - above) / each);
    if (need >= ties) need = ties;
    Limit out = {prefix, n - 1};
    if (prefix == l.key) out.id = l.id;
    if (need < ties) out.id = nth_tie(x, n, prefix, need, sm);
    __syncthreads();
    return out;
}

DEV float log_sum(const float *x, int n, float most, PickShared *sm)
{
    uint64_t sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += mass_of(x[i], most, 1);
    sum = block_sum64(sum, sm);
    return most + qn_noise_log((float)((double)sum * 9.094947017729282e-13));
}

/* The n_top largest into out, largest first. */
DEV void top_list(const float *x, int n, int n_top, float norm, qn_step_token *out, PickShared *sm)
{
    n_top = n_top < n ? n_top : n;
    if (!threadIdx.x) out->n_top = n_top, sm->n_top = 0;
    if (n_top <= 0) return;
    Limit l = {0, n - 1};
    if (n_top < n) l = largest(x, n, (unsigned)n_top, sm);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (is_within(l, key_of(x[i]), i)) sm->top[atomic_add(&sm->n_top, 1)] = i;
    __syncthreads();
    if ((int)threadIdx.x < n_top) {
        int id = sm->top[threadIdx.x], rank = 0;
        uint32_t key = key_of(x[id]);
        for (int i = 0; i < n_top; i++) {
            uint32_t other = key_of(x[sm->top[i]]);
            rank += other > key || (other == key && sm->top[i] < id);
        }
        out->top_tok[rank] = id;
        out->top_logprob[rank] = x[id] - norm;
    }
    __syncthreads();
}

/* The largest value and its lowest id; -1 when the row has a NaN or its largest is not finite. */
DEV int most_likely(const float *x, int n, float *most, PickShared *sm)
{
    float best = 0;
    int id = -1, bad = 0;
    if (!threadIdx.x) sm->bad = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        bad |= x[i] != x[i];
        if (id < 0 || x[i] > best) best = x[i], id = i;
    }
    if (vote(bad) && !LANE) atomic_add((unsigned *)&sm->bad, 1);
    __syncthreads();
    bad = sm->bad;
    id = block_best(best, id, sm, most);
    return bad || id < 0 || !is_finite(*most) ? -1 : id;
}

DEV float score_of(float x, const struct qn_sample &p, int position, int tok)
{
    return x / p.temperature +
           qn_noise_gumbel(qn_rng_unit(qn_rng64(p.seed, (uint64_t)position, (uint64_t)tok)));
}

DEV int draw(const float *x, int n, const struct qn_sample &p, int position, float most, int likeliest,
             PickShared *sm)
{
    if (!(p.temperature > 0)) return likeliest;
    float inv = 1.0f / p.temperature, than = -INFINITY;
    Limit l = {0, n - 1};
    if (p.min_p > 0) than = next_below(most + p.temperature * qn_noise_log(fminf(fmaxf(p.min_p, 1e-30f), 1)));
    if (p.top_k > 0 && p.top_k < n) l = largest(x, n, (unsigned)p.top_k, sm);
    if (p.top_p < 1) l = nucleus(x, n, l, p.top_p, most, inv, sm);
    float first = score_of(most, p, position, likeliest);
    float need = (first - GUMBEL_MAX) * p.temperature;
    need -= fabsf(need) * 1e-6f; /* rounding excludes nobody */
    than = fmaxf(than, need);
    float best = first;
    int id = likeliest;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        if (!(x[i] > than) || i == likeliest || !is_within(l, key_of(x[i]), i)) continue;
        float s = score_of(x[i], p, position, i);
        if (s > best || (s == best && i < id)) best = s, id = i;
    }
    return block_best(best, id, sm, &best);
}

/* --- penalties, biases, masks --- */
DEV void penalise(const struct qn_sample &p, int count, float *x)
{
    if (p.repetition != 1 && p.repetition > 0) *x = *x > 0 ? *x / p.repetition : *x * p.repetition;
    if (count > 0) *x -= p.presence + p.frequency * (float)count;
}

/* extra [n_extra]: tokens of the row's own history that the step's list may not have. */
DEV void adjust_row(const View &v, const struct qn_sample &p, const int32_t *extra, int n_extra,
                    const uint32_t *mask, float *x, int n, PickShared *sm)
{
    bool has_penalty = p.presence != 0 || p.frequency != 0 || (p.repetition != 1 && p.repetition > 0);
    if (has_penalty) {
        if ((int)threadIdx.x < n_extra) sm->known[threadIdx.x] = 0;
        __syncthreads();
        for (int i = p.first_seen + (int)threadIdx.x; i < p.first_seen + p.n_seen; i += blockDim.x) {
            int tok = v.seen_tok[i], count = v.seen_count[i];
            for (int j = 0; j < n_extra; j++)
                if (extra[j] == tok) count++, sm->known[j] = 1; /* the list has a token once */
            if (tok >= 0 && tok < n) penalise(p, count, &x[tok]);
        }
        __syncthreads();
        if ((int)threadIdx.x < n_extra) {
            int j = threadIdx.x, tok = extra[j], count = 0;
            bool is_known = tok < 0 || tok >= n || sm->known[j];
            for (int i = 0; i < n_extra; i++) {
                if (i < j && extra[i] == tok) is_known = true;
                count += extra[i] == tok;
            }
            if (!is_known) penalise(p, count, &x[tok]);
        }
        __syncthreads();
    }
    if (!threadIdx.x) /* in order: a token may be there twice */
        for (int i = p.first_bias; i < p.first_bias + p.n_bias; i++)
            if (v.bias_tok[i] >= 0 && v.bias_tok[i] < n) x[v.bias_tok[i]] += v.bias[i];
    __syncthreads();
    if (mask)
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            if (!(mask[i >> 5] >> (i & 31) & 1)) x[i] = -INFINITY;
}

struct PickArgs {
    const View *v;
    Results r;
    float *logits;
    int vocab, n_tok;
};
DEV bool is_sampled(const View &v, int i)
{
    const qn_step_seq &q = v.seq[v.logit_seq[i]];
    return q.wants_token && i >= q.first_logit;
}

__global__ void adjust_kernel(PickArgs a)
{
    SHARED(PickShared, sm);
    const View &v = *a.v;
    int i = (int)blockIdx.x, seq = v.logit_seq[i];
    if (seq < 0 || !is_sampled(v, i)) return;
    const qn_step_seq &q = v.seq[seq];
    int n_extra = seq < v.n_decode ? v.logit_row[i] - q.first_row : 0;
    const uint32_t *mask =
        v.mask_at && v.mask_at[i] >= 0 ? v.mask + (size_t)v.mask_at[i] * v.mask_words : NULL;
    adjust_row(v, q.sample, v.tok + q.first_row + 1, n_extra, mask, a.logits + (size_t)i * a.vocab, a.n_tok,
               sm);
}

__global__ void sample_kernel(PickArgs a)
{
    SHARED(PickShared, sm);
    const View &v = *a.v;
    int i = (int)blockIdx.x, seq = v.logit_seq[i];
    if (seq < 0 || !is_sampled(v, i)) return;
    const struct qn_sample &p = v.seq[seq].sample;
    const float *x = a.logits + (size_t)i * a.vocab;
    qn_step_token *out = a.r.token + i;
    float most;
    int tok = most_likely(x, a.n_tok, &most, sm);
    if (tok >= 0) tok = draw(x, a.n_tok, p, v.pos[v.logit_row[i]] + 1, most, tok, sm);
    if (!threadIdx.x) out->tok = tok, out->logprob = bits_float(0x7fc00000), out->n_top = 0;
    if (tok < 0 || p.n_top < 0) return;
    float norm = log_sum(x, a.n_tok, most, sm);
    if (!threadIdx.x) out->logprob = x[tok] - norm;
    top_list(x, a.n_tok, p.n_top < QN_MAX_TOP ? p.n_top : QN_MAX_TOP, norm, out, sm);
}

__global__ void score_kernel(PickArgs a)
{
    SHARED(PickShared, sm);
    const View &v = *a.v;
    int i = (int)blockIdx.x, tok = v.score_tok[i];
    const float *x = a.logits + (size_t)i * a.vocab;
    qn_step_token *out = a.r.score + i;
    float most = 0;
    bool is_good = tok >= 0 && most_likely(x, a.vocab, &most, sm) >= 0;
    if (!threadIdx.x) out->tok = is_good ? tok : -1, out->logprob = bits_float(0x7fc00000), out->n_top = 0;
    if (!is_good) return;
    float norm = log_sum(x, a.vocab, most, sm);
    if (!threadIdx.x) out->logprob = x[tok] - norm;
    top_list(x, a.vocab, v.n_score_top < QN_MAX_TOP ? v.n_score_top : QN_MAX_TOP, norm, out, sm);
}

/* Drafts of a pass: adjusted and picked like any token, without mask. */
__global__ void draft_kernel(PickArgs a, const View *step)
{
    SHARED(PickShared, sm);
    const View &v = *a.v;
    int32_t *history = (int32_t *)(sm + 1); /* [1 + 2 QN_MAX_DRAFT] */
    int i = (int)blockIdx.x, seq = v.logit_seq[i], from = v.from[seq], row = v.logit_row[i];
    if (!v.lives[seq]) return;
    const qn_step_seq &q = v.seq[seq];
    int n_picked = a.r.n_accepted[from] + 1, n = n_picked + v.depth;
    if ((int)threadIdx.x < n)
        history[threadIdx.x] = (int)threadIdx.x < n_picked
                                   ? a.r.token[step->seq[from].first_logit + (int)threadIdx.x].tok
                                   : a.r.draft[from * QN_MAX_DRAFT + (int)threadIdx.x - n_picked];
    __syncthreads();
    float *x = a.logits + (size_t)i * a.vocab, most;
    adjust_row(v, q.sample, history, n, NULL, x, a.n_tok, sm);
    int tok = most_likely(x, a.n_tok, &most, sm);
    if (tok >= 0) tok = draw(x, a.n_tok, q.sample, v.pos[row] + 1, most, tok, sm);
    if (threadIdx.x) return;
    if (tok >= 0)
        a.r.draft[from * QN_MAX_DRAFT + v.depth] = tok, a.r.n_drafted[from] = v.depth + 1;
    else
        v.lives[seq] = 0;
}

__global__ void verify_kernel(const View *view, int n_seq, Results r)
{
    const View &v = *view;
    for (int i = threadIdx.x; i < n_seq; i += blockDim.x) {
        const qn_step_seq &q = v.seq[i];
        int n = 0;
        if (i < v.n_decode && q.wants_token)
            while (n < q.n_draft && r.token[q.first_logit + n].tok == v.tok[q.first_row + n + 1]) n++;
        r.n_accepted[i] = n;
    }
}

/* ------------------------------------------------ host
 * ------------------------------------------------------ */
static PickArgs pick_args(struct qn_device *d, const struct qn_step *s, float *logits)
{
    return {cu_view(d, s), d->r, logits, d->s.vocab, d->s.n_tok};
}
static dim3 pick_threads(const struct qn_device *d) /* sums are whole numbers: their order is free */
{
    return dim3(d->s.vocab <= 1024 ? 128 : d->s.vocab <= 8192 ? 256 : 1024);
}

void cu_adjust(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    CU_LAUNCH(d, adjust_kernel, dim3((unsigned)s->n_logit), pick_threads(d), sizeof(PickShared),
              pick_args(d, s, op->logits));
}
void cu_sample(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    CU_LAUNCH(d, sample_kernel, dim3((unsigned)s->n_logit), pick_threads(d), sizeof(PickShared),
              pick_args(d, s, op->logits));
}
void cu_score(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    CU_LAUNCH(d, score_kernel, dim3((unsigned)s->n_logit), pick_threads(d), sizeof(PickShared),
              pick_args(d, s, op->logits));
}
void cu_raw(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    (void)s;
    size_t v = (size_t)d->s.vocab;
    cu_ok(d,
          cudaMemcpyAsync(d->result->logits + (size_t)op->first * v, op->logits,
                          (size_t)op->n * v * sizeof(float), cudaMemcpyDeviceToHost, d->stream),
          "logits");
}
void cu_verify(struct qn_device *d, const struct qn_step *s)
{
    CU_LAUNCH(d, verify_kernel, dim3(1), dim3(128), 0, cu_view(d, s), s->n_seq, d->r);
}
void cu_draft(struct qn_device *d, const struct qn_op_draft *op)
{
    const struct qn_step *s = &op->pass->step;
    CU_LAUNCH(d, draft_kernel, dim3((unsigned)s->n_logit), pick_threads(d),
              sizeof(PickShared) + (1 + 2 * QN_MAX_DRAFT) * sizeof(int32_t), pick_args(d, s, op->logits),
              d->view);
}
