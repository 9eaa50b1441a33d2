/* quern pull: fetches a checkpoint from a model hub, resumable and verified.
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/shown.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/hub.h"
#include "model/plan.h"

#define ENDPOINT     "https://huggingface.co"
#define TTY_TICK_US  200000
#define FILE_TICK_US 10000000
#define RATE_US      10000000.0 /* the rate shown is of about this time */
#define SPARE_BYTES  (64 << 20) /* of a disk */

/* Weights in formats quern does not read, and what only a hub needs. */
static const char default_exclude[] = "*.bin,*.pth,*.pt,*.ckpt,*.gguf,*.onnx,*.onnx_data,*.msgpack,*.h5,*."
                                      "tflite,*.mlmodel,original/*,.gitattributes";

struct job {
    const char *repo, *folder, *revision, *endpoint, *include, *exclude;
    bool only_lists, is_quiet;
    struct qn_hub hub;
    struct qn_hub_list list;
    int64_t total, done, start_us, tick_us, last_done;
    double rate; /* bytes a second, of late */
    const char *path;
    bool is_tty, has_line;
    int64_t n_try; /* attempts without a new byte */
    const char *args[2], *token;
    int n_arg;
};

static bool matches(const char *patterns, const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    bool is_hit = false;
    char *copy = xstrdup(patterns), *rest = NULL;
    for (char *p = strtok_r(copy, ",", &rest); p && !is_hit; p = strtok_r(NULL, ",", &rest))
        is_hit = !fnmatch(p, path, 0) || !fnmatch(p, base, 0);
    free(copy);
    return is_hit;
}

/* ------------------------------------------------------------------ progress */

static void time_text(char out[32], double s)
{
    if (!(s < 360000))
        snprintf(out, 32, "-");
    else if (s < 3600)
        snprintf(out, 32, "%d:%02d", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 32, "%d:%02d:%02d", (int)s / 3600, (int)s / 60 % 60, (int)s % 60);
}

static void show(struct job *j)
{
    char done[24], total[24], rate[24], left[32];
    qn_bytes_text((uint64_t)j->done, done);
    qn_bytes_text((uint64_t)j->total, total);
    qn_bytes_text((uint64_t)j->rate, rate);
    time_text(left, j->rate > 1 ? (double)(j->total - j->done) / j->rate : 1e9);
    fprintf(stderr, "%s%3d %%  %s of %s  %s/s  %s left  %.60s%s", j->is_tty ? "\r\033[K" : "",
            j->total ? (int)((double)j->done * 100 / (double)j->total) : 100, done, total, rate, left,
            qn_shown(j->path), j->is_tty ? "" : "\n");
    j->has_line = j->is_tty;
}

static void end_line(struct job *j)
{
    if (j->has_line) fputs("\r\033[K", stderr);
    j->has_line = false;
}

static void on_bytes(void *ctx, int64_t n)
{
    struct job *j = ctx;
    int64_t now = qn_now_us();
    j->done += n;
    if (n < 0) j->last_done += n;
    int64_t past = now - j->tick_us;
    if (past < (j->is_tty ? TTY_TICK_US : FILE_TICK_US)) return;
    double rate = (double)QN_MAX(j->done - j->last_done, 0) * 1e6 / (double)past;
    double part = j->rate > 0 ? QN_MIN((double)past / RATE_US, 1.0) : 1;
    j->rate += (rate - j->rate) * part;
    j->tick_us = now;
    j->last_done = j->done;
    if (!j->is_quiet) show(j);
}

static void on_retry(void *ctx, const char *why, int wait_s)
{
    struct job *j = ctx;
    end_line(j);
    if (!j->is_quiet) fprintf(stderr, "%s: %s; again in %d s\n", qn_shown(j->path), qn_shown(why), wait_s);
}

/* ------------------------------------------------------------------ the work */

