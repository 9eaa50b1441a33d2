/* Reading a command line that was written for another server.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/flags.h"

#include <ctype.h>
#include <strings.h>

#include "cli/flags_impl.h"

#define MAX_KEY 128

/* ------------------------------------------------------------------ the table */

bool qn_flag_next(struct qn_flag *f)
{
    const char *p = f->rule ? f->makers + f->n_maker + 1 : NULL;
    const struct qn_flag_rule *rule = f->rule ? f->rule : qn_flag_rules;
    if (!p) p = rule->names;
    while (*p == ' ') p++;
    while (!*p) {
        if (++rule == qn_flag_rules + qn_flag_n_rule) return false;
        p = rule->names;
    }
    size_t n = strcspn(p, " "), name = strcspn(p, "/");
    *f = (struct qn_flag){.rule = rule,
                          .name = p,
                          .n_name = (int)name,
                          .makers = p + name + 1,
                          .n_maker = (int)(n - name - 2),
                          .arity = p[n - 1]};
    return true;
}

bool qn_flag_find(const char *name, size_t n, struct qn_flag *out)
{
    for (struct qn_flag f = {0}; qn_flag_next(&f);)
        if ((size_t)f.n_name == n && !memcmp(f.name, name, n)) {
            *out = f;
            return true;
        }
    return false;
}

/* The flags of one server that begin so: *out is one of them. 0: none, 1: all mean the same, 2: they do not.
 */
static int match_prefix(char maker, const char *key, size_t n, struct qn_flag *out)
{
    int n_kind = 0;
    for (struct qn_flag f = {0}; qn_flag_next(&f);) {
        if (f.name[0] == '-' || (size_t)f.n_name <= n || memcmp(f.name, key, n) != 0) continue;
        if (!memchr(f.makers, maker, (size_t)f.n_maker)) continue;
        if (!n_kind)
            *out = f, n_kind = 1;
        else if (f.rule != out->rule || f.arity != out->arity)
            n_kind = 2;
    }
    return n_kind;
}

/* argparse takes a beginning that only one of a server's flags has. Servers may agree on what it means. */
static int find_prefix(const char *key, size_t n, struct qn_flag *out, struct qn_err *e)
{
    static const char makers[] = "vskt";
    struct qn_flag hit, any = {0};
    bool is_found = false, is_doubtful = false;
    for (const char *m = makers; *m && n >= 2; m++) {
        int n_kind = match_prefix(*m, key, n, &hit);
        if (n_kind) any = hit;
        is_doubtful |= n_kind == 2;
        if (n_kind != 1) continue;
        is_doubtful |= is_found && (out->rule != hit.rule || out->arity != hit.arity);
        *out = hit;
        is_found = true;
    }
    if (is_found && !is_doubtful) return QN_OK;
    if (!any.rule) return QN_NOTFOUND;
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                      "--%.*s is short for several options, such as --%.*s; write it out", (int)n, key,
                      any.n_name, any.name);
}

static bool alias_is(const char *aliases, const char *key, size_t n)
{
    while (aliases && *aliases) {
        size_t k = strcspn(aliases, ",");
        if (k == n && !memcmp(aliases, key, n)) return true;
        aliases += k + (aliases[k] == ',');
    }
    return false;
}

const struct qn_opt *fl_own(const struct fl *r, const char *key, size_t n)
{
    for (size_t i = 0; i < r->f->n_own; i++) {
        const struct qn_opt *o = &r->f->own[i];
        if ((strlen(o->name) == n && !memcmp(o->name, key, n)) || alias_is(o->alias, key, n)) return o;
    }
    return NULL;
}

/* ------------------------------------------------------------------ unknown names */

struct nearest {
    const char *name;
    int n, distance;
};

static void consider(struct nearest *best, const char *key, size_t n, const char *name, int n_name)
{
    char text[MAX_KEY];
    if (n_name >= MAX_KEY || name[0] == '-') return;
    memcpy(text, name, (size_t)n_name);
    text[n_name] = 0;
    int d = qn_opt_distance(key, n, text);
    if (d < best->distance) *best = (struct nearest){name, n_name, d};
}

static int unknown(const struct fl *r, const char *key, size_t n, struct qn_err *e)
{
    struct nearest best = {.distance = (int)n / 2 + 2};
    for (size_t i = 0; i < r->f->n_own; i++) {
        consider(&best, key, n, r->f->own[i].name, (int)strlen(r->f->own[i].name));
        for (const char *a = r->f->own[i].alias; a && *a; a += strcspn(a, ",") + (a[strcspn(a, ",")] == ','))
            consider(&best, key, n, a, (int)strcspn(a, ","));
    }
    for (struct qn_flag f = {0}; qn_flag_next(&f);) consider(&best, key, n, f.name, f.n_name);
    if (best.name)
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "unknown option --%.*s; did you mean --%.*s?",
                          (int)n, key, best.n, best.name);
    return qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                      "unknown option --%.*s; --help lists ours, --help-foreign those of other servers",
                      (int)n, key);
}

