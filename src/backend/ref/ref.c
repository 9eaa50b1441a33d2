/* ref: the table in readable C. Oracle, fallback and documentation.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/ref/ref.h"

#include <math.h>

#include "backend/registry.h"
#include "base/mem.h"

static int ref_open(struct qn_device **out, const struct qn_device_options *o, struct qn_err *e)
{
    int rc = qn_host_open(out, o, e);
    if (rc) return rc;
    (*out)->linear = qn_ref_linear;
    (*out)->row = qn_ref_row;
    return QN_OK;
}

static void ref_close(struct qn_device *d)
{
    if (d) qn_ref_weights_free(d);
    qn_host_close(d);
}

static void ref_describe(const struct qn_device *d, struct qn_device_info *out)
{
    *out = (struct qn_device_info){.isa = "plain C", .n_thread = 1, .weight_bytes = d->weight_bytes};
}

static const struct qn_backend ref = {
    .name = "ref",
    .sizes = qn_host_sizes,
    .open = ref_open,
    .close = ref_close,
    .alloc = qn_host_alloc,
    .free = qn_host_free,
    .upload = qn_host_copy,
    .download = qn_host_copy,
    .move = qn_host_move,
    .weight = qn_ref_weight,
    .vector = qn_host_vector,
    .describe = ref_describe,
    .begin = qn_host_begin,
    .sync = qn_host_sync,
    .embed = qn_ref_embed,
    .attn_in = qn_ref_attn_in,
    .attn_prefill = qn_ref_attn,
    .attn_decode = qn_ref_attn,
    .attn_out = qn_ref_attn_out,
    .gdn_in = qn_ref_gdn_in,
    .gdn_prefill = qn_ref_gdn,
    .gdn_decode = qn_ref_gdn,
    .gdn_out = qn_ref_gdn_out,
    .mlp = qn_ref_mlp,
    .moe = qn_ref_moe,
    .head = qn_ref_head,
    .logits = qn_ref_logits,
    .raw = qn_host_raw,
    .score = qn_ref_score,
    .adjust = qn_ref_adjust,
    .sample = qn_ref_sample,
    .verify = qn_ref_verify,
    .settle = qn_host_settle,
    .draft_in = qn_ref_draft_in,
    .carry = qn_ref_carry,
    .draft = qn_ref_draft,
    .kv_copy = qn_host_kv_copy,
    .kv_read = qn_host_kv_read,
    .kv_write = qn_host_kv_write,
    .state_flush = qn_ref_state_flush,
    .state_copy = qn_host_state_copy,
    .state_zero = qn_host_state_zero,
    .state_read = qn_host_state_read,
    .state_write = qn_host_state_write,
};

const struct qn_backend *qn_ref_backend(void)
{
    return &ref;
}
