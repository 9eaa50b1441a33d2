/* Preloaded by run.py --kills: a .tmp file is written in four pieces with pauses, so that kills meet it half
 * written. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_temporary(int fd)
{
    char link[64], path[4200];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 4 && !memcmp(path + n - 4, ".tmp", 4);
}

ssize_t write(int fd, const void *data, size_t n)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "write");
    if (n < 2 || !is_temporary(fd)) return real(fd, data, n);
    usleep(2000);
    return real(fd, data, n > 4096 ? n / 4 : n);
}
