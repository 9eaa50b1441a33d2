/* Fuzz target: any bytes as a command line, an argument a line, and as a size and a shape by themselves.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "base/opt.h"
#include "model/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096) return 0;
    char *text = xstrndup((const char *)data, size), *argv[64] = {"quern"}, *save = NULL;
    struct qn_shape shape;
    struct qn_err e = {0};
    int64_t bytes = 0;
    if (!qn_opt_bytes(text, &bytes)) QN_CHECK(bytes >= 0);
    if (!qn_shape_find(&shape, text, &e)) QN_CHECK(shape.config.n_layer > 0 && shape.config.vocab > 0);

    bool flag = false;
    const char *str = NULL, *args[4];
    int64_t number = 7, size_bytes = 0;
    double real = 0;
    int argc = 1, n_arg = 0;
    const struct qn_opt table[] = {
        {.name = "flag", .letter = 'f', .type = QN_OPT_FLAG, .out = &flag},
        {.name = "name", .type = QN_OPT_STR, .out = &str, .arg = "NAME", .alias = "other,third"},
        {.name = "count", .letter = 'n', .type = QN_OPT_INT, .out = &number, .arg = "N", .min = 1, .max = 9},
        {.name = "real", .type = QN_OPT_NUM, .out = &real, .arg = "X"},
        {.name = "bytes", .letter = 'b', .type = QN_OPT_BYTES, .out = &size_bytes, .arg = "BYTES"},
    };
    static const struct qn_opt_usage usage = {"quern fuzz", "", "quern fuzz"};
    for (char *word = strtok_r(text, "\n", &save); word && argc < 60; word = strtok_r(NULL, "\n", &save))
        if (strcmp(word, "--help") && word[0] && !(word[0] == '-' && strchr(word, 'h'))) argv[argc++] = word;
    e = (struct qn_err){0};
    int rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, QN_COUNT(args), &n_arg, &e);
    if (rc)
        QN_CHECK(e.code == rc && e.text[0]);
    else
        QN_CHECK(number >= 1 && number <= 9 && n_arg <= 4 && size_bytes >= 0);
    free(text);
    return 0;
}
