/* A forward pass on a bench.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/rig.h"

#include "base/json.h"
#include "base/mem.h"
#include "support/test.h"

#define N_SLOT 6

void rig_open(struct rig *r, const char *folder, const struct rig_options *o)
{
    struct qn_err e = {0};
    if (qn_model_open(&r->model, folder, &e)) fail_msg("%s", e.text);
    r->c = qn_model_config(r->model);
    struct qn_forward_options f = {.backend = qn_backend_get(o->backend), .with_mtp = true};
    f.device.act = o->act;
    f.device.kv = o->kv;
    f.device.n_thread = o->n_thread;
    f.device.max_rows = o->max_rows ? o->max_rows : 256;
    f.device.max_logits = f.device.max_rows + 16;
    f.device.max_seqs = N_SLOT;
    f.device.max_context = RIG_PAGES * QN_PAGE;
    f.device.n_page = N_SLOT * RIG_PAGES;
    f.device.n_slot = f.device.n_lane = N_SLOT;
    f.device.poison = o->poison;
    if (qn_forward_open(&r->f, r->model, &f, &e)) fail_msg("%s", e.text);
}

void rig_close(struct rig *r)
{
    qn_forward_close(r->f);
    qn_model_close(r->model);
}

void rig_step(struct rig *r, struct rig_seq *seqs, int n_seq, float *logits)
{
    int32_t tok[512], row_seq[512], pos[512], logit_row[512], logit_seq[512], pages[N_SLOT * RIG_PAGES];
    struct qn_step_seq sq[N_SLOT] = {0};
    struct qn_step s = {.tok = tok,
                        .row_seq = row_seq,
                        .pos = pos,
                        .seq = sq,
                        .pages = pages,
                        .n_pages = n_seq * RIG_PAGES,
                        .n_seq = n_seq,
                        .logit_row = logit_row,
                        .logit_seq = logit_seq,
                        .slice_from = seqs[n_seq - 1].slice_from,
                        .slice_to = seqs[n_seq - 1].slice_to,
                        .all_logits = logits != NULL,
                        .wants_raw = logits != NULL};
    for (int i = 0; i < n_seq; i++) {
        struct rig_seq *q = &seqs[i];
        sq[i] = (struct qn_step_seq){.first_row = s.n_row,
                                     .n_row = q->n_row,
                                     .pos0 = q->pos0,
                                     .first_page = i * RIG_PAGES,
                                     .n_page = RIG_PAGES,
                                     .slot = q->slot,
                                     .lane = q->slot,
                                     .n_commit = q->n_commit,
                                     .is_fresh = q->is_fresh,
                                     .wants_token = q->wants_token,
                                     .wants_mtp = q->wants_mtp,
                                     .mtp_from = q->mtp_from,
                                     .n_draft = q->is_decode ? q->n_row - 1 : 0,
                                     .n_draft_next = q->n_draft_next,
                                     .sample = q->sample};
        if (q->is_decode) s.n_decode++, s.n_decode_row += q->n_row;
        for (int p = 0; p < RIG_PAGES; p++) pages[i * RIG_PAGES + p] = (p * 7 % RIG_PAGES) * N_SLOT + q->slot;
        for (int j = 0; j < q->n_row; j++, s.n_row++) {
            tok[s.n_row] = q->tok[j];
            row_seq[s.n_row] = i;
            pos[s.n_row] = q->pos0 + j;
            bool is_sampled = q->wants_token && (q->is_decode || j == q->n_row - 1);
            if (!is_sampled && !logits) continue;
            if (is_sampled && (j == 0 || !q->is_decode)) sq[i].first_logit = s.n_logit;
            logit_row[s.n_logit] = s.n_row;
            logit_seq[s.n_logit++] = i;
        }
    }
    struct qn_step_token *token = xcalloc(512, sizeof *token);
    int32_t n_accepted[N_SLOT], draft[N_SLOT * QN_MAX_DRAFT], n_drafted[N_SLOT];
    struct qn_step_result result = {
        .token = token, .n_accepted = n_accepted, .draft = draft, .n_drafted = n_drafted, .logits = logits};
    qn_forward_run(r->f, &s, &result);
    assert_int_equal(result.fault, QN_OK);
    for (int i = 0; i < n_seq; i++) {
        struct rig_seq *q = &seqs[i];
        q->n_accepted = n_accepted[i];
        q->n_drafted = n_drafted[i];
        memcpy(q->draft, draft + i * QN_MAX_DRAFT, sizeof q->draft);
        for (int j = 0; q->wants_token && j < (q->is_decode ? q->n_row : 1); j++) {
            q->picked[j] = token[sq[i].first_logit + j].tok;
            q->logprob[j] = token[sq[i].first_logit + j].logprob;
        }
    }
    free(token);
}

void rig_logits(struct rig *r, int slot, const int32_t *tok, int n, int chunk, float *logits)
{
    for (int at = 0; at < n; at += chunk) {
        struct rig_seq q = {
            .tok = tok + at, .n_row = QN_MIN(chunk, n - at), .pos0 = at, .slot = slot, .is_fresh = at == 0};
        rig_step(r, &q, 1, logits + (size_t)at * (size_t)r->c->vocab);
    }
}

int rig_greedy(struct rig *r, int slot, const int32_t *tok, int n, int depth, int n_new, int32_t *out)
{
    bool has_mtp = qn_forward_has_mtp(r->f);
    struct rig_seq q = {.tok = tok,
                        .n_row = n,
                        .slot = slot,
                        .is_fresh = true,
                        .wants_token = true,
                        .wants_mtp = has_mtp,
                        .n_draft_next = depth,
                        .sample = {.repetition = 1, .top_p = 1}};
    rig_step(r, &q, 1, NULL);
    int done = 0, n_step = 1;
    out[done++] = q.picked[0];
    int32_t rows[1 + QN_MAX_DRAFT];
    q.is_fresh = false;
    q.is_decode = true;
    q.pos0 = n;
    q.tok = rows;
    q.n_commit = 0;
    for (; done < n_new; n_step++) {
        rows[0] = out[done - 1];
        memcpy(rows + 1, q.draft, sizeof q.draft);
        q.n_row = 1 + q.n_drafted;
        rig_step(r, &q, 1, NULL);
        for (int i = 0; i <= q.n_accepted && done < n_new; i++) out[done++] = q.picked[i];
        q.n_commit = 1 + q.n_accepted;
        q.pos0 += q.n_commit;
    }
    return n_step;
}

static int ints(const struct qn_json *v, int32_t *out, int room)
{
    int n = v ? (int)v->n : 0;
    if (n > room) fail_msg("golden list of %d numbers is longer than %d", n, room);
    for (int i = 0; i < n; i++) out[i] = (int32_t)qn_json_num(v->items[i]);
    return n;
}

static float *floats(const char *folder, const char *file, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    float *p = xmalloc(n * sizeof *p);
    assert_int_equal(fread(p, sizeof *p, n, f), n);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    return p;
}

void rig_golden_read(struct rig_golden *g, const char *name, int vocab)
{
    struct qn_arena *arena = qn_arena_create(1 << 20);
    struct qn_json *v;
    struct qn_err e = {0};
    char path[600];
    memset(g, 0, sizeof *g);
    snprintf(g->folder, sizeof g->folder, "%s/golden/model/%s", QN_TEST_DIR, name);
    snprintf(path, sizeof path, "%s/golden.json", g->folder);
    if (qn_json_read_file(&v, arena, path, 1 << 18, &e)) fail_msg("%s", e.text);
    g->n_prompt = ints(qn_json_get(v, "prompt"), g->prompt, 256);
    g->n_length = ints(qn_json_get(v, "lengths"), g->length, 8);
    g->n_greedy = ints(qn_json_get(v, "greedy"), g->greedy, 256);
    g->n_draft = ints(qn_json_get(v, "drafts"), g->draft, 8);
    ints(qn_json_get(v, "steady"), g->steady, 256);
    g->scale = qn_json_num(qn_json_get(v, "scale"));
    const struct qn_json *bf16 = qn_json_get(v, "bf16");
    g->bf16_max = qn_json_num(qn_json_get(bf16, "max"));
    g->bf16_mean = qn_json_num(qn_json_get(bf16, "mean"));
    g->bf16_kl = qn_json_num(qn_json_get(bf16, "kl"));
    qn_arena_free(arena);
    if (!vocab) return;
    g->logits = floats(g->folder, "logits.bin", (size_t)g->n_prompt * (size_t)vocab);
    g->mtp = floats(g->folder, "mtp.bin", (size_t)(g->n_prompt - 1) * (size_t)vocab);
    assert_non_null(g->logits);
}

void rig_golden_free(struct rig_golden *g)
{
    free(g->logits);
    free(g->mtp);
}
