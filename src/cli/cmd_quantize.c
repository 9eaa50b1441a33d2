/* quern quantize: re-store a checkpoint in another format.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "cli/cli.h"
#include "model/quantize.h"

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
    if (r->n_unfit)
        printf("%d layers have a shape the format cannot hold and stay as they were\n", r->n_unfit);
}

static int run(int argc, char **argv)
{
    const char *format = NULL, *recipe = NULL, *calib = NULL;
    int64_t shard = 0, threads = 2;
    bool nearest = false, quiet = false;
    const struct qn_opt table[] = {
        {"format", 'f', QN_OPT_STR, &format, "F", "of the layers that are quantised", NULL, NULL, 0, 0},
        {"recipe", 0, QN_OPT_STR, &recipe, "R", "which layers (that of the releases in the format)", NULL,
         NULL, 0, 0},
        {"nearest", 0, QN_OPT_FLAG, &nearest, NULL, "round to nearest, no search for better scales", NULL,
         NULL, 0, 0},
        {"calib", 0, QN_OPT_STR, &calib, "FILE", "text for activation statistics (not built yet: refused)",
         NULL, NULL, 0, 0},
        {"shard", 0, QN_OPT_BYTES, &shard, "BYTES", "largest file (5 GB)", NULL, NULL, 0, 0},
        {"threads", 0, QN_OPT_INT, &threads, "N", "(2)", NULL, NULL, 1, 16},
        {"quiet", 'q', QN_OPT_FLAG, &quiet, NULL, "no progress, no report", NULL, NULL, 0, 0},
    };
    static const struct qn_opt_usage usage = {
        "quern quantize IN OUT --format F [options]",
        "Writes a checkpoint again with quantised weights, in the layout of the published releases.",
        "quern quantize models/Qwen3.5-9B models/Qwen3.5-9B-FP8 --format fp8"};
    struct qn_err e = {0};
    const char *args[2];
    struct qn_model *m;
    struct qn_quantize q = {.search = true};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 2, &n_arg, &e);
    if (rc == QN_CANCELED) print_lists();
    if (!rc && n_arg != 2)
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "IN and OUT are needed: two folders");
    if (!rc && !format)
        rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--format is needed; --help lists them");
    if (!rc && (!(q.store = qn_store_find(format)) || q.store->format == QN_FMT_BF16))
        rc =
            qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "unknown format '%.40s'; --help lists them", format);
    if (!rc && recipe && !(q.recipe = qn_recipe_find(recipe)))
        rc =
            qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "unknown recipe '%.40s'; --help lists them", recipe);
    if (!rc && calib)
        rc = qn_err_set(
            &e, QN_UNSUPPORTED, __FILE__, __LINE__,
            "--calib: activation statistics are not built yet; without it scales are searched from the "
            "weights alone");
    if (rc) return qn_cli_usage_failed("quantize", rc, &e);
    rc = qn_model_open(&m, args[0], &e);
    if (rc) return qn_cli_failed("quantize", &e);
    q.model = m;
    q.search = !nearest;
    q.shard_bytes = shard;
    q.n_thread = (int)threads;
    q.is_quiet = quiet;
    struct qn_quantize_report report;
    rc = qn_quantize_write(&q, args[1], &report, &e);
    if (!rc && !quiet) print_report(&report);
    qn_model_close(m);
    return rc ? qn_cli_failed("quantize", &e) : 0;
}

const struct qn_cmd qn_cmd_quantize = {"quantize", "re-store a checkpoint in another format", run};
