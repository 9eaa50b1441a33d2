/* Weighing a model and dividing memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/plan.h"

#include "model/roles.h"

#define MAX_USERS       4096
#define DEFAULT_USERS   8
#define DEFAULT_CONTEXT 32768 /* fewer sequences rather than shorter ones */
#define SNAPSHOT_SHARE  8     /* one part in this many of what is left goes to snapshots, at most */

const char *qn_part_name(enum qn_part p)
{
    static const char *const names[QN_N_PART] = {"embeddings",    "head",   "attention",     "gdn",
                                                 "mlp",           "router", "shared expert", "experts",
                                                 "small tensors", "mtp"};
    return (unsigned)p < QN_N_PART ? names[p] : "?";
}

enum qn_part qn_part_of(enum qn_role role, int layer)
{
    if (role == QN_ROLE_EMBED) return QN_PART_EMBED;
    if (role == QN_ROLE_HEAD) return QN_PART_HEAD;
    if (role == QN_ROLE_MTP_FC || layer == QN_LAYER_MTP) return QN_PART_MTP;
    if (role <= QN_ROLE_O) return QN_PART_ATTENTION;
    if (role <= QN_ROLE_GDN_OUT) return QN_PART_GDN;
    if (role <= QN_ROLE_DOWN) return QN_PART_MLP;
    if (role == QN_ROLE_ROUTER) return QN_PART_ROUTER;
    if (role <= QN_ROLE_SHARED_MIX) return QN_PART_SHARED;
    return QN_PART_EXPERTS;
}

static void add_linear(struct qn_tally *t, const struct qn_model *m, enum qn_role role, int layer, int expert)
{
    const struct qn_config *c = qn_model_config(m);
    struct qn_linear l;
    if (role == QN_ROLE_HEAD && c->is_tied) return;
    if (qn_model_stored(m, role, layer, expert, &l, NULL)) return;
    enum qn_part p = qn_part_of(role, layer);
    bool mtp = p == QN_PART_MTP;
    uint64_t bytes = qn_linear_bytes(&l);
    t->part[p].n_module++;
    t->part[p].n_param += (int64_t)l.n_out * l.n_in;
    t->part[p].bytes += bytes;
    t->part[p].n_by_format[l.format]++;
    t->part[p].bytes_by_format[l.format] += bytes;
    if (mtp) {
        t->mtp_bytes += bytes;
        return;
    }
    t->text_bytes += bytes;
    if (role == QN_ROLE_EMBED) /* as the head it is read whole */
        t->active_bytes += c->is_tied ? bytes : bytes / (uint64_t)c->vocab;
    else if (!qn_role_is_expert(role))
        t->active_bytes += bytes;
    else if (expert < c->top_k) /* experts of a layer are of one size */
        t->active_bytes += bytes;
}

static void add_vec(struct qn_tally *t, const struct qn_model *m, enum qn_vec vec, int layer)
{
    const struct qn_config *c = qn_model_config(m);
    size_t n = qn_vec_count(c, vec, layer);
    bool mtp = layer == QN_LAYER_MTP || vec >= QN_VEC_MTP_NORM_EMBED;
    if (!n || (mtp && !qn_model_has_mtp(m))) return;
    enum qn_part p = mtp ? QN_PART_MTP : QN_PART_SMALL;
    uint64_t bytes = n * 4; /* widened to float by every backend */
    t->part[p].n_module++;
    t->part[p].n_param += (int64_t)n;
    t->part[p].bytes += bytes;
    *(mtp ? &t->mtp_bytes : &t->text_bytes) += bytes;
    if (!mtp) t->active_bytes += bytes;
}

void qn_tally_model(const struct qn_model *m, struct qn_tally *out)
{
    const struct qn_config *c = qn_model_config(m);
    *out = (struct qn_tally){0};
    for (int r = 0; r < QN_N_ROLE; r++) {
        enum qn_role role = (enum qn_role)r;
        int n = qn_role_is_expert(role) ? c->n_expert : 1;
        for (int layer = qn_role_is_global(role) ? 0 : QN_LAYER_MTP;
             layer < (qn_role_is_global(role) ? 1 : c->n_layer); layer++)
            for (int x = 0; x < n; x++) add_linear(out, m, role, layer, x);
    }
    for (int v = 0; v < QN_N_VEC; v++) {
        enum qn_vec vec = (enum qn_vec)v;
        for (int layer = qn_vec_is_global(vec) ? 0 : QN_LAYER_MTP;
             layer < (qn_vec_is_global(vec) ? 1 : c->n_layer); layer++)
            add_vec(out, m, vec, layer);
    }
    for (int i = 0; i < qn_model_n_tensors(m); i++) {
        const struct qn_tensor *t = qn_model_tensor(m, i);
        if (qn_model_tensor_is_vision(m, i)) {
            out->n_vision++;
            out->vision_bytes += t->n_byte;
        } else if (qn_model_tensor_is_ignored(m, i)) {
            out->ignored_bytes += t->n_byte;
        }
    }
}

