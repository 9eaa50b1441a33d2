/* Allocation families and the arena.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

QN_NORETURN static void out_of_memory(size_t n_byte)
{
    fprintf(stderr, "quern: out of memory (asked for %zu bytes)\n", n_byte);
    abort();
}

void *xmalloc(size_t n_byte)
{
    void *p = malloc(n_byte ? n_byte : 1);
    if (!p) out_of_memory(n_byte);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) out_of_memory(n * size);
    return p;
}

void *xrealloc(void *p, size_t n_byte)
{
    void *q = realloc(p, n_byte ? n_byte : 1);
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

void *try_malloc(size_t n, size_t size)
{
    size_t n_byte;
    return qn_mul_size(n, size, &n_byte) ? malloc(n_byte ? n_byte : 1) : NULL;
}

void *try_calloc(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

void *try_realloc(void *p, size_t n, size_t size)
{
    size_t n_byte;
    return qn_mul_size(n, size, &n_byte) ? realloc(p, n_byte ? n_byte : 1) : NULL;
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

/* One number from a file of one; SIZE_MAX: no such file, or "max". */
static size_t read_number(const char *path)
{
    unsigned long long n = 0;
    FILE *f = fopen(path, "r");
    bool is_number = f && fscanf(f, "%llu", &n) == 1;
    if (f) fclose(f);
    return is_number ? (size_t)n : SIZE_MAX;
}

/* Bytes of file pages in a control group, which the kernel takes back when it needs them. */
static size_t reclaimable(const char *path)
{
    char line[128];
    size_t total = 0, n = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "active_file %zu", &n) == 1 || sscanf(line, "inactive_file %zu", &n) == 1)
            total += n;
    if (f) fclose(f);
    return total;
}

size_t qn_mem_group_available(const char *root, const char *group)
{
    char name[400], path[800];
    snprintf(name, sizeof name, "%s", group);
    size_t least = SIZE_MAX;
    for (;;) {
        snprintf(path, sizeof path, "%s%s/memory.max", root, name);
        size_t max = read_number(path);
        snprintf(path, sizeof path, "%s%s/memory.current", root, name);
        size_t used = max == SIZE_MAX ? SIZE_MAX : read_number(path);
        if (used != SIZE_MAX) {
            snprintf(path, sizeof path, "%s%s/memory.stat", root, name);
            used -= QN_MIN(used, reclaimable(path));
            least = QN_MIN(least, max > used ? max - used : 0);
        }
        char *last = strrchr(name, '/');
        if (!last) return least;
        *last = 0;
    }
}

static size_t group_available(void)
{
    char line[512], group[400] = "";
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "0::/", 4))
            snprintf(group, sizeof group, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
    if (f) fclose(f);
    return qn_mem_group_available("/sys/fs/cgroup", group);
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
    least = QN_MIN(kib * 1024, group_available());
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
    size_t limit, used;   /* used: bytes handed out */
};

struct qn_arena *qn_arena_create(size_t limit_bytes)
{
    struct qn_arena *a = xcalloc(1, sizeof *a);
    a->limit = limit_bytes;
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
        b = malloc(sizeof *b + size);
        if (!b) return NULL;
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
