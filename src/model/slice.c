/* Slices of linear layers.
 *
 * A tensor of a layer is a matrix of elements of some bits: codes, scales or zero points. Which of its axes
 * are outputs and inputs, and how many of them an element stands for, depends on the format; the cut of each
 * axis follows, and with it the bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/slice.h"

#include "base/mem.h"

#define FP8_BLOCK 128

/* One tensor as a matrix [n_row, n_col]. */
struct matrix {
    const struct qn_tensor *from;
    struct qn_tensor *to;
    size_t n_row, n_col;
    size_t bits;                                                /* of an element */
    struct qn_range row[QN_SLICE_RANGES], col[QN_SLICE_RANGES]; /* what is kept, in elements */
    int n_row_range, n_col_range;
    int group, split; /* columns or rows are groups of inputs, each of which becomes group / split ones */
    bool groups_are_rows;
};

static int gcd(int a, int b)
{
    while (b) {
        int t = a % b;
        a = b;
        b = t;
    }
    return a;
}

int qn_slice_step_out(const struct qn_linear *l)
{
    switch (l->format) {
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
        return 8;
    case QN_FMT_FP8_BLOCK:
        return FP8_BLOCK;
    default:
        return 1;
    }
}

int qn_slice_step_in(const struct qn_linear *l)
{
    switch (l->format) {
    case QN_FMT_NVFP4:
        return 16;
    case QN_FMT_INT4_AWQ:
    case QN_FMT_INT4_GPTQ:
    case QN_FMT_INT4_CT:
        return 8;
    case QN_FMT_FP8_BLOCK:
        return FP8_BLOCK;
    default:
        return qn_format_is_block(l->format) ? qn_block_values(l->weight.dtype) : 1;
    }
}

/* Every place where the cut begins or ends inside an axis of n has to be a multiple of step. */
static int check_axis(const struct qn_linear *l, const char *axis, const struct qn_range *r, int n_range,
                      int n, int step, struct qn_err *e)
{
    int rc = QN_OK;
    for (int i = 0; i < n_range; i++) {
        QN_CHECK(r[i].first >= 0 && r[i].n > 0 && r[i].first <= n - r[i].n);
        int end = r[i].first + r[i].n, odd = r[i].first % step        ? r[i].first
                                             : end % step && end != n ? end
                                                                      : -1;
        if (odd < 0 && i + 1 < n_range && r[i].n % step) odd = end; /* another range follows in the slice */
        QN_FAIL_IF(
            odd >= 0, e, QN_UNSUPPORTED,
            "%s: a layer of %s cannot be cut at %s %d, only at multiples of %d; take a number of ranks "
            "that divides it so",
            l->name, qn_format_name(l->format), axis, odd, step);
    }
out:
    return rc;
}

/* Ranges of outputs or inputs as ranges of elements that stand for `per` of them. */
static int scaled(struct qn_range *to, const struct qn_range *from, int n, int per)
{
    for (int i = 0; i < n; i++)
        to[i] = (struct qn_range){from[i].first / per, QN_CEIL_DIV(from[i].first % per + from[i].n, per)};
    return n;
}

static size_t total(const struct qn_range *r, int n)
{
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += (size_t)r[i].n;
    return sum;
}

/* The whole of the columns and one range of rows lie together in the file. */
static bool is_borrowed(const struct matrix *m)
{
    return m->split <= 1 && m->n_row_range == 1 && m->n_col_range == 1 && m->col[0].first == 0 &&
           (size_t)m->col[0].n == m->n_col;
}

/* Elements of the result an axis of groups gives: one for each smaller group. */
static size_t cols_of(const struct matrix *m)
{
    return m->split > 1 && !m->groups_are_rows ? (size_t)m->split : total(m->col, m->n_col_range);
}

static size_t rows_of(const struct matrix *m)
{
    return m->split > 1 && m->groups_are_rows ? (size_t)m->split : total(m->row, m->n_row_range);
}

static size_t bytes_of(const struct matrix *m)
{
    return rows_of(m) * (cols_of(m) * m->bits / 8);
}