/* ------------------------------------------------------------------ words */

char *fl_keep(struct fl *r, const char *text, size_t n)
{
    char *copy = qn_arena_strndup(r->f->arena, text, n);
    QN_CHECK(copy);
    return copy;
}

void fl_push(struct fl *r, const char *word)
{
    QN_CHECK(r->n_out < r->max_out);
    r->out[r->n_out++] = fl_keep(r, word, strlen(word));
}

static bool is_number(const char *word)
{
    char *end;
    strtod(word, &end);
    return end != word && !*end;
}

static bool is_option(const char *word)
{
    return word[0] == '-' && word[1] && !is_number(word);
}

static bool is_truth(const char *word, bool *truth)
{
    static const char *const words[] = {"false", "off", "no", "0", "true", "on", "yes", "1"};
    for (size_t i = 0; i < QN_COUNT(words); i++)
        if (!strcasecmp(word, words[i])) {
            *truth = i >= 4;
            return true;
        }
    return false;
}

/* A word that an option with an optional value would take. */
static bool is_optional_value(const char *word)
{
    bool truth;
    return is_truth(word, &truth) || is_number(word) || !strcasecmp(word, "auto") ||
           !strcasecmp(word, "none");
}

/* ------------------------------------------------------------------ one option */

/* A flag as it was met. */
struct met {
    struct qn_flag flag;
    const char *path; /* behind the first dot of --NAME.MEMBER, or NULL */
    bool is_negated;  /* --no-NAME */
};

static bool find_twin(const char *key, size_t n, struct met *m)
{
    if (n <= 3 || memcmp(key, "no-", 3) != 0 || !qn_flag_find(key + 3, n - 3, &m->flag)) return false;
    m->is_negated = m->flag.arity == 'b';
    return m->is_negated;
}

static bool find_member(const char *key, size_t n, struct met *m)
{
    const char *dot = memchr(key, '.', n);
    if (!dot || dot == key || !qn_flag_find(key, (size_t)(dot - key), &m->flag)) return false;
    m->path = dot + 1;
    return m->flag.arity == 'j';
}

static int find(struct fl *r, const char *key, size_t n, struct met *m, struct qn_err *e)
{
    if (qn_flag_find(key, n, &m->flag)) return QN_OK;
    if (fl_own(r, key, n)) return QN_NOTFOUND;
    if (find_twin(key, n, m) || find_member(key, n, m)) return QN_OK;
    if (key[0] == '-') return QN_NOTFOUND;
    return find_prefix(key, n, &m->flag, e);
}

static int need_value(struct fl *r, const struct fl_use *u, const char **out, struct qn_err *e)
{
    if (r->at + 1 >= r->n_in || (is_option(r->in[r->at + 1]) && r->in[r->at + 1][1] == '-'))
        return qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "%s needs a value", u->name);
    *out = r->in[++r->at];
    return QN_OK;
}

/* What follows a flag, by its arity. */
static int take_values(struct fl *r, struct met *m, struct fl_use *u, const char *attached, struct qn_err *e)
{
    int rc = QN_OK;
    const char *next = r->at + 1 < r->n_in ? r->in[r->at + 1] : NULL, *word;
    u->is_on = !m->is_negated;
    switch (m->flag.arity) {
    case '0':
    case 'b':
        if (!attached && next && (!strcasecmp(next, "true") || !strcasecmp(next, "false")))
            attached = r->in[++r->at];
        if (attached && is_truth(attached, &u->is_on) && m->is_negated) u->is_on = !u->is_on;
        break;
    case '?':
        if (!attached && next && is_optional_value(next)) attached = r->in[++r->at];
        u->value = attached;
        if (attached) is_truth(attached, &u->is_on);
        break;
    case '+': {
        struct qn_buf list = QN_BUF_INIT(1 << 20);
        if (attached) qn_buf_puts(&list, attached);
        for (int k = 0; !attached && r->at + 1 < r->n_in && !is_option(r->in[r->at + 1]); k++) {
            if (k && !r->has_model && !is_number(r->in[r->at + 1])) break; /* the model stands there */
            qn_buf_printf(&list, "%s%s", k ? "," : "", r->in[++r->at]);
        }
        u->value = list.n_byte ? fl_keep(r, list.data, list.n_byte) : NULL;
        qn_buf_free(&list);
        QN_FAIL_IF(!u->value, e, QN_INVAL, "%s needs a value", u->name);
        break;
    }
    default:
        u->value = attached;
        if (!attached) QN_TRY(need_value(r, u, &u->value, e));
        if (m->flag.arity == '2' && !attached) QN_TRY(need_value(r, u, &word, e));
    }
out:
    return rc;
}

