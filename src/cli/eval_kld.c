/* quern eval ppl, kld and reference: the quality of a model over a text, alone or against a reference.
 *
 * The text is tokenised once and cut into chunks of --context tokens; every chunk is run from an empty
 * state and every position of it is compared; a position's target is the next token of the same chunk.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <strings.h>

#include "base/shown.h"
#include "backend/backend.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/divergence.h"
#include "cli/eval.h"
#include "cli/ids.h"
#include "cli/model_opts.h"
#include "cli/reference.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"

struct side {
    struct qn_model *model;
    struct qn_engine *engine;
    const char *format; /* of most of its weights */
};

struct manner {                            /* how a model is run */
    const char *device, *activations, *kv; /* "": the default; of the reference: as the tested one */
};

struct options {
    const char *reference, *out;
    struct manner tested, ref;
    int64_t context, n_thread, n_rank, max_tokens, k;
    bool json;
    struct qn_model_wish wish; /* of MODEL, not of the reference */
};

static void close_side(struct side *s)
{
    if (s->engine) qn_engine_close(s->engine);
    qn_model_close(s->model);
}

static const char *main_format(const struct qn_model *m)
{
    const struct qn_config *c = qn_model_config(m);
    struct qn_linear l;
    enum qn_role role = c->is_moe ? QN_ROLE_EXPERT_DOWN : QN_ROLE_DOWN;
    return qn_model_linear(m, role, c->n_layer / 2, 0, &l, NULL) ? "?" : qn_format_name(l.format);
}

static const char *activations_of(const struct manner *m)
{
    return m->activations[0] ? m->activations : strcmp(m->device, "ref") ? "bf16" : "f32";
}

static int open_side(struct side *s, const char *folder, const struct options *o, const struct manner *m,
                     struct qn_err *e)
{
    int rc = QN_OK, kv, act = qn_act_find(activations_of(m));
    const struct qn_backend *backend = qn_backend_get(m->device);
    QN_FAIL_IF(!backend, e, QN_INVAL, "--device: no '%s' in this build; cpu and ref are, cuda after `make cuda`", m->device);
    QN_FAIL_IF(act < 0, e, QN_INVAL, "--activations: '%s' is none of " QN_ACT_NAMES, m->activations);
    static const struct qn_model_wish none;
    QN_TRY(qn_model_opts_open(&s->model, folder, m == &o->tested ? &o->wish : &none, e));
    kv = m->kv[0] ? qn_kv_find(m->kv, qn_model_has_kv_scales(s->model)) : -1;
    QN_FAIL_IF(m->kv[0] && kv < 0, e, QN_INVAL, "--kv: '%.40s' is none of " QN_KV_NAMES, m->kv);
    struct qn_engine_options options = {
        .model = s->model,
        .backend = backend,
        .n_thread = (int)o->n_thread,
        .n_rank = (int)o->n_rank,
        .act = (enum qn_act)act,
        .kv = kv,
        .max_context = (int)o->context + 1,
        .max_seqs = 1,
        .mtp = 0,
        .no_prefix_cache = true,
        .ram_tier_bytes = -1,
    };
    QN_TRY(qn_engine_open(&s->engine, &options, e));
    s->format = main_format(s->model);
out:
    return rc;
}

static void show_progress(size_t done, size_t total)
{
    fprintf(stderr, "\reval: %zu of %zu tokens", done, total);
    if (done == total) fputc('\n', stderr);
}

/* What happens to the tested model's rows of a chunk. */
struct chunk {
    struct qn_divergence *divergence;
    const int32_t *ids; /* of the chunk */
    int n, vocab;
    const float *reference_rows; /* [n, V] of a second model */
    struct qn_reference *stored; /* or NULL */
    FILE *out;                   /* rows are stored there, or NULL */
    bool is_alone;               /* nothing is compared: perplexity */
    int k;
    struct qn_err *e;
};

/* Rows of the reference model, kept for the chunk. */
struct kept_rows {
    float *to; /* [context, V] */
    size_t vocab;
};

static int keep_rows(void *user, int first, int n_row, const float *logits)
{
    struct kept_rows *keep = user;
    memcpy(keep->to + (size_t)first * keep->vocab, logits, (size_t)n_row * keep->vocab * sizeof(float));
    return QN_OK;
}

