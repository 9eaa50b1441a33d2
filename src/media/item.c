/* See item.h. SPDX-License-Identifier: Apache-2.0 */
#include "media/item.h"

#include "base/digest.h"
#include "base/mem.h"

#define MAX_ITEM_BYTES ((size_t)1 << 31) /* of resized frames */

/* Everything but the bytes that decides what the tower is given. */
static void hash_start(struct qn_digest *d, const struct qn_item *item, const struct qn_item_options *o)
{
    char text[200];
    int n = snprintf(text, sizeof text, "v1 %d %d %d %d %d %02x%02x%02x %d ", item->is_video, item->to_w,
                     item->to_h, item->n_frame,
                     item->is_video ? (int)o->eyes->video.resample : (int)o->eyes->image.resample,
                     o->image.background[0], o->image.background[1], o->image.background[2], o->eyes->patch);
    qn_digest_init(d, QN_SHA256);
    qn_digest_add(d, text, (size_t)n);
    if (item->is_video) qn_digest_add(d, item->index, (size_t)item->n_frame * sizeof *item->index);
    if (item->is_video) qn_digest_add(d, &item->fps, sizeof item->fps);
}

static void hash_end(struct qn_digest *d, struct qn_item *item)
{
    char hex[QN_DIGEST_HEX];
    qn_digest_end(d, hex);
    for (int i = 0; i < 4; i++) {
        char part[17] = "";
        memcpy(part, hex + 16 * i, 16);
        item->hash[i] = strtoull(part, NULL, 16);
    }
}

/* Grid, tokens and room for the frames, from sizes and number of frames. */
static int set_grid(struct qn_item *item, const struct qn_item_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    const struct qn_eyes *y = o->eyes;
    item->grid[0] = item->is_video ? (item->n_frame + 1) / 2 : 1;
    item->grid[1] = item->to_h / y->patch;
    item->grid[2] = item->to_w / y->patch;
    int64_t n = (int64_t)item->grid[0] * item->grid[1] * item->grid[2] / (y->merge * y->merge);
    QN_FAIL_IF(n < 1 || n > 1 << 24, e, QN_TOOBIG, "the picture or video would be %" PRId64 " tokens", n);
    item->n_token = (int)n;
    if (o->measures) goto out;
    size_t frame = (size_t)item->to_w * (size_t)item->to_h * 3, all;
    QN_FAIL_IF(!qn_mul_size(frame, (size_t)item->n_frame, &all) || all > MAX_ITEM_BYTES, e, QN_TOOBIG,
               "%d frames of %d x %d pixels are too many", item->n_frame, item->to_w, item->to_h);
    item->px = try_malloc(all, 1);
    QN_FAIL_IF(!item->px, e, QN_NOMEM, "no memory for %d frames of %d x %d pixels", item->n_frame, item->to_w,
               item->to_h);
out:
    return rc;
}

static int put_frame(struct qn_item *item, int64_t k, const struct qn_raster *r, enum qn_resample kind,
                     struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_raster done = {0};
    size_t frame = (size_t)item->to_w * (size_t)item->to_h * 3;
    QN_TRY(qn_resample(&done, r, item->to_w, item->to_h, kind, e));
    memcpy(item->px + (size_t)k * frame, done.px, frame);
out:
    qn_raster_free(&done);
    return rc;
}

int qn_item_image(struct qn_item **out, const uint8_t *data, size_t n, const struct qn_item_options *o,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_item *item = xcalloc(1, sizeof *item);
    struct qn_raster r = {0};
    struct qn_digest d;
    QN_TRY(qn_image_measure(&r, data, n, &o->image, e));
    item->n_source = item->n_frame = 1;
    item->w = r.w;
    item->h = r.h;
    QN_TRY(qn_eyes_image_size(o->eyes, &o->want, r.w, r.h, &item->to_w, &item->to_h, e));
    QN_TRY(set_grid(item, o, e));
    hash_start(&d, item, o);
    qn_digest_add(&d, data, n);
    hash_end(&d, item);
    if (!o->measures) {
        QN_TRY(qn_image_decode(&r, data, n, &o->image, e));
        item->w = r.w; /* a container may have said otherwise */
        item->h = r.h;
        QN_TRY(put_frame(item, 0, &r, o->eyes->image.resample, e));
    }
    *out = item;
    item = NULL;
out:
    qn_raster_free(&r);
    qn_item_free(item);
    return rc;
}

struct filling {
    struct qn_item *item;
    enum qn_resample kind;
};

static int on_frame(void *user, int64_t k, struct qn_raster *frame, struct qn_err *e)
{
    struct filling *f = user;
    return put_frame(f->item, k, frame, f->kind, e);
}

static int set_times(struct qn_item *item, struct qn_err *e)
{
    int rc = QN_OK;
    item->times = try_malloc((size_t)item->grid[0], sizeof *item->times);
    QN_FAIL_IF(!item->times, e, QN_NOMEM, "no memory for the times of a video");
    qn_eyes_times(item->index, item->n_frame, item->fps, item->times);
out:
    return rc;
}

/* Fewer frames came than the file promised: what is there counts, and the grid is that of what is there. */
static void shrink(struct qn_item *item, const struct qn_eyes *y, int64_t n_done)
{
    if (n_done >= item->n_frame) return;
    item->n_frame = (int)n_done;
    item->grid[0] = (item->n_frame + 1) / 2;
    item->n_token = item->grid[0] * item->grid[1] * item->grid[2] / (y->merge * y->merge);
}

