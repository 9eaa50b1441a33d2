/* quern eval logits: the logits of every position of given token ids or of a chat request, as a numpy file.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "base/mem.h"
#include "cli/asked.h"
#include "cli/cli.h"
#include "cli/eval.h"
#include "cli/model_opts.h"
#include "engine/forward.h"

struct job {
    const char *ids, *chat, *ids_out, *out, *device, *activations, *kv;
    int64_t n_thread, chunk;
    bool is_mtp;
    struct qn_model_wish wish;
    struct qn_asked asked; /* what is run */
};

static int read_ids(struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)1 << 30);
    struct qn_json *v;
    QN_TRY(qn_json_read_file(&v, arena, j->ids, (size_t)64 << 20, e));
    QN_FAIL_IF(!qn_json_is(v, QN_JSON_ARRAY) || !v->n, e, QN_INVAL,
               "%s: expected a JSON array of token ids, not empty", j->ids);
    j->asked.tok = try_malloc(v->n, sizeof *j->asked.tok);
    QN_FAIL_IF(!j->asked.tok, e, QN_NOMEM, "%s: no memory for %zu ids", j->ids, v->n);
    for (size_t i = 0; i < v->n; i++) {
        int64_t id;
        QN_FAIL_IF(!qn_json_int(v->items[i], &id) || id < 0 || id > INT32_MAX, e, QN_INVAL,
                   "%s: item %zu is not a token id", j->ids, i);
        j->asked.tok[i] = (int32_t)id;
    }
    j->asked.n_tok = (int)v->n;
out:
    qn_arena_free(arena);
    return rc;
}

/* Format 1.0: magic, version, length of the header, the header padded so that data start at 64. */
static int write_header(FILE *f, int n_row, int n_col)
{
    char head[128] = "\x93NUMPY\x01";
    int n = snprintf(head + 10, 118, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", n_row,
                     n_col);
    memset(head + 10 + n, ' ', (size_t)(118 - n));
    head[127] = '\n';
    head[8] = 118;
    head[9] = 0;
    return fwrite(head, 1, sizeof head, f) == sizeof head ? QN_OK : QN_IO;
}

/* What media give to n rows from place at on. */
struct media_rows {
    int32_t *rope, *row; /* [n][3], [n] */
    float *embed;        /* [n, H] */
};

static void add_media(const struct qn_asked *a, int at, int n, int hidden, const struct media_rows *m,
                      struct qn_step *s, struct qn_step_seq *seq)
{
    for (int i = 0; i < n; i++) {
        int k = qn_spans_find(a->spans, a->n_span, at + i);
        const struct qn_media_span *span = &a->spans[k];
        qn_spans_rope(a->spans, a->n_span, at + i, m->rope + 3 * i);
        m->row[i] = -1;
        if (k == a->n_span || span->first > at + i) continue;
        size_t from = (size_t)(span->first_embed + at + i - span->first) * (size_t)hidden;
        memcpy(m->embed + (size_t)s->n_embed * (size_t)hidden, span->embeds->rows + from,
               (size_t)hidden * sizeof *m->embed);
        m->row[i] = s->n_embed++;
    }
    if (at) qn_spans_rope(a->spans, a->n_span, at - 1, seq->rope_before);
    s->rope_pos = m->rope;
    s->embed_row = m->row;
    s->embed = m->embed;
}