/* One of ours, as it stands: the option parser reads it. */
static int pass(struct fl *r, const struct qn_opt *o, const char *attached, struct qn_err *e)
{
    int rc = QN_OK;
    char name[MAX_KEY + 4];
    if (!strcmp(o->name, "mtp")) r->has_own_depth = true;
    snprintf(name, sizeof name, "--%s", o->name);
    bool takes = o->type != QN_OPT_FLAG && !(o->type == QN_OPT_NOTE && !o->arg);
    if (takes && !attached) {
        QN_FAIL_IF(r->at + 1 >= r->n_in, e, QN_INVAL, "%s needs a value (%s)", name,
                   o->arg ? o->arg : "VALUE");
        attached = r->in[++r->at];
    }
    if (attached)
        fl_emit(r, o->name, attached);
    else
        fl_push(r, name);
out:
    return rc;
}

static const struct qn_opt *find_letter(const struct fl *r, char letter)
{
    for (size_t i = 0; i < r->f->n_own; i++)
        if (r->f->own[i].letter == letter) return &r->f->own[i];
    return NULL;
}

static int read_option(struct fl *r, const char *word, struct qn_err *e)
{
    int rc = QN_OK;
    bool is_long = word[1] == '-';
    char key[MAX_KEY];
    const char *text = word + (is_long ? 2 : 0);
    size_t n = strcspn(text, "=");
    const char *attached = text[n] ? text + n + 1 : NULL;
    QN_FAIL_IF(n >= sizeof key, e, QN_INVAL, "unknown option %.60s...", word);
    size_t n_head = strcspn(text, ".=");
    for (size_t i = 0; i < n; i++) key[i] = (char)(is_long && i < n_head && text[i] == '_' ? '-' : text[i]);
    key[n] = 0;

    struct met m = {0};
    int found = find(r, key, n, &m, e);
    if (found == QN_INVAL) return found;
    if (found == QN_OK) {
        struct fl_use u = {.flag = m.flag, .path = m.path};
        u.name = fl_keep(r, word, (size_t)(text - word) + n);
        QN_TRY(take_values(r, &m, &u, attached, e));
        rc = fl_apply(r, &u, e);
        goto out;
    }
    const struct qn_opt *own = fl_own(r, is_long ? key : key + 1, is_long ? n : n - 1);
    if (own) return pass(r, own, attached, e);
    if (!is_long) { /* -p8080, -O3 */
        struct qn_flag flag;
        own = find_letter(r, word[1]);
        if (own) return pass(r, own, word[2] ? word + 2 + (word[2] == '=') : NULL, e);
        if (word[2] && qn_flag_find(word, 2, &flag) && flag.arity != '0') {
            struct fl_use u = {.flag = flag, .name = fl_keep(r, word, 2), .value = word + 2, .is_on = true};
            return fl_apply(r, &u, e);
        }
        QN_FAIL(e, QN_INVAL, "unknown option %s; --help lists ours, --help-foreign those of other servers",
                word);
    }
    rc = unknown(r, key, n, e);
out:
    return rc;
}

/* ------------------------------------------------------------------ another server's command */

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* How many words from in[i] on name a server, 0: none. */
static int server_words(char **in, int n, int i)
{
    const char *base = base_of(in[i]);
    if (!strcmp(base, "vllm") || !strcmp(base, "sglang"))
        return i + 1 < n && !strcmp(in[i + 1], "serve") ? 2 : 0;
    if (!strncmp(base, "llama-server", 12) && (!base[12] || base[12] == '.')) return 1;
    if (!strncmp(base, "python", 6) && i + 1 < n) {
        int more = !strcmp(in[i + 1], "-m") && i + 2 < n ? 3 : 2;
        return more == 3 || strstr(in[i + 1], ".py") ? more : 0;
    }
    bool is_image = strchr(in[i], ':') || strchr(in[i], '/');
    if (is_image &&
        (strstr(in[i], "vllm-openai") || strstr(in[i], "llama.cpp:") || strstr(in[i], "/sglang"))) {
        int inner = i + 1 < n ? server_words(in, n, i + 1) : 0;
        return 1 + inner;
    }
    return 0;
}

static bool is_assignment(const char *word)
{
    size_t n = strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
    return n > 1 && !isdigit((unsigned char)word[0]) && word[n] == '=';
}

