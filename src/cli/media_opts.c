/* See media_opts.h. SPDX-License-Identifier: Apache-2.0 */
#include "cli/media_opts.h"

#include <ctype.h>
#include <time.h>
#include <math.h>

#include "base/mem.h"
#include "base/shown.h"

#define LEAST_CACHE ((size_t)16 << 20)
#define MOST_CACHE  ((size_t)512 << 20)
#define IDLE_MS     500

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
    QN_FAIL_IF(w->eyes || w->upstream, e, QN_UNSUPPORTED,
               "--%s %.80s: another model's eyes are not built yet; serve a model with a vision tower",
               w->eyes ? "eyes" : "upstream", w->eyes ? w->eyes : w->upstream);
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
    all.cache_bytes =
        w->cache_bytes ? (size_t)w->cache_bytes : QN_CLAMP(qn_mem_available() / 32, LEAST_CACHE, MOST_CACHE);
    if (w->is_blind) return;
    int rc = qn_sight_open(&j->sight, m, &all, &e);
    if (!rc) rc = qn_eyes_read(&j->eyes, qn_model_folder(m), &e);
    if (!rc) return;
    qn_sight_close(j->sight);
    j->sight = NULL;
    if (rc != QN_NOTFOUND) snprintf(j->why_blind, sizeof j->why_blind, "%s", e.text);
}

size_t qn_media_bytes(const struct qn_media_job *j)
{
    struct qn_sight_stats s;
    if (!j->sight) return 0;
    qn_sight_stats(j->sight, &s);
    return s.weight_bytes + s.budget_bytes;
}

/* false: it is over. */
static bool wait_a_moment(struct qn_media_job *j)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_nsec += IDLE_MS * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000L;
    at.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&j->lock);
    if (!j->is_over) pthread_cond_timedwait(&j->wake, &j->lock, &at);
    bool goes_on = !j->is_over;
    pthread_mutex_unlock(&j->lock);
    return goes_on;
}

static void *warm(void *user)
{
    struct qn_media_job *j = user;
    for (int n_idle = 0; n_idle < 2;) {
        struct qn_engine_stats t = {0};
        if (!wait_a_moment(j)) return NULL;
        qn_engine_stats(j->engine, &t);
        n_idle = t.n_running || t.n_waiting ? 0 : n_idle + 1;
    }
    struct qn_err e;
    if (qn_sight_warm(j->sight, &e)) fprintf(stderr, "quern serve: the vision tower: %s\n", e.text);
    return NULL;
}

void qn_media_warm(struct qn_media_job *j, struct qn_engine *engine)
{
    if (!j->sight) return;
    j->engine = engine;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    j->is_warming = !pthread_create(&j->warmer, NULL, warm, j);
}

void qn_media_close(struct qn_media_job *j)
{
    if (j->is_warming) {
        pthread_mutex_lock(&j->lock);
        j->is_over = true;
        pthread_cond_signal(&j->wake);
        pthread_mutex_unlock(&j->lock);
        pthread_join(j->warmer, NULL);
        j->is_warming = false;
    }
    qn_sight_close(j->sight);
    j->sight = NULL;
}
