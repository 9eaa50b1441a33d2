/* Which files of a folder are read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "model/shards.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"

#define MAX_INDEX_BYTES ((size_t)128 << 20)
#define MAX_INDEX_ARENA ((size_t)1 << 30)
#define MAX_SHARDS      4096

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

static bool has_part(const char *name, const char *part)
{
    for (const char *at = name; (at = strstr(at, part)); at++)
        if (at == name || at[-1] == '.') return true;
    return false;
}

bool qn_is_mtp_name(const char *name)
{
    return has_part(name, "mtp.");
}

bool qn_is_vision_name(const char *name)
{
    return has_part(name, "visual.") || has_part(name, "vision_tower.") || has_part(name, "vision_model.");
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* --- the folder's list --- */

struct folder {
    char *names[MAX_SHARDS]; /* *.safetensors, sorted */
    int n;
    const char *other; /* what stands there instead: a sentence, or NULL */
};

/* What a folder without safetensors files may hold, the first that is met. */
static const char *other_form(const char *name)
{
    static const struct {
        const char *tail, *says;
    } forms[] = {
        {".gguf", "it holds GGUF files: name one of them, or a folder of one model"},
        {".bin", "PyTorch's own files are not read: load the model with transformers and save_pretrained it"},
        {".pth", "PyTorch's own files are not read: load the model with transformers and save_pretrained it"},
        {".pt", "PyTorch's own files are not read: load the model with transformers and save_pretrained it"},
        {".distcp", "a training checkpoint in pieces: convert it to safetensors with the tool that wrote it"},
        {".npz", "weights for MLX or JAX: take the safetensors release of the model"},
        {".msgpack", "Flax weights are not read: take the safetensors release of the model"},
        {".h5", "TensorFlow weights are not read: take the safetensors release of the model"},
        {".onnx", "ONNX is not read: take the safetensors release of the model"},
        {".incomplete", "the download is incomplete: run it again"},
        {".part", "the download is incomplete: run it again"},
        {".aria2", "the download is incomplete: run it again"},
    };
    for (size_t i = 0; i < QN_COUNT(forms); i++)
        if (ends_with(name, forms[i].tail)) return forms[i].says;
    return NULL;
}

static int list_folder(struct folder *f, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    DIR *dir = opendir(folder);
    QN_FAIL_IF(!dir, e, QN_NOTFOUND, "%s: no such folder", folder);
    for (struct dirent *d; (d = readdir(dir)) && f->n < MAX_SHARDS;) {
        if (!f->other) f->other = other_form(d->d_name);
        if (d->d_name[0] != '.' && ends_with(d->d_name, ".safetensors"))
            f->names[f->n++] = xstrdup(d->d_name);
    }
    qsort(f->names, (size_t)f->n, sizeof *f->names, compare_strings);
out:
    if (dir) closedir(dir);
    return rc;
}

/* --- opening --- */

static int add_file(struct qn_shards *s, const char *folder, const char *name, struct qn_err *e)
{
    int rc = QN_OK;
    char *path = xasprintf("%s/%s", folder, name);
    struct qn_safetensors *st;
    QN_FAIL_IF(s->n == MAX_SHARDS, e, QN_TOOBIG, "%s: more than %d shards", folder, MAX_SHARDS);
    rc = qn_safetensors_open(&st, path, e);
    if (rc == QN_NOTFOUND)
        rc = qn_err_set(e, QN_NOTFOUND, __FILE__, __LINE__,
                        "%s: the index names this shard but it is not there; download it into the folder",
                        path);
    if (rc) goto out;
    qn_safetensors_advise(st, MADV_RANDOM); /* while opening: a look here and there */
    s->files[s->n] = st;
    s->names[s->n++] = xstrdup(name);
out:
    free(path);
    return rc;
}

