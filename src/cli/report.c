/* Rows as table, JSON lines and CSV.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"

#define MAX_COLUMNS 160

struct qn_report {
    bool json;
    FILE *csv;
    char *path;
    struct qn_row *row; /* [n] kept for the CSV */
    int n, capacity;
    char head[800]; /* the last table head, to see when another begins */
};

static struct qn_field *add(struct qn_row *r, const char *name)
{
    QN_CHECK(r->n < QN_ROW_FIELDS);
    struct qn_field *f = &r->field[r->n++];
    *f = (struct qn_field){.name = name};
    return f;
}

void qn_row_str(struct qn_row *r, const char *name, const char *value)
{
    struct qn_field *f = add(r, name);
    f->is_text = true;
    snprintf(f->value, sizeof f->value, "%s", value);
}

void qn_row_int(struct qn_row *r, const char *name, int64_t value)
{
    snprintf(add(r, name)->value, sizeof r->field[0].value, "%" PRId64, value);
}

void qn_row_num(struct qn_row *r, const char *name, double value, int decimals)
{
    struct qn_field *f = add(r, name);
    if (isfinite(value)) snprintf(f->value, sizeof f->value, "%.*f", decimals, value);
}

int qn_report_open(struct qn_report **out, bool json, const char *csv, struct qn_err *e)
{
    struct qn_report *p = xcalloc(1, sizeof *p);
    p->json = json;
    if (csv && !(p->csv = fopen(csv, "w"))) {
        free(p);
        return qn_err_set(e, QN_IO, __FILE__, __LINE__, "--csv %s: %s", csv, strerror(errno));
    }
    p->path = csv ? xstrdup(csv) : NULL;
    *out = p;
    return QN_OK;
}

static void print_json(const struct qn_row *r)
{
    struct qn_buf out = QN_BUF_INIT(1 << 16);
    qn_buf_printf(&out, "{\"bench\": \"%s\"", r->bench);
    for (int i = 0; i < r->n; i++) {
        const struct qn_field *f = &r->field[i];
        qn_buf_printf(&out, ", \"%s\": ", f->name);
        if (f->is_text)
            qn_json_write_str(&out, f->value, strlen(f->value), false);
        else
            qn_buf_puts(&out, f->value[0] ? f->value : "null");
    }
    qn_buf_puts(&out, "}");
    puts(qn_buf_str(&out));
    qn_buf_free(&out);
}

/* A column: text to the left, numbers to the right, two blanks between. */
static int put(char *to, size_t room, const struct qn_field *f, const char *text)
{
    int width = QN_MAX(f->is_text ? 14 : 7, (int)strlen(f->name));
    return snprintf(to, room, f->is_text ? "  %-*s" : "  %*s", width, text[0] ? text : "-");
}

static void print_row(struct qn_report *p, const struct qn_row *r)
{
    char head[800], line[800];
    int n = 0, k = 0;
    for (int i = r->n_common; i < r->n && n < 700 && k < 700; i++) {
        n += put(head + n, sizeof head - (size_t)n, &r->field[i], r->field[i].name);
        k += put(line + k, sizeof line - (size_t)k, &r->field[i], r->field[i].value);
    }
    if (strcmp(head, p->head)) printf("\n%s\n%s\n", r->bench, head);
    memcpy(p->head, head, sizeof head);
    puts(line);
}

void qn_report_add(struct qn_report *p, const struct qn_row *r)
{
    if (p->json)
        print_json(r);
    else
        print_row(p, r);
    fflush(stdout);
    if (!p->csv) return;
    if (p->n == p->capacity) {
        p->capacity = QN_MAX(64, 2 * p->capacity);
        p->row = xreallocarray(p->row, (size_t)p->capacity, sizeof *p->row);
    }
    p->row[p->n++] = *r;
}

void qn_report_note(struct qn_report *p, const char *fmt, ...)
{
    if (p->json) return;
    va_list list;
    va_start(list, fmt);
    vprintf(fmt, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
}

static void write_cell(FILE *f, const char *text)
{
    if (!strpbrk(text, ",\"\n")) {
        fputs(text, f);
        return;
    }
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"') fputc('"', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

static void write_csv(const struct qn_report *p)
{
    const char *column[MAX_COLUMNS];
    int n = 0;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->row[i].n; k++) {
            int at = 0;
            while (at < n && strcmp(column[at], p->row[i].field[k].name)) at++;
            if (at == n && n < MAX_COLUMNS) column[n++] = p->row[i].field[k].name;
        }
    fputs("bench", p->csv);
    for (int c = 0; c < n; c++) fprintf(p->csv, ",%s", column[c]);
    for (int i = 0; i < p->n; i++) {
        fprintf(p->csv, "\n%s", p->row[i].bench);
        for (int c = 0; c < n; c++) {
            fputc(',', p->csv);
            for (int k = 0; k < p->row[i].n; k++)
                if (!strcmp(column[c], p->row[i].field[k].name)) write_cell(p->csv, p->row[i].field[k].value);
        }
    }
    fputc('\n', p->csv);
}

int qn_report_close(struct qn_report *p, struct qn_err *e)
{
    int rc = QN_OK;
    if (!p) return rc;
    if (p->csv) {
        write_csv(p);
        bool is_bad = ferror(p->csv) != 0;
        if (fclose(p->csv) || is_bad)
            rc = qn_err_set(e, QN_IO, __FILE__, __LINE__, "--csv %s: cannot be written", p->path);
    }
    free(p->path);
    free(p->row);
    free(p);
    return rc;
}
