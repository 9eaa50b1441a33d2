/* See media_opts.h. SPDX-License-Identifier: Apache-2.0 */
#include "cli/media_opts.h"

#include <ctype.h>
#include <math.h>

#include "base/mem.h"
#include "base/shown.h"

#define CACHE_BYTES ((size_t)512 << 20)

/* {"image": N, "video": N}, or {"image": {"count": N}} */
static int read_limit(const struct qn_json *o, const char *key, int *out, struct qn_err *e)
{
    int rc = QN_OK;
    int64_t n;
    const struct qn_json *v = qn_json_get(o, key);
    if (qn_json_is(v, QN_JSON_OBJECT)) v = qn_json_get(v, "count");
    if (qn_json_is_null(v)) return QN_OK;
    QN_FAIL_IF(!qn_json_int(v, &n) || n < 0 || n > 1 << 20, e, QN_INVAL,
               "--limit-mm-per-prompt: %s has to be 0 or more", key);
    *out = (int)n;
out:
    return rc;
}

static int read_limits(struct qn_media_job *j, const char *text, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *o;
    QN_TRY(qn_json_parse(&o, arena, text, strlen(text), "--limit-mm-per-prompt", e));
    QN_FAIL_IF(!qn_json_is(o, QN_JSON_OBJECT), e, QN_INVAL,
               "--limit-mm-per-prompt must be a JSON object: {\"image\": 4}");
    for (size_t i = 0; i < o->n; i++)
        QN_FAIL_IF(strcmp(o->keys[i].text, "image") && strcmp(o->keys[i].text, "video") &&
                       strcmp(o->keys[i].text, "audio"),
                   e, QN_INVAL, "--limit-mm-per-prompt: %.40s is not known: image and video are",
                   o->keys[i].text);
    QN_TRY(read_limit(o, "image", &j->max_image, e));
    QN_TRY(read_limit(o, "video", &j->max_video, e));
out:
    return rc;
}

static int read_hosts(struct qn_media_job *j, const char *list, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK;
    while (*list) {
        size_t n = strcspn(list, ", ");
        QN_FAIL_IF(j->policy.n_host == QN_MEDIA_MAX_HOSTS, e, QN_TOOBIG,
                   "--allowed-media-domains: at most %d hosts", QN_MEDIA_MAX_HOSTS);
        char *host = n ? qn_arena_strndup(arena, list, n) : NULL;
        for (char *p = host; p && *p; p++) *p = (char)tolower((unsigned char)*p);
        if (host) j->hosts[j->policy.n_host++] = host;
        list += n;
        list += strspn(list, ", ");
    }
    QN_FAIL_IF(!j->policy.n_host, e, QN_INVAL,
               "--allowed-media-domains: no host; leave it out to allow all public ones");
out:
    return rc;
}

int qn_media_check(struct qn_media_job *j, const struct qn_media_wish *w, struct qn_arena *arena,
                   struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_json *v;
    *j = (struct qn_media_job){.max_image = -1, .max_video = -1};
    j->policy = (struct qn_source_policy){.eyes = &j->eyes,
                                          .hosts = j->hosts,
                                          .folder = w->folder,
                                          .want = QN_EYES_WANT,
                                          .background = {255, 255, 255},
                                          .video_fps = NAN,
                                          .video_frames = -1};
    if (w->mmproj)
        fprintf(stderr, "--mmproj %s: not read; the vision tower is that of the model's own files\n",
                qn_shown(w->mmproj));
    if (w->mm_kwargs) {
        QN_TRY(qn_json_parse(&v, arena, w->mm_kwargs, strlen(w->mm_kwargs), "--mm-processor-kwargs", e));
        rc = qn_eyes_want_read(&j->policy.want, v, e);
        if (rc) qn_err_prefix(e, "--mm-processor-kwargs");
        if (rc) goto out;
    }
    if (w->io_kwargs) {
        QN_TRY(qn_json_parse(&v, arena, w->io_kwargs, strlen(w->io_kwargs), "--media-io-kwargs", e));
        rc = qn_source_policy_io(&j->policy, v, e);
        if (rc) qn_err_prefix(e, "--media-io-kwargs");
        if (rc) goto out;
    }
    if (w->limit) QN_TRY(read_limits(j, w->limit, arena, e));
    if (w->hosts) QN_TRY(read_hosts(j, w->hosts, arena, e));
out:
    return rc;
}

void qn_media_open(struct qn_media_job *j, const struct qn_media_wish *w, const struct qn_model *m,
                   const struct qn_sight_options *o)
{
    struct qn_err e = {0};
    struct qn_sight_options all = *o;
    all.cache_bytes = w->cache_bytes ? (size_t)w->cache_bytes : CACHE_BYTES;
    if (w->is_blind) return;
    int rc = qn_sight_open(&j->sight, m, &all, &e);
    if (!rc) rc = qn_eyes_read(&j->eyes, qn_model_folder(m), &e);
    if (!rc) return;
    qn_sight_close(j->sight);
    j->sight = NULL;
    if (rc != QN_NOTFOUND) snprintf(j->why_blind, sizeof j->why_blind, "%s", e.text);
}

void qn_media_close(struct qn_media_job *j)
{
    qn_sight_close(j->sight);
    j->sight = NULL;
}
