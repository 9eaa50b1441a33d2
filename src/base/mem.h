/* Memory: an allocation family that stops the process, one that can fail, and an arena.
 *
 * Small allocations of ours use xmalloc and friends and stop the process when they fail. Sizes that
 * come from a file, a request or a device use the try_ forms, with checked multiplication, and return
 * NULL. Thread: any (an arena belongs to one thread at a time).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef QN_MEM_H
#define QN_MEM_H

#include "base/base.h"

void *xmalloc(size_t n_byte);         /* uninitialised; never NULL; 0 bytes allowed */
void *xcalloc(size_t n, size_t size); /* zeroed */
void *xrealloc(void *p, size_t n_byte);
void *xreallocarray(void *p, size_t n, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) QN_PRINTF(1, 2);

void *try_malloc(size_t n, size_t size); /* NULL on overflow or exhaustion; free with free() */
void *try_calloc(size_t n, size_t size);
void *try_realloc(void *p, size_t n, size_t size);

/* A block set aside for a server: when an allocation of the x family fails, it is given up and the allocation
 * tried again. While it is missing, memory is short: no new work should begin. qn_mem_is_short tries to have
 * it back first. Without a reserve memory is never short, and a failure stops the process. */
void qn_mem_keep_reserve(size_t n_byte);
bool qn_mem_is_short(void);

/* false on overflow; *out is then untouched. */
bool qn_mul_size(size_t a, size_t b, size_t *out);
bool qn_add_size(size_t a, size_t b, size_t *out);

/* A region of whole pages from the kernel, zeroed, 2 MiB aligned, with transparent huge pages asked for.
 * NULL when the kernel refuses. Free with qn_region_free and the same size. */
void *qn_region_alloc(size_t n_byte);
void qn_region_free(void *p, size_t n_byte);

/* What this process can still have: of the machine, of its control groups, of its address space. */
size_t qn_mem_available(void);
/* What a control group ("/a/b") and those above it leave, their file pages, which the kernel takes back, not
 * counted as used; SIZE_MAX: no limit. root: where they are mounted (version 2, or version 1's folder of the
 * memory controller). */
size_t qn_mem_group_available(const char *root, const char *group);
/* The same for the groups of a process, of either version. root: /sys/fs/cgroup; list: /proc/self/cgroup. */
size_t qn_mem_groups_available(const char *root, const char *list);
/* The largest region, up to `most` and to a MiB, that the kernel gives right now. */
size_t qn_mem_largest(size_t most);

/* Arena: many small objects of one lifetime (a request, a parse), freed at once.
 * limit_bytes is a hard cap; an allocation over it returns NULL. */
struct qn_arena;
struct qn_arena *qn_arena_create(size_t limit_bytes);
void qn_arena_free(struct qn_arena *a);                              /* NULL is allowed */
void *qn_arena_alloc(struct qn_arena *a, size_t n_byte);             /* 16-byte aligned, zeroed, or NULL */
char *qn_arena_strndup(struct qn_arena *a, const char *s, size_t n); /* adds a NUL; or NULL */
size_t qn_arena_used(const struct qn_arena *a);

#endif
