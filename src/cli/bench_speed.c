/* bench speed: prefill of each length and decode at each context, one stream, against what the memory allows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"
#include "base/cpu.h"
#include "cli/bandwidth.h"
#include "cli/bench_stream.h"
#include "model/checkpoint.h"

#define PART       12 /* tokens between two reads of the memory */
#define READ_BYTES ((size_t)128 << 20)

/* Bytes one decoded token reads from the weights: every linear layer once, routed experts by their share,
 * the embedding one row. */
static double weight_bytes_per_token(const struct qn_model *m)
{
    const struct qn_config *c = qn_model_config(m);
    static const enum qn_role full[] = {QN_ROLE_Q, QN_ROLE_K, QN_ROLE_V, QN_ROLE_O};
    static const enum qn_role gdn[] = {QN_ROLE_GDN_QKV, QN_ROLE_GDN_Z, QN_ROLE_GDN_B, QN_ROLE_GDN_A,
                                       QN_ROLE_GDN_OUT};
    static const enum qn_role dense[] = {QN_ROLE_GATE, QN_ROLE_UP, QN_ROLE_DOWN};
    static const enum qn_role shared[] = {QN_ROLE_ROUTER, QN_ROLE_SHARED_GATE, QN_ROLE_SHARED_UP,
                                          QN_ROLE_SHARED_DOWN, QN_ROLE_SHARED_MIX};
    static const enum qn_role expert[] = {QN_ROLE_EXPERT_GATE, QN_ROLE_EXPERT_UP, QN_ROLE_EXPERT_DOWN};
    double total = 0;
    struct qn_linear l;
#define ADD(roles, layer, factor)                                                                            \
    for (size_t i = 0; i < QN_COUNT(roles); i++)                                                             \
        if (!qn_model_linear(m, (roles)[i], layer, 0, &l, NULL))                                             \
    total += (factor) * (double)qn_linear_bytes(&l)
    for (int layer = 0; layer < c->n_layer; layer++) {
        if (c->is_full[layer]) {
            ADD(full, layer, 1.0);
        } else {
            ADD(gdn, layer, 1.0);
        }
        if (c->is_moe) {
            ADD(shared, layer, 1.0);
            ADD(expert, layer, (double)c->top_k);
        } else {
            ADD(dense, layer, 1.0);
        }
    }
    static const enum qn_role head[] = {QN_ROLE_HEAD};
    ADD(head, 0, 1.0);
#undef ADD
    return total;
}

/* Bytes of caches one decoded token touches at a context: KV read once, state read and written once. */
static double cache_bytes_per_token(const struct qn_bench *b, int context)
{
    const struct qn_config *c = qn_model_config(b->model);
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    double page = info->n_page ? (double)info->kv_bytes / info->n_page : 0;
    double slots = info->n_slot ? (double)info->state_bytes / info->n_slot : 0;
    int layers = c->n_full + (info->has_mtp ? 1 : 0);
    double kv = layers ? page / QN_PAGE * c->n_full / layers : 0;
    return kv * context + 2 * slots;
}

static int one(struct qn_bench *b, int n_prompt, int n_new, int mtp, struct qn_stream *s, struct qn_err *e)
{
    *s = (struct qn_stream){.n_tok = QN_MAX(n_prompt, 1), .n_new = n_new, .mtp = mtp};
    s->tok = qn_bench_random(b, ++b->seed, s->n_tok);
    return qn_streams_run(b, s, 1, e);
}

static int prefill(struct qn_bench *b, int n_prompt, struct qn_err *e)
{
    double value[QN_BENCH_RUNS];
    for (int k = 0; k < b->n_run; k++) {
        struct qn_stream s;
        int rc = one(b, n_prompt, 1, 0, &s, e);
        value[k] = n_prompt * 1e6 / (double)QN_MAX(s.stats.prefill_us, 1);
        qn_streams_free(&s, 1);
        if (rc) return rc;
    }
    struct qn_spread c = qn_spread_of(value, b->n_run);
    struct qn_row r = qn_bench_row(b, "prefill");
    qn_row_int(&r, "prompt", n_prompt);
    qn_row_num(&r, "tok_s", c.median, 2);
    qn_row_num(&r, "min", c.low, 2);
    qn_row_num(&r, "max", c.high, 2);
    qn_report_add(b->report, &r);
    return QN_OK;
}

static struct qn_row decode_row(const struct qn_bench *b, const char *bench, int context,
                                const struct qn_spread *c)
{
    struct qn_row r = qn_bench_row(b, bench);
    qn_row_int(&r, "context", context);
    qn_row_int(&r, "generated", b->n_gen);
    qn_row_num(&r, "tok_s", c->median, 2);
    qn_row_num(&r, "min", c->low, 2);
    qn_row_num(&r, "max", c->high, 2);
    return r;
}

