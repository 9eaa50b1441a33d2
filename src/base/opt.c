/* Option tables.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/opt.h"

#include <errno.h>
#include <strings.h>

int qn_opt_bytes(const char *text, int64_t *out)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || !(x >= 0)) return QN_INVAL;
    static const char units[] = "kmgt";
    const char *hit = *end ? strchr(units, *end | 32) : NULL;
    if (hit) {
        for (int i = 0; i <= hit - units; i++) x *= 1024;
        end++;
        if (*end == 'i') end++;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (*end || x > 9e18) return QN_INVAL;
    *out = (int64_t)x;
    return QN_OK;
}

int qn_opt_count(const char *text, int64_t *out)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || x != x) return QN_INVAL;
    static const char units[] = "kmgt";
    const char *hit = *end ? strchr(units, *end | 32) : NULL;
    if (hit) {
        for (int i = 0; i <= hit - units; i++) x *= *end & 32 ? 1000 : 1024;
        end++;
    }
    if (*end || x > 9e15 || x < -9e15 || x != (double)(int64_t)x) return QN_INVAL;
    *out = (int64_t)x;
    return QN_OK;
}

static bool alias_matches(const char *aliases, const char *name, size_t n)
{
    while (aliases && *aliases) {
        size_t k = strcspn(aliases, ",");
        if (k == n && !memcmp(aliases, name, n)) return true;
        aliases += k + (aliases[k] == ',');
    }
    return false;
}

static const struct qn_opt *find(const struct qn_opt *table, size_t n_opt, const char *name, size_t n)
{
    for (size_t i = 0; i < n_opt; i++)
        if ((strlen(table[i].name) == n && !memcmp(table[i].name, name, n)) ||
            alias_matches(table[i].alias, name, n))
            return &table[i];
    return NULL;
}

int qn_opt_distance(const char *a, size_t n, const char *b)
{
    size_t m = strlen(b);
    int row[64];
    if (m >= QN_COUNT(row)) return 99;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int up = row[j];
            int best = QN_MIN(QN_MIN(up, row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = up;
            row[j] = best;
        }
    }
    return row[m];
}

static int unknown(const struct qn_opt *table, size_t n_opt, const char *name, size_t n, struct qn_err *e)
{
    char nearest[64] = "";
    int best = (int)n / 2 + 2;
    for (size_t i = 0; i < n_opt; i++) {
        const char *word = table[i].name, *rest = table[i].alias ? table[i].alias : "";
        for (size_t k = strlen(word); k; k = strcspn(rest, ",")) {
            char one[64];
            snprintf(one, sizeof one, "%.*s", (int)k, word);
            int d = qn_opt_distance(name, n, one);
            if (d < best) {
                best = d;
                memcpy(nearest, one, sizeof one);
            }
            if (word != table[i].name) rest += k + (rest[k] == ',');
            word = rest;
        }
    }
    if (nearest[0])
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "unknown option --%.*s; did you mean --%s?",
                          (int)n, name, nearest);
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "unknown option --%.*s; --help lists all", (int)n,
                      name);
}

/* name: as it was written, one of the option's */
static int store(const struct qn_opt *o, const char *name, size_t n_name, const char *value, struct qn_err *e)
{
    const int n = (int)n_name;
    int rc = QN_OK;
    char *end;
    switch (o->type) {
    case QN_OPT_FLAG:
        *(bool *)o->out =
            !value || !(!strcasecmp(value, "false") || !strcasecmp(value, "off") || !strcmp(value, "0"));
        break;
    case QN_OPT_STR:
        *(const char **)o->out = value;
        break;
    case QN_OPT_COUNT:
    case QN_OPT_INT: {
        errno = 0;
        int64_t count = 0;
        bool is_count = o->type == QN_OPT_COUNT;
        int bad = is_count && strcasecmp(value, "auto") ? qn_opt_count(value, &count) : 0;
        long long x = is_count ? count : strtoll(value, &end, 10);
        QN_FAIL_IF(bad || (!is_count && (end == value || *end || errno)), e, QN_INVAL,
                   "--%.*s: '%s' is not a whole number", n, name, value);
        QN_FAIL_IF(o->min < o->max && (x < o->min || x > o->max), e, QN_INVAL,
                   "--%.*s: %lld is not between %" PRId64 " and %" PRId64, n, name, x, o->min, o->max);
        *(int64_t *)o->out = x;
        break;
    }
    case QN_OPT_NUM: {
        double x = strtod(value, &end);
        QN_FAIL_IF(end == value || *end || x != x, e, QN_INVAL, "--%.*s: '%s' is not a number", n, name,
                   value);
        *(double *)o->out = x;
        break;
    }
    case QN_OPT_BYTES:
        QN_FAIL_IF(qn_opt_bytes(value, o->out), e, QN_INVAL, "--%.*s: '%s' is not a size (like 512M or 8G)",
                   n, name, value);
        break;
    case QN_OPT_NOTE:
        fprintf(stderr, "--%.*s: %s\n", n, name, o->help);
        break;
    }
out:
    return rc;
}