static int take_rows(void *user, int first, int n_row, const float *logits)
{
    struct chunk *c = user;
    for (int i = 0; i < n_row; i++) {
        const float *row = logits + (size_t)i * (size_t)c->vocab;
        int at = first + i, target = at + 1 < c->n ? c->ids[at + 1] : -1;
        if (c->out) {
            int rc = qn_reference_put(c->out, c->k, row, c->vocab);
            if (rc) return qn_err_set(c->e, rc, __FILE__, __LINE__, "cannot write the reference");
        } else if (c->stored) {
            struct qn_top_row top;
            int rc = qn_reference_next(c->stored, &top, c->e);
            if (rc) return rc;
            qn_divergence_add_top(c->divergence, &top, row, c->vocab, target);
        } else {
            qn_divergence_add(c->divergence, c->reference_rows + (size_t)at * (size_t)c->vocab, row, c->vocab,
                              target);
        }
    }
    return QN_OK;
}

/* Perplexity alone needs a number a row. */
static int take_scores(void *user, int first, int n_row, const struct qn_step_token *score)
{
    struct chunk *c = user;
    for (int i = 0; i < n_row; i++) {
        bool has_target = first + i + 1 < c->n;
        if (has_target && score[i].tok < 0)
            return qn_err_set(c->e, QN_INTERNAL, __FILE__, __LINE__,
                              "the model produced no finite logits at position %d of a chunk", first + i);
        qn_divergence_add_target(c->divergence, has_target ? (double)score[i].logprob : NAN);
    }
    return QN_OK;
}

static int run_chunks(struct chunk *c, struct side *tested, struct side *reference, const struct qn_ids *ids,
                      int context, struct qn_err *e)
{
    int rc = QN_OK;
    struct kept_rows keep = {NULL, (size_t)c->vocab};
    if (reference) {
        keep.to = try_malloc((size_t)context * keep.vocab, sizeof(float));
        QN_FAIL_IF(!keep.to, e, QN_NOMEM, "no memory for %d rows of %d logits; use a smaller --context",
                   context, c->vocab);
        c->reference_rows = keep.to;
    }
    for (size_t at = 0; at < ids->n; at += (size_t)context) {
        c->ids = ids->data + at;
        c->n = (int)QN_MIN((size_t)context, ids->n - at);
        if (reference) QN_TRY(qn_engine_logits(reference->engine, c->ids, c->n, false, keep_rows, &keep, e));
        if (c->is_alone)
            QN_TRY(qn_engine_scores(tested->engine, c->ids, c->n, take_scores, c, e));
        else
            QN_TRY(qn_engine_logits(tested->engine, c->ids, c->n, false, take_rows, c, e));
        show_progress(at + (size_t)c->n, ids->n);
    }
out:
    free(keep.to);
    return rc;
}

/* One body for the three: they differ in what the rows are held against. */
enum task { PPL, KLD, REFERENCE };

/* Each part takes only the options it honours. */
static const struct qn_opt *option_table(enum task task, struct options *o, size_t *n)
{
    static struct qn_opt table[32];
    const struct qn_opt model[] = {QN_MODEL_OPTS(&o->wish)};
    size_t k = QN_COUNT(model);
    memcpy(table, model, sizeof model);
    if (task == KLD)
        table[k++] = (struct qn_opt){"reference",   0,     QN_OPT_STR,
                                     &o->reference, "REF", "checkpoint folder, or file from eval reference"};
    if (task == REFERENCE) {
        table[k++] = (struct qn_opt){"out", 'o', QN_OPT_STR, &o->out, "FILE", "where to store"};
        table[k++] = (struct qn_opt){.name = "top",
                                     .type = QN_OPT_INT,
                                     .out = &o->k,
                                     .arg = "K",
                                     .help = "tokens kept by position (64)",
                                     .min = 1,
                                     .max = 4096};
    }
    table[k++] = (struct qn_opt){.name = "context",
                                 .letter = 'c',
                                 .type = QN_OPT_INT,
                                 .out = &o->context,
                                 .arg = "N",
                                 .help = "tokens of a chunk (512; a stored reference has its own)",
                                 .min = 2,
                                 .max = 1 << 20};
    table[k++] = (struct qn_opt){.name = "max-tokens",
                                 .type = QN_OPT_INT,
                                 .out = &o->max_tokens,
                                 .arg = "N",
                                 .help = "stop after that many (0: all; a stored reference has its own)",
                                 .min = 0,
                                 .max = INT32_MAX};
    table[k++] = (struct qn_opt){.name = "threads",
                                 .letter = 't',
                                 .type = QN_OPT_INT,
                                 .out = &o->n_thread,
                                 .arg = "N",
                                 .help = "CPU workers (all cores)",
                                 .min = 0,
                                 .max = 4096};
    table[k++] = (struct qn_opt){.name = "tp",
                                 .type = QN_OPT_INT,
                                 .out = &o->n_rank,
                                 .arg = "N",
                                 .help = "ranks that share the model (1)",
                                 .min = 1,
                                 .max = QN_MAX_RANK};
    table[k++] = (struct qn_opt){"device", 0, QN_OPT_STR, &o->tested.device, "NAME", "cpu, cuda or ref (cpu)"};
    table[k++] = (struct qn_opt){"activations",          0,      QN_OPT_STR,
                                 &o->tested.activations, "TYPE", QN_ACT_NAMES " (bf16; ref: f32)"};
    table[k++] = (struct qn_opt){.name = "kv",
                                 .type = QN_OPT_STR,
                                 .out = &o->tested.kv,
                                 .arg = "TYPE",
                                 .help = "KV cache: f32, bf16, fp8_e4m3, fp8_e5m2 (follows the activations)",
                                 .alias = "kv-cache-dtype"};
    if (task == KLD) {
        table[k++] = (struct qn_opt){"reference-device", 0,      QN_OPT_STR,
                                     &o->ref.device,     "NAME", "of the reference (as --device)"};
        table[k++] = (struct qn_opt){"reference-activations", 0,      QN_OPT_STR,
                                     &o->ref.activations,     "TYPE", "of the reference (as --activations)"};
        table[k++] =
            (struct qn_opt){"reference-kv", 0, QN_OPT_STR, &o->ref.kv, "TYPE", "of the reference (as --kv)"};
    }
    if (task != REFERENCE)
        table[k++] = (struct qn_opt){"json", 0, QN_OPT_FLAG, &o->json, NULL, "one line of JSON: a receipt"};
    *n = k;
    return table;
}

