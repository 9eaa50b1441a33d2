/* JPEG by libjpeg-turbo with its defaults (accurate DCT, smooth chroma upsampling), which gives the pixels
 * that the reference's libraries give. CMYK and YCCK come as four samples of inverted ink and become
 * c * k / 255. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>
#include <jerror.h>

#include "media/decoder.h"

#define MAX_SCANS 200 /* of a progressive file: each goes over the whole picture */

struct source {
    struct jpeg_error_mgr error;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    bool is_cut;   /* the data ended early */
    bool has_many; /* scans */
    char text[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr c)
{
    struct source *s = c->client_data;
    (*c->err->format_message)(c, s->text);
    longjmp(s->escape, 1);
}

static void on_message(j_common_ptr c, int level)
{
    struct source *s = c->client_data;
    if (level < 0 && c->err->msg_code == JWRN_JPEG_EOF) {
        s->is_cut = true;
        longjmp(s->escape, 1);
    }
}

static void on_progress(j_common_ptr c)
{
    struct source *s = c->client_data;
    if (c->is_decompressor && ((j_decompress_ptr)c)->input_scan_number > MAX_SCANS) {
        s->has_many = true;
        longjmp(s->escape, 1);
    }
}

static void find_orientation(struct qn_decoder *d, const struct jpeg_decompress_struct *c)
{
    for (jpeg_saved_marker_ptr m = c->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length > 6 && !memcmp(m->data, "Exif\0", 6)) {
            d->orientation = qn_exif_orientation(m->data, m->data_length);
            return;
        }
}

static inline uint8_t over_255(unsigned v)
{
    v += 128;
    return (uint8_t)(((v >> 8) + v) >> 8);
}

static void read_rows(struct qn_decoder *d, struct jpeg_decompress_struct *c, uint8_t *row)
{
    while (c->output_scanline < c->output_height) {
        uint8_t *to = d->out.px + (size_t)c->output_scanline * (size_t)d->out.w * 3;
        JSAMPROW rows[1] = {row ? row : to};
        if (jpeg_read_scanlines(c, rows, 1) != 1) break;
        for (int x = 0; row && x < d->out.w; x++)
            for (int k = 0; k < 3; k++) to[3 * x + k] = over_255((unsigned)row[4 * x + k] * row[4 * x + 3]);
    }
}

int qn_jpeg_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK;
    struct jpeg_decompress_struct c = {0};
    struct source s = {0};
    uint8_t *volatile row = NULL;
    struct qn_raster *out = &d->out;
    c.err = jpeg_std_error(&s.error);
    c.client_data = &s;
    s.error.error_exit = on_error;
    s.error.emit_message = on_message;
    s.progress.progress_monitor = on_progress;
    if (setjmp(s.escape)) {
        QN_FAIL_IF(s.is_cut, e, QN_FORMAT, "the JPEG is cut off");
        QN_FAIL_IF(s.has_many, e, QN_TOOBIG, "the JPEG has more than %d scans", MAX_SCANS);
        QN_FAIL(e, QN_FORMAT, "the JPEG is broken: %s", s.text);
    }
    jpeg_create_decompress(&c);
    c.progress = &s.progress;
    jpeg_mem_src(&c, d->data, (unsigned long)d->n);
    jpeg_save_markers(&c, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&c, TRUE);
    QN_TRY(qn_decoder_check(d, c.image_width, c.image_height, e));
    find_orientation(d, &c);
    *out = (struct qn_raster){(int)c.image_width, (int)c.image_height, 3, NULL};
    if (d->header_only) goto out;
    bool is_ink = c.jpeg_color_space == JCS_CMYK || c.jpeg_color_space == JCS_YCCK;
    c.out_color_space = is_ink ? JCS_CMYK : JCS_RGB;
    QN_TRY(qn_raster_alloc(out, out->w, out->h, 3, e));
    if (is_ink) {
        row = malloc((size_t)out->w * 4);
        QN_FAIL_IF(!row, e, QN_NOMEM, "no memory for a row of the picture");
    }
    jpeg_start_decompress(&c);
    read_rows(d, &c, row);
out:
    free(row);
    jpeg_destroy_decompress(&c);
    return rc;
}
