/* See look.h. SPDX-License-Identifier: Apache-2.0 */
#include "server/look.h"

#include "base/mem.h"
#include "text/chat_block.h"

static int check_counts(const struct qn_look *l, const struct qn_look_rules *r, struct qn_err *e)
{
    int rc = QN_OK, n_video = 0;
    for (int i = 0; i < l->n; i++) n_video += l->media[i].is_video;
    int n_image = l->n - n_video;
    QN_FAIL_IF(r->max_image >= 0 && n_image > r->max_image, e, QN_INVAL,
               "the request holds %d pictures; at most %d are taken (--limit-mm-per-prompt)", n_image,
               r->max_image);
    QN_FAIL_IF(r->max_video >= 0 && n_video > r->max_video, e, QN_INVAL,
               "the request holds %d videos; at most %d are taken (--limit-mm-per-prompt)", n_video,
               r->max_video);
out:
    return rc;
}

int qn_look_read(struct qn_look *l, struct qn_chat *chat, const struct qn_look_rules *rules,
                 const struct qn_json *mm_kwargs, const struct qn_json *io_kwargs, bool measures,
                 struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_source_params params;
    QN_TRY(qn_chat_find_media(chat->messages, chat->arena, &l->media, &l->n, e));
    if (!l->n) goto out;
    QN_TRY(check_counts(l, rules, e));
    l->eyes = rules->policy->eyes;
    QN_TRY(qn_source_params(&params, rules->policy, mm_kwargs, io_kwargs, e));
    l->items = xcalloc((size_t)l->n, sizeof *l->items);
    for (int i = 0; i < l->n; i++) {
        struct qn_chat_media *m = &l->media[i];
        rc = qn_source_load(&l->items[i], m->part, m->is_video, rules->policy, &params, measures, e);
        if (rc == QN_FORMAT || rc == QN_UNSUPPORTED || rc == QN_IO || rc == QN_TIMEOUT)
            rc = QN_INVAL; /* of the client's picture, not of ours */
        if (rc && e) e->code = rc;
        const struct qn_json *path = qn_json_get(m->part, QN_CHAT_PATH); /* another dialect's own */
        if (rc && qn_json_is(path, QN_JSON_STRING))
            qn_err_prefix(e, "%.100s", path->text);
        else if (rc)
            qn_err_prefix(e, "messages[%zu].content[%zu]", m->message, m->place);
        if (rc) goto out;
        const struct qn_item *item = l->items[i];
        m->n_step = item->grid[0];
        m->rows = item->grid[1] / 2;
        m->cols = item->grid[2] / 2;
        m->times = item->times;
        l->n_tok += item->n_token;
    }
    chat->media = l->media;
    chat->n_media = l->n;
out:
    return rc;
}

struct view {
    const struct qn_item *item;
    const struct qn_eyes *eyes;
};

static void patches(void *user, int first, int n, float *to)
{
    const struct view *v = user;
    qn_item_patches(v->item, v->eyes, first, n, to);
}

int qn_look_spans(struct qn_look *l, const struct qn_prompt *p, struct qn_sight *s, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_embeds **embeds = NULL;
    if (!l->n) return QN_OK;
    embeds = xcalloc((size_t)l->n, sizeof *embeds);
    for (int i = 0; i < l->n; i++) {
        struct view v = {l->items[i], l->eyes};
        struct qn_tower_input in = {.patches = patches, .user = &v};
        memcpy(in.grid, l->items[i]->grid, sizeof in.grid);
        QN_TRY(qn_sight_look(s, l->items[i]->hash, &in, &embeds[i], e));
    }
    l->spans = xcalloc((size_t)p->n_media + 1, sizeof *l->spans);
    for (int k = 0; k < p->n_media; k++) {
        const struct qn_prompt_media *m = &p->media[k];
        const struct qn_item *item = l->items[m->item];
        int n = m->rows * m->cols;
        struct qn_media_span *span = &l->spans[l->n_span++];
        *span = (struct qn_media_span){.kind = item->is_video ? QN_MEDIA_VIDEO : QN_MEDIA_IMAGE,
                                       .first = m->tok,
                                       .n_tok = n,
                                       .grid_h = m->rows,
                                       .grid_w = m->cols,
                                       .embeds = qn_embeds_acquire(embeds[m->item]),
                                       .first_embed = m->step * n};
        memcpy(span->hash, item->hash, sizeof span->hash);
        span->hash[3] ^= (uint64_t)m->step << 32; /* each step of a video is something else */
    }
out:
    for (int i = 0; i < l->n; i++) qn_embeds_release(embeds[i]);
    free(embeds);
    return rc;
}

void qn_look_free(struct qn_look *l)
{
    for (int i = 0; l->items && i < l->n; i++) qn_item_free(l->items[i]);
    free(l->items);
    for (int i = 0; i < l->n_span; i++) qn_embeds_release(l->spans[i].embeds);
    free(l->spans);
    *l = (struct qn_look){0};
}