/* The shards an index names, each once, in order of their names. */
static int open_index(struct qn_shards *s, const char *folder, const struct qn_json *map, const char *path,
                      struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    struct qn_map seen = {0};
    char **list = xcalloc(MAX_SHARDS, sizeof *list);
    for (size_t i = 0; i < map->n; i++) {
        const struct qn_json *v = map->items[i];
        QN_FAIL_IF(!qn_json_is(v, QN_JSON_STRING), e, QN_FORMAT,
                   "%s: weight_map entry %.80s is not a file name", path, map->keys[i].text);
        QN_FAIL_IF(strchr(v->text, '/') || strlen(v->text) != v->n || !ends_with(v->text, ".safetensors"), e,
                   QN_FORMAT, "%s: '%.80s' is not the name of a safetensors file in this folder", path,
                   v->text);
        uint64_t key = qn_hash_str(v->text) | 1;
        if (qn_map_get(&seen, key, NULL)) continue;
        QN_FAIL_IF(n == MAX_SHARDS, e, QN_TOOBIG, "%s: more than %d shards", path, MAX_SHARDS);
        qn_map_put(&seen, key, 1);
        list[n++] = xstrdup(v->text);
    }
    qsort(list, (size_t)n, sizeof *list, compare_strings);
    for (int i = 0; i < n; i++) QN_TRY(add_file(s, folder, list[i], e));
out:
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
    qn_map_free(&seen);
    return rc;
}

static bool is_named(const struct qn_json *map, const char *file)
{
    for (size_t i = 0; map && i < map->n; i++)
        if (qn_json_is_str(map->items[i], file)) return true;
    return false;
}

static int open_main(struct qn_shards *s, const char *folder, const struct folder *f,
                     const struct qn_json **map, struct qn_arena *arena, struct qn_notes *notes,
                     struct qn_err *e)
{
    int rc = QN_OK;
    char *index = xasprintf("%s/model.safetensors.index.json", folder);
    bool has_index = !access(index, F_OK), has_single = false;
    for (int i = 0; i < f->n; i++) has_single |= !strcmp(f->names[i], "model.safetensors");
    *map = NULL;
    if (has_index) {
        struct qn_json *top;
        QN_TRY(qn_json_read_file(&top, arena, index, MAX_INDEX_BYTES, e));
        *map = qn_json_get(top, "weight_map");
        QN_FAIL_IF(!qn_json_is(*map, QN_JSON_OBJECT) || !(*map)->n, e, QN_FORMAT, "%s: no weight_map", index);
    }
    if (has_single && !is_named(*map, "model.safetensors")) {
        if (has_index)
            qn_note(notes,
                    "model.safetensors and model.safetensors.index.json are both there: the single file is "
                    "read, as transformers does; remove it to read the shards");
        *map = NULL;
        QN_TRY(add_file(s, folder, "model.safetensors", e));
    } else if (has_index) {
        QN_TRY(open_index(s, folder, *map, index, e));
    } else {
        QN_FAIL_IF(!f->n, e, QN_NOTFOUND, "%s: no safetensors file; %s", folder,
                   f->other ? f->other : "is the download complete?");
        for (int i = 0; i < f->n; i++) {
            if (!strncmp(f->names[i], "adapter_", 8)) continue;
            QN_TRY(add_file(s, folder, f->names[i], e));
        }
        QN_FAIL_IF(!s->n, e, QN_UNSUPPORTED,
                   "%s holds an adapter (%s), not a model: serve its base model with --lora %s", folder,
                   f->names[0], folder);
        if (s->n > 1)
            qn_note(notes, "no model.safetensors.index.json: all %d safetensors files of the folder are read",
                    s->n);
    }
out:
    free(index);
    return rc;
}

/* --- tensors --- */

struct gather {
    const struct qn_shards *s;
    struct qn_tensors *out;
    struct qn_map at; /* name -> place */
    struct qn_notes *notes;
};

static int find(struct gather *g, const char *name)
{
    uint64_t key = qn_hash_str(name) | 1, at;
    for (; qn_map_get(&g->at, key, &at); key = qn_mix64(key) | 1)
        if (!strcmp(g->out->list[at].name, name)) return (int)at;
    return -1;
}