/* Keeps the files that are wanted. */
static int choose(struct job *j, struct qn_err *e)
{
    int rc = QN_OK, n = 0, n_all = j->list.n;
    bool has_weights = false;
    for (int i = 0; i < n_all; i++) {
        struct qn_hub_file *f = &j->list.files[i];
        bool is_in = !j->include || matches(j->include, f->path);
        if (is_in && j->exclude) is_in = !matches(j->exclude, f->path);
        if (is_in && !j->include && !j->exclude) is_in = !matches(default_exclude, f->path);
        if (!is_in) {
            free(f->path);
            continue;
        }
        has_weights |= matches("*.safetensors", f->path);
        j->list.files[n++] = *f;
    }
    j->list.n = n;
    QN_FAIL_IF(!n, e, QN_NOTFOUND, "%s: none of its %d files is asked for (--include, --exclude)", j->repo,
               n_all);
    if (!has_weights && !j->include)
        fprintf(stderr,
                "quern pull: %s holds no safetensors file; quern reads no other weights (the base model's "
                "repository has them)\n",
                j->repo);
out:
    return rc;
}

static void print_list(const struct job *j)
{
    for (int i = 0; i < j->list.n; i++) {
        const struct qn_hub_file *f = &j->list.files[i];
        printf("%14" PRId64 "  %s\n", f->size, qn_shown(f->path));
    }
}

static int check_room(const struct job *j, struct qn_err *e)
{
    int rc = QN_OK;
    struct statvfs s;
    if (statvfs(j->folder, &s)) goto out;
    int64_t need = j->total - j->done, room = (int64_t)(s.f_bavail * s.f_frsize);
    char a[24], b[24];
    QN_FAIL_IF(need > 0 && need + SPARE_BYTES > room, e, QN_IO,
               "%s: %s are missing, the disk has %s free; make room or choose another folder", j->folder,
               qn_bytes_text((uint64_t)need, a), qn_bytes_text((uint64_t)room, b));
out:
    return rc;
}

static int fetch_all(struct job *j, struct qn_err *e)
{
    int rc = QN_OK, n_kept = 0;
    char a[24], b[24], t[32];
    QN_FAIL_IF(mkdir(j->folder, 0777) && errno != EEXIST, e, QN_IO, "%s: %s", j->folder, strerror(errno));
    for (int i = 0; i < j->list.n; i++) {
        j->total += QN_MAX(j->list.files[i].size, 0);
        j->done += qn_hub_have(j->folder, &j->list.files[i]);
    }
    QN_TRY(check_room(j, e));
    int64_t before = j->done;
    j->start_us = j->tick_us = qn_now_us();
    j->last_done = j->done;
    if (!j->is_quiet)
        fprintf(stderr, "%s at %.12s: %d files, %s; %s are in %s\n", j->repo,
                j->list.commit[0] ? j->list.commit : qn_shown(j->revision), j->list.n,
                qn_bytes_text((uint64_t)j->total, a), qn_bytes_text((uint64_t)j->done, b),
                qn_shown(j->folder));
    for (int i = 0; i < j->list.n; i++) {
        bool was_kept;
        j->path = j->list.files[i].path;
        /* the commit, so that a branch that moves meanwhile gives no mixture */
        QN_TRY(qn_hub_fetch(&j->hub, j->list.commit[0] ? j->list.commit : j->revision, &j->list.files[i],
                            j->folder, &was_kept, e));
        n_kept += was_kept;
    }
    end_line(j);
    if (!j->is_quiet) {
        double s = (double)(qn_now_us() - j->start_us) / 1e6;
        time_text(t, s);
        fprintf(stderr, "done: %d files verified, %d of them were there, %s fetched in %s\n", j->list.n,
                n_kept, qn_bytes_text((uint64_t)QN_MAX(j->done - before, 0), a), t);
        fprintf(stderr, "next: quern serve %s\n", qn_shown(j->folder));
    }
out:
    end_line(j);
    return rc;
}

/* The token goes to the hub by https; by plain http only to this machine. */
static const char *find_token(const char *endpoint, struct qn_err *e, int *rc)
{
    const char *token = getenv("HF_TOKEN");
    if (!token || !*token) token = getenv("HUGGING_FACE_HUB_TOKEN");
    if (!token || !*token) return NULL;
    for (const char *p = token; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f) {
            *rc = qn_err_set(e, QN_INVAL, __FILE__, __LINE__,
                             "HF_TOKEN holds a blank or a control character; set it to the bare token");
            return NULL;
        }
    bool is_local = !strncmp(endpoint, "http://127.0.0.1", 16) || !strncmp(endpoint, "http://localhost", 16);
    if (!strncmp(endpoint, "https://", 8) || is_local) return token;
    fprintf(stderr, "quern pull: HF_TOKEN is not sent over plain http\n");
    return NULL;
}

