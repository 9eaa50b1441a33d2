/* The model: the layer loop, and what follows the logits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine/forward.h"

#include "base/log.h"
#include "base/mem.h"
#include "engine/draft.h"
#include "engine/load.h"

struct qn_forward {
    struct qn_layer layer; /* back end, device, residual stream */
    struct qn_config c;    /* the rank's own */
    struct qn_weights *w;
    int max_rows, max_logits,
        max_seqs;             /* of a step; the device also has room for the MTP row of each sequence */
    float *hidden;            /* [rows, H] after the final norm */
    float *slice_x, *slice_y; /* [rows, H] of a sequence between two of its slices */
    float *logits;            /* [max_logits, V] */
    float *part;              /* the rank's part of them, with several */
    struct qn_draft draft;
    bool has_told_draft; /* that a draft had no finite logits: once is enough */
};

/* Of the device, from those of the steps: with MTP also a row for each sequence. */
static struct qn_device_options device_options(const struct qn_forward_options *o, bool has_mtp)
{
    struct qn_device_options dev = o->device;
    dev.has_mtp = has_mtp;
    if (has_mtp) dev.max_rows += dev.max_seqs;
    return dev;
}

void qn_forward_sizes(const struct qn_forward_options *o, struct qn_device_sizes *out)
{
    struct qn_device_options dev = device_options(o, o->device.has_mtp);
    struct qn_shard shard;
    bool is_shared = o->n_rank > 1 && !qn_shard_init(&shard, dev.config, o->rank, o->n_rank, NULL);
    if (is_shared) dev.config = &shard.config;
    o->backend->sizes(&dev, out);
    if (is_shared) out->workspace_bytes += (size_t)dev.max_logits * (size_t)shard.vocab.n * sizeof(float);
}

/* n_tok: ids of the rank's part of the vocabulary, 0 with one rank. */
static int alloc_buffers(struct qn_forward *f, int rows, int n_tok, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_backend *b = f->layer.b;
    struct qn_device *d = f->layer.d;
    size_t row_bytes = (size_t)rows * (size_t)f->c.hidden * sizeof(float);
    f->layer.x = b->alloc(d, row_bytes);
    f->layer.y = b->alloc(d, row_bytes);
    f->hidden = b->alloc(d, row_bytes);
    f->slice_x = b->alloc(d, row_bytes);
    f->slice_y = b->alloc(d, row_bytes);
    f->logits = b->alloc(d, (size_t)f->max_logits * (size_t)f->c.vocab * sizeof(float));
    if (n_tok) f->part = b->alloc(d, (size_t)f->max_logits * (size_t)n_tok * sizeof(float));
    f->layer.part = f->part;
    QN_FAIL_IF(!f->layer.x || !f->layer.y || !f->hidden || !f->slice_x || !f->slice_y || !f->logits ||
                   (n_tok && !f->part),
               e, QN_NOMEM, "no memory for buffers of %d rows and %d logit rows; use fewer", rows,
               f->max_logits);
out:
    return rc;
}

static int open_drafts(struct qn_forward *f, int rows, struct qn_err *e)
{
    int rc = QN_OK;
    f->draft.layer = &f->layer;
    f->draft.n_full = f->c.n_full;
    f->draft.logits = f->logits;
    f->draft.hidden =
        f->layer.b->alloc(f->layer.d, (size_t)rows * (size_t)f->c.hidden * sizeof *f->draft.hidden);
    QN_FAIL_IF(!f->draft.hidden, e, QN_NOMEM, "no memory for buffers of %d rows; use fewer", rows);
    qn_draft_init(&f->draft, rows, f->max_seqs);
out:
    return rc;
}