static void put(struct gather *g, const struct qn_tensor *t, int file)
{
    uint64_t key = qn_hash_str(t->name) | 1;
    while (qn_map_get(&g->at, key, NULL)) key = qn_mix64(key) | 1;
    qn_map_put(&g->at, key, (uint64_t)g->out->n);
    g->out->list[g->out->n] = *t;
    g->out->file_of[g->out->n++] = file;
}

static int make_room(struct gather *g, const char *folder, struct qn_err *e)
{
    int rc = QN_OK;
    size_t total = 0;
    for (int f = 0; f < g->s->n; f++) total += (size_t)qn_safetensors_n_tensor(g->s->files[f]);
    QN_FAIL_IF(total > QN_SAFETENSORS_MAX_TENSORS, e, QN_TOOBIG, "%s: more than %d tensors", folder,
               QN_SAFETENSORS_MAX_TENSORS);
    g->out->list = xreallocarray(g->out->list, QN_MAX(total, 1), sizeof *g->out->list);
    g->out->file_of = xreallocarray(g->out->file_of, QN_MAX(total, 1), sizeof *g->out->file_of);
out:
    return rc;
}

/* The tensors of the main files; two files with one tensor are settled by the index. */
static int gather_main(struct gather *g, const struct qn_json *map, struct qn_err *e)
{
    int rc = QN_OK, n_unlisted = 0;
    struct qn_map shard_of = {0}; /* of the index: tensor -> file */
    for (size_t i = 0; map && i < map->n; i++) {
        uint64_t f;
        for (f = 0; f < (uint64_t)g->s->n; f++)
            if (!strcmp(g->s->names[f], map->items[i]->text)) break;
        qn_map_put(&shard_of, qn_hash_str(map->keys[i].text) | 1, f);
    }
    for (int f = 0; f < g->s->n; f++)
        for (int i = 0; i < qn_safetensors_n_tensor(g->s->files[f]); i++) {
            const struct qn_tensor *t = qn_safetensors_tensor(g->s->files[f], i);
            uint64_t want;
            bool listed = qn_map_get(&shard_of, qn_hash_str(t->name) | 1, &want);
            if (map && !listed) n_unlisted++;
            int before = find(g, t->name);
            if (before < 0) {
                put(g, t, f);
                continue;
            }
            QN_FAIL_IF(!listed, e, QN_FORMAT, "tensor %s is in both %s and %s", t->name,
                       g->s->names[g->out->file_of[before]], g->s->names[f]);
            if ((uint64_t)f == want) {
                g->out->list[before] = *t;
                g->out->file_of[before] = f;
            }
            qn_note(g->notes, "tensor %s is in two shards; the index names %s", t->name, g->s->names[want]);
        }
    for (size_t i = 0; map && i < map->n; i++)
        QN_FAIL_IF(
            find(g, map->keys[i].text) < 0, e, QN_FORMAT,
            "%s: tensor %.120s of the index is not in this shard; index and shards do not belong together",
            map->items[i]->text, map->keys[i].text);
    if (n_unlisted)
        qn_note(g->notes, "%d tensors are in the shards but not in the index; they are read", n_unlisted);
out:
    qn_map_free(&shard_of);
    return rc;
}

/* What a file beside the main ones can give: tensors of a kind that these lack altogether. */
static int n_wanted(const struct qn_safetensors *st, const bool lacks[2])
{
    int n = 0;
    for (int i = 0; i < qn_safetensors_n_tensor(st); i++) {
        const char *name = qn_safetensors_tensor(st, i)->name;
        n += (lacks[0] && qn_is_mtp_name(name)) || (lacks[1] && qn_is_vision_name(name));
    }
    return n;
}

/* A weightless copy of a model has its draft layers or its tower in files of their own that no index names.
 */
