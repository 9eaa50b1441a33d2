/* Runs the output parser over a text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "support/parse_run.h"

#include "text/jsonscan.h"
#include "text/utf8.h"

struct watch {
    struct qn_parsed message;
    struct qn_jsonscan scan;
    enum qn_jsonscan_result got;
    int open; /* call whose arguments may come, or -1 */
    bool is_over;
    struct qn_buf order; /* event kinds, repeats merged */
};

static void on_event(void *ctx, const struct qn_parse_event *event)
{
    struct watch *w = ctx;
    QN_CHECK(!w->is_over);
    QN_CHECK(event->text[event->n] == 0);
    QN_CHECK(qn_utf8_valid(event->text, event->n) == event->n);
    switch (event->kind) {
    case QN_PARSE_REASONING:
    case QN_PARSE_CONTENT:
        QN_CHECK(w->open < 0 && event->n);
        break;
    case QN_PARSE_CALL_BEGIN:
        QN_CHECK(w->open < 0 && event->index == w->message.n_call && event->n);
        w->open = event->index;
        w->scan = (struct qn_jsonscan){0};
        w->got = QN_JSONSCAN_OPEN;
        break;
    case QN_PARSE_CALL_ARGS:
        QN_CHECK(event->index == w->open && event->n);
        for (size_t i = 0; i < event->n; i++) {
            QN_CHECK(w->got == QN_JSONSCAN_OPEN); /* no proper prefix is JSON */
            w->got = qn_jsonscan_byte(&w->scan, (unsigned char)event->text[i]);
        }
        QN_CHECK(w->got != QN_JSONSCAN_BAD);
        break;
    case QN_PARSE_CALL_END:
        QN_CHECK(event->index == w->open && w->got == QN_JSONSCAN_WHOLE);
        w->open = -1;
        break;
    case QN_PARSE_FINISH:
        w->is_over = true;
        break;
    }
    char letter = "RCBAEF"[event->kind];
    if (!w->order.n_byte || w->order.data[w->order.n_byte - 1] != letter) qn_buf_putc(&w->order, letter);
    qn_parsed_add(&w->message, event);
}

char *parse_run(const struct parse_run *run, const char *text, size_t n, parse_cut cut, void *ctx)
{
    struct watch w = {.open = -1};
    qn_parsed_init(&w.message);
    qn_buf_init(&w.order, 1 << 20);
    struct qn_parse_options options = {.tools = run->tools,
                                       .calls_forbidden = run->forbidden,
                                       .starts_in_reasoning = run->think,
                                       .stops = run->stops,
                                       .n_stop = run->n_stop,
                                       .on_event = on_event,
                                       .ctx = &w};
    struct qn_parse *p;
    QN_CHECK(qn_parse_create(&p, &options, NULL) == QN_OK);
    bool is_over = false;
    char *copy = NULL;
    size_t n_copy = 0;
    for (size_t at = 0, i = 0; at < n && !is_over; i++) {
        size_t piece = cut ? cut(ctx, i, n - at) : n;
        if (piece != n_copy) { /* a copy of the exact size, so that a sanitizer sees reads past it */
            free(copy);
            copy = xmalloc(n_copy = piece);
        }
        memcpy(copy, text + at, piece);
        is_over = qn_parse_feed(p, copy, piece);
        at += piece;
    }
    free(copy);
    qn_parse_finish(p, run->end);
    QN_CHECK(w.is_over || run->end == QN_PARSE_CANCEL);
    struct qn_buf out = QN_BUF_INIT(64u << 20);
    const struct qn_parsed *m = &w.message;
    if (m->reasoning.n_byte) qn_buf_printf(&out, "R:%s ", m->reasoning.data);
    if (m->content.n_byte) qn_buf_printf(&out, "C:%s ", m->content.data);
    for (int i = 0; i < m->n_call; i++)
        qn_buf_printf(&out, "%s%s%s ", m->calls[i].name, qn_buf_str(&m->calls[i].arguments),
                      m->calls[i].is_complete ? "" : "+");
    size_t end_byte;
    int stop = qn_parse_stop(p, &end_byte);
    qn_buf_printf(&out, "=%s", qn_reason_name(m->reason));
    if (stop >= 0) qn_buf_printf(&out, " stop %d at %zu", stop, end_byte);
    qn_buf_printf(&out, " #%s", qn_buf_str(&w.order));
    qn_parsed_free(&w.message);
    qn_buf_free(&w.order);
    qn_parse_free(p);
    return qn_buf_take(&out);
}

static size_t one(void *ctx, size_t i, size_t left)
{
    (void)ctx, (void)i, (void)left;
    return 1;
}

static size_t single(void *ctx, size_t i, size_t left)
{
    size_t at = *(size_t *)ctx;
    return i || !at ? left : at;
}

static void agree(const char *want, char *got, const char *how, size_t at)
{
    if (strcmp(want, got)) {
        fprintf(stderr, "whole: %s\n%s %zu: %s\n", want, how, at, got);
        QN_CHECK(!"the message depends on the cut");
    }
    free(got);
}

char *parse_run_all(const struct parse_run *run, const char *text, size_t n)
{
    char *want = parse_run(run, text, n, NULL, NULL);
    agree(want, parse_run(run, text, n, one, NULL), "bytes", 1);
    for (size_t at = 1; at < n; at++) agree(want, parse_run(run, text, n, single, &at), "cut at", at);
    return want;
}
