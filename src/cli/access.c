/* Who may use a server.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/access.h"

#include <sys/stat.h>

#include "base/buf.h"

#define MAX_KEYS      256
#define MAX_NAMES     64
#define MAX_KEY_FILE  ((size_t)1 << 20)
#define MAX_KEY_BYTES 4096

struct list {
    const char **items;
    int n, most;
};

static int add(struct list *l, const char *text, size_t n, const char *flag, struct qn_arena *arena,
               struct qn_err *e)
{
    int rc = QN_OK;
    while (n && strchr(" \t\r\"'", text[n - 1])) n--;
    while (n && strchr(" \t\"'", *text)) text++, n--;
    if (!n) return QN_OK;
    QN_FAIL_IF(l->n == l->most, e, QN_INVAL, "%s: more than %d", flag, l->most);
    QN_FAIL_IF(n > MAX_KEY_BYTES, e, QN_INVAL, "%s: an entry is longer than %d bytes", flag, MAX_KEY_BYTES);
    for (size_t i = 0; i < n; i++)
        QN_FAIL_IF((unsigned char)text[i] < 0x20 || text[i] == 0x7f, e, QN_INVAL,
                   "%s: an entry holds a control character", flag);
    char *copy = qn_arena_strndup(arena, text, n);
    QN_FAIL_IF(!copy, e, QN_TOOBIG, "%s: too long", flag);
    l->items[l->n++] = copy;
out:
    return rc;
}

static int split(struct list *l, const char *text, const char *flag, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK;
    size_t n = text ? strlen(text) : 0;
    if (n > 1 && text[0] == '[' && text[n - 1] == ']') text++, n -= 2;
    for (size_t from = 0; from < n;) {
        size_t end = from;
        while (end < n && text[end] != ',') end++;
        QN_TRY(add(l, text + from, end - from, flag, arena, e));
        from = end + 1;
    }
out:
    return rc;
}

static int read_key_file(struct list *l, const char *path, struct qn_arena *arena, struct qn_err *e)
{
    int rc = QN_OK, before = l->n;
    struct qn_buf text = QN_BUF_INIT(MAX_KEY_FILE);
    struct stat st;
    QN_TRY(qn_buf_read_file(&text, path, e));
    for (char *line = text.data, *end; line && *line; line = end + (*end == '\n')) {
        end = line + strcspn(line, "\n");
        if (*line != '#') QN_TRY(add(l, line, (size_t)(end - line), "--api-key-file", arena, e));
    }
    QN_FAIL_IF(l->n == before, e, QN_INVAL, "--api-key-file %s holds no key: one a line", path);
    if (!stat(path, &st) && st.st_mode & (S_IRGRP | S_IROTH | S_IWGRP | S_IWOTH))
        fprintf(stderr, "--api-key-file: others on this machine may read it; chmod 600 keeps it yours\n");
out:
    if (rc && text.data) explicit_bzero(text.data, text.n_byte);
    qn_buf_free(&text);
    return rc;
}

int qn_access_read(struct qn_gate *g, const struct qn_access_wish *w, struct qn_arena *arena,
                   struct qn_err *e)
{
    int rc = QN_OK;
    struct list keys = {qn_arena_alloc(arena, MAX_KEYS * sizeof(char *)), 0, MAX_KEYS},
                origins = {qn_arena_alloc(arena, MAX_NAMES * sizeof(char *)), 0, MAX_NAMES},
                hosts = {qn_arena_alloc(arena, MAX_NAMES * sizeof(char *)), 0, MAX_NAMES};
    QN_FAIL_IF(!keys.items || !origins.items || !hosts.items, e, QN_NOMEM, "no memory for the options");
    QN_TRY(split(&keys, w->keys, "--api-key", arena, e));
    if (w->key_file) QN_TRY(read_key_file(&keys, w->key_file, arena, e));
    QN_TRY(split(&origins, w->origins, "--allowed-origins", arena, e));
    QN_TRY(split(&hosts, w->hosts, "--allowed-hosts", arena, e));
    for (int i = 0; i < origins.n; i++) { /* browsers send it without a slash at the end */
        char *end = strrchr(origins.items[i], '/');
        if (end && !end[1] && end > origins.items[i]) *end = 0;
    }
    *g = (struct qn_gate){.keys = keys.items,
                          .n_key = keys.n,
                          .origins = origins.items,
                          .n_origin = origins.n,
                          .hosts = hosts.items,
                          .n_host = hosts.n};
out:
    return rc;
}

/* "--api-key", "--api_key", "-api-key": then what follows are keys. */
static bool is_key_flag(const char *arg)
{
    static const char name[] = "api-key";
    if (arg[0] != '-') return false;
    arg += 1 + (arg[1] == '-');
    size_t i = 0;
    while (i + 1 < sizeof name && (arg[i] == name[i] || (name[i] == '-' && arg[i] == '_'))) i++;
    return i + 1 == sizeof name && (!arg[i] || arg[i] == '=');
}

void qn_access_hide(int argc, char **argv)
{
    bool is_key = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-') {
            is_key = is_key_flag(argv[i]);
            char *value = is_key ? strchr(argv[i], '=') : NULL;
            if (value) memset(value + 1, 'x', strlen(value + 1));
        } else if (is_key)
            memset(argv[i], 'x', strlen(argv[i]));
    }
}