int qn_forward_open(struct qn_forward **out, const struct qn_model *model, const struct qn_forward_options *o,
                    struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_forward *f = xcalloc(1, sizeof *f);
    bool has_mtp = o->with_mtp && qn_model_has_mtp(model);
    struct qn_device_options dev = device_options(o, has_mtp);
    struct qn_shard shard;
    bool is_shared = o->n_rank > 1;
    f->c = *qn_model_config(model);
    QN_FAIL_IF(is_shared && o->backend->memory, e, QN_UNSUPPORTED,
               "several ranks are not built for %s yet; use --tp 1, or --device cpu", o->backend->name);
    QN_FAIL_IF(is_shared && !o->meet, e, QN_INVAL, "%d ranks need a way to bring their parts together",
               o->n_rank);
    if (is_shared) {
        QN_TRY(qn_shard_init(&shard, &f->c, o->rank, o->n_rank, e));
        f->c = shard.config;
    }
    f->layer = (struct qn_layer){.b = o->backend,
                                 .meet = is_shared ? o->meet : NULL,
                                 .is_moe = f->c.is_moe,
                                 .hidden = f->c.hidden,
                                 .vocab = f->c.vocab};
    f->max_rows = o->device.max_rows;
    f->max_logits = dev.max_logits;
    f->max_seqs = dev.max_seqs;
    QN_FAIL_IF(f->max_rows < 1 || dev.max_logits < 1 || dev.max_seqs < 1, e, QN_INVAL,
               "max_rows, max_logits and max_seqs must be at least 1");
    dev.config = &f->c;
    QN_TRY(o->backend->open(&f->layer.d, &dev, e));
    QN_TRY(alloc_buffers(f, dev.max_rows, is_shared ? shard.vocab.n : 0, e));
    if (has_mtp) QN_TRY(open_drafts(f, dev.max_rows, e));
    struct qn_load load = {.model = model,
                           .backend = o->backend,
                           .device = f->layer.d,
                           .with_mtp = has_mtp,
                           .progress = o->progress,
                           .user = o->progress_user,
                           .shard = is_shared ? &shard : NULL};
    QN_TRY(qn_load_weights(&f->w, &load, e));
    if (has_mtp) f->draft.w = f->w;
    *out = f;
    f = NULL;
out:
    qn_forward_close(f);
    return rc;
}

void qn_forward_close(struct qn_forward *f)
{
    if (!f) return;
    const struct qn_backend *b = f->layer.b;
    struct qn_device *d = f->layer.d;
    if (d) {
        b->free(d, f->layer.x);
        b->free(d, f->layer.y);
        b->free(d, f->hidden);
        b->free(d, f->draft.hidden);
        b->free(d, f->slice_x);
        b->free(d, f->slice_y);
        b->free(d, f->logits);
        b->free(d, f->part);
        b->close(d);
    }
    qn_load_free(f->w);
    qn_draft_fini(&f->draft);
    free(f);
}

/* The step without its last sequence, for the layers that its slice does not go through. */
static struct qn_step without_last(const struct qn_step *s)
{
    struct qn_step few = *s;
    few.n_seq--;
    few.n_row = s->seq[few.n_seq].first_row;
    few.slice_from = few.slice_to = 0;
    return few;
}

/* The residual rows of the last sequence, into the step's or out of them. */
static void move_slice(struct qn_forward *f, const struct qn_step *s, bool is_in)
{
    const struct qn_layer *l = &f->layer;
    const struct qn_step_seq *q = &s->seq[s->n_seq - 1];
    size_t at = (size_t)q->first_row * (size_t)f->c.hidden,
           n_byte = (size_t)q->n_row * (size_t)f->c.hidden * sizeof(float);
    l->b->move(l->d, is_in ? l->x + at : f->slice_x, is_in ? f->slice_x : l->x + at, n_byte);
    l->b->move(l->d, is_in ? l->y + at : f->slice_y, is_in ? f->slice_y : l->y + at, n_byte);
}

/* Embedding, layers and final norm. few: the step without its last sequence, for the parts of the model that
 * the slice does not go through. */
static void run_layers(struct qn_forward *f, const struct qn_step *s, const struct qn_step *few)
{
    const struct qn_layer *l = &f->layer;
    bool is_cut = s->slice_to > 0, goes_on = is_cut && s->slice_from > 0;
    const struct qn_step *t = goes_on ? few : s;
    if (t->n_row) qn_layer_embed(l, t, f->w);
    if (goes_on) move_slice(f, s, true);
    for (int i = 0, n_full = 0, n_gdn = 0; i < f->c.n_layer; i++) {
        const struct qn_layer_weights *w = &f->w->layers[i];
        t = is_cut && (i < s->slice_from || i >= s->slice_to) ? few : s;
        if (t->n_row) qn_layer_run(l, t, w, n_full, n_gdn);
        n_full += w->is_full;
        n_gdn += !w->is_full;
    }
    t = is_cut && s->slice_to <= f->c.n_layer ? few : s;
    if (t != s) move_slice(f, s, false);
    struct qn_op_head head = {f->w->final_norm, l->x, l->y, f->hidden};
    if (t->n_row) l->b->head(l->d, t, &head);
}

/* Logits of the wanted rows, and what is asked of them. */
static void run_logits(struct qn_forward *f, const struct qn_step *s)
{
    const struct qn_layer *l = &f->layer;
    struct qn_op_rows rows = {f->logits, 0, s->n_logit};
    bool wants_token = false;
    for (int i = 0; i < s->n_seq; i++) wants_token |= s->seq[i].wants_token;
    if (!s->n_logit) return;
    qn_layer_logits(l, s, f->w, f->hidden, 0, s->n_logit, f->logits);
    if (s->wants_raw) l->b->raw(l->d, s, &rows);
    if (s->score_tok) l->b->score(l->d, s, &rows);
    if (!wants_token) return;
    l->b->adjust(l->d, s, &rows);
    l->b->sample(l->d, s, &rows);
    l->b->verify(l->d, s);
}

