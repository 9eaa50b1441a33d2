/* Value heads in the order of a checkpoint or of a GGUF file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/heads.h"

#include "base/mem.h"

static int head(const struct qn_config *c, bool want_tiled, int h)
{
    int nk = c->n_k_head, r = c->n_v_head / nk;
    if (want_tiled == c->is_tiled) return h;
    return want_tiled ? h % nk * r + h / nk : h % r * nk + h / r;
}

/* Place n among heads of `size` that start at `first`. */
static int moved(const struct qn_config *c, bool want_tiled, int n, int first, int size)
{
    return n < first ? n : first + head(c, want_tiled, (n - first) / size) * size + (n - first) % size;
}

int qn_heads_row(const struct qn_config *c, bool want_tiled, enum qn_role role, int n)
{
    switch (role) {
    case QN_ROLE_GDN_QKV:
        return moved(c, want_tiled, n, 2 * qn_config_key_dim(c), c->v_dim);
    case QN_ROLE_GDN_Z:
        return moved(c, want_tiled, n, 0, c->v_dim);
    case QN_ROLE_GDN_A:
    case QN_ROLE_GDN_B:
        return head(c, want_tiled, n);
    default:
        return n;
    }
}

int qn_heads_column(const struct qn_config *c, bool want_tiled, enum qn_role role, int k)
{
    return role == QN_ROLE_GDN_OUT ? moved(c, want_tiled, k, 0, c->v_dim) : k;
}

int qn_heads_read(const struct qn_model *m, bool want_tiled, const struct qn_linear *l, enum qn_role role,
                  int first, int n, float *out, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(m);
    size_t K = (size_t)l->n_in;
    float *row = role == QN_ROLE_GDN_OUT ? xmalloc(K * sizeof *row) : NULL;
    for (int i = 0; i < n; i++) {
        float *to = out + (size_t)i * K;
        QN_TRY(qn_linear_rows(l, qn_heads_row(c, want_tiled, role, first + i), 1, row ? row : to, e));
        for (int k = 0; row && k < l->n_in; k++) to[k] = row[qn_heads_column(c, want_tiled, role, k)];
    }
out:
    free(row);
    return rc;
}

int qn_heads_vec(const struct qn_model *m, bool want_tiled, enum qn_vec vec, int layer, float *out, size_t n,
                 struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_config *c = qn_model_config(m);
    float *own = xmalloc(n * sizeof *own);
    QN_TRY(qn_model_vec(m, vec, layer, own, n, e));
    bool is_conv = vec == QN_VEC_CONV, is_head = vec == QN_VEC_A_LOG || vec == QN_VEC_DT_BIAS;
    size_t size = is_conv ? (size_t)c->conv_taps : 1;
    for (size_t i = 0; i < n; i++) {
        size_t row = i / size;
        if (is_conv) row = (size_t)qn_heads_row(c, want_tiled, QN_ROLE_GDN_QKV, (int)row);
        if (is_head) row = (size_t)head(c, want_tiled, (int)row);
        out[i] = own[row * size + i % size];
    }
out:
    free(own);
    return rc;
}
