/* See eyes.h. Sizes are computed in double, in the order of the reference, halves to even.
 * SPDX-License-Identifier: Apache-2.0 */
#include "media/eyes.h"

#include <math.h>

#define MAX_FILE_BYTES ((size_t)1 << 20)
#define MAX_ASPECT     200
#define MAX_AREA       ((int64_t)1 << 36)
#define FRAME_CAP      ((int64_t)768 * 1024)

static int positive(const struct qn_json *obj, const char *key, int64_t dflt, int64_t most, int64_t *out,
                    struct qn_err *e)
{
    int rc = QN_OK;
    int64_t v;
    QN_TRY(qn_json_get_int(obj, key, dflt, &v, e));
    QN_FAIL_IF(v < 1 || v > most, e, QN_INVAL, "%s is %" PRId64 ": it has to be 1 to %" PRId64, key, v, most);
    *out = v;
out:
    return rc;
}

/* --- files --- */

static int read_list3(const struct qn_json *o, const char *key, double dflt, double out[3], struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *a;
    QN_TRY(qn_json_get_arr(o, key, &a, e));
    for (int c = 0; c < 3; c++) out[c] = a && a->n == 3 ? qn_json_num(a->items[c]) : dflt;
    QN_FAIL_IF(a && a->n != 3, e, QN_INVAL, "%s has to have 3 numbers", key);
out:
    return rc;
}

static int read_values(struct qn_eyes_kind *k, const struct qn_json *o, struct qn_err *e)
{
    int rc = QN_OK;
    double mean[3], std[3], factor;
    bool rescales, normalises;
    QN_TRY(read_list3(o, "image_mean", 0.5, mean, e));
    QN_TRY(read_list3(o, "image_std", 0.5, std, e));
    QN_TRY(qn_json_get_num(o, "rescale_factor", 1 / 255.0, &factor, e));
    QN_TRY(qn_json_get_bool(o, "do_rescale", true, &rescales, e));
    QN_TRY(qn_json_get_bool(o, "do_normalize", true, &normalises, e));
    for (int c = 0; c < 3; c++) {
        QN_FAIL_IF(!(std[c] > 0) || !(factor > 0), e, QN_INVAL,
                   "image_std and rescale_factor have to be above 0");
        for (int i = 0; i < 256; i++) {
            float v = (float)i;
            if (rescales && normalises && k->resample == QN_RESAMPLE_TORCH)
                v = ((float)i - (float)(mean[c] * (1 / factor))) / (float)(std[c] * (1 / factor));
            else {
                if (rescales) v = (float)(i * factor);
                if (normalises) v = (v - (float)mean[c]) / (float)std[c];
            }
            k->value[c][i] = v;
        }
    }
out:
    return rc;
}

static int read_area(struct qn_eyes_kind *k, const struct qn_json *o, bool is_image, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *size;
    QN_TRY(qn_json_get_obj(o, "size", &size, e));
    QN_TRY(positive(size, "shortest_edge", k->min_pixels, MAX_AREA, &k->min_pixels, e));
    QN_TRY(positive(size, "longest_edge", k->max_pixels, MAX_AREA, &k->max_pixels, e));
    if (is_image || !size) {
        QN_TRY(positive(o, "min_pixels", k->min_pixels, MAX_AREA, &k->min_pixels, e));
        QN_TRY(positive(o, "max_pixels", k->max_pixels, MAX_AREA, &k->max_pixels, e));
    }
    QN_FAIL_IF(k->min_pixels > k->max_pixels, e, QN_INVAL, "size: shortest_edge is above longest_edge");
out:
    return rc;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && !strcmp(s + n - m, tail);
}

