/* From what a user names to what is read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/model_path.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/gguf.h"
#include "base/mem.h"

#define MAX_LISTED 8 /* models named in an error */

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool has(const char *folder, const char *name)
{
    char *path = xasprintf("%s/%s", folder, name);
    bool found = !access(path, F_OK);
    free(path);
    return found;
}

bool qn_model_path_is_gguf(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && !strcasecmp(path + n - 5, ".gguf");
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The models of a folder in .gguf files: first parts only, towers and lone draft layers aside. */
static int gguf_of_folder(const char *folder, char **out, struct qn_err *e)
{
    int rc = QN_OK, n = 0, no, count;
    char *names[MAX_LISTED + 1] = {NULL};
    struct qn_buf list = QN_BUF_INIT(4096);
    DIR *dir = opendir(folder);
    *out = NULL;
    QN_FAIL_IF(!dir, e, QN_NOTFOUND, "%s: %s", folder, strerror(errno));
    for (struct dirent *d; (d = readdir(dir)) && n <= MAX_LISTED;) {
        const char *name = d->d_name;
        if (name[0] == '.' || !qn_model_path_is_gguf(name) || !strncasecmp(name, "mmproj", 6) ||
            !strncasecmp(name, "mtp-", 4) || (qn_gguf_split_name(name, &no, &count) && no > 1))
            continue;
        names[n++] = xstrdup(name);
    }
    qsort(names, (size_t)n, sizeof *names, compare);
    for (int i = 0; i < QN_MIN(n, MAX_LISTED); i++) qn_buf_printf(&list, "%s%s", i ? ", " : "", names[i]);
    QN_FAIL_IF(n > 1, e, QN_INVAL, "%s holds several models (%s%s): name one of the files", folder,
               qn_buf_str(&list), n > MAX_LISTED ? ", ..." : "");
    if (n) *out = xasprintf("%s/%s", folder, names[0]);
out:
    if (dir) closedir(dir);
    for (int i = 0; i < n; i++) free(names[i]);
    qn_buf_free(&list);
    return rc;
}

/* The snapshot of a folder of the hub's cache; NULL when it is none. */
static int snapshot_of(const char *folder, char **out, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    char *ref = xasprintf("%s/refs/main", folder), *snapshots = xasprintf("%s/snapshots", folder),
         *only = NULL;
    struct qn_buf text = QN_BUF_INIT(256);
    DIR *dir = NULL;
    *out = NULL;
    if (!is_folder(snapshots)) goto out;
    if (!qn_buf_read_file(&text, ref, NULL)) {
        while (text.n_byte && (unsigned char)text.data[text.n_byte - 1] <= ' ') text.data[--text.n_byte] = 0;
        char *at = xasprintf("%s/%s", snapshots, qn_buf_str(&text));
        if (text.n_byte && !strchr(qn_buf_str(&text), '/') && is_folder(at)) {
            *out = at;
            goto out;
        }
        free(at);
    }
    dir = opendir(snapshots);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        if (d->d_name[0] == '.') continue;
        if (!n++) only = xasprintf("%s/%s", snapshots, d->d_name);
    }
    QN_FAIL_IF(!n, e, QN_NOTFOUND, "%s: a cache folder without a snapshot; download the model again", folder);
    QN_FAIL_IF(n > 1, e, QN_INVAL, "%s holds %d snapshots and refs/main names none: name one", folder, n);
    *out = only;
    only = NULL;
out:
    if (dir) closedir(dir);
    free(only);
    free(ref);
    free(snapshots);
    qn_buf_free(&text);
    return rc;
}

/* OWNER/NAME in what a user gave where a path was meant: a hub's name, its URL, a :TAG behind it; NULL when
 * it is a path. The caller frees it. */
static char *repo_of(const char *path)
{
    static const char *const prefixes[] = {"https://", "http://", "hf://", "huggingface.co/", "hf.co/"};
    bool is_url = false;
    if (qn_model_path_is_gguf(path)) return NULL;
    for (size_t i = 0; i < QN_COUNT(prefixes); i++) {
        size_t n = strlen(prefixes[i]);
        if (strncasecmp(path, prefixes[i], n)) continue;
        path += n;
        is_url = true;
    }
    size_t n_owner = strcspn(path, "/.~"), n_name = path[n_owner] ? strcspn(path + n_owner + 1, "/:") : 0;
    size_t n = n_owner + 1 + n_name;
    if (!n_owner || path[n_owner] != '/' || !n_name) return NULL;
    if (!is_url && path[n] == '/' && path[n + 1]) return NULL;
    char *owner = xstrndup(path, n_owner);
    bool is_path = !is_url && is_folder(owner);
    free(owner);
    return is_path ? NULL : xstrndup(path, n);
}

static int not_there(const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    char *repo = repo_of(path);
    QN_FAIL_IF(repo, e, QN_NOTFOUND, "%s: no such folder or file; quern pull %s fetches it from the hub",
               path, repo);
    QN_FAIL_IF(!strchr(path, '/') && !qn_model_path_is_gguf(path), e, QN_NOTFOUND,
               "%s: no such folder or file; quern pull OWNER/%s fetches a model from the hub", path, path);
    QN_FAIL(e, QN_NOTFOUND, "%s: no such folder or file", path);
out:
    free(repo);
    return rc;
}

