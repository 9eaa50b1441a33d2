/* quern quantize: re-store a checkpoint in another format.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/model_path.h"
#include "cli/cli.h"
#include "cli/ids.h"
#include "engine/calib.h"
#include "model/gguf_write.h"
#include "model/plain.h"
#include "model/quantize.h"

#define MAX_KEEP 64

static void print_lists(void)
{
    printf("\nformats:\n");
    for (int i = 1; qn_store_at(i); i++)
        printf("  %-12s %s\n", qn_store_at(i)->name, qn_store_at(i)->summary);
    printf("\nrecipes (what is quantised; the rest is copied):\n");
    for (int i = 0; qn_recipe_at(i); i++)
        printf("  %-14s %s\n", qn_recipe_name(qn_recipe_at(i)), qn_recipe_summary(qn_recipe_at(i)));
    printf("  default: nvfp4 experts (MoE) or mixed (dense), nvfp4-ct attention, fp8 linear-mtp, others "
           "linear\n");
}

static void print_report(const struct qn_quantize_report *r)
{
    char a[24], b[24];
    printf("%-15s %-12s %8s %16s %9s\n", "part", "stored as", "layers", "bytes", "error");
    for (int p = 0; p < QN_N_PART; p++)
        for (int f = 0; f < QN_N_FORMAT; f++)
            if (r->part[p][f].n_layer)
                printf("%-15s %-12s %8d %16" PRIu64 " %8.4f\n", qn_part_name((enum qn_part)p),
                       qn_format_name((enum qn_format)f), r->part[p][f].n_layer, r->part[p][f].bytes_out,
                       r->part[p][f].power > 0 ? sqrt(r->part[p][f].error / r->part[p][f].power) : 0.0);
    printf("%s -> %s\n", qn_bytes_text(r->bytes_in, a), qn_bytes_text(r->bytes_out, b));
    if (r->n_requantised)
        printf("%d layers were quantised before: their errors add up; start from BF16 where there is one\n",
               r->n_requantised);
    if (r->n_fold)
        printf("activation-aware scales folded away at %d inputs; output error there %.2f of that without\n",
               r->n_fold, r->fold_gain / r->n_fold);
    if (r->n_kept) printf("%d layers stay as they were because of --keep\n", r->n_kept);
    if (r->n_unfit)
        printf("%d layers have a shape the format cannot hold and stay as they were\n", r->n_unfit);
}

struct options {
    const char *format, *recipe, *calib, *compensate, *device, *keep;
    int64_t calib_tokens, calib_context, shard, threads;
    bool nearest, act_order, quiet;
};

/* What the options say, checked. */
static int read_options(const struct options *o, struct qn_quantize *q, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(!o->format, e, QN_INVAL, "--format is needed; --help lists them");
    q->store = qn_store_find(o->format);
    QN_FAIL_IF(!q->store || q->store->format == QN_FMT_BF16, e, QN_INVAL,
               "unknown format '%.40s'; --help lists them", o->format);
    if (o->recipe) q->recipe = qn_recipe_find(o->recipe);
    QN_FAIL_IF(o->recipe && !q->recipe, e, QN_INVAL, "unknown recipe '%.40s'; --help lists them", o->recipe);
    bool is_on = !strcmp(o->compensate, "on"), is_off = !strcmp(o->compensate, "off");
    QN_FAIL_IF(o->compensate[0] && !is_on && !is_off, e, QN_INVAL, "--compensate is on or off, not '%.40s'",
               o->compensate);
    QN_FAIL_IF(!o->calib && (is_on || o->act_order), e, QN_INVAL,
               "--compensate and --act-order need the activations of a text: --calib FILE");
    QN_FAIL_IF(o->calib && o->nearest, e, QN_INVAL,
               "--nearest looks at nothing, --calib at activations: choose one");
    q->has_carry = o->calib && !is_off;
    q->is_act_order = o->act_order;
    QN_FAIL_IF(o->act_order && (q->store->format != QN_FMT_INT4_GPTQ || !q->has_carry), e, QN_INVAL,
               "--act-order is a property of gptq files, with --compensate on");
    q->search = !o->nearest;
    q->shard_bytes = o->shard;
    q->n_thread = (int)o->threads;
    q->is_quiet = o->quiet;
out:
    return rc;
}

