/* Shards.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/shard.h"

#include "base/mem.h"
#include "model/roles.h"

/* Part `rank` of n of a width, in steps as coarse as the width allows, so that blocks and groups of quantised
 * formats stay whole: up to 128. */
static struct qn_range part(int width, int rank, int n)
{
    int step = 128;
    while (step > 1 && (width / step < n || width % step)) step /= 2;
    int n_step = width / step, first = (int)((int64_t)n_step * rank / n) * step,
        end = rank + 1 == n ? width : (int)((int64_t)n_step * (rank + 1) / n) * step;
    return (struct qn_range){first, end - first};
}

static bool divides(int n, int count)
{
    return count % n == 0;
}

bool qn_shard_fits(const struct qn_config *c, int n)
{
    if (n < 1) return false;
    if (n > 1 && c->n_gdn && c->is_tiled) return false; /* a key head's value heads lie apart */
    if (c->n_full && (!divides(n, c->n_head) || (!divides(n, c->n_kv_head) && n % c->n_kv_head)))
        return false;
    if (c->n_gdn && (!divides(n, c->n_v_head) || (!divides(n, c->n_k_head) && n % c->n_k_head))) return false;
    int narrow = c->is_moe ? QN_MIN(c->expert_ffn, c->shared_ffn ? c->shared_ffn : c->expert_ffn) : c->ffn;
    return narrow >= n && c->vocab >= n;
}

int qn_shard_init(struct qn_shard *s, const struct qn_config *whole, int rank, int n, struct qn_err *e)
{
    int rc = QN_OK;
    *s = (struct qn_shard){.rank = rank, .n = n, .whole = *whole, .config = *whole};
    struct qn_config *c = &s->config;
    QN_CHECK(rank >= 0 && rank < n);
    QN_FAIL_IF(
        n > 1 && whole->n_gdn && whole->is_tiled, e, QN_UNSUPPORTED,
        "value heads of this GGUF file are tiled (head j belongs to key head j mod %d) and cannot be shared "
        "out over %d ranks; serve it on one, or convert it: quern quantize FILE.gguf FOLDER --format bf16",
        whole->n_k_head, n);
    if (!qn_shard_fits(whole, n)) {
        char fit[160] = "";
        for (int k = 1; k <= 64; k++)
            if (qn_shard_fits(whole, k))
                snprintf(fit + strlen(fit), sizeof fit - strlen(fit), "%s%d", *fit ? ", " : "", k);
        QN_FAIL(e, QN_UNSUPPORTED,
                "%d heads (%d of keys and values; %d and %d of the delta net) cannot be shared out over %d "
                "ranks; what fits: %s",
                c->n_head, c->n_kv_head, c->n_k_head, c->n_v_head, n, fit);
    }
    c->n_head = whole->n_head / n;
    c->n_kv_head = QN_MAX(whole->n_kv_head / n, 1);
    c->n_k_head = QN_MAX(whole->n_k_head / n, 1);
    c->n_v_head = whole->n_v_head / n;
    if (whole->ffn) c->ffn = part(whole->ffn, rank, n).n;
    if (whole->shared_ffn) c->shared_ffn = part(whole->shared_ffn, rank, n).n;
    if (whole->expert_ffn) c->expert_ffn = part(whole->expert_ffn, rank, n).n;
    s->vocab = part(whole->vocab, rank, n);
out:
    return rc;
}

/* Heads of `size` values each: those of the rank, in a tensor where they begin at `at`. */
static struct qn_range heads(const struct qn_shard *s, int at, int n_own, int size)
{
    return (struct qn_range){at + s->rank * n_own * size, n_own * size};
}

/* Heads that several ranks may share: the first of the rank is the n_whole * rank / n th. */
static struct qn_range shared_heads(const struct qn_shard *s, int at, int n_whole, int n_own, int size)
{
    int first = (int)((int64_t)n_whole * s->rank / s->n);
    return (struct qn_range){at + first * size, n_own * size};
}

static struct qn_range width_of(const struct qn_shard *s, enum qn_role role)
{
    const struct qn_config *w = &s->whole;
    switch (role) {
    case QN_ROLE_GATE:
    case QN_ROLE_UP:
    case QN_ROLE_DOWN:
        return part(w->ffn, s->rank, s->n);
    case QN_ROLE_SHARED_GATE:
    case QN_ROLE_SHARED_UP:
    case QN_ROLE_SHARED_DOWN:
        return part(w->shared_ffn, s->rank, s->n);
    default:
        return part(w->expert_ffn, s->rank, s->n);
    }
}