/* A file that is not named as a model: often one of a checkpoint's. */
static int not_a_model(const char *path, struct qn_err *e)
{
    int rc = QN_OK;
    const char *slash = strrchr(path, '/');
    char *folder = slash ? xstrndup(path, (size_t)QN_MAX(slash - path, 1)) : xstrdup(".");
    QN_FAIL_IF(has(folder, "config.json"), e, QN_INVAL, "%s: a file of a checkpoint: name its folder, %s",
               path, folder);
    QN_FAIL(e, QN_INVAL, "%s: neither a folder nor a .gguf file", path);
out:
    free(folder);
    return rc;
}

int qn_model_path_no_config(const char *folder, struct qn_err *e)
{
    int rc = QN_OK, n = 0;
    bool weights = false;
    struct qn_buf list = QN_BUF_INIT(4096);
    DIR *dir = NULL;
    QN_FAIL_IF(has(folder, "adapter_config.json"), e, QN_NOTFOUND,
               "%s holds a LoRA adapter, no model: name its base model and add --lora %s", folder, folder);
    dir = opendir(folder);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        size_t size = strlen(d->d_name);
        if (d->d_name[0] == '.') continue;
        weights |= size > 12 && !strcmp(d->d_name + size - 12, ".safetensors");
        char *inner = xasprintf("%s/%s", folder, d->d_name);
        bool model = has(inner, "config.json") || !strncmp(d->d_name, "models--", 8);
        if (model && n++ < MAX_LISTED) qn_buf_printf(&list, "%s%s", n > 1 ? ", " : "", d->d_name);
        free(inner);
    }
    QN_FAIL_IF(weights, e, QN_NOTFOUND,
               "%s holds weights but no config.json: the download or the copy is incomplete", folder);
    QN_FAIL_IF(n, e, QN_NOTFOUND, "%s is no checkpoint, but holds some (%s%s): name one of them", folder,
               qn_buf_str(&list), n > MAX_LISTED ? ", ..." : "");
    QN_FAIL(
        e, QN_NOTFOUND,
        "%s: no checkpoint: neither config.json nor a .gguf file in it; quern pull OWNER/NAME fetches one",
        folder);
out:
    if (dir) closedir(dir);
    qn_buf_free(&list);
    return rc;
}

int qn_model_path_resolve(const char *path, char **out, struct qn_err *e)
{
    int rc = QN_OK;
    char *folder = NULL, *file = NULL;
    if (!is_folder(path)) {
        int no, count;
        if (access(path, F_OK)) QN_TRY(not_there(path, e));
        if (!qn_model_path_is_gguf(path)) QN_TRY(not_a_model(path, e));
        *out = qn_gguf_split_name(path, &no, &count) ? qn_gguf_split_path(path, 1) : xstrdup(path);
        goto out;
    }
    if (!has(path, "config.json")) QN_TRY(snapshot_of(path, &folder, e));
    if (!folder) folder = xstrdup(path);
    if (!has(folder, "config.json") || !has(folder, "model.safetensors.index.json")) {
        /* config.json beside .gguf files is common: weights in safetensors decide */
        bool any = false;
        DIR *dir = opendir(folder);
        for (struct dirent *d; dir && (d = readdir(dir));) {
            size_t n = strlen(d->d_name);
            any |= n > 12 && !strcmp(d->d_name + n - 12, ".safetensors");
        }
        if (dir) closedir(dir);
        if (!any) QN_TRY(gguf_of_folder(folder, &file, e));
    }
    *out = file ? file : folder;
    if (file)
        file = NULL;
    else
        folder = NULL;
out:
    free(folder);
    free(file);
    return rc;
}

char *qn_model_path_name(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/') start--;
    if (n - start == 1 && path[start] == '.') {
        char *real = realpath(path, NULL), *name = real ? qn_model_path_name(real) : NULL;
        free(real);
        if (name) return name;
    }
    char *name = xstrndup(path + start, n - start);
    int no, count;
    if (qn_gguf_split_name(name, &no, &count))
        name[strlen(name) - 20] = 0;
    else if (qn_model_path_is_gguf(name))
        name[strlen(name) - 5] = 0;
    /* models--ORG--NAME, or a snapshot in it */
    const char *hub = strstr(name, "models--") == name ? name : NULL;
    char *copy = NULL;
    const char *inside = strstr(path, "/snapshots/");
    if (!hub && inside && !strchr(inside + 11, '/')) {
        copy = xstrndup(path, (size_t)(inside - path));
        const char *slash = strrchr(copy, '/');
        if (strstr(slash ? slash + 1 : copy, "models--") == (slash ? slash + 1 : copy))
            hub = slash ? slash + 1 : copy;
    }
    const char *last = hub ? strstr(hub + 8, "--") : NULL;
    if (last && last[2]) {
        char *out = xstrdup(last + 2);
        free(name);
        free(copy);
        return out;
    }
    free(copy);
    return name;
}