static bool takes_value(const struct qn_opt *o)
{
    return o->type != QN_OPT_FLAG && !(o->type == QN_OPT_NOTE && !o->arg);
}

int qn_opt_parse(const struct qn_opt *table, size_t n_opt, const struct qn_opt_usage *usage, int argc,
                 char **argv, const char **args, int max_args, int *n_arg, struct qn_err *e)
{
    int rc = QN_OK;
    bool options = true;
    *n_arg = 0;
    for (size_t i = 0; i < n_opt; i++) {
        const char *value = table[i].env ? getenv(table[i].env) : NULL;
        if (value && *value) QN_TRY(store(&table[i], table[i].name, strlen(table[i].name), value, e));
    }
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!options || a[0] != '-' || !a[1]) {
            QN_FAIL_IF(*n_arg >= max_args, e, QN_INVAL, "unexpected argument '%s'", a);
            args[(*n_arg)++] = a;
            continue;
        }
        if (!strcmp(a, "--")) {
            options = false;
            continue;
        }
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            qn_opt_help(stdout, table, n_opt, usage);
            return QN_CANCELED;
        }
        const struct qn_opt *o = NULL;
        const char *value = NULL, *name = a + (a[1] == '-' ? 2 : 1);
        size_t n = strcspn(name, "=");
        if (a[1] == '-' || n > 1) o = find(table, n_opt, name, n); /* vLLM has -tp, -dp */
        if (o) {
            if (name[n] == '=') value = name + n + 1;
        } else if (a[1] == '-') {
            return unknown(table, n_opt, name, n, e);
        } else {
            for (size_t k = 0; k < n_opt && !o; k++)
                if (table[k].letter == a[1]) o = &table[k];
            QN_FAIL_IF(!o, e, QN_INVAL, "unknown option %s; --help lists all", a);
            if (a[2]) value = a + 2;
            name = o->name;
            n = strlen(name);
        }
        if (!value && takes_value(o)) {
            QN_FAIL_IF(i + 1 >= argc, e, QN_INVAL, "--%.*s needs a value (%s)", (int)n, name,
                       o->arg ? o->arg : "VALUE");
            value = argv[++i];
        }
        QN_TRY(store(o, name, n, value, e));
    }
out:
    return rc;
}

void qn_opt_help(FILE *out, const struct qn_opt *table, size_t n_opt, const struct qn_opt_usage *usage)
{
    fprintf(out, "usage: %s\n\n%s\n", usage->synopsis, usage->about);
    if (n_opt) fprintf(out, "\noptions:\n");
    for (size_t i = 0; i < n_opt; i++) {
        char left[64], letter[8] = "    ";
        if (table[i].letter) snprintf(letter, sizeof letter, "-%c, ", table[i].letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, table[i].name, table[i].arg ? " " : "",
                 table[i].arg ? table[i].arg : "");
        fprintf(out, "  %-34s%s%s", left, strlen(left) > 33 ? "\n                                    " : "",
                table[i].help);
        if (table[i].env) fprintf(out, " [%s]", table[i].env);
        if (table[i].alias) fprintf(out, " (also --%s)", table[i].alias);
        fputc('\n', out);
    }
    if (usage->example) fprintf(out, "\nexample:\n  %s\n", usage->example);
}
