/* See source.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/source.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sys/stat.h>

#include "base/base64.h"
#include "base/mem.h"
#include "net/address.h"
#include "net/fetch.h"

#define MAX_FRAMES 2048 /* of a list */

/* --- parameters --- */

static int read_background(uint8_t out[3], const struct qn_json *image, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *list;
    QN_TRY(qn_json_get_arr(image, "rgba_background_color", &list, e));
    for (size_t i = 0; list && i < 3; i++) {
        int64_t v = -1;
        QN_FAIL_IF(list->n != 3 || !qn_json_int(list->items[i], &v) || v < 0 || v > 255, e, QN_INVAL,
                   "media_io_kwargs.image.rgba_background_color has to be three numbers from 0 to 255");
        out[i] = (uint8_t)v;
    }
out:
    return rc;
}

static int check_keys(const struct qn_json *o, const char *what, const char *const *known, size_t n,
                      struct qn_err *e)
{
    int rc = QN_OK;
    for (size_t i = 0; o && i < o->n; i++) {
        bool found = false;
        for (size_t k = 0; k < n; k++) found |= !strcmp(o->keys[i].text, known[k]);
        QN_FAIL_IF(!found, e, QN_INVAL, "%s: %.40s is not known", what, o->keys[i].text);
    }
out:
    return rc;
}

/* fps and num_frames of media_io_kwargs.video: one that is set clears the other. */
static int read_video_io(const struct qn_json *video, double *fps, int64_t *count, struct qn_err *e)
{
    int rc = QN_OK;
    if (!qn_json_is_null(qn_json_get(video, "fps"))) {
        QN_TRY(qn_json_get_num(video, "fps", 2, fps, e));
        QN_FAIL_IF(*fps != -1 && (!(*fps > 0) || *fps > 1000), e, QN_INVAL,
                   "media_io_kwargs.video.fps has to be above 0");
        if (*fps == -1) *fps = NAN;
        *count = 0;
    }
    if (!qn_json_is_null(qn_json_get(video, "num_frames"))) {
        QN_TRY(qn_json_get_int(video, "num_frames", -1, count, e));
        QN_FAIL_IF(*count == 0 || *count < -1 || *count > 1 << 20, e, QN_INVAL,
                   "media_io_kwargs.video.num_frames has to be above 0, or -1 for no limit");
        if (*count < 0) *count = 0;
        if (*count > 0) *fps = NAN;
    }
out:
    return rc;
}

static int parts_of(const struct qn_json *io, struct qn_json **image, struct qn_json **video,
                    struct qn_err *e)
{
    static const char *const top[] = {"image", "video", "audio"},
                             *const images[] = {"rgba_background_color", "image_mode"},
                             *const videos[] = {
                                 "fps",          "num_frames",       "frames_indices", "total_num_frames",
                                 "duration",     "do_sample_frames", "video_backend",  "backend"};
    int rc = QN_OK;
    *image = *video = NULL;
    if (qn_json_is_null(io)) return QN_OK;
    QN_FAIL_IF(!qn_json_is(io, QN_JSON_OBJECT), e, QN_INVAL, "media_io_kwargs has to be an object");
    QN_TRY(check_keys(io, "media_io_kwargs", top, QN_COUNT(top), e));
    QN_TRY(qn_json_get_obj(io, "image", image, e));
    QN_TRY(qn_json_get_obj(io, "video", video, e));
    QN_TRY(check_keys(*image, "media_io_kwargs.image", images, QN_COUNT(images), e));
    QN_TRY(check_keys(*video, "media_io_kwargs.video", videos, QN_COUNT(videos), e));
out:
    return rc;
}

int qn_source_policy_io(struct qn_source_policy *policy, const struct qn_json *io, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *image, *video;
    QN_TRY(parts_of(io, &image, &video, e));
    QN_TRY(read_background(policy->background, image, e));
    QN_TRY(read_video_io(video, &policy->video_fps, &policy->video_frames, e));
out:
    return rc;
}

