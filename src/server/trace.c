/* Request traces: one JSON file a request.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
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

void qn_trace_write(const struct qn_stream *s)
{
    const char *dir = s->server->o.trace_dir;
    if (!dir) return;
    struct qn_buf out = QN_BUF_INIT((size_t)1 << 30);
    qn_buf_printf(&out, "{\"id\":\"%s\",\"path\":\"%s\",\"created\":%" PRId64, s->x->id, s->x->path,
                  s->created);
    write_text(&out, "model", s->ask.model, strlen(s->ask.model));
    const char *folder = s->server->o.model_path ? s->server->o.model_path : "";
    write_text(&out, "model_path", folder, strlen(folder));
    write_text(&out, "error", s->is_failed ? s->error.text : "", s->is_failed ? strlen(s->error.text) : 0);
    write_text(&out, "body", qn_buf_str(&s->x->body), s->x->body.n_byte);
    write_text(&out, "prompt", s->rendered.text ? s->rendered.text : "", s->rendered.n_byte);
    write_sampling(&out, &s->ask);
    qn_buf_puts(&out, ",\"choices\":[");
    for (int i = 0; i < s->n_choice; i++) {
        if (i) qn_buf_putc(&out, ',');
        write_choice(&out, &s->choices[i]);
    }
    qn_buf_puts(&out, "]}\n");
    char *path = xasprintf("%s/%" PRId64 "-%s.json", dir, s->created, s->x->id);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool is_written = fd >= 0 && !out.failed && write(fd, out.data, out.n_byte) == (ssize_t)out.n_byte;
    if (!is_written)
        qn_log(QN_LOG_WARN, "trace", "%s is not written: %s", path,
               out.failed ? "the request is too large" : strerror(errno));
    if (fd >= 0) close(fd);
    free(path);
    qn_buf_free(&out);
}
