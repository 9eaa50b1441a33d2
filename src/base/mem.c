/* Allocation families and the arena.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/budget.h"

QN_NORETURN static void out_of_memory(size_t n_byte)
{
    fprintf(stderr, "quern: out of memory (asked for %zu bytes)\n", n_byte);
    abort();
}

/* What is given up when the system has nothing more, so that small allocations of running requests still
 * come; large ones, which use the try_ forms, end their request. */
static struct {
    pthread_mutex_t lock;
    size_t n_byte;
    void *block;
    unsigned n_lost; /* times it was given up, or there was nothing to give up */
} reserve = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* After a failure: true when there is a reason to try once more. */
static bool give_up_reserve(size_t n_byte)
{
    pthread_mutex_lock(&reserve.lock);
    void *block = reserve.block;
    reserve.block = NULL;
    reserve.n_lost++;
    pthread_mutex_unlock(&reserve.lock);
    free(block);
    qn_share_failed(qn_share_mine(), n_byte);
    return true; /* another thread may have given it up, or given something back, just now */
}

void qn_mem_keep_reserve(size_t n_byte)
{
    pthread_mutex_lock(&reserve.lock);
    reserve.n_byte = n_byte;
    if (!reserve.block && n_byte) reserve.block = malloc(n_byte);
    pthread_mutex_unlock(&reserve.lock);
}

bool qn_mem_is_short(void)
{
    pthread_mutex_lock(&reserve.lock);
    if (!reserve.block && reserve.n_byte) reserve.block = malloc(reserve.n_byte);
    bool is_short = !reserve.block && reserve.n_byte;
    pthread_mutex_unlock(&reserve.lock);
    return is_short;
}

void *xmalloc(size_t n_byte)
{
    void *p = malloc(n_byte ? n_byte : 1);
    if (!p && give_up_reserve(n_byte)) p = malloc(n_byte ? n_byte : 1);
    if (!p) out_of_memory(n_byte);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p && give_up_reserve(n * size)) p = calloc(n ? n : 1, size ? size : 1);
    if (!p) out_of_memory(n * size);
    return p;
}

void *xrealloc(void *p, size_t n_byte)
{
    void *q = realloc(p, n_byte ? n_byte : 1);
    if (!q && give_up_reserve(n_byte)) q = realloc(p, n_byte ? n_byte : 1);
    if (!q) out_of_memory(n_byte);
    return q;
}

void *xreallocarray(void *p, size_t n, size_t size)
{
    size_t n_byte;
    if (!qn_mul_size(n, size, &n_byte)) out_of_memory(SIZE_MAX);
    return xrealloc(p, n_byte);
}

char *xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *xstrndup(const char *s, size_t n)
{
    char *out = xmalloc(n + 1);
    memcpy(out, s, n);
    out[n] = 0;
    return out;
}

char *xasprintf(const char *fmt, ...)
{
    char *out;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    if (n < 0 && give_up_reserve(0)) {
        va_start(ap, fmt);
        n = vasprintf(&out, fmt, ap);
        va_end(ap);
    }
    if (n < 0) out_of_memory(0);
    return out;
}