int qn_source_params(struct qn_source_params *out, const struct qn_source_policy *policy,
                     const struct qn_json *mm_kwargs, const struct qn_json *io_kwargs, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *image, *video, *list;
    struct qn_source_params p = {.want = policy->want, .frames_fps = 1, .frames_most = 32};
    memcpy(p.background, policy->background, sizeof p.background);
    if (isnan(p.want.fps) && p.want.num_frames < 0) {
        p.want.fps = policy->video_fps;
        p.want.num_frames = policy->video_frames;
    }
    QN_TRY(parts_of(io_kwargs, &image, &video, e));
    QN_TRY(read_background(p.background, image, e));
    QN_TRY(read_video_io(video, &p.want.fps, &p.want.num_frames, e));
    QN_TRY(qn_json_get_num(video, "fps", 1, &p.frames_fps, e));
    QN_TRY(qn_json_get_int(video, "num_frames", 32, &p.frames_most, e));
    QN_FAIL_IF(!(p.frames_fps > 0), e, QN_INVAL, "media_io_kwargs.video.fps has to be above 0");
    QN_TRY(qn_json_get_arr(video, "frames_indices", &list, e));
    p.frames_indices = list;
    bool samples;
    if (!qn_json_is_null(qn_json_get(video, "do_sample_frames"))) {
        QN_TRY(qn_json_get_bool(video, "do_sample_frames", false, &samples, e));
        p.want.sample_frames = samples;
    }
    rc = qn_eyes_want_read(&p.want, mm_kwargs, e);
    if (rc) qn_err_prefix(e, "mm_processor_kwargs");
    if (!rc) *out = p;
out:
    return rc;
}

/* --- bytes --- */

struct bytes {
    struct qn_buf buf;
    size_t most;
    bool is_over;
};

static bool on_data(void *user, const struct qn_fetch_head *head, const char *data, size_t n)
{
    struct bytes *b = user;
    if (head->status >= 300 && head->status < 400) return true; /* the body of a redirect */
    b->is_over |= head->n_byte > (int64_t)b->most || b->buf.n_byte + n > b->most;
    return !b->is_over && !qn_buf_append(&b->buf, data, n);
}

/* Whether the host may be asked, and whether only at a public address. */
static int check_host(const struct qn_source_policy *p, const char *url, bool *public_only, struct qn_err *e)
{
    int rc = QN_OK;
    char host[256], bare[256];
    unsigned char address[16];
    bool is_listed = !p->n_host;
    QN_TRY(qn_address_host(url, host, sizeof host, e));
    for (int i = 0; i < p->n_host; i++) is_listed |= !strcmp(host, p->hosts[i]);
    QN_FAIL_IF(!is_listed, e, QN_INVAL,
               "%.200s is not among the hosts that this server fetches from (--allowed-media-domains)", host);
    snprintf(bare, sizeof bare, "%s", host[0] == '[' ? host + 1 : host);
    bare[strcspn(bare, "]")] = 0;
    *public_only =
        !p->n_host || (inet_pton(AF_INET, bare, address) != 1 && inet_pton(AF_INET6, bare, address) != 1);
out:
    return rc;
}

static int fetch(const struct qn_source_policy *p, const char *url, int total_s, struct bytes *b,
                 struct qn_err *e)
{
    int rc = QN_OK;
    char at[2048];
    QN_FAIL_IF(strlen(url) >= sizeof at, e, QN_INVAL, "the address is too long");
    snprintf(at, sizeof at, "%s", url);
    for (int hop = 0;; hop++) {
        struct qn_fetch_end end;
        struct qn_fetch f = {.url = at,
                             .connect_s = total_s,
                             .total_s = total_s,
                             .is_local = true,
                             .on_data = on_data,
                             .user = b};
        QN_TRY(check_host(p, at, &f.public_only, e));
        rc = qn_fetch(&f, &end, NULL);
        QN_FAIL_IF(b->is_over, e, QN_TOOBIG, "it is larger than %zu MiB, which is the most that is fetched",
                   b->most >> 20);
        QN_FAIL_IF(end.is_private, e, QN_INVAL,
                   "it lies at a private or special address, which this server does not ask");
        QN_FAIL_IF(rc, e, QN_IO, "it cannot be fetched: %.150s",
                   end.why[0] ? end.why : "the request was cut off");
        if (!end.redirect[0]) break;
        QN_FAIL_IF(hop >= QN_SOURCE_REDIRECTS, e, QN_IO, "it is redirected more than %d times",
                   QN_SOURCE_REDIRECTS);
        QN_FAIL_IF(!strncmp(at, "https:", 6) && strncmp(end.redirect, "https:", 6), e, QN_INVAL,
                   "it is redirected from https to plain http");
        snprintf(at, sizeof at, "%s", end.redirect);
    }
    QN_FAIL_IF(!b->buf.n_byte, e, QN_IO, "it cannot be fetched: the answer is empty");
out:
    return rc;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* A regular file strictly inside the allowed folder, symbolic links followed first. */
static int read_file(const struct qn_source_policy *p, const char *url, struct bytes *b, struct qn_err *e)
{
    int rc = QN_OK;
    char path[PATH_MAX], real[PATH_MAX], root[PATH_MAX];
    struct stat st;
    size_t n = 0;
    FILE *f = NULL;
    QN_FAIL_IF(!p->folder, e, QN_INVAL,
               "files are not read by this server (--allowed-local-media-path allows a folder)");
    const char *from = url + 5;
    if (!strncmp(from, "//localhost/", 12)) from += 11;
    if (!strncmp(from, "//", 2)) from += 2;
    QN_FAIL_IF(from[0] != '/', e, QN_INVAL, "a file address is file:///path");
    for (; *from && n + 1 < sizeof path; from++) {
        bool is_escape = from[0] == '%' && hex(from[1]) >= 0 && hex(from[2]) >= 0;
        path[n++] = is_escape ? (char)(hex(from[1]) << 4 | hex(from[2])) : *from;
        if (is_escape) from += 2;
        QN_FAIL_IF(!path[n - 1], e, QN_INVAL, "the file address holds a zero byte");
    }
    path[n] = 0;
    QN_FAIL_IF(*from || !realpath(p->folder, root) || !realpath(path, real) ||
                   strncmp(real, root, strlen(root)) ||
                   (root[strlen(root) - 1] != '/' && real[strlen(root)] != '/'),
               e, QN_INVAL, "there is no such file in the folder that this server reads from");
    f = fopen(real, "rb");
    QN_FAIL_IF(!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode), e, QN_INVAL,
               "there is no such file in the folder that this server reads from");
    QN_FAIL_IF((uint64_t)st.st_size > b->most, e, QN_TOOBIG, "it is larger than %zu MiB", b->most >> 20);
    QN_TRY(qn_buf_read_stream(&b->buf, f, "the file", e));
out:
    if (f) fclose(f);
    return rc;
}