/* Cuts "a,b,c" in place. */
static int split_keep(char *text, const char **out, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    for (char *save, *at = strtok_r(text, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
        QN_FAIL_IF(n == MAX_KEEP, e, QN_TOOBIG, "--keep: more than %d patterns", MAX_KEEP);
        out[n++] = at;
    }
out:
    return rc ? -1 : n;
}

static int open_calib(struct qn_calib **out, const struct options *o, struct qn_quantize *q,
                      const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_ids ids = QN_IDS_INIT((size_t)1 << 26);
    const struct qn_backend *backend = qn_backend_get(o->device);
    QN_FAIL_IF(!backend, e, QN_INVAL, "--device: no '%.40s' in this build; cpu and ref are, cuda after `make cuda`", o->device);
    QN_TRY(qn_cli_read_ids(&ids, folder, o->calib, o->calib_tokens, e));
    struct qn_calib_options c = {
        q->model, backend, (int)o->threads, ids.data, (int)ids.n, (int)o->calib_context, q->has_carry};
    QN_TRY(qn_calib_open(out, &c, e));
    q->activations = qn_calib_activations(*out);
    q->activations_hash = qn_hash_bytes((uint64_t)o->calib_context, ids.data, ids.n * sizeof *ids.data) ^
                          qn_hash_str(o->device);
    if (!o->quiet)
        fprintf(stderr, "quantize: calibrating with %zu tokens of %s, sequences of %d\n", ids.n, o->calib,
                c.context);
out:
    qn_ids_free(&ids);
    return rc;
}

/* Between GGUF files and checkpoints. */
static bool is_conversion(const struct options *o, const char *out)
{
    return qn_model_path_is_gguf(out) || (o->format && !strcasecmp(o->format, "bf16"));
}

static int convert(const char *in, const struct options *o, const char *to, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_model *m = NULL;
    static const struct {
        const char *name;
        enum qn_dtype type;
    } types[] = {{"bf16", QN_BF16}, {"q8_0", QN_Q8_0}, {"q4_0", QN_Q4_0}};
    size_t i = 0;
    while (i < QN_COUNT(types) && (!o->format || strcasecmp(o->format, types[i].name))) i++;
    QN_FAIL_IF(i == QN_COUNT(types), e, QN_INVAL,
               "--format %.40s: GGUF files are written in bf16, q8_0 and q4_0",
               o->format ? o->format : "is missing");
    QN_FAIL_IF(o->calib || o->recipe || o->keep[0], e, QN_INVAL,
               "--calib, --recipe and --keep have no meaning between GGUF files and checkpoints");
    QN_TRY(qn_model_open(&m, in, e));
    if (qn_model_path_is_gguf(to)) {
        QN_TRY(qn_gguf_write(m, to, types[i].type, e));
    } else {
        QN_FAIL_IF(
            !qn_model_is_gguf(m), e, QN_INVAL,
            "--format bf16 makes checkpoints out of GGUF files, and GGUF files (OUT.gguf); %s is neither",
            in);
        QN_TRY(qn_plain_write(m, to, o->shard, e));
    }
out:
    qn_model_close(m);
    return rc;
}

static int run(int argc, char **argv)
{
    struct options o = {.compensate = "",
                        .device = "cpu",
                        .keep = "",
                        .calib_tokens = 16384,
                        .calib_context = 512,
                        .threads = 2};
    const struct qn_opt table[] = {
        {"format", 'f', QN_OPT_STR, &o.format, "F", "of the layers that are quantised", NULL, NULL, 0, 0},
        {"recipe", 0, QN_OPT_STR, &o.recipe, "R", "which layers (that of the releases in the format)", NULL,
         NULL, 0, 0},
        {"keep", 0, QN_OPT_STR, &o.keep, "PATTERNS",
         "modules that stay as they are besides: components of a name, a glob or re:EXPRESSION, with commas "
         "between",
         NULL, NULL, 0, 0},
        {"nearest", 0, QN_OPT_FLAG, &o.nearest, NULL, "round to nearest, no search for better scales", NULL,
         NULL, 0, 0},
        {"calib", 0, QN_OPT_STR, &o.calib, "FILE",
         "a text (or JSON array of ids): errors are weighed with its activations; awq: activation-aware "
         "scales; others: "
         "errors are made up for",
         NULL, NULL, 0, 0},
        {"calib-tokens", 0, QN_OPT_INT, &o.calib_tokens, "N", "of the text (16384)", NULL, NULL, 64, 1 << 24},
        {"calib-context", 0, QN_OPT_INT, &o.calib_context, "N", "tokens of a sequence (512)", NULL, NULL, 16,
         1 << 20},
        {"compensate", 0, QN_OPT_STR, &o.compensate, "on|off",
         "with --calib: make up for each column's rounding error in later ones (on)", NULL, NULL, 0, 0},
        {"act-order", 0, QN_OPT_FLAG, &o.act_order, NULL,
         "gptq: groups by falling activation (g_idx, desc_act)", NULL, NULL, 0, 0},
        {"device", 0, QN_OPT_STR, &o.device, "NAME", "that runs the text: cpu or ref (cpu)", NULL, NULL, 0,
         0},
        {"shard-size", 0, QN_OPT_BYTES, &o.shard, "BYTES", "largest file (5 GB)", NULL, "shard", 0, 0},
        {"threads", 0, QN_OPT_INT, &o.threads, "N", "(2)", NULL, NULL, 1, 16},
        {"quiet", 'q', QN_OPT_FLAG, &o.quiet, NULL, "no progress, no report", NULL, NULL, 0, 0},
    };
    static const struct qn_opt_usage usage = {
        "quern quantize IN OUT --format F [options]",
        "Writes a checkpoint again with quantised weights, in the layout of the published releases. An "
        "interrupted run is\n"
        "gone on with by the same command. OUT.gguf (--format bf16, q8_0, q4_0) is a file for programs that "
        "read GGUF; "
        "a GGUF file\n"
        "becomes a checkpoint by --format bf16.",
        "quern quantize models/Qwen3.5-9B models/Qwen3.5-9B-AWQ --format awq --calib text.txt"};
    struct qn_err e = {0};
    const char *args[2], *keep[MAX_KEEP];
    struct qn_model *m = NULL;
    struct qn_calib *calib = NULL;
    struct qn_quantize q = {.keep = keep};
    struct qn_quantize_report report;
    char *keep_text = NULL;
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 2, &n_arg, &e);
    if (rc == QN_CANCELED) print_lists();
    if (!rc && n_arg != 2)
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__,
                        "IN and OUT are needed: two folders, or .gguf files");
    bool converts = !rc && is_conversion(&o, args[1]);
    if (converts) return convert(args[0], &o, args[1], &e) ? qn_cli_failed("quantize", &e) : 0;
    if (!rc) rc = read_options(&o, &q, &e);
    if (!rc) {
        keep_text = xstrdup(o.keep);
        q.n_keep = split_keep(keep_text, keep, &e);
        if (q.n_keep < 0) rc = QN_TOOBIG;
    }
    if (rc) {
        free(keep_text);
        return qn_cli_usage_failed("quantize", rc, &e);
    }
    QN_TRY(qn_model_open(&m, args[0], &e));
    QN_FAIL_IF(qn_model_is_gguf(m), &e, QN_INVAL,
               "%s is a GGUF file: write it as a checkpoint first (--format bf16), then quantise that",
               args[0]);
    q.model = m;
    if (o.calib) QN_TRY(open_calib(&calib, &o, &q, args[0], &e));
    QN_TRY(qn_quantize_write(&q, args[1], &report, &e));
    if (!o.quiet) print_report(&report);
out:
    qn_calib_close(calib);
    qn_model_close(m);
    free(keep_text);
    return rc ? qn_cli_failed("quantize", &e) : 0;
}

const struct qn_cmd qn_cmd_quantize = {"quantize", "re-store a checkpoint in another format", run};
