/* Windows bitmaps: 1, 4, 8, 16, 24 and 32 bits, plain or with masks, and run lengths of 4 and 8 bits.
 * Source: the BITMAPINFOHEADER family as Windows documents it. 32 bits have alpha only when a V4 or V5
 * header or a fourth mask says so. SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "media/decoder.h"

struct bmp {
    const uint8_t *data;
    size_t n;
    int w, h;
    bool is_top_down;
    int bits, compression; /* 0 none, 1 RLE8, 2 RLE4, 3 masks, 6 masks with alpha */
    uint32_t mask[4];      /* R, G, B, A */
    const uint8_t *palette;
    int n_colour, colour_bytes; /* 4, in the oldest header 3 */
    size_t at;                  /* of the pixels */
};

static uint32_t u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

static int read_masks(struct bmp *b, size_t header, struct qn_err *e)
{
    int rc = QN_OK;
    if (b->bits == 16) memcpy(b->mask, (uint32_t[4]){0x7c00, 0x3e0, 0x1f, 0}, sizeof b->mask);
    if (b->bits == 32) memcpy(b->mask, (uint32_t[4]){0xff0000, 0xff00, 0xff, 0}, sizeof b->mask);
    if (b->compression == 3 || b->compression == 6) {
        int n_mask = header >= 56 || b->compression == 6 ? 4 : 3;
        QN_FAIL_IF(b->n < 54 + 4 * (size_t)n_mask, e, QN_FORMAT, "the BMP is cut off");
        for (int i = 0; i < n_mask; i++) b->mask[i] = u32(b->data + 54 + 4 * i);
    }
out:
    return rc;
}

static int read_header(struct bmp *b, struct qn_err *e)
{
    int rc = QN_OK;
    size_t header = u32(b->data + 14);
    b->at = u32(b->data + 10);
    b->colour_bytes = header == 12 ? 3 : 4;
    if (header == 12) {
        b->w = (int)u16(b->data + 18);
        b->h = (int)u16(b->data + 20);
        b->bits = (int)u16(b->data + 24);
    } else {
        QN_FAIL_IF(header < 40 || header > 4096 || b->n < 54, e, QN_FORMAT,
                   "the BMP has a header of %zu bytes", header);
        int32_t h = (int32_t)u32(b->data + 22);
        b->w = (int)u32(b->data + 18);
        b->is_top_down = h < 0;
        QN_FAIL_IF(h == INT32_MIN, e, QN_FORMAT, "the BMP has an absurd height");
        b->h = h < 0 ? -h : h;
        b->bits = (int)u16(b->data + 28);
        b->compression = (int)u32(b->data + 30);
        b->n_colour = (int)QN_MIN(u32(b->data + 46), 256u);
    }
    QN_FAIL_IF(b->bits != 1 && b->bits != 4 && b->bits != 8 && b->bits != 16 && b->bits != 24 &&
                   b->bits != 32,
               e, QN_UNSUPPORTED, "a BMP of %d bits a pixel is not read", b->bits);
    bool is_rle = (b->compression == 1 && b->bits == 8) || (b->compression == 2 && b->bits == 4);
    bool is_masked = (b->compression == 3 || b->compression == 6) && (b->bits == 16 || b->bits == 32);
    QN_FAIL_IF(b->compression && !is_rle && !is_masked, e, QN_UNSUPPORTED,
               "a BMP of compression %d with %d bits is not read", b->compression, b->bits);
    QN_TRY(read_masks(b, header, e));
    if (b->bits <= 8) {
        size_t at = 14 + header;
        if (!b->n_colour || b->n_colour > 1 << b->bits) b->n_colour = 1 << b->bits;
        QN_FAIL_IF(b->n < at || (b->n - at) / (size_t)b->colour_bytes < (size_t)b->n_colour, e, QN_FORMAT,
                   "the BMP's palette is cut off");
        b->palette = b->data + at;
    }
out:
    return rc;
}

static void put_index(const struct bmp *b, struct qn_raster *out, int x, int y, int index)
{
    if (x < 0 || x >= out->w || y < 0 || y >= out->h) return;
    int row = b->is_top_down ? y : out->h - 1 - y;
    uint8_t *to = out->px + ((size_t)row * (size_t)out->w + (size_t)x) * 3;
    for (int c = 0; c < 3; c++) to[c] = index < b->n_colour ? b->palette[index * b->colour_bytes + 2 - c] : 0;
}