static void print_string(struct qn_buf *b, const char *key, const char *value)
{
    qn_buf_printf(b, "\"%s\": ", key);
    qn_json_write_str(b, value, strlen(value), false);
    qn_buf_puts(b, ", ");
}

static void print_number(struct qn_buf *b, const char *key, double x)
{
    if (isfinite(x))
        qn_buf_printf(b, "\"%s\": %.9g, ", key, x);
    else
        qn_buf_printf(b, "\"%s\": null, ", key);
}

static const char *kv_of(const struct manner *m)
{
    return m->kv[0] ? m->kv : strcmp(activations_of(m), "f32") ? "bf16" : "f32";
}

struct receipt {
    const char *model, *format, *reference, *reference_format, *text;
    const struct options *o;
    const struct qn_divergence_summary *s;
    uint64_t text_hash;
    bool is_stored;
};

static void print_receipt(const struct receipt *r)
{
    const struct qn_divergence_summary *s = r->s;
    struct qn_buf b = QN_BUF_INIT(1 << 16);
    if (r->o->json) {
        qn_buf_putc(&b, '{');
        print_string(&b, "model", r->model);
        print_string(&b, "format", r->format);
        if (r->reference) {
            print_string(&b, "reference", r->reference);
            print_string(&b, "reference_format", r->reference_format);
        }
        print_string(&b, "text", r->text);
        qn_buf_printf(&b,
                      "\"text_hash\": \"%016" PRIx64 "\", \"version\": \"%s\", \"context\": %" PRId64
                      ", \"n_tokens\": %zu, ",
                      r->text_hash, QN_VERSION, r->o->context, s->n);
        print_string(&b, "device", r->o->tested.device);
        print_string(&b, "activations", activations_of(&r->o->tested));
        print_string(&b, "kv", kv_of(&r->o->tested));
        if (r->reference && !r->is_stored) {
            print_string(&b, "reference_device", r->o->ref.device);
            print_string(&b, "reference_activations", activations_of(&r->o->ref));
            print_string(&b, "reference_kv", kv_of(&r->o->ref));
        }
        if (r->reference) {
            print_number(&b, "mean_kld", s->mean);
            print_number(&b, "mean_kld_error", s->mean_error);
            print_number(&b, "median_kld", s->median);
            print_number(&b, "p95_kld", s->p95);
            print_number(&b, "p99_kld", s->p99);
            print_number(&b, "max_kld", s->max);
            print_number(&b, "top1", s->top1);
            print_number(&b, "top1_error", s->top1_error);
            print_number(&b, "ppl_reference", s->ppl_ref);
        }
        print_number(&b, "ppl_error", s->ppl_error);
        print_number(&b, "ppl", s->ppl);
        b.n_byte -= 2;
        b.data[b.n_byte] = 0;
        qn_buf_putc(&b, '}');
    } else {
        qn_buf_printf(&b, "model        %s (%s)\n", qn_shown(r->model), qn_shown(r->format));
        if (r->reference) qn_buf_printf(&b, "reference    %s (%s)\n", r->reference, r->reference_format);
        qn_buf_printf(&b, "text         %s, %zu positions in chunks of %" PRId64 "\n", r->text, s->n,
                      r->o->context);
        qn_buf_printf(&b, "perplexity   %.4f +- %.4f\n", s->ppl, s->ppl_error);
        if (r->reference) {
            if (isfinite(s->ppl_ref)) qn_buf_printf(&b, "reference's  %.4f\n", s->ppl_ref);
            qn_buf_printf(&b, "KL           mean %.6f +- %.6f, median %.6f, P95 %.6f, P99 %.6f, max %.6f\n",
                          s->mean, s->mean_error, s->median, s->p95, s->p99, s->max);
            qn_buf_printf(&b, "same top-1   %.3f %% +- %.3f %%", 100 * s->top1, 100 * s->top1_error);
        } else {
            b.n_byte--;
            b.data[b.n_byte] = 0;
        }
    }
    puts(qn_buf_str(&b));
    qn_buf_free(&b);
}