/* The two classes of today are torchvision's unless the name ends in "Pil"; "Fast" is the older spelling. */
static int read_kind(struct qn_eyes_kind *k, const struct qn_json *o, bool is_image, struct qn_err *e)
{
    int rc = QN_OK;
    const char *type;
    int64_t filter;
    QN_TRY(qn_json_get_str(o, is_image ? "image_processor_type" : "video_processor_type", "", &type, e));
    QN_FAIL_IF(is_image && type[0] && strncmp(type, "Qwen2VLImageProcessor", 21) &&
                   strncmp(type, "Qwen3VLImageProcessor", 21),
               e, QN_UNSUPPORTED,
               "image_processor_type %s is not known: Qwen2VLImageProcessor and its kin are", type);
    k->resample = ends_with(type, "Pil") ? QN_RESAMPLE_PILLOW : QN_RESAMPLE_TORCH;
    QN_TRY(qn_json_get_int(o, "resample", 3, &filter, e));
    QN_FAIL_IF(filter != 3, e, QN_UNSUPPORTED, "resample %" PRId64 " is not built: 3, bicubic, is", filter);
    QN_TRY(qn_json_get_bool(o, "do_resize", true, &k->resizes, e));
    QN_TRY(read_values(k, o, e));
    QN_TRY(read_area(k, o, is_image, e));
out:
    return rc;
}

static int read_shape(struct qn_eyes *y, const struct qn_json *o, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t patch, temporal, merge;
    QN_TRY(positive(o, "patch_size", y->patch, 64, &patch, e));
    QN_TRY(positive(o, "temporal_patch_size", y->temporal, 2, &temporal, e));
    QN_TRY(positive(o, "merge_size", y->merge, 2, &merge, e));
    QN_FAIL_IF(temporal != 2 || merge != 2, e, QN_UNSUPPORTED,
               "temporal_patch_size %" PRId64 ", merge_size %" PRId64 ": only 2 and 2 are built", temporal,
               merge);
    y->patch = (int)patch;
out:
    return rc;
}

static int read_sampling(struct qn_eyes *y, const struct qn_json *o, struct qn_err *e)
{
    int rc = QN_OK;
    QN_TRY(qn_json_get_num(o, "fps", 2, &y->fps, e));
    QN_FAIL_IF(!(y->fps > 0) || y->fps > 1000, e, QN_INVAL, "fps has to be above 0");
    QN_TRY(positive(o, "min_frames", 4, 1 << 20, &y->min_frames, e));
    QN_TRY(positive(o, "max_frames", 768, 1 << 20, &y->max_frames, e));
    if (!qn_json_is_null(qn_json_get(o, "num_frames")))
        QN_TRY(positive(o, "num_frames", 1, 1 << 20, &y->num_frames, e));
    QN_TRY(qn_json_get_bool(o, "do_sample_frames", true, &y->samples_frames, e));
    QN_TRY(qn_json_get_bool(o, "cap_pixels_per_frame", false, &y->caps_frame_pixels, e));
out:
    return rc;
}

static int read_file(struct qn_json **out, struct qn_arena *arena, const char *folder, const char *name,
                     char *path, size_t n_path, struct qn_err *e)
{
    snprintf(path, n_path, "%s/%s", folder, name);
    int rc = qn_json_read_file(out, arena, path, MAX_FILE_BYTES, e);
    if (rc == QN_NOTFOUND) {
        *out = NULL;
        rc = QN_OK;
    }
    return rc;
}