/* The prompt chunk by chunk on one slot, rows to the file as they come. */
static int run_chunks(const struct job *j, struct qn_forward *f, const struct qn_config *c, int chunk,
                      FILE *out, struct qn_err *e)
{
    int rc = QN_OK, n_page = QN_CEIL_DIV(j->asked.n_tok + 1, QN_PAGE);
    size_t v = (size_t)c->vocab;
    int32_t *pages = xcalloc((size_t)n_page + (size_t)chunk * 3, sizeof *pages), *row_seq = pages + n_page;
    int32_t *pos = row_seq + chunk, *row = pos + chunk;
    float *logits = try_malloc((size_t)chunk, v * sizeof *logits);
    struct media_rows media = {xcalloc((size_t)chunk * 4, sizeof *media.rope), NULL,
                               xcalloc((size_t)chunk * (size_t)c->hidden, sizeof *media.embed)};
    media.row = media.rope + 3 * chunk;
    QN_FAIL_IF(!logits, e, QN_NOMEM, "no memory for %d rows of logits; use a smaller --chunk", chunk);
    for (int i = 0; i < n_page; i++) pages[i] = i;
    for (int at = 0; at < j->asked.n_tok; at += chunk) {
        int n = QN_MIN(chunk, j->asked.n_tok - at), n_out = n;
        struct qn_step_seq seq = {
            .n_row = n, .pos0 = at, .n_page = n_page, .is_fresh = at == 0, .wants_mtp = j->is_mtp};
        struct qn_step s = {.n_row = n,
                            .n_seq = 1,
                            .tok = j->asked.tok + at,
                            .row_seq = row_seq,
                            .pos = pos,
                            .seq = &seq,
                            .pages = pages,
                            .n_pages = n_page};
        for (int i = 0; i < n; i++) {
            pos[i] = at + i;
            row[i] = i;
        }
        if (j->asked.n_span) add_media(&j->asked, at, n, c->hidden, &media, &s, &seq);
        if (j->is_mtp) {
            n_out -= at == 0;
            QN_TRY(qn_forward_mtp_logits(f, &s, logits, e));
        } else {
            int32_t n_accepted, n_drafted;
            struct qn_step_result result = {
                .n_accepted = &n_accepted, .n_drafted = &n_drafted, .logits = logits};
            s.all_logits = s.wants_raw = true;
            s.n_logit = n;
            s.logit_row = row;
            s.logit_seq = row_seq;
            qn_forward_run(f, &s, &result);
            QN_FAIL_IF(result.fault, e, result.fault, "%s", result.fault_text);
        }
        QN_FAIL_IF(fwrite(logits, v * sizeof *logits, (size_t)n_out, out) != (size_t)n_out, e, QN_IO,
                   "%s: cannot write; is the disk full?", j->out);
    }
out:
    free(logits);
    free(media.rope);
    free(media.embed);
    free(pages);
    return rc;
}

/* The ids as a JSON array. */
static int write_ids(const struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    FILE *f = fopen(j->ids_out, "w");
    QN_FAIL_IF(!f, e, QN_IO, "%s: cannot be created", j->ids_out);
    for (int i = 0; i < j->asked.n_tok; i++) fprintf(f, i ? ", %d" : "[%d", j->asked.tok[i]);
    fputs("]\n", f);
    bool ok = !ferror(f);
    ok &= !fclose(f);
    QN_FAIL_IF(!ok, e, QN_IO, "%s: cannot write; is the disk full?", j->ids_out);
out:
    return rc;
}

static int run_model(struct job *j, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_model *model = NULL;
    struct qn_forward *f = NULL;
    FILE *out = NULL;
    int act = *j->activations            ? qn_act_find(j->activations)
              : strcmp(j->device, "ref") ? QN_ACT_BF16
                                         : QN_ACT_F32;
    QN_FAIL_IF(act < 0, e, QN_INVAL, "--activations: '%s' is none of " QN_ACT_NAMES, j->activations);
    QN_TRY(qn_model_opts_open(&model, folder, &j->wish, e));
    const struct qn_config *c = qn_model_config(model);
    const struct qn_sight_options sight = {j->device, (enum qn_act)act, (int)j->n_thread, 0};
    if (j->chat) QN_TRY(qn_asked_read(&j->asked, model, j->chat, &sight, e));
    if (j->ids_out) QN_TRY(write_ids(j, e));
    for (int i = 0; i < j->asked.n_tok; i++)
        QN_FAIL_IF(j->asked.tok[i] >= c->vocab, e, QN_INVAL, "%s: id %d is not below the vocabulary's %d",
                   j->chat ? j->chat : j->ids, j->asked.tok[i], c->vocab);
    QN_FAIL_IF(j->is_mtp && (!qn_model_has_mtp(model) || j->asked.n_tok < 2), e, QN_INVAL,
               "--mtp needs a checkpoint with an MTP layer and two ids");
    int chunk = (int)QN_MIN(j->chunk, j->asked.n_tok);
    struct qn_forward_options o = {.backend = qn_backend_get(j->device), .with_mtp = j->is_mtp};
    QN_FAIL_IF(!o.backend, e, QN_INVAL,
               "--device: no '%s' in this build; cpu and ref are, cuda after `make cuda`", j->device);
    o.device.act = (enum qn_act)act;
    o.device.kv = act == QN_ACT_F32 ? QN_KV_F32 : QN_KV_BF16;
    if (*j->kv) {
        int kv = qn_kv_find(j->kv, qn_model_has_kv_scales(model));
        QN_FAIL_IF(kv < 0, e, QN_INVAL, "--kv: '%.40s' is none of " QN_KV_NAMES, j->kv);
        o.device.kv = (enum qn_kv)kv;
    }
    o.device.n_thread = (int)j->n_thread;
    o.device.max_rows = o.device.max_logits = chunk;
    o.device.max_seqs = o.device.n_slot = o.device.n_lane = 1;
    o.device.n_page = QN_CEIL_DIV(j->asked.n_tok + 1, QN_PAGE);
    o.device.max_context = j->asked.n_tok + 1;
    QN_TRY(qn_forward_open(&f, model, &o, e));
    out = fopen(j->out, "wb");
    QN_FAIL_IF(!out, e, QN_IO, "%s: cannot be created", j->out);
    QN_FAIL_IF(write_header(out, j->asked.n_tok - j->is_mtp, c->vocab), e, QN_IO, "%s: cannot write", j->out);
    QN_TRY(run_chunks(j, f, c, chunk, out, e));
    bool is_closed = !fclose(out);
    out = NULL;
    QN_FAIL_IF(!is_closed, e, QN_IO, "%s: cannot write; is the disk full?", j->out);
out:
    if (out) fclose(out);
    qn_forward_close(f);
    qn_model_close(model);
    return rc;
}

