/* quern replay: runs a recorded request again and compares prompt and output, token by token.
 *
 * The request goes through the whole server once more: a child process serves the model on a free port with
 * --trace, the recorded body is sent to the recorded path with the recorded seed, and the two traces are
 * compared.
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "net/fetch.h"

#define MAX_TRACE_BYTES ((size_t)1 << 30)

struct child {
    pid_t pid;
    FILE *out; /* its stdout */
    char url[200];
};

static int start(struct child *c, const char *model, const char *dir, const char *const *more, int n_more,
                 struct qn_err *e)
{
    int rc = QN_OK, pipe_fd[2];
    char line[256];
    const char *args[64] = {"quern", "serve", model, "--port", "0", "--trace", dir, "--log-level", "warn"};
    int n = 9;
    for (int i = 0; i < n_more && n < 62; i++) args[n++] = more[i];
    QN_FAIL_IF(pipe(pipe_fd), e, QN_IO, "pipe: %m");
    c->pid = fork();
    QN_FAIL_IF(c->pid < 0, e, QN_IO, "fork: %m");
    if (!c->pid) {
        dup2(pipe_fd[1], 1);
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        execv("/proc/self/exe", (char *const *)(uintptr_t)args);
        _exit(127);
    }
    close(pipe_fd[1]);
    c->out = fdopen(pipe_fd[0], "r");
    QN_FAIL_IF(!c->out || !fgets(line, sizeof line, c->out) || sscanf(line, "ready %199s", c->url) != 1, e,
               QN_INTERNAL, "the server for %s did not start; see above", model);
out:
    return rc;
}

static void stop(struct child *c)
{
    if (c->pid > 0) {
        kill(c->pid, SIGTERM);
        waitpid(c->pid, NULL, 0);
    }
    if (c->out) fclose(c->out);
}

static int post(const char *url, const char *path, const struct qn_buf *body, struct qn_err *e)
{
    int rc = QN_OK;
    char *full = xasprintf("%s%s", url, path);
    static const char *const headers[] = {"Content-Type: application/json"};
    const struct qn_fetch f = {.url = full,
                               .headers = headers,
                               .n_header = 1,
                               .body = qn_buf_str(body),
                               .n_body = body->n_byte,
                               .stall_s = -1,
                               .is_local = true};
    struct qn_fetch_end end;
    rc = qn_fetch(&f, &end, e);
    QN_FAIL_IF(end.head.status && end.head.status != 200, e, QN_INVAL, "the request is now answered with %ld",
               end.head.status);
out:
    free(full);
    return rc;
}

/* The one file of the folder, waited for: it is written just after the answer's last byte. */
static char *find_trace(const char *dir)
{
    for (int i = 0; i < 100; i++) {
        DIR *d = opendir(dir);
        char *path = NULL;
        for (struct dirent *entry; d && (entry = readdir(d));)
            if (strstr(entry->d_name, ".json")) path = xasprintf("%s/%s", dir, entry->d_name);
        if (d) closedir(d);
        if (path) return path;
        usleep(50000);
    }
    return NULL;
}

/* Prints where two lists of ids part; true when they are the same. */
static bool compare(const char *name, const struct qn_json *was, const struct qn_json *is)
{
    size_t n = was ? was->n : 0, m = is ? is->n : 0, at = 0;
    while (at < n && at < m && qn_json_equal(was->items[at], is->items[at])) at++;
    if (at == n && at == m) {
        printf("%s: same, %zu tokens\n", name, n);
        return true;
    }
    printf("%s: differs at token %zu (%s, now %s); %zu tokens, now %zu\n", name, at,
           at < n ? was->items[at]->text : "the end", at < m ? is->items[at]->text : "the end", n, m);
    return false;
}

/* Choices with ids, as compare reads them. */
static bool has_choices(const struct qn_json *trace)
{
    static const char *const lists[] = {"prompt_ids", "sampled_ids"};
    const struct qn_json *choices = qn_json_get(trace, "choices");
    if (!qn_json_is(choices, QN_JSON_ARRAY)) return false;
    for (size_t i = 0; i < choices->n; i++)
        for (size_t k = 0; k < QN_COUNT(lists); k++) {
            const struct qn_json *ids = qn_json_get(choices->items[i], lists[k]);
            if (!qn_json_is(ids, QN_JSON_ARRAY)) return false;
            for (size_t j = 0; j < ids->n; j++)
                if (!qn_json_is_number(ids->items[j])) return false;
        }
    return true;
}

