/* quern see: what a model sees of a picture or video. SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"
#include "cli/cli.h"
#include "media/item.h"
#include "media/png_write.h"

#define MAX_FILE_BYTES ((size_t)1 << 30)

struct see {
    const char *file, *model, *out, *kwargs;
    bool json, is_video;
};

static void print_json(const struct qn_item *item)
{
    printf("{\"kind\":\"%s\",\"width\":%d,\"height\":%d,\"frames\":%d,\"grid\":[%d,%d,%d],\"tokens\":%d,"
           "\"resized\":[%d,%d]",
           item->is_video ? "video" : "image", item->w, item->h, item->n_frame, item->grid[0], item->grid[1],
           item->grid[2], item->n_token, item->to_w, item->to_h);
    if (item->is_video)
        printf(",\"source_frames\":%" PRId64 ",\"fps\":%.17g,\"indices\":[", item->n_source, item->fps);
    for (int k = 0; item->is_video && k < item->n_frame; k++)
        printf(k ? ",%" PRId64 : "%" PRId64, item->index[k]);
    if (item->is_video) printf("]");
    printf(",\"timestamps\":[");
    for (int k = 0; item->is_video && k < item->grid[0]; k++)
        printf("%s\"<%.1f seconds>\"", k ? "," : "", item->times[k]);
    printf("]}\n");
}

static void print_text(const struct qn_item *item)
{
    printf("kind        %s\n", item->is_video ? "video" : "image");
    printf("size        %d x %d\n", item->w, item->h);
    if (item->is_video)
        printf("frames      %d of %" PRId64 " at %.6g a second\n", item->n_frame, item->n_source, item->fps);
    printf("resized     %d x %d\n", item->to_w, item->to_h);
    printf("grid        %d x %d x %d patches\n", item->grid[0], item->grid[1], item->grid[2]);
    printf("tokens      %d%s\n", item->n_token, item->is_video ? " and the timestamps" : "");
    if (!item->is_video) return;
    printf("timestamps ");
    for (int k = 0; k < item->grid[0]; k++) printf(" <%.1f seconds>", item->times[k]);
    printf("\n");
}

static int read_kwargs(const struct see *s, struct qn_eyes_want *want, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *kwargs;
    struct qn_arena *arena = qn_arena_create(1 << 20);
    if (s->kwargs) {
        QN_TRY(qn_json_parse(&kwargs, arena, s->kwargs, strlen(s->kwargs), "--mm-processor-kwargs", e));
        QN_TRY(qn_eyes_want_read(want, kwargs, e));
    }
out:
    if (rc) qn_err_prefix(e, "--mm-processor-kwargs");
    qn_arena_free(arena);
    return rc;
}

static int see(const struct see *s, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_buf in = QN_BUF_INIT(MAX_FILE_BYTES);
    struct qn_item *item = NULL;
    struct qn_eyes eyes;
    struct qn_item_options o = {.eyes = &eyes, .want = QN_EYES_WANT, .image = QN_IMAGE_OPTIONS};
    QN_TRY(qn_eyes_read(&eyes, s->model, e));
    QN_TRY(read_kwargs(s, &o.want, e));
    QN_TRY(qn_buf_read_file(&in, s->file, e));
    const uint8_t *data = (const uint8_t *)qn_buf_str(&in);
    bool is_video = s->is_video || (!qn_image_sniff(data, in.n_byte) && qn_video_sniff(data, in.n_byte));
    rc = is_video ? qn_item_video(&item, data, in.n_byte, &o, e)
                  : qn_item_image(&item, data, in.n_byte, &o, e);
    if (rc) qn_err_prefix(e, "%s", s->file);
    if (rc) goto out;
    if (s->out) QN_TRY(qn_png_write(s->out, item->px, item->to_w, item->to_h, e));
    if (s->json)
        print_json(item);
    else
        print_text(item);
out:
    qn_item_free(item);
    qn_buf_free(&in);
    return rc;
}

static int run(int argc, char **argv)
{
    struct see s = {0};
    const struct qn_opt table[] = {
        {.name = "model",
         .type = QN_OPT_STR,
         .out = &s.model,
         .arg = "MODEL",
         .help = "the folder whose preprocessor files decide; needed"},
        {.name = "out",
         .type = QN_OPT_STR,
         .out = &s.out,
         .arg = "PNG",
         .help = "writes the first frame as resized"},
        {.name = "json", .type = QN_OPT_FLAG, .out = &s.json, .help = "one JSON object"},
        {.name = "video",
         .type = QN_OPT_FLAG,
         .out = &s.is_video,
         .help = "a GIF or WebP as video, not as picture"},
        {.name = "mm-processor-kwargs",
         .type = QN_OPT_STR,
         .out = &s.kwargs,
         .arg = "JSON",
         .help = "fps, num_frames, do_sample_frames, min_pixels, max_pixels, size, as a request has them"},
    };
    static const struct qn_opt_usage usage = {
        "quern see FILE --model MODEL [--out PNG] [--json]",
        "Shows what the model sees of a picture or video: its size after the resize, the grid of patches, "
        "the tokens it "
        "takes in a prompt and, of a video, the frames and their timestamps. Weights are not read.",
        "quern see screenshot.png --model /models/Qwen3.5-0.8B --out seen.png"};
    struct qn_err e = {0};
    int n_arg, rc = qn_opt_parse(table, QN_COUNT(table), &usage, argc, argv, &s.file, 1, &n_arg, &e);
    if (!rc && !n_arg) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "FILE is missing; see --help");
    if (!rc && !s.model) rc = qn_err_set(&e, QN_INVAL, __FILE__, __LINE__, "--model is missing; see --help");
    if (rc) return qn_cli_usage_failed("see", rc, &e);
    rc = see(&s, &e);
    return rc ? qn_cli_failed("see", &e) : 0;
}

const struct qn_cmd qn_cmd_see = {"see", "what the model sees of a picture or video", run};
