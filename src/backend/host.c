/* Pools, scratch and small arithmetic of the host back ends.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/host.h"

#include <math.h>

#include "base/mem.h"

static int n_kv_layer(const struct qn_device_options *o)
{
    return o->config->n_full + (o->has_mtp ? 1 : 0);
}

/* Floats of scratch per row, in the order of carve(). */
static size_t row_floats(const struct qn_config *c)
{
    size_t heads = (size_t)c->n_head * c->head_dim, kv = (size_t)c->n_kv_head * c->head_dim;
    size_t ffn = (size_t)QN_MAX(c->ffn, QN_MAX(c->shared_ffn, c->expert_ffn));
    size_t cd = (size_t)qn_config_conv_dim(c), vd = (size_t)qn_config_value_dim(c);
    return (size_t)c->hidden * 3 + heads * 5 + kv * 2 + cd * 2 + vd * 2 + (size_t)c->n_v_head * 2 + ffn * 2 +
           (size_t)c->n_expert;
}

/* Beside that on cpu: prepared rows of linear layers, places of experts, split partials of attention. */
static size_t cpu_bytes(const struct qn_config *c, size_t rows, enum qn_act act)
{
    size_t width = (size_t)QN_MAX(2 * c->hidden, QN_MAX(c->n_head * c->head_dim, qn_config_value_dim(c)));
    width = QN_MAX(width, (size_t)QN_MAX(c->ffn, QN_MAX(c->shared_ffn, c->expert_ffn)));
    size_t expert = (size_t)QN_MAX(c->hidden, QN_MAX(c->expert_ffn, c->shared_ffn)),
           places = rows * (size_t)c->top_k;
    if (act == QN_ACT_INT8) { /* prepared rows end with the same values in 8 bits, and their scales */
        width += width / 16 * 7 + 32;
        expert += expert / 16 * 7 + 32;
    }
    size_t floats = rows * (width + width / 32 + 32) + ((size_t)2 << 20);
    if (c->is_moe)
        floats += (rows + places) * expert + places * (2 * (size_t)c->expert_ffn + (size_t)c->hidden) +
                  rows * (size_t)c->hidden;
    return floats * sizeof(float);
}

/* K and V of one layer in a page. */
static size_t kv_layer_bytes(const struct qn_config *c, enum qn_kv t)
{
    return (size_t)2 * c->n_kv_head * QN_PAGE * ((size_t)c->head_dim * qn_kv_bytes(t) + qn_kv_scale_bytes(t));
}

#define N_PIECES 20 /* pieces are rounded up to 16 floats each */

void qn_host_sizes(const struct qn_device_options *o, struct qn_device_sizes *out)
{
    const struct qn_config *c = o->config;
    size_t dv_pad = QN_ROUND_UP((size_t)c->v_dim, 16);
    size_t head_floats = (size_t)c->k_dim * dv_pad, cd = (size_t)qn_config_conv_dim(c);
    size_t state = (size_t)c->n_v_head * head_floats + (size_t)(c->conv_taps - 1) * cd;
    size_t lane_row = cd + (size_t)qn_config_key_dim(c) + (size_t)c->n_v_head * (dv_pad + 1);
    out->page_bytes = QN_ROUND_UP((size_t)n_kv_layer(o) * kv_layer_bytes(c, o->kv), 64);
    out->slot_bytes = QN_ROUND_UP(((size_t)c->n_gdn * QN_ROUND_UP(state, 16) + (size_t)c->hidden) * 4, 64);
    out->lane_bytes =
        QN_ROUND_UP(((size_t)c->n_gdn * QN_LANE_ROWS * lane_row + (size_t)QN_LANE_ROWS * c->hidden) * 4, 64);
    /* the operations' scratch, and the forward pass's x, y, the rows of a slice, hidden and logits */
    out->workspace_bytes = (row_floats(c) + 6 * (size_t)c->hidden) * (size_t)o->max_rows * 4 +
                           (size_t)o->max_logits * (size_t)c->vocab * 4 + N_PIECES * 64 +
                           cpu_bytes(c, (size_t)o->max_rows, o->act);
}

static float *take(float **at, size_t n)
{
    float *p = *at;
    *at += QN_ROUND_UP(n, 16);
    return p;
}

