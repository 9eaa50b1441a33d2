/* See image.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/image.h"

#include "media/decoder.h"

static bool begins(const uint8_t *data, size_t n, size_t at, const char *magic, size_t n_magic)
{
    return n >= at + n_magic && !memcmp(data + at, magic, n_magic);
}

static bool is_heif_brand(const uint8_t *brand)
{
    static const char *const brands[] = {"heic", "heix", "heim", "heis", "mif1",
                                         "avif", "avis", "hevc", "msf1"};
    for (size_t i = 0; i < QN_COUNT(brands); i++)
        if (!memcmp(brand, brands[i], 4)) return true;
    return false;
}

enum qn_image_format qn_image_sniff(const uint8_t *data, size_t n)
{
    if (begins(data, n, 0, "\xff\xd8\xff", 3)) return QN_IMAGE_JPEG;
    if (begins(data, n, 0, "\x89PNG\r\n\x1a\n", 8)) return QN_IMAGE_PNG;
    if (begins(data, n, 0, "RIFF", 4) && begins(data, n, 8, "WEBP", 4)) return QN_IMAGE_WEBP;
    if (begins(data, n, 0, "GIF87a", 6) || begins(data, n, 0, "GIF89a", 6)) return QN_IMAGE_GIF;
    if (begins(data, n, 0, "BM", 2) && n >= 26) return QN_IMAGE_BMP;
    if (begins(data, n, 4, "ftyp", 4) && n >= 12 && is_heif_brand(data + 8)) return QN_IMAGE_HEIF;
    return QN_IMAGE_UNKNOWN;
}

const char *qn_image_format_name(enum qn_image_format f)
{
    static const char *const names[] = {"unknown", "JPEG", "PNG", "WebP", "GIF", "BMP", "AVIF or HEIC"};
    return names[f];
}

/* What a user most likely sent instead, for the error. */
static const char *other_kind(const uint8_t *data, size_t n)
{
    if (begins(data, n, 0, "%PDF", 4)) return "a PDF";
    if (begins(data, n, 0, "II*\0", 4) || begins(data, n, 0, "MM\0*", 4)) return "a TIFF";
    if (begins(data, n, 0, "<svg", 4) || begins(data, n, 0, "<?xml", 5)) return "an SVG or XML text";
    if (begins(data, n, 0, "<!DOCTYPE", 9) || begins(data, n, 0, "<html", 5)) return "a web page";
    if (begins(data, n, 4, "ftyp", 4) || begins(data, n, 0, "\x1a\x45\xdf\xa3", 4)) return "a video";
    if (begins(data, n, 0, "{", 1)) return "JSON";
    return n ? "of a format that is not known" : "empty";
}

static int decode(struct qn_raster *out, const uint8_t *data, size_t n, const struct qn_image_options *o,
                  bool header_only, struct qn_err *e)
{
    static int (*const decoders[])(struct qn_decoder *, struct qn_err *) = {
        [QN_IMAGE_JPEG] = qn_jpeg_decode, [QN_IMAGE_PNG] = qn_png_decode, [QN_IMAGE_WEBP] = qn_webp_decode,
        [QN_IMAGE_GIF] = qn_gif_decode,   [QN_IMAGE_BMP] = qn_bmp_decode, [QN_IMAGE_HEIF] = qn_heif_decode,
    };
    int rc = QN_OK;
    struct qn_image_options dflt = QN_IMAGE_OPTIONS;
    if (!o) o = &dflt;
    enum qn_image_format f = qn_image_sniff(data, n);
    struct qn_decoder d = {.data = data,
                           .n = n,
                           .max_pixels = o->max_pixels > 0 ? o->max_pixels : QN_IMAGE_MAX_PIXELS,
                           .header_only = header_only,
                           .orientation = 1};
    QN_FAIL_IF(!f, e, QN_UNSUPPORTED, "the picture is %s; JPEG, PNG, WebP, GIF, BMP, AVIF and HEIC are read",
               other_kind(data, n));
    QN_TRY(decoders[f](&d, e));
    QN_TRY(qn_raster_orient(&d.out, d.orientation, e));
    qn_raster_flatten(&d.out, o->background);
    *out = d.out;
    d.out.px = NULL;
out:
    qn_raster_free(&d.out);
    return rc;
}

int qn_image_decode(struct qn_raster *out, const uint8_t *data, size_t n, const struct qn_image_options *o,
                    struct qn_err *e)
{
    return decode(out, data, n, o, false, e);
}

int qn_image_measure(struct qn_raster *out, const uint8_t *data, size_t n, const struct qn_image_options *o,
                     struct qn_err *e)
{
    return decode(out, data, n, o, true, e);
}