static int decode_base64(const char *text, size_t n, struct bytes *b, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n_byte;
    QN_FAIL_IF(n / 4 * 3 > b->most, e, QN_TOOBIG,
               "it is larger than %zu MiB, which is the most that is taken", b->most >> 20);
    QN_FAIL_IF(!n, e, QN_INVAL, "its data are empty");
    uint8_t *to = try_malloc(QN_BASE64_ROOM(n), 1);
    QN_FAIL_IF(!to, e, QN_NOMEM, "no memory for its data");
    if (!qn_base64_decode(text, n, to, &n_byte))
        rc = qn_err_set(e, QN_INVAL, __FILE__, __LINE__, "its data are not base64");
    else
        rc = qn_buf_append(&b->buf, to, n_byte);
    free(to);
out:
    return rc;
}

/* --- parts --- */

/* The address or data of a part. is_raw: base64 without a data: head. */
static int address_of(const struct qn_json *part, const struct qn_json **url, bool *is_raw,
                      const char **detail, struct qn_err *e)
{
    static const char *const keys[] = {"image_url", "video_url", "image", "video", "input_video"};
    int rc = QN_OK;
    const struct qn_json *v = NULL;
    *is_raw = false;
    *detail = "auto";
    for (size_t i = 0; i < QN_COUNT(keys) && qn_json_is_null(v); i++) v = qn_json_get(part, keys[i]);
    QN_FAIL_IF(qn_json_is_null(v) && !qn_json_is_null(qn_json_get(part, "file_id")), e, QN_INVAL,
               "file_id is not known here: send the picture itself or its address");
    QN_FAIL_IF(qn_json_is_null(v), e, QN_INVAL, "the part has no image_url or video_url");
    if (v->type == QN_JSON_STRING) {
        *url = v;
        QN_TRY(qn_json_get_str(part, "detail", "auto", detail, e));
        goto out;
    }
    QN_FAIL_IF(v->type != QN_JSON_OBJECT, e, QN_INVAL, "it has to be an object with a url");
    QN_TRY(qn_json_get_str(v, "detail", "auto", detail, e));
    *url = qn_json_get(v, "url");
    if (qn_json_is_null(*url)) {
        *url = qn_json_get(v, "data");
        *is_raw = true;
    }
    QN_FAIL_IF(!qn_json_is(*url, QN_JSON_STRING), e, QN_INVAL, "it has to be an object with a url");
out:
    return rc;
}

static int check_detail(const char *detail, struct qn_eyes_want *want, struct qn_err *e)
{
    int rc = QN_OK;
    bool low = !strcmp(detail, "low");
    QN_FAIL_IF(!low && strcmp(detail, "auto") && strcmp(detail, "high") && strcmp(detail, "original"), e,
               QN_INVAL, "detail is '%.20s': auto, low and high are known", detail);
    if (low && (want->max_pixels < 0 || want->max_pixels > QN_SOURCE_LOW_PIXELS))
        want->max_pixels = QN_SOURCE_LOW_PIXELS;
out:
    return rc;
}