int qn_eyes_read(struct qn_eyes *out, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    char path[4200] = "";
    struct qn_arena *arena = qn_arena_create(MAX_FILE_BYTES * 16);
    struct qn_json *both, *image, *video;
    struct qn_eyes y = {.patch = 16, .temporal = 2, .merge = 2};
    y.image.min_pixels = 65536;
    y.image.max_pixels = 16777216;
    y.video.min_pixels = 4096;
    y.video.max_pixels = 25165824;
    QN_TRY(read_file(&both, arena, folder, "processor_config.json", path, sizeof path, e));
    QN_TRY(read_file(&image, arena, folder, "preprocessor_config.json", path, sizeof path, e));
    if (qn_json_is(qn_json_get(both, "image_processor"), QN_JSON_OBJECT))
        image = qn_json_get(both, "image_processor");
    QN_TRY(read_shape(&y, image, e));
    QN_TRY(read_kind(&y.image, image, true, e));
    QN_TRY(read_file(&video, arena, folder, "video_preprocessor_config.json", path, sizeof path, e));
    if (qn_json_is(qn_json_get(both, "video_processor"), QN_JSON_OBJECT))
        video = qn_json_get(both, "video_processor");
    QN_TRY(read_shape(&y, video, e));
    QN_TRY(read_kind(&y.video, video, false, e));
    QN_TRY(read_sampling(&y, video, e));
    y.has_file = image || video;
    *out = y;
out:
    if (rc) qn_err_prefix(e, "%s", path);
    qn_arena_free(arena);
    return rc;
}

/* --- sizes --- */

static double down(double x, double by, double f)
{
    return QN_MAX(f, floor(x / by / f) * f);
}

static void clamp_area(const struct qn_eyes_kind *k, const struct qn_eyes_want *want, int64_t *lo,
                       int64_t *hi)
{
    *lo = k->min_pixels;
    *hi = k->max_pixels;
    if (want && want->max_pixels > 0) *hi = QN_MIN(*hi, want->max_pixels);
    if (want && want->min_pixels > 0) *lo = QN_MIN(want->min_pixels, *hi);
    *lo = QN_MIN(*lo, *hi);
}

static int check_aspect(double w, double h, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(QN_MAX(w, h) / QN_MIN(w, h) > MAX_ASPECT, e, QN_INVAL,
               "the picture is %.0f x %.0f: one side may be at most %d times the other", w, h, MAX_ASPECT);
out:
    return rc;
}

int qn_eyes_image_size(const struct qn_eyes *y, const struct qn_eyes_want *want, int w, int h, int *to_w,
                       int *to_h, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t lo, hi;
    double f = y->patch * y->merge, dw = w, dh = h;
    clamp_area(&y->image, want, &lo, &hi);
    QN_TRY(check_aspect(dw, dh, e));
    double hb = rint(dh / f) * f, wb = rint(dw / f) * f;
    if (!y->image.resizes) {
        QN_FAIL_IF(hb != dh || wb != dw, e, QN_INVAL,
                   "do_resize is off and the picture's sides are no multiples of %.0f", f);
    } else if (hb * wb > (double)hi) {
        double by = sqrt(dh * dw / (double)hi);
        hb = down(dh, by, f);
        wb = down(dw, by, f);
    } else if (hb * wb < (double)lo) {
        double by = sqrt((double)lo / (dh * dw));
        hb = ceil(dh * by / f) * f;
        wb = ceil(dw * by / f) * f;
    }
    *to_w = (int)wb;
    *to_h = (int)hb;
out:
    return rc;
}

int qn_eyes_video_size(const struct qn_eyes *y, const struct qn_eyes_want *want, int64_t n_frame, int w,
                       int h, int *to_w, int *to_h, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t lo, hi;
    double f = y->patch * y->merge, dw = w, dh = h;
    struct qn_eyes_want of = want ? *want : QN_EYES_WANT;
    if (of.video_min >= 0) of.min_pixels = of.video_min ? of.video_min : -1;
    if (of.video_max >= 0) of.max_pixels = of.video_max ? of.video_max : -1;
    clamp_area(&y->video, &of, &lo, &hi);
    if (n_frame < 2) n_frame = 2;
    double n = (double)n_frame;
    if (y->caps_frame_pixels) {
        int64_t cap = QN_MAX(QN_MIN(FRAME_CAP, hi / n_frame), (int64_t)(1.05 * (double)lo));
        hi = n_frame * cap;
    }
    if (dh < f || dw < f) {
        double s = QN_MAX(f / dh, f / dw);
        dh = floor(dh * s);
        dw = floor(dw * s);
    }
    QN_TRY(check_aspect(dw, dh, e));
    double hb = rint(dh / f) * f, wb = rint(dw / f) * f, tb = rint(n / 2) * 2;
    if (tb * hb * wb > (double)hi) {
        double by = sqrt(n * dh * dw / (double)hi);
        hb = down(dh, by, f);
        wb = down(dw, by, f);
    } else if (tb * hb * wb < (double)lo) {
        double by = sqrt((double)lo / (n * dh * dw));
        hb = ceil(dh * by / f) * f;
        wb = ceil(dw * by / f) * f;
    }
    *to_w = (int)wb;
    *to_h = (int)hb;
out:
    return rc;
}

