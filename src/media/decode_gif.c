/* The first frame of a GIF, on its screen. Source: GIF89a specification; LZW with codes of up to 12 bits.
 *
 * Pixels of the transparent index, and those of the screen that the frame does not cover when it has one,
 * are transparent. Without one they have the colour of index 0. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "media/decoder.h"

struct reader {
    const uint8_t *p, *end;
    /* bits of the image data */
    int n_block; /* bytes left in the sub-block */
    uint32_t bits;
    int n_bit;
    bool is_cut;
};

struct frame {
    int x, y, w, h;
    bool is_interlaced;
    int transparent; /* index, or -1 */
    const uint8_t *palette;
    int n_colour;
};

static int get_u16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}

static bool take(struct reader *r, size_t n, const uint8_t **p)
{
    if ((size_t)(r->end - r->p) < n) return false;
    *p = r->p;
    r->p += n;
    return true;
}

static bool skip_blocks(struct reader *r)
{
    const uint8_t *p;
    for (;;) {
        if (!take(r, 1, &p)) return false;
        if (!p[0]) return true;
        if (!take(r, p[0], &p)) return false;
    }
}

static int next_code(struct reader *r, int width)
{
    while (r->n_bit < width) {
        const uint8_t *p;
        if (!r->n_block) {
            if (!take(r, 1, &p) || !p[0]) {
                r->is_cut = true;
                return -1;
            }
            r->n_block = p[0];
        }
        if (!take(r, 1, &p)) {
            r->is_cut = true;
            return -1;
        }
        r->n_block--;
        r->bits |= (uint32_t)p[0] << r->n_bit;
        r->n_bit += 8;
    }
    int code = (int)(r->bits & ((1u << width) - 1));
    r->bits >>= width;
    r->n_bit -= width;
    return code;
}

#define MAX_CODES 4096
struct lzw {
    uint16_t prefix[MAX_CODES];
    uint8_t suffix[MAX_CODES];
    uint8_t stack[MAX_CODES + 1];
};

/* Indices of the frame in the order of the file: n of them, or an error. */
static int unpack(struct reader *r, struct lzw *t, int min_width, uint8_t *to, size_t n, struct qn_err *e)
{
    int rc = QN_OK;
    int clear = 1 << min_width, next = clear + 2, width = min_width + 1, old = -1, first = 0;
    size_t at = 0;
    for (int i = 0; i < clear; i++) t->suffix[i] = (uint8_t)i;
    while (at < n) {
        int code = next_code(r, width), c = code, depth = 0;
        QN_FAIL_IF(code < 0, e, QN_FORMAT, "the GIF is cut off");
        if (code == clear) {
            next = clear + 2;
            width = min_width + 1;
            old = -1;
            continue;
        }
        QN_FAIL_IF(code == clear + 1, e, QN_FORMAT, "the GIF ends before its picture does");
        QN_FAIL_IF(code > next || (code == next && old < 0) || (old < 0 && code > clear), e, QN_FORMAT,
                   "the GIF is broken: code %d out of place", code);
        if (code == next) {
            t->stack[depth++] = (uint8_t)first;
            c = old;
        }
        while (c > clear) {
            t->stack[depth++] = t->suffix[c];
            c = t->prefix[c];
        }
        first = t->suffix[c];
        t->stack[depth++] = (uint8_t)first;
        while (depth && at < n) to[at++] = t->stack[--depth];
        if (old >= 0 && next < MAX_CODES) {
            t->prefix[next] = (uint16_t)old;
            t->suffix[next] = (uint8_t)first;
            next++;
            if (next == 1 << width && width < 12) width++;
        }
        old = code;
    }
out:
    return rc;
}

