/* Request traces: one JSON file a request.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/stream.h"

static void write_ids(struct qn_buf *out, const char *key, const int32_t *tok, int n)
{
    qn_buf_printf(out, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) qn_buf_printf(out, "%s%d", i ? "," : "", tok[i]);
    qn_buf_putc(out, ']');
}

static void write_text(struct qn_buf *out, const char *key, const char *text, size_t n)
{
    qn_buf_printf(out, ",\"%s\":", key);
    qn_json_write_str(out, text, n, false);
}

static void write_sampling(struct qn_buf *out, const struct qn_ask *a)
{
    const struct qn_sample *p = &a->sample;
    qn_buf_printf(
        out,
        ",\"sampling\":{\"temperature\":%.9g,\"top_p\":%.9g,\"min_p\":%.9g,\"top_k\":%d,\"presence\":%.9g,"
        "\"frequency\":%.9g,\"repetition\":%.9g,\"seed\":\"%" PRIu64 "\",\"max_new\":%" PRId64
        ",\"min_new\":%" PRId64 ",\"ignore_eos\":%s,\"has_constraint\":%s}",
        (double)p->temperature, (double)p->top_p, (double)p->min_p, p->top_k, (double)p->presence,
        (double)p->frequency, (double)p->repetition, p->seed, a->max_new, a->min_new,
        a->ignore_eos ? "true" : "false", a->constraint ? "true" : "false");
    qn_buf_puts(out, ",\"bias\":{");
    for (int i = 0; i < a->n_bias; i++)
        qn_buf_printf(out, "%s\"%d\":%.9g", i ? "," : "", a->bias_tok[i], (double)a->bias[i]);
    qn_buf_puts(out, "}");
    write_ids(out, "stop_ids", a->stop_tok, a->n_stop_tok);
}

static void write_choice(struct qn_buf *out, const struct qn_output *c)
{
    qn_buf_printf(out,
                  "{\"index\":%d,\"is_thinking\":%s,\"think_budget\":%" PRId64
                  ",\"think_limit\":%d,\"is_loop\":%s",
                  c->index, c->prompt->is_thinking ? "true" : "false", c->prompt->think_budget,
                  c->think_limit, c->is_loop ? "true" : "false");
    write_ids(out, "prompt_ids", c->prompt->tok, c->prompt->n_tok);
    write_ids(out, "sampled_ids", c->tok, c->tok ? c->n_tok : 0);
    write_text(out, "sampled_text", qn_buf_str(&c->raw), c->raw.n_byte);
    write_text(out, "reasoning", qn_buf_str(&c->parsed.reasoning), c->parsed.reasoning.n_byte);
    write_text(out, "content", qn_buf_str(&c->parsed.content), c->parsed.content.n_byte);
    qn_buf_puts(out, ",\"tool_calls\":[");
    for (int i = 0; i < c->parsed.n_call; i++) {
        const struct qn_parsed_call *call = &c->parsed.calls[i];
        qn_buf_printf(out, "%s{\"id\":\"%s\",\"is_complete\":%s", i ? "," : "", c->call_ids[i],
                      call->is_complete ? "true" : "false");
        write_text(out, "name", call->name, strlen(call->name));
        write_text(out, "arguments", qn_buf_str(&call->arguments), call->arguments.n_byte);
        qn_buf_putc(out, '}');
    }
    qn_buf_printf(
        out,
        "],\"finish\":\"%s\",\"cached\":%d,\"drafted\":%d,\"accepted\":%d,\"steps\":%d,\"queue_us\":%" PRId64
        ",\"prefill_us\":%" PRId64 ",\"decode_us\":%" PRId64,
        qn_reason_name(c->reason), c->stats.n_cached, c->stats.n_drafted, c->stats.n_accepted,
        c->stats.n_step, c->stats.queue_us, c->stats.prefill_us, c->stats.decode_us);
    write_text(out, "cache_miss", c->stats.miss ? c->stats.miss : "",
               c->stats.miss ? strlen(c->stats.miss) : 0);
    qn_buf_putc(out, '}');
}

/* One file, made new: a request with the same id in the same second gets a number. */
static void write_file(const struct qn_buf *out, const char *dir, int64_t created, const char *id)
{
    char path[PATH_MAX];
    int fd = -1;
    for (int i = 1; i < 10000 && fd < 0; i++) {
        char number[16] = "";
        if (i > 1) snprintf(number, sizeof number, "-%d", i);
        snprintf(path, sizeof path, "%.3900s/%" PRId64 "-%s%s.json", dir, created, id, number);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0 && errno != EEXIST) break;
    }
    int why = fd < 0 ? errno : 0;
    for (size_t at = 0; fd >= 0 && !why && at < out->n_byte;) {
        ssize_t n = write(fd, out->data + at, out->n_byte - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) why = n < 0 ? errno : ENOSPC;
        at += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0 && (close(fd) || why || out->failed)) unlink(path); /* half a trace is none */
    if (why || out->failed)
        qn_log(QN_LOG_WARN, "trace", "%s is not written: %s", path,
               out->failed ? "the request is too large" : strerror(why));
}