/* --- what a request asks for --- */

static int read_size(struct qn_eyes_want *want, const struct qn_json *size, struct qn_err *e)
{
    int rc = QN_OK;
    QN_FAIL_IF(!qn_json_is(size, QN_JSON_OBJECT), e, QN_INVAL,
               "size has to be an object with shortest_edge and longest_edge");
    for (size_t i = 0; i < size->n; i++) {
        const char *key = size->keys[i].text;
        bool lo = !strcmp(key, "shortest_edge"), hi = !strcmp(key, "longest_edge");
        QN_FAIL_IF(!lo && !hi, e, QN_INVAL, "size: %.40s is not known: shortest_edge and longest_edge are",
                   key);
        QN_TRY(positive(size, key, 1, MAX_AREA, lo ? &want->min_pixels : &want->max_pixels, e));
    }
out:
    return rc;
}

/* "images_kwargs", "videos_kwargs" and what people write for them: 'i', 'v', or 0. */
static char nested(const char *key)
{
    if (!strcmp(key, "images_kwargs") || !strcmp(key, "image_kwargs")) return 'i';
    return !strcmp(key, "videos_kwargs") || !strcmp(key, "video_kwargs") ? 'v' : 0;
}

static int read_flat(struct qn_eyes_want *want, const struct qn_json *kwargs, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_eyes_want w = *want;
    if (qn_json_is_null(kwargs)) return QN_OK;
    QN_FAIL_IF(!qn_json_is(kwargs, QN_JSON_OBJECT), e, QN_INVAL, "it has to be an object");
    bool has_fps = !qn_json_is_null(qn_json_get(kwargs, "fps"));
    bool has_count = !qn_json_is_null(qn_json_get(kwargs, "num_frames"));
    for (size_t i = 0; i < kwargs->n; i++) {
        const char *key = kwargs->keys[i].text;
        const struct qn_json *v = kwargs->items[i];
        if (qn_json_is_null(v) || nested(key)) continue;
        if (!strcmp(key, "fps")) {
            QN_TRY(qn_json_get_num(kwargs, key, 2, &w.fps, e));
            QN_FAIL_IF(!(w.fps > 0) || w.fps > 1000, e, QN_INVAL, "fps has to be above 0 and at most 1000");
            if (!has_count) w.num_frames = 0;
        } else if (!strcmp(key, "num_frames")) {
            QN_TRY(qn_json_get_int(kwargs, key, 0, &w.num_frames, e));
            QN_FAIL_IF(w.num_frames < -1 || w.num_frames == 0 || w.num_frames > 1 << 20, e, QN_INVAL,
                       "num_frames has to be above 0, or -1 for no limit");
            if (w.num_frames < 0) w.num_frames = 0;
            QN_FAIL_IF(has_fps && w.num_frames > 0, e, QN_INVAL, "give fps or num_frames, not both");
        } else if (!strcmp(key, "do_sample_frames")) {
            bool on;
            QN_TRY(qn_json_get_bool(kwargs, key, true, &on, e));
            w.sample_frames = on;
        } else if (!strcmp(key, "min_pixels")) {
            QN_TRY(positive(kwargs, key, 1, MAX_AREA, &w.min_pixels, e));
        } else if (!strcmp(key, "max_pixels")) {
            QN_TRY(positive(kwargs, key, 1, MAX_AREA, &w.max_pixels, e));
        } else if (!strcmp(key, "size")) {
            QN_TRY(read_size(&w, v, e));
        } else {
            QN_FAIL(
                e, QN_INVAL,
                "%.40s is not known: fps, num_frames, do_sample_frames, min_pixels, max_pixels and size are",
                key);
        }
    }
    QN_FAIL_IF(w.min_pixels > 0 && w.max_pixels > 0 && w.min_pixels > w.max_pixels, e, QN_INVAL,
               "min_pixels is above max_pixels");
    *want = w;
out:
    return rc;
}