bool qn_mul_size(size_t a, size_t b, size_t *out)
{
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

bool qn_add_size(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}

/* The request that this thread works for remembers that it did not get something. */
static void *tried(void *p, size_t n_byte)
{
    if (!p) qn_share_failed(qn_share_mine(), n_byte);
    return p;
}

void *try_malloc(size_t n, size_t size)
{
    size_t n_byte;
    return qn_mul_size(n, size, &n_byte) ? tried(malloc(n_byte ? n_byte : 1), n_byte) : NULL;
}

void *try_calloc(size_t n, size_t size)
{
    return tried(calloc(n ? n : 1, size ? size : 1), size);
}

void *try_realloc(void *p, size_t n, size_t size)
{
    size_t n_byte;
    return qn_mul_size(n, size, &n_byte) ? tried(realloc(p, n_byte ? n_byte : 1), n_byte) : NULL;
}

#define HUGE_BYTES ((size_t)2 << 20)

void *qn_region_alloc(size_t n_byte)
{
    size_t total;
    n_byte = QN_ROUND_UP(n_byte ? n_byte : 1, (size_t)4096);
    if (!qn_add_size(n_byte, HUGE_BYTES, &total)) return NULL;
    char *raw = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    /* [raw .. at) and [at + n_byte .. raw + total) are given back */
    char *at = (char *)QN_ROUND_UP((uintptr_t)raw, HUGE_BYTES);
    if (at > raw) munmap(raw, (size_t)(at - raw));
    size_t tail = total - (size_t)(at - raw) - n_byte;
    if (tail) munmap(at + n_byte, tail);
    madvise(at, n_byte, MADV_HUGEPAGE);
    return at;
}

void qn_region_free(void *p, size_t n_byte)
{
    if (p) munmap(p, QN_ROUND_UP(n_byte ? n_byte : 1, (size_t)4096));
}

#define NO_LIMIT ((size_t)1 << 62) /* version 1 of control groups writes a number near 2^63 */

/* One number from a file of one; SIZE_MAX: no such file, or "max". */
static size_t read_number(const char *path)
{
    unsigned long long n = 0;
    FILE *f = fopen(path, "r");
    bool is_number = f && fscanf(f, "%llu", &n) == 1;
    if (f) fclose(f);
    return is_number ? (size_t)n : SIZE_MAX;
}

struct group_stat {
    size_t file_bytes;  /* file pages, which the kernel takes back when it needs them */
    size_t limit_bytes; /* of version 1: the least of the groups above, also of those out of sight */
};

/* Version 1 tells twice: of the group, and ("total_") of the groups below it too, as its usage counts. */
static struct group_stat read_stat(const char *path)
{
    char line[128];
    struct group_stat s = {.limit_bytes = SIZE_MAX};
    size_t own = 0, total = 0, n = 0;
    bool has_total = false;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "active_file %zu", &n) == 1 || sscanf(line, "inactive_file %zu", &n) == 1) {
            own += n;
        } else if (sscanf(line, "total_active_file %zu", &n) == 1 ||
                   sscanf(line, "total_inactive_file %zu", &n) == 1) {
            total += n;
            has_total = true;
        } else if (sscanf(line, "hierarchical_memory_limit %zu", &n) == 1) {
            s.limit_bytes = n;
        }
    }
    if (f) fclose(f);
    s.file_bytes = has_total ? total : own;
    return s;
}

/* What one group leaves, itself. */
static size_t group_left(const char *root, const char *group)
{
    static const char *const names[2][2] = {{"memory.max", "memory.current"},
                                            {"memory.limit_in_bytes", "memory.usage_in_bytes"}};
    char path[800];
    for (int version = 0; version < 2; version++) {
        snprintf(path, sizeof path, "%s%s/%s", root, group, names[version][1]);
        size_t used = read_number(path);
        if (used == SIZE_MAX) continue;
        snprintf(path, sizeof path, "%s%s/%s", root, group, names[version][0]);
        size_t max = read_number(path);
        snprintf(path, sizeof path, "%s%s/memory.stat", root, group);
        struct group_stat s = read_stat(path);
        max = QN_MIN(max, s.limit_bytes);
        if (max >= NO_LIMIT) return SIZE_MAX;
        used -= QN_MIN(used, s.file_bytes);
        return max > used ? max - used : 0;
    }
    return SIZE_MAX;
}

size_t qn_mem_group_available(const char *root, const char *group)
{
    char name[400];
    snprintf(name, sizeof name, "%s", group);
    size_t least = SIZE_MAX;
    for (;;) {
        least = QN_MIN(least, group_left(root, name));
        char *last = strrchr(name, '/');
        if (!last) return least;
        *last = 0;
    }
}

/* Is "memory" one of the names between commas? */
static bool has_memory(const char *names, size_t n)
{
    for (size_t at = 0; at < n; at += strcspn(names + at, ",:") + 1)
        if (!strncmp(names + at, "memory", 6) && (names[at + 6] == ',' || names[at + 6] == ':')) return true;
    return false;
}