static void write_head(struct qn_buf *out, const struct qn_exchange *x, int64_t created, const char *model,
                       const char *error)
{
    const struct qn_server *s = x->server;
    const char *folder = s->o.model_path ? s->o.model_path : "";
    qn_buf_printf(out, "{\"id\":\"%s\"", x->id);
    write_text(out, "path", x->path, strlen(x->path));
    qn_buf_printf(out, ",\"created\":%" PRId64, created);
    write_text(out, "model", model, strlen(model));
    write_text(out, "model_path", folder, strlen(folder));
    write_text(out, "error", error, strlen(error));
    write_text(out, "body", qn_buf_str(&x->body), x->body.n_byte);
}

int qn_trace_open(const char *dir, struct qn_err *e)
{
    int rc = QN_OK;
    struct stat info;
    char *path = xstrdup(dir);
    for (char *at = path; *at; at++)
        if (*at == '/' && at > path) {
            *at = 0;
            QN_FAIL_IF(mkdir(path, 0700) && errno != EEXIST, e, QN_IO, "--trace %s: %s: %s", dir, path,
                       strerror(errno));
            *at = '/';
        }
    QN_FAIL_IF(mkdir(path, 0700) && errno != EEXIST, e, QN_IO, "--trace %s: %s", dir, strerror(errno));
    QN_FAIL_IF(stat(path, &info) || !S_ISDIR(info.st_mode), e, QN_INVAL, "--trace %s is no folder", dir);
    QN_FAIL_IF(access(path, W_OK | X_OK), e, QN_IO, "--trace %s: %s", dir, strerror(errno));
out:
    free(path);
    return rc;
}

void qn_trace_refused(const struct qn_exchange *x)
{
    const char *dir = x->server->o.trace_dir;
    if (!dir || x->is_traced || !x->told || !x->is_keyed || !(x->route && x->route->flags & QN_ROUTE_ENGINE))
        return;
    int64_t created = qn_unix_s();
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    write_head(&out, x, created, x->facts.model ? x->facts.model : "", x->told);
    qn_buf_printf(&out, ",\"status\":%d,\"choices\":[]}\n", x->status);
    write_file(&out, dir, created, x->id);
    qn_buf_free(&out);
}

void qn_trace_write(const struct qn_stream *s)
{
    const char *dir = s->server->o.trace_dir;
    if (!dir) return;
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    write_head(&out, s->x, s->created, s->ask.model, s->is_failed ? s->error.text : "");
    write_text(&out, "prompt", s->rendered.text ? s->rendered.text : "", s->rendered.n_byte);
    write_sampling(&out, &s->ask);
    qn_buf_puts(&out, ",\"choices\":[");
    for (int i = 0; i < s->n_choice; i++) {
        if (i) qn_buf_putc(&out, ',');
        write_choice(&out, &s->choices[i]);
    }
    qn_buf_puts(&out, "]}\n");
    write_file(&out, dir, s->created, s->x->id);
    qn_buf_free(&out);
    s->x->is_traced = true;
}