/* All that a task holds. */
struct work {
    enum task task;
    struct options o;
    const char *args[2];
    bool needs_text;
    struct side tested, reference;
    struct qn_reference *stored;
    struct qn_ids ids;
    struct qn_divergence divergence;
    struct chunk c;
    struct receipt r;
    char *part; /* the file while it grows */
};

/* -1: go on; else the exit code. */
static int read_task(struct work *w, const char *name, const struct qn_opt_usage *usage, int argc,
                     char **argv, struct qn_err *e)
{
    struct options *o = &w->o;
    int n_arg;
    size_t n_opt;
    const struct qn_opt *table = option_table(w->task, o, &n_opt);
    int rc = qn_opt_parse(table, n_opt, usage, argc, argv, w->args, 2, &n_arg, e);
    if (rc) return qn_cli_usage_failed(name, rc, e);
    if (!o->ref.device[0]) o->ref.device = o->tested.device;
    if (!o->ref.activations[0]) o->ref.activations = o->tested.activations;
    if (!o->ref.kv[0]) o->ref.kv = o->tested.kv;
    w->needs_text = !(w->task == KLD && qn_is_reference(o->reference));
    if (!w->needs_text && n_arg > 1) {
        qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s holds its own text; leave out %s", o->reference,
                   w->args[1]);
        return qn_cli_usage_failed(name, QN_INVAL, e);
    }
    if (n_arg < (w->needs_text ? 2 : 1) || (w->task == KLD && !o->reference[0]) ||
        (w->task == REFERENCE && !o->out[0])) {
        qn_opt_help(stderr, table, n_opt, usage);
        return 2;
    }
    return -1;
}

/* The text, the model and what it is compared with. */
static int open_work(struct work *w, struct qn_err *e)
{
    int rc = QN_OK;
    struct options *o = &w->o;
    struct receipt *r = &w->r;
    if (!w->needs_text) {
        QN_TRY(qn_reference_open(&w->stored, o->reference, e));
        const struct qn_reference_header *h = qn_reference_header(w->stored);
        o->context = h->context;
        QN_TRY(qn_ids_append(&w->ids, qn_reference_ids(w->stored), h->n_ids));
        r->reference = h->model;
        r->is_stored = true;
        r->reference_format = h->format;
    } else {
        QN_TRY(qn_cli_read_ids(&w->ids, w->args[0], w->args[1], o->max_tokens, e));
    }
    r->text_hash = qn_hash_bytes(0, w->ids.data, w->ids.n * sizeof *w->ids.data);
    QN_TRY(open_side(&w->tested, w->args[0], o, &o->tested, e));
    w->c.vocab = qn_model_config(w->tested.model)->vocab;
    if (w->task == KLD && !w->stored) {
        QN_TRY(open_side(&w->reference, o->reference, o, &o->ref, e));
        r->reference = qn_model_name(w->reference.model);
        r->reference_format = w->reference.format;
    }
    int vocab_ref = w->stored        ? (int)qn_reference_header(w->stored)->vocab
                    : w->task == KLD ? qn_model_config(w->reference.model)->vocab
                                     : w->c.vocab;
    QN_FAIL_IF(vocab_ref != w->c.vocab, e, QN_INVAL, "vocabularies differ: %s has %d rows, the reference %d",
               w->args[0], w->c.vocab, vocab_ref);
    for (size_t i = 0; i < w->ids.n; i++)
        QN_FAIL_IF(w->ids.data[i] >= w->c.vocab, e, QN_INVAL,
                   "token id %d at %zu is not in the model's vocabulary of %d", w->ids.data[i], i,
                   w->c.vocab);
    w->c.stored = w->stored;
out:
    return rc;
}