/* Row of the frame that the i-th row of the file is. */
static int row_of(const struct frame *f, int i)
{
    static const int start[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    if (!f->is_interlaced) return i;
    for (int pass = 0; pass < 4; pass++) {
        int n = f->h > start[pass] ? (f->h - start[pass] + step[pass] - 1) / step[pass] : 0;
        if (i < n) return start[pass] + i * step[pass];
        i -= n;
    }
    return 0;
}

static void put(struct qn_raster *out, int x, int y, const struct frame *f, int index)
{
    if (x < 0 || y < 0 || x >= out->w || y >= out->h) return;
    uint8_t *p = out->px + ((size_t)y * (size_t)out->w + (size_t)x) * (size_t)out->n_channel;
    for (int c = 0; c < 3; c++) p[c] = index < f->n_colour ? f->palette[3 * index + c] : 0;
    if (out->n_channel == 4) p[3] = index == f->transparent ? 0 : 255;
}

/* Walks the blocks up to the first picture. */
static int find_frame(struct reader *r, struct frame *f, const uint8_t *global, int n_global,
                      struct qn_err *e)
{
    int rc = QN_OK;
    const uint8_t *p;
    f->transparent = -1;
    for (;;) {
        QN_FAIL_IF(!take(r, 1, &p) || p[0] == 0x3b, e, QN_FORMAT, "the GIF holds no picture");
        if (p[0] == 0x2c) break;
        if (p[0] != 0x21) continue; /* stray bytes are passed over, as others do */
        QN_FAIL_IF(!take(r, 1, &p), e, QN_FORMAT, "the GIF is cut off");
        if (p[0] == 0xf9 && r->end - r->p >= 6 && r->p[0] == 4 && (r->p[1] & 1)) f->transparent = r->p[4];
        QN_FAIL_IF(!skip_blocks(r), e, QN_FORMAT, "the GIF is cut off");
    }
    QN_FAIL_IF(!take(r, 9, &p), e, QN_FORMAT, "the GIF is cut off");
    f->x = get_u16(p);
    f->y = get_u16(p + 2);
    f->w = get_u16(p + 4);
    f->h = get_u16(p + 6);
    f->is_interlaced = p[8] & 0x40;
    f->palette = global;
    f->n_colour = n_global;
    if (p[8] & 0x80) {
        f->n_colour = 2 << (p[8] & 7);
        QN_FAIL_IF(!take(r, (size_t)f->n_colour * 3, &f->palette), e, QN_FORMAT, "the GIF is cut off");
    }
out:
    return rc;
}

int qn_gif_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK, n_global = 0;
    struct reader r = {d->data + 6, d->data + d->n, 0, 0, 0, false};
    struct frame f = {0};
    struct lzw *table = NULL;
    uint8_t *index = NULL;
    const uint8_t *p, *global = NULL;
    uint8_t grey[256 * 3]; /* a file without any palette */
    for (int i = 0; i < 256 * 3; i++) grey[i] = (uint8_t)(i / 3);
    QN_FAIL_IF(!take(&r, 7, &p), e, QN_FORMAT, "the GIF is cut off");
    int w = get_u16(p), h = get_u16(p + 2), flags = p[4];
    if (flags & 0x80) {
        n_global = 2 << (flags & 7);
        QN_FAIL_IF(!take(&r, (size_t)n_global * 3, &global), e, QN_FORMAT, "the GIF is cut off");
    }
    QN_TRY(find_frame(&r, &f, global ? global : grey, global ? n_global : 256, e));
    w = QN_MAX(w, f.x + f.w); /* a frame beyond the screen widens it */
    h = QN_MAX(h, f.y + f.h);
    QN_TRY(qn_decoder_check(d, w, h, e));
    QN_FAIL_IF(!f.w || !f.h, e, QN_FORMAT, "the GIF's first frame is empty");
    d->out = (struct qn_raster){w, h, f.transparent >= 0 ? 4 : 3, NULL};
    if (d->header_only) goto out;
    QN_FAIL_IF(!take(&r, 1, &p) || p[0] < 1 || p[0] > 11, e, QN_FORMAT, "the GIF is broken: no code width");
    int min_width = p[0];
    size_t n = (size_t)f.w * (size_t)f.h;
    table = try_malloc(1, sizeof *table);
    index = try_malloc(n, 1);
    QN_FAIL_IF(!table || !index, e, QN_NOMEM, "no memory for a GIF");
    QN_TRY(unpack(&r, table, min_width > 8 ? 8 : min_width, index, n, e));
    QN_TRY(qn_raster_alloc(&d->out, w, h, d->out.n_channel, e));
    for (int y = 0; f.transparent < 0 && y < h; y++)
        for (int x = 0; x < w; x++) put(&d->out, x, y, &f, 0);
    for (int i = 0; i < f.h; i++) {
        int y = f.y + row_of(&f, i);
        for (int x = 0; x < f.w; x++)
            put(&d->out, f.x + x, y, &f, index[(size_t)i * (size_t)f.w + (size_t)x]);
    }
out:
    free(table);
    free(index);
    return rc;
}