static int gather_beside(struct gather *g, struct qn_shards *s, const char *folder, const struct folder *f,
                         struct qn_err *e)
{
    int rc = QN_OK;
    bool lacks[2] = {true, true};
    for (int i = 0; i < g->out->n; i++) {
        lacks[0] &= !qn_is_mtp_name(g->out->list[i].name);
        lacks[1] &= !qn_is_vision_name(g->out->list[i].name);
    }
    for (int k = 0, n_main = s->n; k < f->n; k++) {
        bool is_open = !strncmp(f->names[k], "adapter_", 8);
        for (int i = 0; i < n_main; i++) is_open |= !strcmp(s->names[i], f->names[k]);
        if (is_open) continue;
        rc = add_file(s, folder, f->names[k], NULL);
        struct qn_safetensors *st = rc ? NULL : s->files[s->n - 1];
        rc = QN_OK;
        int n = st ? n_wanted(st, lacks) : 0;
        if (!n) {
            qn_note(g->notes, "%s is not part of the model that %s: it is not read", f->names[k],
                    !st ? "can be opened" : "the other files make");
            if (st) {
                qn_safetensors_close(st);
                free(s->names[--s->n]);
            }
            continue;
        }
        QN_TRY(make_room(g, folder, e));
        for (int i = 0; i < qn_safetensors_n_tensor(st); i++) {
            const struct qn_tensor *t = qn_safetensors_tensor(st, i);
            bool wanted = (lacks[0] && qn_is_mtp_name(t->name)) || (lacks[1] && qn_is_vision_name(t->name));
            if (wanted && find(g, t->name) < 0) put(g, t, s->n - 1);
        }
        qn_note(g->notes, "%s is not named by an index: %d tensors of %s are read from it", f->names[k], n,
                lacks[0] && lacks[1] ? "draft layers or the vision tower"
                : lacks[0]           ? "draft layers"
                                     : "the vision tower");
    }
out:
    return rc;
}

/* MLX marks its files in their metadata. */
static bool says_mlx(const struct qn_safetensors *st)
{
    size_t n;
    const char *header = qn_safetensors_header(st, &n);
    const char *meta = memmem(header, n, "\"__metadata__\"", 14);
    if (!meta) return false;
    const char *end = memchr(meta, '}', n - (size_t)(meta - header));
    return end && memmem(meta, (size_t)(end - meta), "\"mlx\"", 5);
}

int qn_shards_open(struct qn_shards *s, const char *folder, struct qn_tensors *out, struct qn_notes *notes,
                   struct qn_err *e)
{
    int rc = QN_OK;
    struct qn_arena *arena = qn_arena_create(MAX_INDEX_ARENA);
    struct folder *f = xcalloc(1, sizeof *f);
    struct gather g = {.s = s, .out = out, .notes = notes};
    const struct qn_json *map;
    s->files = xcalloc(MAX_SHARDS, sizeof *s->files);
    s->names = xcalloc(MAX_SHARDS, sizeof *s->names);
    QN_TRY(list_folder(f, folder, e));
    QN_TRY(open_main(s, folder, f, &map, arena, notes, e));
    QN_TRY(make_room(&g, folder, e));
    QN_TRY(gather_main(&g, map, e));
    QN_TRY(gather_beside(&g, s, folder, f, e));
    for (int i = 0; i < s->n; i++) s->is_mlx |= says_mlx(s->files[i]);
out:
    for (int i = 0; i < f->n; i++) free(f->names[i]);
    free(f);
    qn_map_free(&g.at);
    qn_arena_free(arena);
    return rc;
}

void qn_shards_close(struct qn_shards *s)
{
    for (int i = 0; i < s->n; i++) {
        qn_safetensors_close(s->files[i]);
        free(s->names[i]);
    }
    free(s->files);
    free(s->names);
    *s = (struct qn_shards){0};
}

void qn_tensors_free(struct qn_tensors *t)
{
    free(t->list);
    free(t->file_of);
    *t = (struct qn_tensors){0};
}