static int replay(const char *file, const char *model, const char *const *more, int n_more, bool *is_same,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create((size_t)8 << 30);
    struct child child = {0};
    struct qn_json *old, *new, *body;
    struct qn_buf text = QN_BUF_INIT(MAX_TRACE_BYTES);
    char dir[] = "/tmp/quern-replay-XXXXXX", *found = NULL;
    QN_FAIL_IF(!mkdtemp(dir), e, QN_IO, "%s: %m", dir);
    QN_TRY(qn_json_read_file(&old, arena, file, MAX_TRACE_BYTES, e));
    const struct qn_json *raw = qn_json_get(old, "body"), *path = qn_json_get(old, "path"),
                         *folder = qn_json_get(old, "model_path"),
                         *seed = qn_json_get(qn_json_get(old, "sampling"), "seed");
    const struct qn_json *refusal = qn_json_get(old, "status"), *text_of = qn_json_get(old, "error");
    QN_FAIL_IF(refusal && qn_json_is(text_of, QN_JSON_STRING), e, QN_INVAL,
               "%s: the request was refused, there is nothing to compare: %.120s", file, text_of->text);
    QN_FAIL_IF(!qn_json_is(raw, QN_JSON_STRING) || !qn_json_is(path, QN_JSON_STRING) ||
                   !qn_json_is(seed, QN_JSON_STRING) || !has_choices(old),
               e, QN_FORMAT, "%s is no trace of quern serve --trace", file);
    if (!model && qn_json_is(folder, QN_JSON_STRING) && folder->n) model = folder->text;
    QN_FAIL_IF(!model, e, QN_INVAL, "%s does not say which model; use --model", file);
    QN_TRY(qn_json_parse(&body, arena, raw->text, raw->n, "the recorded body", e));
    QN_FAIL_IF(!qn_json_is(body, QN_JSON_OBJECT), e, QN_FORMAT, "%s: the recorded body is no JSON object",
               file);
    /* the seed that was drawn then; as the signed number the API takes */
    qn_json_set(arena, body, "seed", qn_json_new_int(arena, (int64_t)strtoull(seed->text, NULL, 10)));
    qn_json_set(arena, body, "stream", qn_json_new_bool(arena, false));
    QN_TRY(qn_json_write(&text, body, QN_JSON_COMPACT));
    QN_TRY(start(&child, model, dir, more, n_more, e));
    QN_TRY(post(child.url, path->text, &text, e));
    found = find_trace(dir);
    QN_FAIL_IF(!found, e, QN_INTERNAL, "the server left no trace in %s", dir);
    QN_TRY(qn_json_read_file(&new, arena, found, MAX_TRACE_BYTES, e));
    QN_FAIL_IF(!has_choices(new), e, QN_INTERNAL, "the server wrote no sound trace: %s", found);
    const struct qn_json *was = qn_json_get(old, "choices"), *is = qn_json_get(new, "choices");
    *is_same = was->n == is->n;
    for (size_t i = 0; i < QN_MIN(was->n, is->n); i++) {
        char name[40];
        snprintf(name, sizeof name, "prompt %zu", i);
        *is_same &=
            compare(name, qn_json_get(was->items[i], "prompt_ids"), qn_json_get(is->items[i], "prompt_ids"));
        snprintf(name, sizeof name, "output %zu", i);
        *is_same &= compare(name, qn_json_get(was->items[i], "sampled_ids"),
                            qn_json_get(is->items[i], "sampled_ids"));
    }
out:
    stop(&child);
    if (found) unlink(found);
    free(found);
    rmdir(dir);
    qn_buf_free(&text);
    qn_arena_free(arena);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *model = NULL, *mtp = NULL, *device = NULL, *threads = NULL, *args[1], *more[8];
    int n_arg = 0, n_more = 0;
    bool is_same = false;
    struct qn_err e = {0};
    const struct qn_opt table[] = {
        {.name = "model",
         .type = QN_OPT_STR,
         .out = &model,
         .arg = "MODEL",
         .help = "instead of the recorded one"},
        {.name = "mtp", .type = QN_OPT_STR, .out = &mtp, .arg = "DEPTH", .help = "as for serve"},
        {.name = "device", .type = QN_OPT_STR, .out = &device, .arg = "NAME", .help = "as for serve"},
        {.name = "threads", .type = QN_OPT_STR, .out = &threads, .arg = "N", .help = "as for serve"},
    };
    static const struct qn_opt_usage usage = {"quern replay FILE [options]",
                                              "Runs a request recorded by quern serve --trace again and "
                                              "compares prompt and output token by token.\n"
                                              "Exit code 0: the same; 1: different, or failed.",
                                              "quern replay traces/1700000000-req_x.json --mtp off"};
    int rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, args, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "which trace? quern replay FILE");
    if (rc) return qn_cli_usage_failed("replay", rc, &e);
    const char *const given[] = {mtp, device, threads}, *const names[] = {"--mtp", "--device", "--threads"};
    for (size_t i = 0; i < QN_COUNT(given); i++)
        if (given[i]) {
            more[n_more++] = names[i];
            more[n_more++] = given[i];
        }
    if (replay(args[0], model, more, n_more, &is_same, &e)) return qn_cli_failed("replay", &e);
    return is_same ? 0 : 1;
}

const struct qn_cmd qn_cmd_replay = {"replay", "run a recorded request again and compare", run};