static int unpack_runs(const struct bmp *b, struct qn_raster *out, struct qn_err *e)
{
    int rc = QN_OK, x = 0, y = 0;
    const uint8_t *p = b->data + b->at, *end = b->data + b->n;
    bool is4 = b->bits == 4;
    for (int i = 0; i < out->w * out->h; i++) put_index(b, out, i % out->w, i / out->w, 0);
    while (y < out->h) {
        QN_FAIL_IF(end - p < 2, e, QN_FORMAT, "the BMP is cut off");
        int count = p[0], value = p[1];
        p += 2;
        if (count) {
            for (int i = 0; i < count; i++)
                put_index(b, out, x++, y, !is4 ? value : i & 1 ? value & 15 : value >> 4);
        } else if (value == 0) {
            x = 0;
            y++;
        } else if (value == 1) {
            break;
        } else if (value == 2) {
            QN_FAIL_IF(end - p < 2, e, QN_FORMAT, "the BMP is cut off");
            x += p[0];
            y += p[1];
            p += 2;
        } else {
            int n_byte = is4 ? (value + 1) / 2 : value;
            QN_FAIL_IF(end - p < n_byte, e, QN_FORMAT, "the BMP is cut off");
            for (int i = 0; i < value; i++)
                put_index(b, out, x++, y, !is4 ? p[i] : i & 1 ? p[i / 2] & 15 : p[i / 2] >> 4);
            p += QN_MIN((n_byte + 1) & ~1, (int)(end - p));
        }
        if (x > out->w) x = out->w; /* no overflow; what lies outside is dropped */
    }
out:
    return rc;
}

/* A masked field as 8 bits: of more the high ones, fewer are spread over the range. */
static uint8_t field(uint32_t v, uint32_t mask)
{
    if (!mask) return 0;
    int shift = __builtin_ctz(mask);
    uint64_t top = mask >> shift;
    return (uint8_t)(((uint64_t)((v & mask) >> shift) * 255) / top);
}

static void unpack_row(const struct bmp *b, struct qn_raster *out, int y, const uint8_t *row)
{
    int n = out->n_channel, at = b->is_top_down ? y : out->h - 1 - y;
    uint8_t *to = out->px + (size_t)at * (size_t)out->w * (size_t)n;
    for (int x = 0; x < out->w; x++, to += n) {
        if (b->bits <= 8) {
            int per = 8 / b->bits, shift = 8 - b->bits * (x % per + 1);
            put_index(b, out, x, y, row[x / per] >> shift & ((1 << b->bits) - 1));
        } else if (b->bits == 24) {
            for (int c = 0; c < 3; c++) to[c] = row[3 * x + 2 - c];
        } else {
            uint32_t v = b->bits == 16 ? u16(row + 2 * x) : u32(row + 4 * x);
            for (int c = 0; c < n; c++) to[c] = field(v, b->mask[c]);
        }
    }
}

int qn_bmp_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK;
    struct bmp b = {.data = d->data, .n = d->n};
    QN_TRY(read_header(&b, e));
    QN_TRY(qn_decoder_check(d, b.w, b.h, e));
    d->out = (struct qn_raster){b.w, b.h, b.mask[3] ? 4 : 3, NULL};
    if (d->header_only) goto out;
    QN_FAIL_IF(b.at > b.n, e, QN_FORMAT, "the BMP is cut off");
    size_t stride = ((size_t)b.w * (size_t)b.bits + 31) / 32 * 4;
    bool is_rle = b.compression == 1 || b.compression == 2;
    QN_FAIL_IF(!is_rle && (b.n - b.at) / stride < (size_t)b.h, e, QN_FORMAT, "the BMP is cut off");
    QN_TRY(qn_raster_alloc(&d->out, b.w, b.h, d->out.n_channel, e));
    if (is_rle) {
        QN_TRY(unpack_runs(&b, &d->out, e));
        goto out;
    }
    for (int y = 0; y < b.h; y++) unpack_row(&b, &d->out, y, b.data + b.at + (size_t)y * stride);
out:
    return rc;
}
