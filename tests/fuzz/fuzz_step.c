/* Fuzz target: any bytes as a step; what is accepted names only what there is, and makes the same bytes
 * again. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "support/random_step.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a device would: every row, page, logit and mask is looked at. */
static int64_t walk(const struct qn_step *s)
{
    int64_t sum = 0;
    for (int i = 0; i < s->n_seq; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        for (int k = 0; k < q->n_row; k++) sum += s->tok[q->first_row + k] + s->pos[q->first_row + k];
        for (int k = 0; k < q->n_page; k++) sum += s->pages[q->first_page + k];
        for (int k = 0; k < q->sample.n_bias; k++) sum += s->bias_tok[q->sample.first_bias + k];
        for (int k = 0; k < q->sample.n_seen; k++) sum += s->seen_count[q->sample.first_seen + k];
        QN_CHECK(q->slot < random_limits.n_slot && q->lane < random_limits.n_lane);
    }
    for (int i = 0; i < s->n_row && s->embed_row; i++)
        if (s->embed_row[i] >= 0) sum += s->embed[s->embed_row[i] * random_limits.hidden] > 0;
    for (int i = 0; i < s->n_logit; i++) {
        const uint32_t *mask = qn_step_mask(s, i);
        sum += s->row_seq[s->logit_row[i]];
        if (mask) sum += mask[(random_limits.vocab - 1) / 32];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct qn_step_in in = {0};
    struct qn_err e;
    void *own = xmalloc(size + 4);
    memcpy(own, data, size);
    if (qn_step_get(&in, own, size, &random_limits, &e) == QN_OK) {
        volatile int64_t sum = walk(&in.step);
        (void)sum;
        void *again = xmalloc(size);
        QN_CHECK(qn_step_bytes(&in.step, random_limits.hidden) == size);
        qn_step_put(&in.step, random_limits.hidden, again);
        QN_CHECK(!memcmp(own, again, size));
        free(again);
    }
    qn_step_in_fini(&in);
    free(own);
    return 0;
}