static void carve(struct qn_device *d)
{
    const struct qn_config *c = &d->c;
    size_t rows = (size_t)d->o.max_rows, heads = (size_t)c->n_head * c->head_dim * rows;
    size_t kv = (size_t)c->n_kv_head * c->head_dim * rows;
    size_t ffn = (size_t)QN_MAX(c->ffn, QN_MAX(c->shared_ffn, c->expert_ffn)) * rows;
    float *at = d->scratch;
    d->h = take(&at, rows * (size_t)c->hidden);
    d->cat = take(&at, rows * (size_t)c->hidden * 2);
    d->q = take(&at, heads);
    d->gate = take(&at, heads);
    d->attn = take(&at, heads);
    d->qg = take(&at, heads * 2);
    d->k = take(&at, kv);
    d->v = take(&at, kv);
    d->u = take(&at, rows * (size_t)d->cd);
    d->conv = take(&at, rows * (size_t)d->cd);
    d->z = take(&at, rows * (size_t)d->vd);
    d->o_gdn = take(&at, rows * (size_t)d->vd);
    d->beta = take(&at, rows * (size_t)c->n_v_head);
    d->alpha = take(&at, rows * (size_t)c->n_v_head);
    d->ff_gate = take(&at, ffn);
    d->ff_up = take(&at, ffn);
    d->moe_logits = take(&at, rows * (size_t)c->n_expert);
    QN_CHECK((size_t)(at - d->scratch) <= d->scratch_floats);
}

/* Region of n pieces, or NULL when it cannot be had. */
static void *pool(const struct qn_device *d, size_t n, size_t piece_bytes, size_t *n_byte)
{
    if (!qn_mul_size(n, piece_bytes, n_byte)) return NULL;
    void *p = qn_region_alloc(*n_byte);
    if (p && d->o.poison) memset(p, 0xff, *n_byte);
    return p;
}

int qn_host_open(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_device *d = xcalloc(1, sizeof *d);
    const struct qn_config *c = &d->c;
    d->o = *o;
    d->c = *o->config;
    d->o.config = &d->c;
    QN_FAIL_IF(c->n_head % c->n_kv_head, e, QN_UNSUPPORTED,
               "num_attention_heads %d is not a multiple of num_key_value_heads %d", c->n_head, c->n_kv_head);
    QN_FAIL_IF(c->n_gdn && c->n_v_head % c->n_k_head, e, QN_UNSUPPORTED,
               "linear_num_value_heads %d is not a multiple of linear_num_key_heads %d", c->n_v_head,
               c->n_k_head);
    QN_FAIL_IF(o->max_rows < 1 || o->max_logits < 1 || o->n_page < 0 || o->n_slot < 0 || o->n_lane < 0, e,
               QN_INVAL, "device limits must be positive");
    d->kd = qn_config_key_dim(c);
    d->vd = qn_config_value_dim(c);
    d->cd = qn_config_conv_dim(c);
    d->dv_pad = QN_ROUND_UP(c->v_dim, 16);
    d->n_kv_layer = n_kv_layer(o);
    d->n_tok = o->n_tok > 0 ? QN_MIN(o->n_tok, c->vocab) : c->vocab;
    d->kv_layer_bytes = kv_layer_bytes(c, o->kv);
    d->head_floats = (size_t)c->k_dim * d->dv_pad;
    d->conv_floats = (size_t)(c->conv_taps - 1) * d->cd;
    d->state_floats = QN_ROUND_UP((size_t)c->n_v_head * d->head_floats + d->conv_floats, 16);
    d->lane_floats = (size_t)QN_LANE_ROWS * ((size_t)d->cd + d->kd + (size_t)c->n_v_head * (d->dv_pad + 1));
    qn_host_sizes(&d->o, &d->sizes);

    size_t n_byte;
    d->pages = pool(d, (size_t)o->n_page, d->sizes.page_bytes, &n_byte);
    QN_FAIL_IF(!d->pages, e, QN_NOMEM, "no memory for %d pages of %zu bytes; use fewer", o->n_page,
               d->sizes.page_bytes);
    d->slots = pool(d, (size_t)o->n_slot, d->sizes.slot_bytes, &n_byte);
    QN_FAIL_IF(!d->slots, e, QN_NOMEM, "no memory for %d state slots of %zu bytes; use fewer", o->n_slot,
               d->sizes.slot_bytes);
    d->lanes = pool(d, (size_t)o->n_lane, d->sizes.lane_bytes, &n_byte);
    QN_FAIL_IF(!d->lanes, e, QN_NOMEM, "no memory for %d lanes of %zu bytes; use fewer", o->n_lane,
               d->sizes.lane_bytes);
    d->scratch_floats = row_floats(c) * (size_t)o->max_rows + N_PIECES * 16;
    d->scratch = pool(d, d->scratch_floats, sizeof(float), &n_byte);
    QN_FAIL_IF(!d->scratch, e, QN_NOMEM, "no memory for the scratch of %d rows; use fewer", o->max_rows);
    carve(d);

    int half = c->rotary_dim / 2;
    d->inv_freq = xcalloc((size_t)QN_MAX(half, 1), sizeof *d->inv_freq);
    qn_rope_frequencies(c, d->inv_freq);
    d->rope_gain = qn_rope_gain(c);
    d->scan = &qn_scan_plain;
    *out = d;
    d = NULL;
out:
    qn_host_close(d);
    return rc;
}