/* q, k and v of the heads of the rank, in [q (KD), k (KD), v (VD)]. */
static int qkv_ranges(const struct qn_shard *s, struct qn_range *out)
{
    const struct qn_config *w = &s->whole, *c = &s->config;
    int kd = qn_config_key_dim(w);
    out[0] = shared_heads(s, 0, w->n_k_head, c->n_k_head, c->k_dim);
    out[1] = shared_heads(s, kd, w->n_k_head, c->n_k_head, c->k_dim);
    out[2] = heads(s, 2 * kd, c->n_v_head, c->v_dim);
    return 3;
}

void qn_shard_cut(const struct qn_shard *s, enum qn_role role, struct qn_cut *out)
{
    const struct qn_config *c = &s->config;
    *out = (struct qn_cut){.n_range = 0};
    if (s->n == 1) return;
    switch (role) {
    case QN_ROLE_EMBED:
    case QN_ROLE_HEAD:
        out->out[out->n_range++] = s->vocab;
        break;
    case QN_ROLE_Q:
        out->out[out->n_range++] = heads(s, 0, c->n_head, 2 * c->head_dim);
        break;
    case QN_ROLE_K:
    case QN_ROLE_V:
        out->out[out->n_range++] = shared_heads(s, 0, s->whole.n_kv_head, c->n_kv_head, c->head_dim);
        break;
    case QN_ROLE_O:
        out->in = heads(s, 0, c->n_head, c->head_dim);
        break;
    case QN_ROLE_GDN_QKV:
        out->n_range = qkv_ranges(s, out->out);
        break;
    case QN_ROLE_GDN_Z:
        out->out[out->n_range++] = heads(s, 0, c->n_v_head, c->v_dim);
        break;
    case QN_ROLE_GDN_B:
    case QN_ROLE_GDN_A:
        out->out[out->n_range++] = heads(s, 0, c->n_v_head, 1);
        break;
    case QN_ROLE_GDN_OUT:
        out->in = heads(s, 0, c->n_v_head, c->v_dim);
        break;
    case QN_ROLE_GATE:
    case QN_ROLE_UP:
    case QN_ROLE_SHARED_GATE:
    case QN_ROLE_SHARED_UP:
    case QN_ROLE_EXPERT_GATE:
    case QN_ROLE_EXPERT_UP:
        out->out[out->n_range++] = width_of(s, role);
        break;
    case QN_ROLE_DOWN:
    case QN_ROLE_SHARED_DOWN:
    case QN_ROLE_EXPERT_DOWN:
        out->in = width_of(s, role);
        break;
    default: /* router, shared gate, the draft layer's stem */
        break;
    }
}

int qn_shard_vec(const struct qn_shard *s, const struct qn_model *m, enum qn_vec vec, int layer, float *out,
                 size_t n, struct qn_err *e)
{
    int rc = QN_OK, n_range = 0;
    size_t per = 1, n_whole = qn_vec_count(&s->whole, vec, layer);
    struct qn_range r[3];
    float *whole = NULL;
    if (vec == QN_VEC_CONV) {
        n_range = qkv_ranges(s, r);
        per = (size_t)s->whole.conv_taps;
    } else if (vec == QN_VEC_A_LOG || vec == QN_VEC_DT_BIAS) {
        r[n_range++] = heads(s, 0, s->config.n_v_head, 1);
    } else {
        return qn_model_vec(m, vec, layer, out, n, e);
    }
    whole = try_malloc(n_whole, sizeof *whole);
    QN_FAIL_IF(!whole, e, QN_NOMEM, "no memory for a vector of %zu numbers", n_whole);
    QN_TRY(qn_model_vec(m, vec, layer, whole, n_whole, e));
    size_t at = 0;
    for (int i = 0; i < n_range; i++, at += (size_t)r[i - 1].n * per) {
        QN_CHECK(at + (size_t)r[i].n * per <= n);
        memcpy(out + at, whole + (size_t)r[i].first * per, (size_t)r[i].n * per * sizeof *out);
    }
    QN_CHECK(at == n);
out:
    free(whole);
    return rc;
}

size_t qn_shard_bytes(const struct qn_shard *s, const struct qn_linear *whole, enum qn_role role)
{
    struct qn_cut cut;
    qn_shard_cut(s, role, &cut);
    double share = cut.in.n ? (double)cut.in.n / whole->n_in : 1;
    int n = 0;
    for (int i = 0; i < cut.n_range; i++) n += cut.out[i].n;
    if (cut.n_range) share *= (double)n / whole->n_out;
    return (size_t)(share * (double)qn_linear_bytes(whole));
}