/* Lines are "number:controllers:/group"; version 2 is number 0 without controllers. Inside a container the
 * group may not be there under its name: then what is mounted counts. */
size_t qn_mem_groups_available(const char *root, const char *list)
{
    char line[512], where[500];
    FILE *f = fopen(list, "r");
    size_t least = qn_mem_group_available(root, "");
    snprintf(where, sizeof where, "%s/memory", root);
    least = QN_MIN(least, qn_mem_group_available(where, ""));
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(++names, ':') : NULL;
        if (!group || group[1] != '/') continue;
        if (group == names && !strncmp(line, "0:", 2))
            least = QN_MIN(least, qn_mem_group_available(root, group + 1));
        else if (has_memory(names, (size_t)(group - names)))
            least = QN_MIN(least, qn_mem_group_available(where, group + 1));
    }
    if (f) fclose(f);
    return least;
}

/* Address space, not memory, that heaps and stacks of threads take. */
#define HEAPS_BYTES ((size_t)192 << 20)

size_t qn_mem_available(void)
{
    size_t kib = 0, least, pages = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %zu", &kib) == 1) break;
    if (f) fclose(f);
    least = QN_MIN(kib * 1024, qn_mem_groups_available("/sys/fs/cgroup", "/proc/self/cgroup"));
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return least;
    f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%zu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    size_t used = pages * (size_t)sysconf(_SC_PAGESIZE);
    size_t room = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    return QN_MIN(least, room - QN_MIN(room / 2, HEAPS_BYTES));
}

size_t qn_mem_largest(size_t most)
{
    size_t fits = 0;
    while (most - fits > (size_t)1 << 20) {
        size_t n_byte = fits + (most - fits) / 2;
        void *p = qn_region_alloc(n_byte);
        if (p)
            fits = n_byte;
        else
            most = n_byte;
        qn_region_free(p, n_byte);
    }
    return fits;
}

struct block {
    struct block *next;
    size_t n_byte, used;
    _Alignas(16) unsigned char data[];
};

struct qn_arena {
    struct block *blocks; /* newest first */
    qn_share share;       /* the request whose memory it is */
    size_t n_taken;
    size_t limit, used; /* used: bytes handed out */
};

struct qn_arena *qn_arena_create(size_t limit_bytes)
{
    struct qn_arena *a = xcalloc(1, sizeof *a);
    a->limit = limit_bytes;
    a->share = qn_share_mine();
    return a;
}

void qn_arena_free(struct qn_arena *a)
{
    if (!a) return;
    while (a->blocks) {
        struct block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
    qn_share_give(a->share, a->n_taken);
    free(a);
}

void *qn_arena_alloc(struct qn_arena *a, size_t n_byte)
{
    if (n_byte > a->limit) return NULL;
    n_byte = QN_ROUND_UP(n_byte ? n_byte : 1, (size_t)16);
    if (n_byte > a->limit - QN_MIN(a->used, a->limit)) return NULL;
    struct block *b = a->blocks;
    if (!b || b->n_byte - b->used < n_byte) {
        size_t size = b ? QN_MIN(b->n_byte * 2, (size_t)1 << 20) : 4096;
        size = QN_MAX(size, n_byte);
        if (!qn_share_take(a->share, sizeof *b + size)) return NULL;
        b = malloc(sizeof *b + size);
        if (!b) {
            qn_share_give(a->share, sizeof *b + size);
            qn_share_failed(a->share, sizeof *b + size);
            return NULL;
        }
        a->n_taken += sizeof *b + size;
        b->n_byte = size;
        b->used = 0;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = b->data + b->used;
    b->used += n_byte;
    a->used += n_byte;
    memset(p, 0, n_byte);
    return p;
}

char *qn_arena_strndup(struct qn_arena *a, const char *s, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *out = qn_arena_alloc(a, n + 1);
    if (out) memcpy(out, s, n);
    return out;
}

size_t qn_arena_used(const struct qn_arena *a)
{
    return a->used;
}