void qn_host_close(struct qn_device *d)
{
    if (!d) return;
    qn_region_free(d->pages, (size_t)d->o.n_page * d->sizes.page_bytes);
    qn_region_free(d->slots, (size_t)d->o.n_slot * d->sizes.slot_bytes);
    qn_region_free(d->lanes, (size_t)d->o.n_lane * d->sizes.lane_bytes);
    qn_region_free(d->scratch, d->scratch_floats * sizeof(float));
    for (struct qn_host_vector *v = d->vectors, *next; v; v = next) {
        next = v->next;
        free(v);
    }
    free(d->inv_freq);
    free(d);
}

void *qn_host_alloc(struct qn_device *d, size_t n_byte)
{
    void *p = NULL;
    size_t total;
    if (!qn_add_size(n_byte, 63, &total) || posix_memalign(&p, 64, total / 64 * 64 + (total < 64 ? 64 : 0)))
        return NULL;
    memset(p, d->o.poison ? 0xff : 0, n_byte);
    return p;
}

void qn_host_free(struct qn_device *d, void *p)
{
    (void)d;
    free(p);
}

int qn_host_copy(struct qn_device *d, void *to, const void *from, size_t n_byte, struct qn_err *e)
{
    (void)d;
    (void)e;
    if (n_byte) memcpy(to, from, n_byte);
    return QN_OK;
}

void qn_host_move(struct qn_device *d, void *to, const void *from, size_t n_byte)
{
    (void)d;
    if (n_byte) memcpy(to, from, n_byte);
}

int qn_host_vector(struct qn_device *d, const float *from, size_t n, const float **out, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n_byte;
    bool is_sane = qn_mul_size(n, sizeof *from, &n_byte) && qn_add_size(n_byte, sizeof(*d->vectors), &n_byte);
    struct qn_host_vector *v = is_sane ? malloc(n_byte) : NULL;
    QN_FAIL_IF(!v, e, QN_NOMEM, "no memory for a vector of %zu numbers", n);
    memcpy(v->data, from, n * sizeof *from);
    v->next = d->vectors;
    d->vectors = v;
    *out = v->data;
out:
    return rc;
}

void qn_host_begin(struct qn_device *d, const struct qn_step *s, struct qn_pass *pass, int n_pass,
                   struct qn_step_result *result)
{
    (void)pass;
    (void)n_pass;
    d->step = s;
    d->result = result;
    if (d->o.poison) memset(d->scratch, 0xff, d->scratch_floats * sizeof(float));
}

int qn_host_sync(struct qn_device *d, struct qn_err *e)
{
    d->step = NULL;
    d->result = NULL;
    return d->fault ? qn_err_set(e, d->fault, __FILE__, __LINE__, "%s", d->fault_text) : QN_OK;
}

void qn_host_settle(struct qn_device *d, struct qn_pass *pass, const struct qn_pass *before)
{
    qn_pass_settle(pass, before, d->result);
    if (d->o.poison) memset(d->scratch, 0xff, d->scratch_floats * sizeof(float));
}

