/* Preloaded by tests: allocations that fail, as many as the test wants, and where it wants them.
 *
 * FAIL_ALLOC names a file of two int64 that this maps and the test writes: [0] counts allocations down, the
 * one that makes it zero fails (negative: none does); [1] counts all of them. The main thread and what
 * happens before the file is set up are left alone. SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic int64_t *count;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

__attribute__((constructor)) static void open_count(void)
{
    const char *path = getenv("FAIL_ALLOC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED) count = p;
}

static int fails(void)
{
    if (!count || syscall(SYS_gettid) == getpid()) return 0;
    atomic_fetch_add(&count[1], 1);
    if (atomic_load(&count[0]) < 0) return 0;
    if (atomic_fetch_sub(&count[0], 1) != 1) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n)
{
    return fails() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return fails() ? NULL : __libc_realloc(p, n);
}