/* Frames given one after the other: "F1,F2,..." in base64. */
static int load_frames(struct qn_item **out, const char *text, const struct qn_source_params *params,
                       const struct qn_item_options *o, size_t most, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    struct bytes b = {.buf = QN_BUF_INIT(most), .most = most};
    struct qn_item_frame *frames = xcalloc(MAX_FRAMES, sizeof *frames);
    size_t *at = xcalloc(MAX_FRAMES + 1, sizeof *at);
    int64_t *index = NULL;
    const struct qn_json *list = params->frames_indices;
    int64_t limit = params->frames_most < 0 ? MAX_FRAMES : QN_MIN(params->frames_most, MAX_FRAMES);
    for (const char *p = text; p && n < limit; n++) {
        const char *comma = strchr(p, ',');
        at[n] = b.buf.n_byte;
        QN_TRY(decode_base64(p, comma ? (size_t)(comma - p) : strlen(p), &b, e));
        p = comma ? comma + 1 : NULL;
        QN_FAIL_IF(p && n + 1 == MAX_FRAMES, e, QN_TOOBIG, "a video of more than %d frames", MAX_FRAMES);
    }
    at[n] = b.buf.n_byte;
    for (int i = 0; i < n; i++)
        frames[i] = (struct qn_item_frame){(const uint8_t *)b.buf.data + at[i], at[i + 1] - at[i]};
    QN_FAIL_IF(list && list->n < (size_t)n, e, QN_INVAL,
               "media_io_kwargs.video.frames_indices has %zu entries for %d frames", list->n, n);
    if (list) index = xcalloc((size_t)n, sizeof *index);
    for (int i = 0; list && i < n; i++)
        QN_FAIL_IF(!qn_json_int(list->items[i], &index[i]) || index[i] < 0 || index[i] > 1 << 30, e, QN_INVAL,
                   "media_io_kwargs.video.frames_indices[%d] is no frame number", i);
    QN_TRY(qn_item_frames(out, frames, n, index, params->frames_fps, o, e));
out:
    free(frames);
    free(at);
    free(index);
    qn_buf_free(&b.buf);
    return rc;
}

/* The data of data:<mime>[;param]*;base64,<data>. */
static int data_of(const char *url, bool *is_frames, const char **data, struct qn_err *e)
{
    static const char word[] = ";base64";
    int rc = QN_OK;
    const char *comma = strchr(url, ',');
    QN_FAIL_IF(!comma || comma - url > 300, e, QN_INVAL,
               "the data address has no comma: data:image/png;base64,...");
    size_t n = (size_t)(comma - url);
    QN_FAIL_IF(n < sizeof word - 1 || memcmp(comma - sizeof word + 1, word, sizeof word - 1), e, QN_INVAL,
               "only base64 data are read: data:image/png;base64,...");
    *is_frames = !strncmp(url, "data:video/jpeg;", 16);
    *data = comma + 1;
out:
    return rc;
}

int qn_source_load(struct qn_item **out, const struct qn_json *part, bool is_video,
                   const struct qn_source_policy *policy, const struct qn_source_params *params,
                   bool measures, struct qn_err *e)
{
    int rc = QN_OK;
    size_t image_most = policy->image_bytes ? policy->image_bytes : QN_SOURCE_IMAGE_BYTES;
    size_t video_most = policy->video_bytes ? policy->video_bytes : QN_SOURCE_VIDEO_BYTES;
    size_t most = is_video ? video_most : image_most;
    struct bytes b = {.buf = QN_BUF_INIT(most + 16), .most = most};
    struct qn_item_options o = {
        .eyes = policy->eyes, .want = params->want, .image = QN_IMAGE_OPTIONS, .measures = measures};
    const struct qn_json *url;
    const char *detail, *data;
    bool is_raw, is_frames = false;
    memcpy(o.image.background, params->background, sizeof o.image.background);
    QN_TRY(address_of(part, &url, &is_raw, &detail, e));
    QN_TRY(check_detail(detail, &o.want, e));
    QN_FAIL_IF(strlen(url->text) != url->n, e, QN_INVAL, "its address holds a zero byte");
    if (is_raw) {
        QN_TRY(decode_base64(url->text, url->n, &b, e));
    } else if (!strncmp(url->text, "data:", 5)) {
        QN_TRY(data_of(url->text, &is_frames, &data, e));
        if (is_frames && is_video) {
            QN_TRY(load_frames(out, data, params, &o, most, e));
            goto out;
        }
        QN_TRY(decode_base64(data, strlen(data), &b, e));
    } else if (!strncmp(url->text, "file:", 5)) {
        QN_TRY(read_file(policy, url->text, &b, e));
    } else {
        QN_TRY(fetch(policy, url->text, is_video ? QN_SOURCE_VIDEO_S : QN_SOURCE_IMAGE_S, &b, e));
    }
    const uint8_t *bytes = (const uint8_t *)qn_buf_str(&b.buf);
    rc = is_video ? qn_item_video(out, bytes, b.buf.n_byte, &o, e)
                  : qn_item_image(out, bytes, b.buf.n_byte, &o, e);
out:
    qn_buf_free(&b.buf);
    return rc;
}