static int begin_reference(struct work *w, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_reference_header h = {.fingerprint = qn_model_fingerprint(w->tested.model),
                                    .text_hash = w->r.text_hash,
                                    .vocab = (uint32_t)w->c.vocab,
                                    .k = (uint32_t)QN_MIN(w->o.k, w->c.vocab),
                                    .context = (uint32_t)w->o.context,
                                    .n_ids = (uint32_t)w->ids.n};
    memcpy(h.magic, QN_REFERENCE_MAGIC, 8);
    snprintf(h.model, sizeof h.model, "%s", qn_model_name(w->tested.model));
    snprintf(h.format, sizeof h.format, "%s", w->tested.format);
    w->c.k = (int)h.k;
    w->part = xasprintf("%s.part", w->o.out);
    w->c.out = fopen(w->part, "wb");
    QN_FAIL_IF(!w->c.out || qn_reference_begin(w->c.out, &h, w->ids.data), e, QN_IO, "cannot write %s",
               w->part);
out:
    return rc;
}

static int end_work(struct work *w, struct qn_err *e)
{
    int rc = QN_OK;
    if (w->task == REFERENCE) {
        bool ok = !fclose(w->c.out);
        w->c.out = NULL;
        QN_FAIL_IF(!ok || rename(w->part, w->o.out), e, QN_IO, "cannot write %s", w->o.out);
        printf("%s: %zu positions, the %d most likely of each\n", w->o.out, w->ids.n, w->c.k);
    } else {
        struct qn_divergence_summary summary;
        qn_divergence_summary(&w->divergence, &summary);
        w->r.model = qn_model_name(w->tested.model);
        w->r.format = w->tested.format;
        w->r.s = &summary;
        print_receipt(&w->r);
    }
out:
    return rc;
}

static int run_task(enum task task, const char *name, const struct qn_opt_usage *usage, int argc, char **argv)
{
    struct qn_err e = {0};
    struct work w = {.task = task,
                     .o = {"", "", {"cpu", "", ""}, {"", "", ""}, .context = 512, .n_rank = 1, .k = 64},
                     .ids = QN_IDS_INIT((size_t)1 << 28)};
    int rc = read_task(&w, name, usage, argc, argv, &e);
    if (rc >= 0) return rc;
    w.c = (struct chunk){.divergence = &w.divergence, .e = &e, .k = (int)w.o.k, .is_alone = task == PPL};
    w.r = (struct receipt){.o = &w.o, .text = w.needs_text ? w.args[1] : "the reference's text"};
    QN_TRY(open_work(&w, &e));
    if (task == REFERENCE) QN_TRY(begin_reference(&w, &e));
    QN_TRY(
        run_chunks(&w.c, &w.tested, w.reference.engine ? &w.reference : NULL, &w.ids, (int)w.o.context, &e));
    QN_TRY(end_work(&w, &e));
out:
    if (w.c.out) fclose(w.c.out);
    if (rc && w.part) remove(w.part);
    free(w.part);
    qn_divergence_free(&w.divergence);
    qn_reference_close(w.stored);
    qn_ids_free(&w.ids);
    close_side(&w.tested);
    close_side(&w.reference);
    return rc ? qn_cli_failed(name, &e) : 0;
}

int qn_eval_ppl(int argc, char **argv)
{
    static const struct qn_opt_usage usage = {"quern eval ppl MODEL FILE [options]",
                                              "Perplexity of a text (or a JSON array of token ids).",
                                              "quern eval ppl models/mini docs/architecture.md"};
    return run_task(PPL, "eval ppl", &usage, argc, argv);
}

int qn_eval_kld(int argc, char **argv)
{
    static const struct qn_opt_usage usage = {
        "quern eval kld MODEL --reference REF [FILE] [options]",
        "Divergence of MODEL's next-token distributions from REF's over a text. REF is a checkpoint folder, "
        "or a\n"
        "file stored by eval reference (then its own text is used).",
        "quern eval kld mini-nvfp4 --reference models/mini docs/architecture.md --json"};
    return run_task(KLD, "eval kld", &usage, argc, argv);
}

int qn_eval_reference(int argc, char **argv)
{
    static const struct qn_opt_usage usage = {
        "quern eval reference MODEL FILE --out REF [options]",
        "Stores the top of MODEL's distributions over a text, to compare other formats with later, anywhere.",
        "quern eval reference models/mini docs/architecture.md --out mini.qnref --top 64"};
    return run_task(REFERENCE, "eval reference", &usage, argc, argv);
}
