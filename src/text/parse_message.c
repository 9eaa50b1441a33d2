/* A whole message, collected from the parser's events.
 * SPDX-License-Identifier: Apache-2.0 */
#include "text/parse.h"

#define MAX_TEXT (256u << 20) /* bytes of any one buffer, as in the parser */

const char *qn_reason_name(enum qn_reason r)
{
    static const char *const names[QN_N_REASON] = {"", "stop", "length", "abort", "error", "tool_calls"};
    return names[r];
}

void qn_parsed_init(struct qn_parsed *m)
{
    *m = (struct qn_parsed){0};
    qn_buf_init(&m->reasoning, MAX_TEXT);
    qn_buf_init(&m->content, MAX_TEXT);
}

void qn_parsed_free(struct qn_parsed *m)
{
    qn_buf_free(&m->reasoning);
    qn_buf_free(&m->content);
    for (int i = 0; i < m->n_call; i++) {
        free(m->calls[i].name);
        qn_buf_free(&m->calls[i].arguments);
    }
    free(m->calls);
    qn_parsed_init(m);
}

void qn_parsed_add(void *ctx, const struct qn_parse_event *event)
{
    struct qn_parsed *m = ctx;
    switch (event->kind) {
    case QN_PARSE_REASONING:
        qn_buf_append(&m->reasoning, event->text, event->n);
        break;
    case QN_PARSE_CONTENT:
        qn_buf_append(&m->content, event->text, event->n);
        break;
    case QN_PARSE_CALL_BEGIN:
        QN_CHECK(event->index == m->n_call);
        m->calls = xreallocarray(m->calls, (size_t)m->n_call + 1, sizeof *m->calls);
        m->calls[m->n_call] = (struct qn_parsed_call){.name = xstrndup(event->text, event->n)};
        qn_buf_init(&m->calls[m->n_call++].arguments, MAX_TEXT);
        break;
    case QN_PARSE_CALL_ARGS:
        qn_buf_append(&m->calls[event->index].arguments, event->text, event->n);
        break;
    case QN_PARSE_CALL_END:
        m->calls[event->index].is_complete = true;
        break;
    case QN_PARSE_FINISH:
        m->reason = (enum qn_reason)event->index;
        break;
    }
}