/* Where the draft layer has no finite logits drafting ends; said once. */
static void watch_drafts(struct qn_forward *f, const struct qn_step *s, const struct qn_step_result *r)
{
    for (int i = 0; i < s->n_seq && !f->has_told_draft && f->draft.n_pass; i++) {
        const struct qn_step_seq *q = &s->seq[i];
        if (!q->wants_mtp || !q->wants_token || r->n_drafted[i] >= QN_MIN(q->n_draft_next, QN_MAX_DRAFT) ||
            r->token[q->first_logit + r->n_accepted[i]].tok < 0)
            continue;
        qn_log(QN_LOG_WARN, "engine", "the draft layer produced no finite logits; nothing is drafted there");
        f->has_told_draft = true;
    }
}

/* The sequences that are through with the model at the end of the step: those of the step, but for one whose
 * slice ends before. */
static const struct qn_step *through(const struct qn_forward *f, const struct qn_step *s,
                                     const struct qn_step *few)
{
    return s->slice_to > 0 && s->slice_to <= f->c.n_layer ? few : s;
}

void qn_forward_run(struct qn_forward *f, const struct qn_step *s, struct qn_step_result *result)
{
    const struct qn_layer *l = &f->layer;
    QN_CHECK(s->n_row <= f->max_rows && s->n_logit <= f->max_logits && s->n_seq <= f->max_seqs);
    QN_CHECK(!s->slice_to || (s->n_seq > s->n_decode && s->slice_from < s->slice_to &&
                              s->slice_to <= f->c.n_layer + 1 && !s->all_logits));
    struct qn_step few = s->slice_to ? without_last(s) : *s;
    const struct qn_step *done = through(f, s, &few);
    for (int i = 0; i < s->n_seq; i++) result->n_accepted[i] = result->n_drafted[i] = 0;
    qn_draft_plan(&f->draft, done, false);
    l->b->begin(l->d, s, f->draft.pass, f->draft.n_pass, result);
    run_layers(f, s, &few);
    run_logits(f, done);
    if (f->draft.n_pass) qn_draft_run(&f->draft, done, f->hidden);
    struct qn_err e = {0};
    result->fault = l->b->sync(l->d, &e);
    result->fault_text[0] = 0;
    if (result->fault)
        snprintf(result->fault_text, sizeof result->fault_text, "%.150s", e.text);
    else
        watch_drafts(f, done, result);
}

int qn_forward_mtp_logits(struct qn_forward *f, const struct qn_step *s, float *logits, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_layer *l = &f->layer;
    int32_t n_accepted = 0, n_drafted = 0;
    struct qn_step_result result = {.n_accepted = &n_accepted, .n_drafted = &n_drafted, .logits = logits};
    QN_FAIL_IF(!f->w->mtp, e, QN_UNSUPPORTED, "the model has no MTP layer");
    QN_FAIL_IF(s->n_seq != 1 || s->n_decode || s->n_logit || s->slice_to || !s->seq[0].wants_mtp ||
                   s->seq[0].wants_token,
               e, QN_INVAL, "MTP logits need a step of one prefill sequence with wants_mtp");
    qn_draft_plan(&f->draft, s, true);
    l->b->begin(l->d, s, f->draft.pass, 1, &result);
    run_layers(f, s, s);
    qn_draft_first(&f->draft, s, f->hidden);
    const struct qn_step *rows = &f->draft.pass[0].step;
    for (int first = 0; first < rows->n_logit; first += f->max_logits) { /* as many as fit at a time */
        int n = QN_MIN(f->max_logits, rows->n_logit - first);
        struct qn_op_rows raw = {f->logits, first, n};
        qn_layer_logits(l, rows, f->w, f->draft.hidden, first, n, f->logits);
        l->b->raw(l->d, rows, &raw);
    }
    QN_TRY(l->b->sync(l->d, e));
out:
    return rc;
}

struct qn_device *qn_forward_device(struct qn_forward *f)
{
    return f->layer.d;
}

const struct qn_backend *qn_forward_backend(const struct qn_forward *f)
{
    return f->layer.b;
}

bool qn_forward_has_mtp(const struct qn_forward *f)
{
    return f->w->mtp != NULL;
}

void qn_forward_describe(const struct qn_forward *f, struct qn_device_info *out)
{
    f->layer.b->describe(f->layer.d, out);
}
