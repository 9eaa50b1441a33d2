/* quern synth: a checkpoint of random weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "model/synth.h"

static const char *shape_text, *format = "bf16", *recipe_name;

static void print_lists(void)
{
    printf("\nshapes:\n");
    qn_shape_list(stdout);
    printf("\nformats:\n");
    for (int i = 0; qn_store_at(i); i++)
        printf("  %-12s %s\n", qn_store_at(i)->name, qn_store_at(i)->summary);
    printf("\nrecipes (default: that of the releases in the format):\n");
    for (int i = 0; qn_recipe_at(i); i++)
        printf("  %-14s %s\n", qn_recipe_name(qn_recipe_at(i)), qn_recipe_summary(qn_recipe_at(i)));
}

static int run(int argc, char **argv)
{
    int64_t layers = 0, seed = 1, shard = 0, threads = 2;
    bool headers_only = false;
    const struct qn_opt table[] = {
        {"format", 'f', QN_OPT_STR, &format, "F", "how weights are stored (bf16)", NULL, NULL, 0, 0},
        {"recipe", 0, QN_OPT_STR, &recipe_name, "R", "which layers are quantised", NULL, NULL, 0, 0},
        {"layers", 0, QN_OPT_INT, &layers, "N", "keep the first N layers", NULL, NULL, 1, 256},
        {"seed", 0, QN_OPT_INT, &seed, "S", "of the weights (1)", NULL, NULL, 0, INT64_MAX},
        {"shard", 0, QN_OPT_BYTES, &shard, "BYTES", "largest file (5 GB)", NULL, NULL, 0, 0},
        {"threads", 0, QN_OPT_INT, &threads, "N", "(2)", NULL, NULL, 1, 16},
        {"headers", 0, QN_OPT_FLAG, &headers_only, NULL, "no data: enough for inspect and plan", NULL, NULL,
         0, 0},
    };
    static const struct qn_opt_usage usage = {"quern synth SHAPE OUT [options]",
                                              "Writes a checkpoint with random weights in the published "
                                              "layout: a released shape by name, or a tiny one.",
                                              "quern synth qwen3.5-0.8b /tmp/model --format nvfp4"};
    struct qn_err e = {0};
    const char *args[2];
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 2, &n_arg, &e);
    if (rc == QN_CANCELED) print_lists();
    if (rc) return qn_cli_usage_failed("synth", rc, &e);
    if (n_arg != 2) {
        qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "SHAPE and OUT are needed; --help lists the shapes");
        return qn_cli_usage_failed("synth", QN_INVAL, &e);
    }
    shape_text = args[0];
    struct qn_shape shape;
    struct qn_synth s = {.shape = &shape,
                         .store = qn_store_find(format),
                         .recipe = recipe_name ? qn_recipe_find(recipe_name) : NULL,
                         .seed = (uint64_t)seed,
                         .shard_bytes = shard,
                         .n_thread = (int)threads,
                         .headers_only = headers_only};
    if (!s.store) {
        qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "unknown format '%.40s'; --help lists them", format);
        return qn_cli_usage_failed("synth", QN_INVAL, &e);
    }
    if (recipe_name && !s.recipe) {
        qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "unknown recipe '%.40s'; --help lists them",
                   recipe_name);
        return qn_cli_usage_failed("synth", QN_INVAL, &e);
    }
    rc = qn_shape_find(&shape, shape_text, &e);
    if (!rc && layers) rc = qn_shape_cut(&shape, (int)layers, &e);
    if (rc) return qn_cli_usage_failed("synth", rc, &e);
    rc = qn_synth_write(&s, args[1], &e);
    if (rc) return qn_cli_failed("synth", &e);
    return 0;
}

const struct qn_cmd qn_cmd_synth = {"synth", "write a checkpoint with random weights", run};
