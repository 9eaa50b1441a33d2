/* quern eval: logits, perplexity, divergence from a reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/eval.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} parts[] = {
    {"logits", qn_eval_logits, "logits of every position of given token ids"},
    {"ppl", qn_eval_ppl, "perplexity of a text"},
    {"kld", qn_eval_kld, "KL divergence and top-1 agreement with a reference"},
    {"reference", qn_eval_reference, "store a reference to compare with later"},
};

static void print_help(FILE *out)
{
    fprintf(out, "usage: quern eval PART MODEL ...\n\n");
    for (size_t i = 0; i < QN_COUNT(parts); i++)
        fprintf(out, "  %-10s %s\n", parts[i].name, parts[i].summary);
    fprintf(out,
            "\nexample:\n  quern eval ppl models/mini README.md\n\nquern eval PART --help tells more.\n");
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_help(stdout);
        return 0;
    }
    for (size_t i = 0; i < QN_COUNT(parts); i++)
        if (!strcmp(argv[1], parts[i].name)) return parts[i].run(argc - 1, argv + 1);
    fprintf(stderr, "quern eval: no part '%s'; --help lists them\n", argv[1]);
    return 2;
}

const struct qn_cmd qn_cmd_eval = {"eval", "logits, perplexity, divergence from a reference", run};