static char *copy_row(char *to, const struct matrix *m, size_t row)
{
    const char *from = (const char *)m->from->data + row * (m->n_col * m->bits / 8);
    for (int i = 0; i < m->n_col_range; i++) {
        size_t n = (size_t)m->col[i].n * m->bits / 8;
        memcpy(to, from + (size_t)m->col[i].first * m->bits / 8, n);
        to += n;
    }
    return to;
}

/* A row whose columns are groups: the group of each smaller one. */
static char *copy_groups(char *to, const struct matrix *m, size_t row, int first, int smaller)
{
    size_t size = m->bits / 8;
    const char *from = (const char *)m->from->data + row * m->n_col * size;
    for (int j = 0; j < m->split; j++, to += size)
        memcpy(to, from + (size_t)((first + j * smaller) / m->group) * size, size);
    return to;
}

/* first: of the inputs that are kept; smaller: inputs of a group of the slice. */
static void copy(char *to, const struct matrix *m, int first, int smaller)
{
    if (m->split > 1 && m->groups_are_rows) {
        for (int j = 0; j < m->split; j++) to = copy_row(to, m, (size_t)((first + j * smaller) / m->group));
        return;
    }
    for (int i = 0; i < m->n_row_range; i++)
        for (int r = m->row[i].first; r < m->row[i].first + m->row[i].n; r++)
            to = m->split > 1 ? copy_groups(to, m, (size_t)r, first, smaller) : copy_row(to, m, (size_t)r);
}

/* How the tensors of a format lie: [outputs, inputs] or the other way round, an element for `per` of each. */
struct layout {
    size_t bits;
    int per_out, per_in;
    bool is_transposed; /* rows are inputs */
};

static void add(struct matrix *list, int *n, const struct qn_linear *l, const struct qn_tensor *from,
                struct qn_tensor *to, const struct layout *y, const struct qn_cut *cut, int split)
{
    if (!from->n_dim && !from->n_byte) return;
    struct matrix *m = &list[(*n)++];
    size_t out = (size_t)QN_CEIL_DIV(l->n_out, y->per_out), in = (size_t)QN_CEIL_DIV(l->n_in, y->per_in);
    *m = (struct matrix){.from = from,
                         .to = to,
                         .n_row = y->is_transposed ? in : out,
                         .n_col = y->is_transposed ? out : in,
                         .bits = y->bits,
                         .group = l->group,
                         .split = split,
                         .groups_are_rows = y->is_transposed};
    struct qn_range *o = y->is_transposed ? m->col : m->row, *i = y->is_transposed ? m->row : m->col;
    int n_out = scaled(o, cut->out, cut->n_range, y->per_out), n_in = scaled(i, &cut->in, 1, y->per_in);
    m->n_row_range = y->is_transposed ? n_in : n_out;
    m->n_col_range = y->is_transposed ? n_out : n_in;
}

/* The matrices of a layer. split: groups of the slice, where they are smaller than the layer's; else 0. */
static int list_matrices(struct matrix *list, const struct qn_linear *l, struct qn_linear *to,
                         const struct qn_cut *cut, int split)
{
    int n = 0, every = 1 << 30; /* one element for all */
    size_t value = qn_dtype_bytes(l->weight.dtype) * 8, scale = qn_dtype_bytes(l->scale.dtype) * 8;
    struct layout w = {value, 1, 1, false}, s = {scale, 1, every, false},
                  z = {4, 1, QN_MAX(l->group, 1), true};
    switch (l->format) {
    case QN_FMT_NVFP4:
        w.bits = 4;
        s.per_in = 16;
        break;
    case QN_FMT_INT4_CT:
        w.bits = 4;
        s.per_in = QN_MAX(l->group, 1);
        break;
    case QN_FMT_FP8_BLOCK:
        s.per_out = s.per_in = FP8_BLOCK;
        break;
    case QN_FMT_FP8_TENSOR:
        s.per_out = every;
        break;
    case QN_FMT_INT4_AWQ: /* words of eight outputs in an order of their own: 32 bits that stay together */
        w = (struct layout){32, 8, 1, true};
        s = (struct layout){scale, 1, QN_MAX(l->group, 1), true};
        z = (struct layout){32, 8, QN_MAX(l->group, 1), true};
        break;
    case QN_FMT_INT4_GPTQ:
        w = (struct layout){32, 1, 8, true};
        s = (struct layout){scale, 1, QN_MAX(l->group, 1), true};
        break;
    default:
        if (qn_format_is_block(l->format)) { /* a block is an element */
            w.bits = qn_block_bytes(l->weight.dtype) * 8;
            w.per_in = qn_block_values(l->weight.dtype);
        }
        break;
    }
    add(list, &n, l, &l->weight, &to->weight, &w, cut, 0);
    if (l->scale.n_byte) add(list, &n, l, &l->scale, &to->scale, &s, cut, split);
    if (l->zeros.n_dim) add(list, &n, l, &l->zeros, &to->zeros, &z, cut, split);
    return n;
}

