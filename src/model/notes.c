/* SPDX-License-Identifier: Apache-2.0 */
#include "model/notes.h"

#include <stdarg.h>

#include "base/mem.h"
#include "base/shown.h"

void qn_note(struct qn_notes *notes, const char *fmt, ...)
{
    if (notes->n == QN_MAX_NOTES) return;
    va_list ap;
    va_start(ap, fmt);
    char *text;
    if (vasprintf(&text, fmt, ap) >= 0) {
        notes->text[notes->n++] = xstrdup(qn_shown(text));
        free(text);
    }
    va_end(ap);
}

void qn_notes_free(struct qn_notes *notes)
{
    for (int i = 0; i < notes->n; i++) free(notes->text[i]);
    notes->n = 0;
}