int qn_eyes_want_read(struct qn_eyes_want *want, const struct qn_json *kwargs, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_eyes_want w = *want;
    QN_TRY(read_flat(&w, kwargs, e));
    for (size_t i = 0; qn_json_is(kwargs, QN_JSON_OBJECT) && i < kwargs->n; i++) {
        char kind = nested(kwargs->keys[i].text);
        if (!kind) continue;
        struct qn_eyes_want of = w;
        QN_TRY(read_flat(&of, kwargs->items[i], e));
        if (kind == 'v') { /* sizes of a video alone */
            of.video_min = of.min_pixels != w.min_pixels ? of.min_pixels : w.video_min;
            of.video_max = of.max_pixels != w.max_pixels ? of.max_pixels : w.video_max;
            of.min_pixels = w.min_pixels;
            of.max_pixels = w.max_pixels;
        } else { /* videos keep theirs */
            if (w.video_min < 0 && of.min_pixels != w.min_pixels) of.video_min = QN_MAX(w.min_pixels, 0);
            if (w.video_max < 0 && of.max_pixels != w.max_pixels) of.video_max = QN_MAX(w.max_pixels, 0);
        }
        w = of;
    }
    *want = w;
out:
    return rc;
}

/* --- frames --- */

int qn_eyes_sample(const struct qn_eyes *y, const struct qn_eyes_want *want, int64_t total, double fps,
                   int64_t **index, int64_t *n_frame, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_eyes_want dflt = QN_EYES_WANT;
    if (!want) want = &dflt;
    bool samples = want->sample_frames < 0 ? y->samples_frames : want->sample_frames > 0;
    int64_t n, count = want->num_frames >= 0 ? want->num_frames : isnan(want->fps) ? y->num_frames : 0;
    QN_FAIL_IF(total < 1, e, QN_FORMAT, "the video has no frames");
    if (!samples)
        n = total;
    else if (count > 0)
        n = count;
    else {
        n = (int64_t)((double)total / fps * (isnan(want->fps) ? y->fps : want->fps));
        n = QN_MIN(QN_MIN(QN_MAX(n, y->min_frames), y->max_frames), total);
    }
    QN_FAIL_IF(n > 1 << 20, e, QN_TOOBIG, "%" PRId64 " frames are too many", n);
    int64_t *list = try_malloc((size_t)n, sizeof *list);
    QN_FAIL_IF(!list, e, QN_NOMEM, "no memory for a list of frames");
    double step = n > 1 ? (double)(total - 1) / (double)(n - 1) : 0;
    for (int64_t k = 0; k < n; k++)
        list[k] = k == n - 1 && n > 1 ? total - 1 : (int64_t)rint((double)k * step);
    *index = list;
    *n_frame = n;
out:
    return rc;
}

void qn_eyes_times(const int64_t *index, int64_t n_frame, double fps, double *times)
{
    for (int64_t k = 0; 2 * k < n_frame; k++) {
        int64_t a = index[2 * k], b = index[2 * k + 1 < n_frame ? 2 * k + 1 : 2 * k];
        times[k] = ((double)a / fps + (double)b / fps) / 2;
    }
}