static bool is_known(enum qn_format f)
{
    return f <= QN_FMT_INT8_CHANNEL || qn_format_is_block(f);
}

static int check_cut(const struct qn_linear *l, const struct qn_cut *cut, bool cuts_in, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(cuts_in && l->g_idx.n_dim, e, QN_UNSUPPORTED,
               "%s: the inputs of a layer in act-order (g_idx) cannot be shared out over ranks; quantise it "
               "without act-order, or serve it on one rank",
               l->name);
    QN_TRY(check_axis(l, "output", cut->out, cut->n_range, l->n_out, qn_slice_step_out(l), e));
    if (cuts_in) QN_TRY(check_axis(l, "input", &cut->in, 1, l->n_in, qn_slice_step_in(l), e));
out:
    return rc;
}

int qn_slice_make(struct qn_slice *out, const struct qn_linear *whole, const struct qn_cut *wanted,
                  struct qn_err *e)
{
    int rc = QN_OK, n, split = 0;
    struct matrix list[3];
    struct qn_cut cut = *wanted;
    size_t n_byte = 0;
    *out = (struct qn_slice){.linear = *whole};
    struct qn_linear *l = &out->linear;
    if (!cut.n_range) cut.out[0] = (struct qn_range){0, whole->n_out}, cut.n_range = 1;
    if (!cut.in.n) cut.in = (struct qn_range){0, whole->n_in};
    bool cuts_in = cut.in.n != whole->n_in;
    QN_FAIL_IF(!is_known(whole->format) && (cuts_in || whole->n_out != (int)total(cut.out, cut.n_range)), e,
               QN_UNSUPPORTED, "%s: a layer of %s cannot be shared out over ranks; serve it on one",
               whole->name, qn_format_name(whole->format));
    QN_TRY(check_cut(whole, &cut, cuts_in, e));
    l->n_out = (int)total(cut.out, cut.n_range);
    l->n_in = cut.in.n;
    if (cuts_in && whole->group && (cut.in.first % whole->group || cut.in.n % whole->group)) {
        l->group = gcd(gcd(whole->group, cut.in.first), cut.in.n);
        split = cut.in.n / l->group;
    }
    n = list_matrices(list, whole, l, &cut, split);
    for (int i = 0; i < n; i++)
        if (!is_borrowed(&list[i])) n_byte += QN_ROUND_UP(bytes_of(&list[i]), 64);
    if (n_byte) {
        out->memory = try_malloc(n_byte, 1);
        QN_FAIL_IF(!out->memory, e, QN_NOMEM, "%s: no memory for %zu bytes of its slice", whole->name,
                   n_byte);
    }
    char *at = out->memory;
    for (int i = 0; i < n; i++) {
        struct matrix *m = &list[i];
        m->to->n_byte = bytes_of(m);
        if (is_borrowed(m)) {
            m->to->data = (const char *)m->from->data + (size_t)m->row[0].first * (m->n_col * m->bits / 8);
            continue;
        }
        copy(at, m, cut.in.first, l->group);
        m->to->data = at;
        at += QN_ROUND_UP(bytes_of(m), 64);
    }
    l->weight.shape[0] = (int64_t)rows_of(&list[0]); /* as stored; the rest follows from n_out, n_in, group */
    l->weight.shape[1] =
        qn_format_is_block(l->format)
            ? l->n_in
            : (int64_t)(cols_of(&list[0]) * list[0].bits / 8 / qn_dtype_bytes(l->weight.dtype));
out:
    if (rc) qn_slice_free(out);
    return rc;
}

void qn_slice_free(struct qn_slice *s)
{
    free(s->memory);
    *s = (struct qn_slice){0};
}