void qn_host_raw(struct qn_device *d, const struct qn_step *s, const struct qn_op_rows *op)
{
    (void)s;
    size_t v = (size_t)d->c.vocab;
    memcpy(d->result->logits + (size_t)op->first * v, op->logits, (size_t)op->n * v * sizeof *op->logits);
}

void qn_host_kv_copy(struct qn_device *d, const struct qn_copy *copies, int n)
{
    for (int i = 0; i < n; i++) qn_host_kv_read(d, copies[i].from, qn_host_kv(d, copies[i].to, 0));
}

void qn_host_kv_read(struct qn_device *d, int page, void *to)
{
    memcpy(to, qn_host_kv(d, page, 0), d->sizes.page_bytes);
}

void qn_host_kv_write(struct qn_device *d, int page, const void *from)
{
    memcpy(qn_host_kv(d, page, 0), from, d->sizes.page_bytes);
}

void qn_host_state_copy(struct qn_device *d, const struct qn_copy *copies, int n)
{
    for (int i = 0; i < n; i++) qn_host_state_read(d, copies[i].from, qn_host_state(d, copies[i].to, 0));
}

void qn_host_state_zero(struct qn_device *d, int slot)
{
    memset(qn_host_state(d, slot, 0), 0, d->sizes.slot_bytes);
}

void qn_host_state_read(struct qn_device *d, int slot, void *to)
{
    memcpy(to, qn_host_state(d, slot, 0), d->sizes.slot_bytes);
}

void qn_host_state_write(struct qn_device *d, int slot, const void *from)
{
    memcpy(qn_host_state(d, slot, 0), from, d->sizes.slot_bytes);
}

struct qn_lane qn_host_lane(const struct qn_device *d, int lane, int layer)
{
    float *p = (float *)(d->lanes + (size_t)lane * d->sizes.lane_bytes) + (size_t)layer * d->lane_floats;
    struct qn_lane l;
    l.u = p;
    l.k = l.u + (size_t)QN_LANE_ROWS * d->cd;
    l.delta = l.k + (size_t)QN_LANE_ROWS * d->kd;
    l.alpha = l.delta + (size_t)QN_LANE_ROWS * d->c.n_v_head * d->dv_pad;
    return l;
}

float *qn_host_lane_hidden(const struct qn_device *d, int lane)
{
    return (float *)(d->lanes + (size_t)lane * d->sizes.lane_bytes) + (size_t)d->c.n_gdn * d->lane_floats;
}

int qn_host_rope_pos(const struct qn_step *s, int row, int axis, bool is_mtp)
{
    if (s->rope_pos) return s->rope_pos[3 * (size_t)row + (size_t)axis];
    return s->pos[row] - (is_mtp ? 1 : 0);
}

/* Interleaved sections: frequency i belongs to H when i % 3 == 1 and i < 3 * section[1], to W when
 * i % 3 == 2 and i < 3 * section[2], else to T. */
static int rope_axis(const struct qn_config *c, int i)
{
    if (i % 3 == 1 && i < 3 * c->mrope_section[1]) return 1;
    if (i % 3 == 2 && i < 3 * c->mrope_section[2]) return 2;
    return 0;
}

void qn_host_rope(const struct qn_device *d, const struct qn_step *s, int row, bool is_mtp, float *cos_out,
                  float *sin_out)
{
    for (int i = 0; i < d->c.rotary_dim / 2; i++) {
        float angle = (float)qn_host_rope_pos(s, row, rope_axis(&d->c, i), is_mtp) * d->inv_freq[i];
        cos_out[i] = cosf(angle) * d->rope_gain;
        sin_out[i] = sinf(angle) * d->rope_gain;
    }
}

uint16_t *qn_host_kv_scales(const struct qn_device *d, int page, int kv_layer, int head, bool is_v)
{
    if (!qn_kv_scale_bytes(d->o.kv)) return NULL;
    size_t values = (size_t)d->c.n_kv_head * QN_PAGE * d->c.head_dim * qn_kv_bytes(d->o.kv);
    unsigned char *at = qn_host_kv(d, page, kv_layer) + (is_v ? d->kv_layer_bytes / 2 : 0) + values;
    return (uint16_t *)(void *)at + (size_t)head * QN_PAGE;
}
