/* The chat page at /, embedded from web/index.html when building.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/api.h"

__asm__(".section .rodata\n"
        ".global qn_ui_page_data\n"
        ".global qn_ui_page_end\n"
        "qn_ui_page_data:\n"
        ".incbin \"" QN_WEB_PAGE "\"\n"
        "qn_ui_page_end:\n"
        ".byte 0\n"
        ".previous\n");

extern const char qn_ui_page_data[], qn_ui_page_end[];

void qn_ui_page(struct qn_exchange *x)
{
    qn_http_reply_static(x, "text/html; charset=utf-8", qn_ui_page_data,
                         (size_t)(qn_ui_page_end - qn_ui_page_data));
}