static uint64_t pages_of(const struct qn_plan_in *in, int context)
{
    return ((uint64_t)context + (uint64_t)in->page_tok - 1) / (uint64_t)in->page_tok;
}

uint64_t qn_plan_request_bytes(uint64_t memory)
{
    return QN_CLAMP(memory / 16, (uint64_t)32 << 20, (uint64_t)1 << 30);
}

uint64_t qn_plan_user_bytes(const struct qn_plan_in *in, int context)
{
    return in->lane_bytes + in->slot_bytes + pages_of(in, context) * in->page_bytes;
}

static uint64_t room(const struct qn_plan_in *in)
{
    uint64_t fixed = in->weight_bytes + in->workspace_bytes + in->request_bytes;
    return in->memory > fixed ? in->memory - fixed : 0;
}

int qn_plan_users(const struct qn_plan_in *in, int context)
{
    uint64_t n = room(in) / qn_plan_user_bytes(in, context);
    return (int)QN_MIN(n, (uint64_t)MAX_USERS);
}

int qn_plan_context(const struct qn_plan_in *in, int users)
{
    uint64_t each = room(in) / (uint64_t)users, fixed = in->lane_bytes + in->slot_bytes;
    if (each < fixed + in->page_bytes) return 0;
    uint64_t tok = (each - fixed) / in->page_bytes * (uint64_t)in->page_tok;
    return (int)QN_MIN(tok, (uint64_t)in->max_context);
}

/* The same, leaving a part of the room to snapshots and the prefix cache when that costs no one their place.
 */
static int roomy_context(const struct qn_plan_in *in, int users)
{
    struct qn_plan_in part = *in;
    part.memory -= room(in) / SNAPSHOT_SHARE;
    int n = qn_plan_context(&part, users);
    return n ? n : qn_plan_context(in, users);
}

static int refuse_one(const struct qn_plan_in *in, int context, int one, struct qn_err *e)
{
    char a[24], b[24];
    uint64_t all =
        in->weight_bytes + in->workspace_bytes + in->request_bytes + qn_plan_user_bytes(in, context);
    return qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__,
                      "one sequence of %d tokens needs %s in all, the budget is %s; %d tokens fit", context,
                      qn_bytes_text(all, a), qn_bytes_text(in->memory, b), one);
}

/* The context of at most `users` sequences: fewer of them rather than shorter ones. */
static int default_context(const struct qn_plan_in *in, int *users)
{
    while (*users > 1 && roomy_context(in, *users) < QN_MIN(in->max_context, DEFAULT_CONTEXT)) --*users;
    return roomy_context(in, *users);
}

/* Users are a bound: as many as have their state, with pages for one whole context at least; what they write
 * together may be less than all contexts. */
static int choose_bound(const struct qn_plan_in *in, int one, struct qn_plan *p, struct qn_err *e)
{
    int users = QN_MIN(in->users, DEFAULT_USERS);
    if (!p->context) {
        p->context = default_context(in, &users);
        if (in->users > DEFAULT_USERS && p->context < QN_MIN(in->max_context, DEFAULT_CONTEXT))
            return qn_err_set(e, QN_TOOBIG, __FILE__, __LINE__, "scratch for %d sequences leaves %d tokens",
                              in->users, p->context);
    }
    if (one < p->context) return refuse_one(in, p->context, one, e);
    /* their state takes half of the room at most, where more than a few are asked for */
    uint64_t rest = room(in) - pages_of(in, p->context) * in->page_bytes;
    uint64_t fixed = in->lane_bytes + in->slot_bytes, most = rest / fixed;
    if (most > DEFAULT_USERS) most = QN_MAX(rest / 2 / fixed, (uint64_t)DEFAULT_USERS);
    p->users = (int)QN_CLAMP((int64_t)QN_MIN(most, (uint64_t)MAX_USERS), 1, in->users);
    return QN_OK;
}