/* `VAR=1 vllm serve M ...`: what the server is called with stands behind its name. */
static int skip_command(struct fl *r)
{
    static const char *const wrappers[] = {"env",     "sudo",    "exec",   "nohup",  "time",   "nice",
                                           "numactl", "taskset", "docker", "podman", "export", "set"};
    if (r->n_in < 3) return 1;
    bool may_be = is_assignment(r->in[1]) || server_words(r->in, r->n_in, 1);
    for (size_t i = 0; i < QN_COUNT(wrappers); i++) may_be |= !strcmp(base_of(r->in[1]), wrappers[i]);
    for (int i = 1; may_be && i < r->n_in; i++) {
        int n = server_words(r->in, r->n_in, i);
        if (!n) continue;
        for (int k = 1; k < i; k++)
            if (is_assignment(r->in[k]))
                fprintf(stderr, "%.*s: not needed: a variable of another server\n",
                        (int)strcspn(r->in[k], "="), r->in[k]);
        return i + n;
    }
    return 1;
}

static bool names_model(const char *word)
{
    static const char *const names[] = {"--model", "--model-path", "--model_path", "-m"};
    for (size_t i = 0; i < QN_COUNT(names); i++) {
        size_t n = strlen(names[i]);
        if (!strncmp(word, names[i], n) && (!word[n] || word[n] == '=')) return true;
    }
    return false;
}

int qn_flags_read(const struct qn_flags *f, int *argc, char ***argv, struct qn_err *e)
{
    int rc = QN_OK;
    struct fl r = {.f = f, .in = *argv, .n_in = *argc, .max_out = 3 * *argc + 64, .depth = -1};
    r.out = qn_arena_alloc(f->arena, ((size_t)r.max_out + 1) * sizeof *r.out);
    r.json = qn_arena_alloc(f->arena, (size_t)qn_flag_n_rule * sizeof *r.json);
    QN_CHECK(r.out && r.json);
    memset(r.json, 0, (size_t)qn_flag_n_rule * sizeof *r.json);
    fl_push(&r, r.n_in ? r.in[0] : "serve");
    r.at = skip_command(&r);
    for (int i = r.at; i < r.n_in; i++) r.has_model |= names_model(r.in[i]);
    for (; r.at < r.n_in; r.at++) {
        const char *word = r.in[r.at];
        if (!strcmp(word, "--help-foreign")) {
            qn_flags_help(stdout);
            return QN_CANCELED;
        }
        if (!strcmp(word, "--")) {
            while (r.at < r.n_in) fl_push(&r, r.in[r.at++]);
            break;
        }
        if (!strcmp(word, "--help") || !strcmp(word, "-h"))
            fl_push(&r, word);
        else if (is_option(word))
            QN_TRY(read_option(&r, word, e));
        else if (strcmp(word, "\\") != 0 && strcmp(word, "^") != 0) { /* ends of lines that were pasted */
            fl_push(&r, word);
            r.has_model = true;
        }
    }
    QN_TRY(fl_finish(&r, e));
    r.out[r.n_out] = NULL;
    *argc = r.n_out;
    *argv = r.out;
out:
    return rc;
}

/* ------------------------------------------------------------------ help */

void qn_flags_help(FILE *out)
{
    static const char *const heads[] = {"mapped", "accepted: there is nothing to do", "refused"};
    static const char *const what[] = {"", " VALUE", " VALUE VALUE", "[ VALUE]", " VALUE...", "", " JSON"};
    fprintf(out, "Flags of vLLM (v), SGLang (s), llama.cpp (l), ik_llama.cpp (i), KTransformers (k), "
                 "TokenSpeed (t) and of people (p).\n");
    for (int does = 0; does <= QN_FLAG_REFUSE; does++) {
        fprintf(out, "\n%s\n", heads[does]);
        const struct qn_flag_rule *last = NULL;
        for (struct qn_flag f = {0}; qn_flag_next(&f);) {
            if (f.rule->does != (enum qn_flag_does)does) continue;
            if (f.rule != last) {
                char line[200];
                fl_describe(f.rule, line, sizeof line);
                fprintf(out, "\n  %s\n", line);
                if (f.rule->fine && *f.rule->fine == '!')
                    fprintf(out, "  (accepted with all but %s)\n", f.rule->fine + 1);
                else if (f.rule->fine)
                    fprintf(out, "  (accepted with %s)\n", f.rule->fine);
            }
            last = f.rule;
            fprintf(out, "    %s%.*s%s (%.*s)\n", f.name[0] == '-' ? "" : "--", f.n_name, f.name,
                    what[strchr("012?+bj", f.arity) - "012?+bj"], f.n_maker, f.makers);
        }
    }
}