int qn_item_video(struct qn_item **out, const uint8_t *data, size_t n, const struct qn_item_options *o,
                  struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_item *item = xcalloc(1, sizeof *item);
    struct qn_video *v = NULL;
    struct qn_digest d;
    int64_t n_frame, n_done;
    QN_TRY(qn_video_open(&v, data, n, &o->video, e));
    const struct qn_video_info *info = qn_video_info(v);
    item->is_video = true;
    item->w = info->w;
    item->h = info->h;
    item->n_source = info->n_frame;
    item->fps = info->fps;
    QN_TRY(qn_eyes_sample(o->eyes, &o->want, info->n_frame, info->fps, &item->index, &n_frame, e));
    item->n_frame = (int)n_frame;
    QN_TRY(qn_eyes_video_size(o->eyes, &o->want, n_frame, info->w, info->h, &item->to_w, &item->to_h, e));
    QN_TRY(set_grid(item, o, e));
    if (!o->measures) {
        struct filling f = {item, o->eyes->video.resample};
        QN_TRY(qn_video_frames(v, item->index, n_frame, on_frame, &f, &n_done, e));
        shrink(item, o->eyes, n_done);
    }
    hash_start(&d, item, o);
    qn_digest_add(&d, data, n);
    hash_end(&d, item);
    QN_TRY(set_times(item, e));
    *out = item;
    item = NULL;
out:
    qn_video_close(v);
    qn_item_free(item);
    return rc;
}

int qn_item_frames(struct qn_item **out, const struct qn_item_frame *frames, int n_frame,
                   const int64_t *index, double fps, const struct qn_item_options *o, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_item *item = xcalloc(1, sizeof *item);
    struct qn_raster r = {0};
    struct qn_digest d;
    QN_FAIL_IF(n_frame < 1, e, QN_INVAL, "the video has no frames");
    QN_TRY(qn_image_measure(&r, frames[0].data, frames[0].n, &o->image, e));
    item->is_video = true;
    item->w = r.w;
    item->h = r.h;
    item->n_source = item->n_frame = n_frame;
    item->fps = fps;
    item->index = try_malloc((size_t)n_frame, sizeof *item->index);
    QN_FAIL_IF(!item->index, e, QN_NOMEM, "no memory for a list of frames");
    for (int k = 0; k < n_frame; k++) item->index[k] = index ? index[k] : k;
    QN_TRY(qn_eyes_video_size(o->eyes, &o->want, n_frame, r.w, r.h, &item->to_w, &item->to_h, e));
    QN_TRY(set_grid(item, o, e));
    hash_start(&d, item, o);
    for (int k = 0; k < n_frame; k++) {
        qn_digest_add(&d, &frames[k].n, sizeof frames[k].n);
        qn_digest_add(&d, frames[k].data, frames[k].n);
        if (o->measures) continue;
        QN_TRY(qn_image_decode(&r, frames[k].data, frames[k].n, &o->image, e));
        QN_FAIL_IF(r.w != item->w || r.h != item->h, e, QN_INVAL, "frame %d is %d x %d, the first is %d x %d",
                   k, r.w, r.h, item->w, item->h);
        QN_TRY(put_frame(item, k, &r, o->eyes->video.resample, e));
        qn_raster_free(&r);
    }
    hash_end(&d, item);
    QN_TRY(set_times(item, e));
    *out = item;
    item = NULL;
out:
    qn_raster_free(&r);
    qn_item_free(item);
    return rc;
}

void qn_item_free(struct qn_item *item)
{
    if (!item) return;
    free(item->index);
    free(item->times);
    free(item->px);
    free(item);
}

/* Top left pixel of patch i in frame 2 * step + tt. */
static const uint8_t *patch_at(const struct qn_item *item, const struct qn_eyes *y, int i, int tt)
{
    int m = y->merge, per_step = item->grid[1] * item->grid[2], step = i / per_step, j = i % per_step;
    int block = j / (m * m), in = j % (m * m), n_block = item->grid[2] / m;
    int row = block / n_block * m + in / m, col = block % n_block * m + in % m;
    int frame = QN_MIN(2 * step + tt, item->n_frame - 1);
    size_t at = ((size_t)frame * (size_t)item->to_h + (size_t)(row * y->patch)) * (size_t)item->to_w +
                (size_t)(col * y->patch);
    return item->px + at * 3;
}

void qn_item_patches(const struct qn_item *item, const struct qn_eyes *y, int first, int n, float *to)
{
    const struct qn_eyes_kind *k = item->is_video ? &y->video : &y->image;
    size_t stride = (size_t)item->to_w * 3;
    for (int i = first; i < first + n; i++)
        for (int c = 0; c < 3; c++)
            for (int tt = 0; tt < y->temporal; tt++) {
                const uint8_t *p = patch_at(item, y, i, tt) + c;
                for (int py = 0; py < y->patch; py++, p += stride)
                    for (int px = 0; px < y->patch; px++) *to++ = k->value[c][p[3 * px]];
            }
}

void qn_item_patch_bytes(const struct qn_item *item, const struct qn_eyes *y, int first, int n, uint8_t *to)
{
    size_t stride = (size_t)item->to_w * 3;
    for (int i = first; i < first + n; i++)
        for (int c = 0; c < 3; c++)
            for (int tt = 0; tt < y->temporal; tt++) {
                const uint8_t *p = patch_at(item, y, i, tt) + c;
                for (int py = 0; py < y->patch; py++, p += stride)
                    for (int px = 0; px < y->patch; px++) *to++ = p[3 * px];
            }
}