static int read_options(struct job *j, int argc, char **argv, struct qn_err *e)
{
    const struct qn_opt table[] = {
        {.name = "revision",
         .letter = 'r',
         .type = QN_OPT_STR,
         .out = &j->revision,
         .arg = "NAME",
         .help = "branch, tag or commit (main)"},
        {.name = "include",
         .type = QN_OPT_STR,
         .out = &j->include,
         .arg = "PATTERNS",
         .help = "only these, separated by commas; * matches all"},
        {.name = "exclude",
         .type = QN_OPT_STR,
         .out = &j->exclude,
         .arg = "PATTERNS",
         .help = "not these; without either, weights in other formats stay"},
        {.name = "list",
         .type = QN_OPT_FLAG,
         .out = &j->only_lists,
         .help = "print sizes and names, fetch nothing"},
        {.name = "endpoint",
         .type = QN_OPT_STR,
         .out = &j->endpoint,
         .arg = "URL",
         .help = "the hub (" ENDPOINT ")",
         .env = "HF_ENDPOINT"},
        {.name = "tries",
         .type = QN_OPT_INT,
         .out = &j->n_try,
         .arg = "N",
         .help = "attempts without a new byte (6)",
         .min = 1,
         .max = 1000},
        {.name = "quiet", .letter = 'q', .type = QN_OPT_FLAG, .out = &j->is_quiet, .help = "no progress"},
    };
    static const struct qn_opt_usage usage = {
        "quern pull REPO [FOLDER] [options]",
        "Fetches a checkpoint from a model hub into FOLDER (the last part of REPO). Files are verified by "
        "the digest\n"
        "the hub lists; the same command goes on where it was stopped. HF_TOKEN opens gated repositories.",
        "quern pull Qwen/Qwen3.5-0.8B models/Qwen3.5-0.8B"};
    int rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, j->args, 2, &j->n_arg, e);
    if (rc) return rc;
    QN_FAIL_IF(!j->n_arg, e, QN_INVAL, "REPO is missing; see --help");
    QN_FAIL_IF(!qn_hub_is_repo(j->args[0]), e, QN_INVAL,
               "'%.80s' is not the name of a repository (owner/name)", j->args[0]);
    QN_FAIL_IF(strncmp(j->endpoint, "https://", 8) && strncmp(j->endpoint, "http://", 7), e, QN_INVAL,
               "--endpoint: '%.80s' is no http or https address", j->endpoint);
    QN_FAIL_IF(!*j->revision, e, QN_INVAL, "--revision is empty");
    j->token = find_token(j->endpoint, e, &rc);
out:
    return rc;
}

static int run(int argc, char **argv)
{
    struct job j = {.revision = "main", .endpoint = ENDPOINT};
    struct qn_err e = {0};
    int rc = read_options(&j, argc, argv, &e);
    if (rc) return qn_cli_usage_failed("pull", rc, &e);

    size_t n = strlen(j.endpoint);
    while (n && j.endpoint[n - 1] == '/') n--;
    char *endpoint = xstrndup(j.endpoint, n);
    const char *slash = strrchr(j.args[0], '/');
    j.repo = j.args[0];
    j.folder = j.n_arg > 1 ? j.args[1] : slash ? slash + 1 : j.args[0];
    j.path = j.repo;
    j.is_tty = isatty(2);
    j.hub = (struct qn_hub){.endpoint = endpoint,
                            .repo = j.repo,
                            .token = j.token,
                            .max_tries = (int)j.n_try,
                            .on_bytes = on_bytes,
                            .on_retry = on_retry,
                            .ctx = &j};
    QN_TRY(qn_hub_list_get(&j.hub, j.revision, &j.list, &e));
    QN_TRY(choose(&j, &e));
    if (j.only_lists)
        print_list(&j);
    else
        QN_TRY(fetch_all(&j, &e));
out:
    qn_hub_list_free(&j.list);
    free(endpoint);
    return rc ? qn_cli_failed("pull", &e) : 0;
}

const struct qn_cmd qn_cmd_pull = {"pull", "fetch a checkpoint from a model hub", run};