int qn_eval_logits(int argc, char **argv)
{
    struct job j = {.device = "cpu", .activations = "", .kv = "", .chunk = 256};
    const struct qn_opt table[] = {
        QN_MODEL_OPTS(&j.wish),
        {.name = "ids", .type = QN_OPT_STR, .out = &j.ids, .arg = "FILE", .help = "JSON array of token ids"},
        {.name = "chat",
         .type = QN_OPT_STR,
         .out = &j.chat,
         .arg = "REQUEST.json",
         .help = "a chat request instead, rendered as the server would, pictures and video included"},
        {.name = "ids-out",
         .type = QN_OPT_STR,
         .out = &j.ids_out,
         .arg = "FILE",
         .help = "writes the token ids as a JSON array"},
        {.name = "out", .type = QN_OPT_STR, .out = &j.out, .arg = "FILE", .help = "numpy file to write"},
        {.name = "mtp",
         .type = QN_OPT_FLAG,
         .out = &j.is_mtp,
         .help = "the draft head's: row p from hidden row p and token p + 1"},
        {.name = "device",
         .type = QN_OPT_STR,
         .out = &j.device,
         .arg = "cpu|cuda|ref",
         .help = "default cpu"},
        {.name = "activations",
         .type = QN_OPT_STR,
         .out = &j.activations,
         .arg = "TYPE",
         .help = "inputs of linear layers: " QN_ACT_NAMES "; default bf16 on cpu, f32 on ref"},
        {.name = "kv",
         .type = QN_OPT_STR,
         .out = &j.kv,
         .arg = "TYPE",
         .help = "of the KV cache: " QN_KV_NAMES "; default follows the activations"},
        {.name = "threads",
         .type = QN_OPT_INT,
         .out = &j.n_thread,
         .arg = "N",
         .min = 0,
         .max = 1024,
         .help = "default one per physical core"},
        {.name = "chunk",
         .type = QN_OPT_INT,
         .out = &j.chunk,
         .arg = "N",
         .min = 1,
         .max = 65536,
         .help = "rows of a step, default 256; changes no bit on cpu and ref"},
    };
    static const struct qn_opt_usage usage = {
        "quern eval logits MODEL --ids FILE | --chat REQUEST.json --out FILE.npy [options]",
        "Writes the logits of every position, float32 [n, vocab].",
        "quern eval logits models/mini --ids ids.json --out logits.npy"};
    struct qn_err e = {0};
    const char *folder;
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, &folder, 1, &n_arg, &e);
    if (rc == QN_OK && (n_arg != 1 || !j.ids == !j.chat || !j.out))
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__,
                        "needs MODEL, --ids or --chat, and --out; --help shows an example");
    if (rc) return qn_cli_usage_failed("eval logits", rc, &e);
    rc = j.chat ? QN_OK : read_ids(&j, &e);
    if (!rc) rc = run_model(&j, folder, &e);
    qn_asked_free(&j.asked);
    return rc ? qn_cli_failed("eval logits", &e) : 0;
}