static int speculative(struct qn_bench *b, int context, struct qn_err *e)
{
    double value[QN_BENCH_RUNS], accepted = 0, steps_s = 0;
    for (int k = 0; k < b->n_run; k++) {
        struct qn_stream s;
        int rc = one(b, context, b->n_gen, -1, &s, e);
        double decode_s = (double)QN_MAX(s.stats.decode_us, 1) / 1e6;
        int n = s.stats.n_new - 1, n_step = QN_MAX(n - s.stats.n_accepted, 1);
        value[k] = n / decode_s;
        accepted = (double)s.stats.n_accepted / n_step;
        steps_s = n_step / decode_s;
        qn_streams_free(&s, 1);
        if (rc) return rc;
    }
    struct qn_spread c = qn_spread_of(value, b->n_run);
    struct qn_row r = decode_row(b, "decode_speculative", context, &c);
    qn_row_num(&r, "steps_s", steps_s, 2);
    qn_row_num(&r, "accepted_step", accepted, 3);
    qn_report_add(b->report, &r);
    return QN_OK;
}

/* The better of two passes: one can be held up by another process. */
static double read_speed(struct qn_reader *reader)
{
    double first = qn_reader_pass(reader), second = qn_reader_pass(reader);
    return QN_MAX(first, second);
}

/* Without drafts, beside the limit of the memory. The tokens are made a few at a time, by requests that find
 * their prompt in the cache, and the memory is read before and after each: its speed moves. */
static int decode(struct qn_bench *b, int context, double weights, struct qn_reader *reader, struct qn_err *e)
{
    int rc = QN_OK;
    double value[QN_BENCH_RUNS], limit[QN_BENCH_RUNS], share[QN_BENCH_RUNS];
    double bytes = weights + cache_bytes_per_token(b, context + PART / 2);
    for (int k = 0; k < b->n_run; k++) {
        double took = 0, least = 0; /* seconds of the tokens, and as the memory allows */
        int n = 0;
        struct qn_stream s;
        rc = one(b, context, 1, 0, &s, e); /* prefill */
        double before = read_speed(reader);
        while (!rc && n < b->n_gen) {
            struct qn_stream part = {.tok = s.tok, .n_tok = s.n_tok, .n_new = QN_MIN(PART, b->n_gen - n) + 1};
            rc = qn_streams_run(b, &part, 1, e);
            double after = read_speed(reader);
            int n_made = part.stats.n_new - 1; /* in decode_us; fewer than asked for at the context's end */
            n += n_made;
            took += (double)part.stats.decode_us / 1e6;
            least += n_made * bytes * (0.5 / before + 0.5 / after) / 1e9;
            before = after;
            part.tok = NULL;
            qn_streams_free(&part, 1);
            if (n_made < 1) break;
        }
        qn_streams_free(&s, 1);
        if (rc) return rc;
        value[k] = n / QN_MAX(took, 1e-6);
        limit[k] = n / QN_MAX(least, 1e-6);
        share[k] = value[k] / limit[k];
    }
    struct qn_spread c = qn_spread_of(value, b->n_run);
    struct qn_row r = decode_row(b, "decode", context, &c);
    qn_row_num(&r, "steps_s", c.median, 2);
    qn_row_num(&r, "bytes_per_token", bytes, 0);
    qn_row_num(&r, "weight_bytes", weights, 0);
    qn_row_num(&r, "limit_tok_s", qn_spread_of(limit, b->n_run).median, 2);
    qn_row_num(&r, "of_limit", qn_spread_of(share, b->n_run).median, 3);
    qn_report_add(b->report, &r);
    return QN_OK;
}

int qn_bench_speed(struct qn_bench *b, struct qn_err *e)
{
    int rc = QN_OK, longest = 16 + b->n_gen;
    struct qn_stream warm = {0};
    struct qn_reader *reader = NULL;
    for (int i = 0; i < b->prompts.n; i++) longest = QN_MAX(longest, b->prompts.at[i] + 1);
    for (int i = 0; i < b->contexts.n; i++) longest = QN_MAX(longest, b->contexts.at[i] + b->n_gen + 1);
    int mtp = b->base.mtp > 0 ? b->base.mtp : b->is_speculating ? -1 : 0;
    QN_TRY(qn_bench_open(b, 1, longest, mtp, e));
    const struct qn_engine_info *info = qn_engine_info(b->engine);
    int n_thread = info->n_thread ? info->n_thread : qn_cpu_n_core();
    QN_FAIL_IF(!(reader = qn_reader_create(n_thread, READ_BYTES)), e, QN_NOMEM,
               "no memory to measure its bandwidth with");
    b->read_gbs = qn_bandwidth_read(n_thread);
    qn_report_note(b->report, "bandwidth  %.1f GB/s measured read", b->read_gbs);
    QN_TRY(one(b, 16, b->n_gen, 0, &warm, e)); /* weights, caches and threads are warm after it */
    double weights = weight_bytes_per_token(b->model);
    for (int i = 0; i < b->prompts.n; i++) QN_TRY(prefill(b, b->prompts.at[i], e));
    for (int i = 0; i < b->contexts.n; i++) QN_TRY(decode(b, b->contexts.at[i], weights, reader, e));
    for (int i = 0; i < b->contexts.n && info->has_mtp; i++) QN_TRY(speculative(b, b->contexts.at[i], e));
out:
    qn_streams_free(&warm, 1);
    qn_reader_free(reader);
    b->read_gbs = 0;
    return rc;
}
