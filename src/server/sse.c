/* Server-sent events.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/sse.h"

void qn_sse_begin(struct qn_buf *out, const char *event)
{
    if (event) qn_buf_printf(out, "event: %s\n", event);
    qn_buf_append(out, "data: ", 6);
}

void qn_sse_end(struct qn_buf *out)
{
    qn_buf_append(out, "\n\n", 2);
}

void qn_sse_comment(struct qn_buf *out, const char *text)
{
    qn_buf_printf(out, ": %s\n\n", text);
}

void qn_sse_done(struct qn_buf *out)
{
    qn_buf_puts(out, "data: [DONE]\n\n");
}
