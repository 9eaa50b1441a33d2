/* PNG by libpng: palettes and low depths are expanded, of 16 bits the high byte is kept, gamma and colour
 * profiles are ignored. The first picture of an animated PNG is the file's own.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>

#include <png.h>

#include "base/mem.h"
#include "media/decoder.h"

struct source {
    const uint8_t *p, *end;
    jmp_buf escape;
    char text[120];
};

static void on_read(png_structp png, png_bytep to, size_t n)
{
    struct source *s = png_get_io_ptr(png);
    if ((size_t)(s->end - s->p) < n) png_error(png, "it is cut off");
    memcpy(to, s->p, n);
    s->p += n;
}

PNG_NORETURN static void on_error(png_structp png, const char *text)
{
    struct source *s = png_get_error_ptr(png);
    snprintf(s->text, sizeof s->text, "%s", text);
    longjmp(s->escape, 1);
}

static void on_warning(png_structp png, const char *text)
{
    (void)png;
    (void)text;
}

/* The eXIf chunk may stand behind the pixels, so the chunks are walked here. */
static void find_orientation(struct qn_decoder *d)
{
    size_t at = 8;
    while (d->n - at >= 12) {
        const uint8_t *c = d->data + at;
        size_t n = (size_t)c[0] << 24 | (size_t)c[1] << 16 | (size_t)c[2] << 8 | c[3];
        if (n > d->n - at - 12 || !memcmp(c + 4, "IEND", 4)) return;
        if (!memcmp(c + 4, "eXIf", 4)) {
            d->orientation = qn_exif_orientation(c + 8, n);
            return;
        }
        at += 12 + n;
    }
}

static int set_up(png_structp png, png_infop info)
{
    int type = png_get_color_type(png, info);
    png_set_expand(png); /* palette, low depths, tRNS to alpha */
    png_set_strip_16(png);
    if (!(type & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(png);
    int n_pass = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return n_pass;
}

int qn_png_decode(struct qn_decoder *d, struct qn_err *e)
{
    int rc = QN_OK;
    struct source s = {d->data, d->data + d->n, {{{0}}}, ""};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    QN_FAIL_IF(!info, e, QN_NOMEM, "no memory for a PNG");
    if (setjmp(s.escape)) QN_FAIL(e, QN_FORMAT, "the PNG is broken: %s", s.text);
    png_set_read_fn(png, &s, on_read);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff); /* checked below, with an error of our own */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_option(png, PNG_SKIP_sRGB_CHECK_PROFILE, PNG_OPTION_ON);
    png_read_info(png, info);
    QN_TRY(qn_decoder_check(d, png_get_image_width(png, info), png_get_image_height(png, info), e));
    find_orientation(d);
    d->out = (struct qn_raster){(int)png_get_image_width(png, info), (int)png_get_image_height(png, info), 3,
                                NULL};
    if (d->header_only) goto out;
    int n_pass = set_up(png, info);
    int n_channel = png_get_channels(png, info);
    QN_FAIL_IF(n_channel != 3 && n_channel != 4, e, QN_INTERNAL, "a PNG of %d channels", n_channel);
    QN_TRY(qn_raster_alloc(&d->out, d->out.w, d->out.h, n_channel, e));
    size_t stride = (size_t)d->out.w * (size_t)n_channel;
    for (int pass = 0; pass < n_pass; pass++)
        for (int y = 0; y < d->out.h; y++) png_read_row(png, d->out.px + (size_t)y * stride, NULL);
out:
    png_destroy_read_struct(&png, &info, NULL);
    return rc;
}