/* Context and users; `one`: the longest context of one sequence. */
static int choose(const struct qn_plan_in *in, int one, struct qn_plan *p, struct qn_err *e)
{
    int rc = QN_OK;
    char a[24], b[24];
    if (in->is_bound && p->users) return choose_bound(in, one, p, e);
    if (p->users && !p->context) {
        p->context = roomy_context(in, p->users);
        QN_FAIL_IF(!p->context, e, QN_TOOBIG, "%d sequences do not fit in %s; %d of %d tokens do", p->users,
                   qn_bytes_text(in->memory, a), QN_MAX(qn_plan_users(in, in->page_tok), 1), in->page_tok);
    } else if (p->context && !p->users) {
        p->users = QN_MIN(qn_plan_users(in, p->context), DEFAULT_USERS);
        if (!p->users) return refuse_one(in, p->context, one, e);
    } else if (!p->context) {
        p->users = DEFAULT_USERS;
        p->context = default_context(in, &p->users);
    } else {
        int fit = qn_plan_users(in, p->context), tok = qn_plan_context(in, p->users);
        QN_FAIL_IF(
            fit < p->users, e, QN_TOOBIG,
            "%d sequences of %d tokens need %s, the budget is %s; %d of that length fit, or %d of %d tokens",
            p->users, p->context,
            qn_bytes_text(in->weight_bytes + in->workspace_bytes + in->request_bytes +
                              (uint64_t)p->users * qn_plan_user_bytes(in, p->context),
                          a),
            qn_bytes_text(in->memory, b), fit, tok ? p->users : 1, tok ? tok : one);
    }
out:
    return rc;
}

int qn_plan_make(const struct qn_plan_in *in, struct qn_plan *out, struct qn_err *e)
{
    int rc = QN_OK;
    char a[24], b[24], c[24], d[24];
    struct qn_plan p = {.context = in->context, .users = in->users};
    QN_FAIL_IF(in->context > in->max_context, e, QN_INVAL,
               "a context of %d tokens: the model was made for %d", in->context, in->max_context);
    int one = qn_plan_context(in, 1);
    QN_FAIL_IF(!one, e, QN_TOOBIG,
               "weights need %s, scratch %s and requests %s, which leaves no room for one sequence in %s",
               qn_bytes_text(in->weight_bytes, a), qn_bytes_text(in->workspace_bytes, b),
               qn_bytes_text(in->request_bytes, d), qn_bytes_text(in->memory, c));
    QN_TRY(choose(in, one, &p, e));
    uint64_t left = room(in) - (uint64_t)p.users * (in->lane_bytes + in->slot_bytes);
    /* pages that nothing may take: all contexts, or one where users are a bound */
    uint64_t kept = (uint64_t)p.users * pages_of(in, p.context);
    if (kept * in->page_bytes > left) kept = pages_of(in, p.context);
    left -= kept * in->page_bytes;
    uint64_t snapshots = QN_MIN(left / SNAPSHOT_SHARE / in->slot_bytes, (uint64_t)4 * (uint64_t)p.users);
    left -= snapshots * in->slot_bytes;
    p.n_page = (int)QN_MIN(kept + left / in->page_bytes, (uint64_t)INT32_MAX);
    p.n_slot = (int)((uint64_t)p.users + snapshots);
    p.n_lane = p.users;
    p.weight_bytes = in->weight_bytes;
    p.workspace_bytes = in->workspace_bytes;
    p.request_bytes = in->request_bytes;
    p.page_bytes = (uint64_t)p.n_page * in->page_bytes;
    p.slot_bytes = (uint64_t)p.n_slot * in->slot_bytes;
    p.lane_bytes = (uint64_t)p.n_lane * in->lane_bytes;
    p.total_bytes =
        p.weight_bytes + p.workspace_bytes + p.request_bytes + p.page_bytes + p.slot_bytes + p.lane_bytes;
    *out = p;
out:
    return rc;
}

const char *qn_bytes_text(uint64_t bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)bytes;
    size_t u = 0;
    for (; x >= 1024 && u + 1 < QN_COUNT(units); u++) x /= 1024;
    snprintf(out, 24, u ? "%.2f %s" : "%.0f %s", x, units[u]);
    return out;
}
